"""What a polynomial decoder makes of one code, split among latents and pairs of them.

For a set S of the active latents let ``D(S)`` be what the decoder makes of their codes with all
others at 0, the bias taken off. A latent alone gets ``D({i})``: its linear term and its powers. A
pair gets what neither has alone, ``D({i, j}) - D({i}) - D({j})``; in degree 2 that is
``z_i z_j B_ij``. What three latents add beyond their pairs (degree 3) goes to the three pairs in
equal parts. This is the Shapley-Taylor interaction index of order 2 (Dhamdhere, Agarwal,
Sundararajan 2020): it takes no derivative, and the parts add up to D of the whole code.

With the second difference ``d_ij(S) = D(S + i + j) - D(S + i) - D(S + j) + D(S)`` the part of a
pair is ``2/3 d_ij({}) + 1/3 d_ij(all others)`` up to degree 3, so that no triple is ever formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.circuits.replacement import Parts

#: Numbers in the codes that are decoded at a time.
_WORKING_SET = 2**23

#: A power of 2 that makes codes so small that no bound on them (``code_limit``) is met.
_SMALL = 2.0**-20


@torch.no_grad()
def parts_of_code(sae: Crosscoder, code: torch.Tensor, hooks: Sequence[int]) -> Parts:
    """Split what the decoder makes of a code among its active latents and their pairs.

    Where the bound on the code is met, what it multiplies a term by is taken for a constant of the
    token, as normalisation scales are in an attribution graph.

    Args:
        sae: A crosscoder with a linear or a polynomial decoder.
        code: Of one token, (d_sae,).
        hooks: Numbers of the hook points that are looked at.
    """
    latents = code.nonzero().flatten()
    subsets = _Subsets(sae, code, latents, list(hooks))
    each = torch.eye(len(latents), dtype=torch.bool, device=code.device)
    terms = subsets.terms(each)
    alone = sum(terms.values(), start=torch.zeros_like(terms[1]))
    pairs = torch.combinations(torch.arange(len(latents), device=code.device))
    above = [degree for degree in terms if degree > 1]
    if not above or not len(pairs) or sae.cfg.decoder != "interactions":
        return Parts(latents, alone, pairs[:0], alone[:0])

    # Terms of a degree, times held, are those of the whole code without a bound.
    small = _Subsets(sae, code * _SMALL, latents, list(hooks))
    everything = torch.ones_like(each[:1])
    whole, one, others = (small.terms(sets) for sets in (everything, each, ~each))
    held = {d: _ratio(subsets.terms(everything)[d], whole[d]) for d in above}
    alone = terms[1] + sum(held[d] * one[d] for d in above)
    together = alone.new_zeros(len(pairs), *alone.shape[1:])
    for chunk in torch.arange(len(pairs), device=code.device).split(subsets.at_a_time):
        i, j = pairs[chunk].T
        both = each[i] | each[j]
        two, rest = small.terms(both), small.terms(~both)
        for d in above:
            first = two[d] - one[d][i] - one[d][j]
            last = whole[d] - others[d][i] - others[d][j] + rest[d]
            together[chunk] += held[d] * (2 * first + last) / 3
    return Parts(latents, alone, pairs, together)


def _ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What ``b`` (..., d_model) is multiplied by to be ``a``, where they are parallel, (..., 1)."""
    tiny = torch.finfo(b.dtype).tiny
    peak = b.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)  # squares of b itself would underflow
    b = b / peak
    return (a * b).sum(-1, keepdim=True) / (b * b).sum(-1, keepdim=True).clamp_min(tiny) / peak


class _Subsets:
    """Decodes some of the active latents of a token, the others at 0."""

    def __init__(
        self, sae: Crosscoder, code: torch.Tensor, latents: torch.Tensor, hooks: list[int]
    ) -> None:
        self.sae, self.code, self.latents, self.hooks = sae, code, latents, hooks
        self.at_a_time = max(1, _WORKING_SET // len(code))

    def terms(self, sets: torch.Tensor) -> dict[int, torch.Tensor]:
        """Degree to its term (m, n_hooks, d_model) for sets of latents, true or false (m, n)."""
        parts: dict[int, list[torch.Tensor]] = {}
        for some in sets.split(self.at_a_time):
            codes = self.code.new_zeros(len(some), len(self.code))
            codes[:, self.latents] = self.code[self.latents] * some
            for degree, term in self.sae.degree_terms(codes).items():
                parts.setdefault(degree, []).append(self.sae.per_hook(term)[:, self.hooks])
        return {degree: torch.cat(terms) for degree, terms in parts.items()}
