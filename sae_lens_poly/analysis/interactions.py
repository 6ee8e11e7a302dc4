"""Which pairs of latents a polynomial decoder combines, and how strongly.

Two latents i != j that are both active add ``z_i z_j B_ij`` to the reconstruction in degree 2
(PolySAE, Koromilas et al. 2026). ``B_ij`` is in units of output per unit of both activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from transformer_lens.hook_points import HookPoint

from sae_lens_poly.architectures.decoders import PairBlock
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.metrics import DegreeShares

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: Numbers that :func:`strongest_pairs` holds at a time.
_WORKING_SET = 2**23


def _pair_factors(sae: PolynomialDictionary) -> Factors:
    if not isinstance(sae, PolynomialDictionary):
        raise InputError(
            f"architecture={sae.cfg.architecture()!r} has a linear decoder, in which no latents "
            "interact: train a polynomial one"
        )
    left, right, C = sae.pair_factors()
    return left.float(), right.float(), C.float()


@torch.no_grad()
def pair_terms(sae: PolynomialDictionary, pairs: torch.Tensor) -> torch.Tensor:
    """B_ij (n, d_in) for pairs (n, 2) of different latents.

    Raises:
        InputError: If a latent is out of range or paired with itself, or if no latents interact.
    """
    i, j = _checked(pairs, sae.cfg.d_sae).T
    left, right, C = _pair_factors(sae)
    terms = left.new_zeros(len(i), C.shape[1])
    for block in sae.pair_blocks():
        at = block.holds(i, j)
        own = terms[at]
        own[:, block.columns] = _products(left, right, i[at], j[at]) @ C[:, block.columns]
        terms[at] = own
    return terms


def pair_strengths(sae: PolynomialDictionary, pairs: torch.Tensor) -> torch.Tensor:
    """``||B_ij||`` (n,) for pairs (n, 2) of different latents."""
    i, j = _checked(pairs, sae.cfg.d_sae).T
    return _strengths(_pair_factors(sae), sae.pair_blocks(), i, j)


def _products(
    left: torch.Tensor, right: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    """The vectors that C maps to B_ij, (n, R)."""
    return left[i] * right[j] + left[j] * right[i]


def _strengths(
    factors: Factors, blocks: list[PairBlock], i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    left, right, C = factors
    strengths = left.new_zeros(len(i))
    for block in blocks:
        at = block.holds(i, j)
        root = _root_of_gram(C[:, block.columns])
        strengths[at] = (_products(left, right, i[at], j[at]) @ root).norm(dim=-1)
    return strengths


def _root_of_gram(C: torch.Tensor) -> torch.Tensor:
    """A (R, at most R) with ``||w C|| = ||w A||`` for all w: sums run over R, not over d_in."""
    u, s, _ = torch.linalg.svd(C.double(), full_matrices=False)
    return (u * s).to(C.dtype)


def _checked(pairs: torch.Tensor, d_sae: int) -> torch.Tensor:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"pairs has shape {tuple(pairs.shape)}: give one row (i, j) for each pair")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= d_sae):
        raise InputError(f"pairs names a latent outside 0 to {d_sae - 1}")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise InputError("pairs has a latent with itself, which is not an interaction")
    return pairs


@dataclass(frozen=True)
class StrongestPairs:
    """What :func:`strongest_pairs` found, the strongest first."""

    pairs: torch.Tensor
    """Shape (n, 2), i < j."""
    strengths: torch.Tensor
    """``||B_ij||``, times the scales of both latents where these were given, (n,)."""


@torch.no_grad()
def strongest_pairs(
    sae: PolynomialDictionary, n: int, scales: torch.Tensor | None = None
) -> StrongestPairs:
    """The n strongest of all pairs of latents, found without forming a d_sae x d_sae matrix.

    Takes time of order ``d_sae^2 R2^2`` and memory of order ``d_sae R2``.

    Args:
        sae: A dictionary whose latents interact.
        n: Number of pairs.
        scales: Typical activation of each latent, (d_sae,), as :func:`typical_activations` gives
            it; a strength is then the typical length of what a pair adds. Without it strengths
            depend on the units of z, and latents that hardly ever fire weigh as much as others.
    """
    left, right, C = _pair_factors(sae)
    if scales is not None:
        left, right = left * scales[:, None].to(left), right * scales[:, None].to(right)
    symmetric = torch.equal(left, right)
    best, where = left.new_zeros(0), torch.zeros(0, 2, dtype=torch.long, device=left.device)
    floor = -1.0
    roots = [(block, _root_of_gram(C[:, block.columns])) for block in sae.pair_blocks()]
    pieces = [(b, A, rows) for b, A in roots for rows in _pieces(b, left.shape[1])]
    for block, A, rows in pieces:
        columns = slice(max(rows.start, block.second.start), block.second.stop)
        w = left[rows, None] * right[None, columns]
        w = 2 * w if symmetric else w + right[rows, None] * left[None, columns]
        strength = (w @ A).norm(dim=-1)
        i = torch.arange(rows.start, rows.stop, device=left.device)[:, None]
        j = torch.arange(columns.start, columns.stop, device=left.device)[None]
        chosen = (j > i) & (strength > floor)
        found = torch.stack([i.expand_as(chosen)[chosen], j.expand_as(chosen)[chosen]], dim=1)
        best, where = torch.cat([best, strength[chosen]]), torch.cat([where, found])
        if len(best) > n:
            best, kept = best.topk(n)
            where, floor = where[kept], best[-1].item()
    order = best.argsort(descending=True)[:n]
    return StrongestPairs(where[order], best[order])


def _pieces(block: PairBlock, rank: int) -> list[slice]:
    """The first latents of a block, in ranges that leave room for their pairs."""
    start, stop = block.first.start, block.first.stop
    size = max(1, _WORKING_SET // ((block.second.stop - block.second.start) * rank))
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


@torch.no_grad()
def typical_activations(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Root mean square activation (d_sae,) of each latent over batches of codes (..., d_sae)."""
    squares, n_tokens = torch.zeros(()), 0
    for z in batches:
        z = _flat(z).float()
        squares, n_tokens = squares.to(z) + z.square().sum(dim=0), n_tokens + len(z)
    return (squares / max(n_tokens, 1)).sqrt()


@torch.no_grad()
def pair_contribution(
    sae: PolynomialDictionary, feature_acts: torch.Tensor, i: int, j: int
) -> torch.Tensor:
    """``z_i z_j B_ij``, what a pair adds to reconstructions (..., d_in) in degree 2.

    In the units of the weights. Where ``a`` is at its bound (``code_limit``) the true
    contribution is smaller.
    """
    B = pair_terms(sae, torch.tensor([[i, j]], device=feature_acts.device))[0]
    product = feature_acts[..., i] * feature_acts[..., j]
    return product[..., None] * B.to(product.dtype)


@contextmanager
def without_degrees(sae: PolynomialDictionary, degrees: Iterable[int] = (2, 3)) -> Iterator[None]:
    """Within it, the dictionary reconstructs without its terms of these degrees."""
    names = {1: "hook_sae_y1", 2: "hook_sae_y2", 3: "hook_sae_y3"}
    with sae.hooks(fwd_hooks=[(names[degree], _zero) for degree in degrees]):
        yield


def _zero(term: torch.Tensor, hook: HookPoint) -> torch.Tensor:
    return torch.zeros_like(term)


class CoOccurrence:
    """Streaming statistics of chosen pairs of latents over batches of codes.

    Args:
        pairs: Shape (n, 2).
    """

    def __init__(self, pairs: torch.Tensor) -> None:
        self.pairs = pairs
        self.n_tokens = 0
        self.counts = torch.zeros(len(pairs), dtype=torch.float64)
        """Tokens on which both are active."""
        self._products = torch.zeros(len(pairs), dtype=torch.float64)
        self._sums = torch.zeros(len(pairs), 2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, feature_acts: torch.Tensor) -> None:
        """See codes (..., d_sae), dense or sparse."""
        z = _flat(feature_acts)
        self.n_tokens += len(z)
        latents, inverse = self.pairs.to(z.device).unique(return_inverse=True)
        z = z[:, latents]
        joint, products = _gathered(z > 0, inverse), _gathered(z, inverse)
        self.counts += joint.cpu()
        self._products += products.cpu()
        self._sums += z.sum(dim=0, dtype=torch.float64)[inverse].cpu()

    def covariances(self) -> torch.Tensor:
        """Covariance of both activations over tokens, (n,)."""
        means = self._sums / self.n_tokens
        return self._products / self.n_tokens - means[:, 0] * means[:, 1]


def _flat(feature_acts: torch.Tensor) -> torch.Tensor:
    """Codes (..., d_sae), dense or sparse, as dense ones (n, d_sae)."""
    z = feature_acts.to_dense() if feature_acts.is_sparse else feature_acts
    return z.reshape(-1, z.shape[-1])


def _gathered(z: torch.Tensor, pairs: torch.Tensor, chunk: int = 512) -> torch.Tensor:
    """Sum over tokens of the products of columns, for pairs (n, 2), in float64."""
    # Columns of z would be gathered number by number.
    of_latent = z.T.to(torch.float64, memory_format=torch.contiguous_format)
    parts = [
        torch.linalg.vecdot(of_latent[part[:, 0]], of_latent[part[:, 1]])
        for part in pairs.split(chunk)
    ]
    return torch.cat(parts)


def random_pairs(d_sae: int, n: int, seed: int = 0) -> torch.Tensor:
    """n different pairs of latents (n, 2), i < j, drawn evenly; all pairs if n is that many."""
    n_all = d_sae * (d_sae - 1) // 2
    generator = torch.Generator().manual_seed(seed)
    if n >= n_all:
        return torch.combinations(torch.arange(d_sae), 2)
    drawn = torch.zeros(0, dtype=torch.long)
    while len(drawn) < n:
        new = torch.randint(n_all, (n - len(drawn),), generator=generator)
        drawn = torch.cat([drawn, new]).unique()
    drawn = drawn[torch.randperm(len(drawn), generator=generator)]
    # Number p of the pair (i, j), i < j, counted along rows of the lower triangle.
    j = ((1 + (1 + 8 * drawn.double()).sqrt()) / 2).floor().long()
    j -= (j * (j - 1) // 2 > drawn).long()
    j += (j * (j + 1) // 2 <= drawn).long()
    return torch.stack([drawn - j * (j - 1) // 2, j], dim=1)


@torch.no_grad()
def gram_strengths(sae: PolynomialDictionary, pairs: torch.Tensor) -> torch.Tensor:
    """The first control: ``|d_i . d_j|`` of the linear decoder, (n,)."""
    directions = sae.latent_directions()
    parts = [
        (directions[part[:, 0]] * directions[part[:, 1]]).sum(dim=-1).abs().float()
        for part in pairs.split(4096)  # rows of a crosscoder are long
    ]
    return torch.cat(parts)


@torch.no_grad()
def random_projection_strengths(
    sae: PolynomialDictionary, pairs: torch.Tensor, seed: int = 0
) -> torch.Tensor:
    """The second control: ``||B_ij||`` with the trained C2, but a random projection, (n,).

    Interactions through the reconstruction keep W_dec and draw another P; those through the codes
    draw another V.
    """
    left, _, C = _pair_factors(sae)
    generator = torch.Generator().manual_seed(seed)
    through_reconstruction = sae.cfg.projection == "reconstruction"
    n_rows = sae.cfg.d_in if through_reconstruction else sae.cfg.d_sae
    drawn = torch.linalg.qr(torch.randn(n_rows, left.shape[1], generator=generator))[0].to(left)
    if through_reconstruction:
        drawn = sae.latent_directions().float() @ drawn
    drawn = drawn * (left.norm() / drawn.norm())
    i, j = pairs.T
    return _strengths((drawn, drawn, C), sae.pair_blocks(), i, j)


def interaction_correlations(
    sae: PolynomialDictionary, co_occurrence: CoOccurrence, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Correlation of pair strengths with how often both latents are active, beside controls.

    A covariance of codes follows co-activation by construction; the fair controls for B_ij are
    those that know the directions alone: the decoder's Gram matrix, and a random projection.

    Returns:
        ``pearson`` and ``spearman`` with the counts, for ``B`` and for each control.
    """
    pairs, counts = co_occurrence.pairs, co_occurrence.counts.numpy()
    measures: dict[str, Callable[[], torch.Tensor]] = {
        "B": lambda: pair_strengths(sae, pairs),
        "decoder Gram": lambda: gram_strengths(sae, pairs),
        "random projection": lambda: random_projection_strengths(sae, pairs, seed),
        "covariance of codes": lambda: co_occurrence.covariances().abs(),
    }
    correlations = {}
    for name, measure in measures.items():
        values: Any = measure().cpu().numpy()
        correlations[name] = {
            "pearson": float(pearsonr(values, counts).statistic),
            "spearman": float(spearmanr(values, counts).statistic),
        }
    return correlations


@torch.no_grad()
def degree_shares(sae: PolynomialDictionary, feature_acts: torch.Tensor) -> dict[int, float]:
    """The share of each degree in reconstructions of codes (n, d_sae), without b_dec.

    ``<y_i, y> / <y, y>`` over tokens, centred, for the whole ``y = sum_i y_i``: shares add up to
    1, and one is negative where a degree works against the rest.
    """
    terms = {d: y.double() for d, y in sae.degree_terms(feature_acts).items()}
    shares = DegreeShares()
    shares.update({d: (y - y.mean(dim=0))[:, None] for d, y in terms.items()})
    return {d: share for d, (share,) in shares.compute().items()}
