"""What is done to latents that are matrices every so many steps: norms, and dead latents."""

from __future__ import annotations

from typing import Any

import torch

#: Norm of a revived latent's encoder, in parts of the mean over latents that are alive.
REVIVED_ENCODER_NORM = 0.2


class AtomUpkeep:
    """Renormalises atoms, and gives dead latents atoms of their own (arXiv 2605.12770, code).

    Args:
        renormalise_every: Every so many steps, all atoms get the norm that they started with, and
            both vectors of a pair the same. 0: never.
        revive_every: Every so many steps, each dead latent gets the leading singular vectors of an
            activation that is drawn in proportion to its squared error. 0: never.
        norm: Of an atom over the stack.
    """

    def __init__(self, renormalise_every: int, revive_every: int, norm: float) -> None:
        self.renormalise_every, self.revive_every, self.norm = renormalise_every, revive_every, norm

    @torch.no_grad()
    def before_step_(self, sae: Any, x: torch.Tensor, step: int, dead: Any) -> None:
        """What is due before a step.

        Args:
            sae: A crosscoder in training.
            x: Its batch of raw activations, (n, d_in).
            step: Number of the step.
            dead: Which latents are dead, (d_sae,); None: not known.
        """
        if step and self.renormalise_every and step % self.renormalise_every == 0:
            sae.decoder_weights.balance_(self.norm)
        due = step and self.revive_every and step % self.revive_every == 0
        if due and dead is not None and bool(dead.any()) and not bool(dead.all()):
            self.revive_(sae, x, dead)

    @torch.no_grad()
    def revive_(self, sae: Any, x: torch.Tensor, dead: torch.Tensor) -> None:
        """Start dead latents again. Moments of the optimiser stay what they are."""
        x = x.to(sae.dtype)
        target = sae.hook_scales.normalise(x)
        error = (target - sae.hook_scales.normalise(sae.decode(sae.encode(x)))).pow(2).sum(dim=-1)
        which = dead.nonzero()[:, 0]
        drawn = torch.multinomial(error, len(which), replacement=True)
        rows = target[drawn] - sae.b_dec
        encoder, decoder = sae.encoder_weights, sae.decoder_weights
        alive_norm = encoder.stack_norms()[~dead].mean()
        decoder.take_rows_(which, rows)
        atoms = decoder.vectors(which)
        atoms = atoms / atoms.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        decoder.take_rows_(which, atoms * self.norm)
        if encoder is not decoder:
            encoder.take_rows_(which, atoms * REVIVED_ENCODER_NORM * alive_norm)
        sae.b_enc[which] = 0
