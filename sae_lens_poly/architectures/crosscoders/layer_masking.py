"""Stochastic layer masking: hook points hidden from the encoder while it trains."""

from __future__ import annotations

import torch

from sae_lens_poly.architectures.world import World

#: Large and odd: the seeds of neighbouring steps of one run, and of runs with neighbouring seeds,
#: do not meet.
_SEED_STRIDE = 1_000_003


class LayerMasking:
    """Hides hook points from the encoder, drawn for each token (fmxcoder, Demou et al. 2026).

    The encoder sees zeros at a hidden hook point, after normalisation and after b_dec was taken
    off; the target stays the clean activation of every hook point; nothing is rescaled. For
    training only.

    The draws of a step depend on the seed and on the number of the step alone: a resumed run
    draws what the uninterrupted one would have.

    Args:
        mode: ``bernoulli`` hides each hook point with probability p; ``one`` hides exactly one,
            all being equally likely, in a share p of the tokens.
        p: The probability.
        seed: Of the draws.
    """

    world: World | None = None

    def __init__(self, mode: str, p: float, seed: int, n_hooks: int) -> None:
        self.mode, self.p, self.seed, self.n_hooks = mode, p, seed, n_hooks

    def draw(self, n_tokens: int, step: int, like: torch.Tensor) -> torch.Tensor | None:
        """1 where a token's hook point is seen, 0 where it is hidden, (n_tokens, n_hooks).

        None where nothing is hidden. In the dtype and on the device of ``like``.
        """
        if self.p == 0:
            return None
        if self.world is not None:
            n_tokens = self.world.n_tokens(n_tokens)
        seen = self._draw(n_tokens, step, like)
        return seen if self.world is None else self.world.own_rows(seen)

    def _draw(self, n_tokens: int, step: int, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(like.device).manual_seed(self.seed * _SEED_STRIDE + step)
        drawn = torch.rand(n_tokens, self.n_hooks, generator=generator, device=like.device)
        if self.mode == "bernoulli":
            return (drawn >= self.p).to(like.dtype)
        hidden = drawn.argmin(dim=1, keepdim=True)
        chosen = torch.rand(n_tokens, 1, generator=generator, device=like.device) < self.p
        seen = torch.ones(n_tokens, self.n_hooks, dtype=like.dtype, device=like.device)
        return seen.scatter_(1, hidden, 1 - chosen.to(like.dtype))
