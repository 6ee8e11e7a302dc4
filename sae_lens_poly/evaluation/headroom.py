"""How much any decoder of the same codes could add: a ladder of decoders fitted to frozen codes.

Each rung is fitted on some tokens, stopped where others say so, and scored on those of the
evaluation:

- ``linear``: the linear decoder, refitted by least squares;
- ``ours``: the same beside the dictionary's own terms above degree 1;
- ``curves``: with a curve for each latent: steps, squares and cubes of its feature activation;
- ``pairs``: with products of the pairs of latents that are most often active together;
- ``quadratic``: with squares of projections of the code, ``(z V)^2 C``;
- ``mlp``: with a layer of GELU units, ``gelu(z A + a) B``.

The first four are least squares over sparse features, by conjugate gradients; none of them needs a
matrix of d_sae x d_sae. What is kept of the text is bounded by :data:`MOST_BYTES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: The rungs, in order.
RUNGS = ("linear", "ours", "curves", "pairs", "quadratic", "mlp")

#: Tokens that the rungs are fitted on where nothing else is said.
HEADROOM_TOKENS = 20_000

#: Of activations that are kept; a wider stack of hook points is fitted on fewer tokens.
MOST_BYTES = 2**30

#: A latent that is seen on n tokens keeps a share n / (n + this) of its correction.
_PRIOR_TOKENS = 5.0

#: Pairs of latents with a product of their own, and keys that they are counted on at most.
N_PAIRS, _MOST_KEYS = 2048, 10**7

RANK, N_UNITS = 256, 512

#: Of what is raised to a power, in units of its root mean square.
_LIMIT = 10.0


@dataclass
class Samples:
    """Codes and what a decoder has to make of them.

    Args:
        z: Codes, CSR (n, d_sae).
        target: What the linear decoder as trained leaves over, (n, d_in): activations less its
            reconstruction, each hook point in units of the same norm.
        above: What the dictionary's terms above degree 1 add, (n, d_in), in the same units.
    """

    z: torch.Tensor
    target: torch.Tensor
    above: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    @classmethod
    def cat(cls, parts: Iterable[Samples]) -> Samples:
        """All of them, one after the other."""
        parts = list(parts)
        rows, cols, values, start = [], [], [], 0
        for part in parts:
            coo = part.z.to_sparse_coo().coalesce()
            rows.append(coo.indices()[0] + start)
            cols.append(coo.indices()[1])
            values.append(coo.values())
            start += len(part)
        indices = torch.stack([torch.cat(rows), torch.cat(cols)])
        shape = (start, parts[0].z.shape[1])
        z = torch.sparse_coo_tensor(indices, torch.cat(values), shape, check_invariants=False)
        above = [part.above for part in parts if part.above is not None]
        return cls(
            z.coalesce().to_sparse_csr(),
            torch.cat([part.target for part in parts]),
            torch.cat(above) if above else None,
        )


@dataclass(frozen=True)
class Headroom:
    """Explained variance that decoders of the same codes reach on tokens that none has seen."""

    as_trained: float
    """Of the dictionary itself."""
    rungs: dict[str, float] = field(default_factory=dict)
    """Of each rung, by name; see the module."""
    n_fitted: int = 0
    """Tokens that the rungs were fitted on."""
    n_scored: int = 0

    @property
    def gain(self) -> float:
        """What the best rung has over the linear one."""
        others = [ev for name, ev in self.rungs.items() if name not in ("linear", "ours")]
        return max(*others, self.rungs["linear"]) - self.rungs["linear"]

    @property
    def gain_of_ours(self) -> float | None:
        """What the dictionary's own terms have over the linear rung; None where it has none."""
        ours = self.rungs.get("ours")
        return None if ours is None else ours - self.rungs["linear"]


@torch.no_grad()
def measure_headroom(
    fit: Samples, choose: Samples, score: Samples, variance: float, seed: int = 0
) -> Headroom:
    """Fit every rung and score it.

    Args:
        fit: What the rungs are fitted on.
        choose: Tokens that say when a fit stops.
        score: Tokens that the figures are of.
        variance: Sum of squares of the activations of ``score`` about their mean, in the units of
            the targets.
        seed: Of the starts of ``quadratic`` and ``mlp``.
    """

    def explained(residual: torch.Tensor) -> float:
        return 1 - residual.double().pow(2).sum().item() / variance

    scale = _root_mean_squares(fit.z)
    codes = [_divided(of.z, scale) for of in (fit, choose, score)]
    features: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"linear": lambda z: z}
    features["curves"] = _curves
    pairs = frequent_pairs(fit.z)
    features["pairs"] = lambda z: _products(z, pairs)
    rungs: dict[str, float] = {}
    start: list[torch.Tensor] = []
    for name, make in features.items():
        parts = [make(u) for u in codes]
        left = start or [of.target for of in (fit, choose, score)]
        residuals = _least_squares(parts, left)
        rungs[name] = explained(residuals[2])
        if name == "linear":
            start = residuals
    if fit.above is not None and choose.above is not None and score.above is not None:
        left = [fit.target - fit.above, choose.target - choose.above, score.target - score.above]
        rungs["ours"] = explained(_least_squares(codes, left)[2])
        as_trained = explained(left[2])
    else:
        as_trained = explained(score.target)
    kinds: dict[str, Any] = {"quadratic": _Quadratic, "mlp": _Units}
    for name, kind in kinds.items():
        generator = torch.Generator().manual_seed(seed)
        l0 = max(codes[0].values().numel() / len(codes[0]), 1.0)
        model = kind(codes[0].shape[1], start[0].shape[1], l0, generator)
        residuals = _by_gradient(model, codes, start, generator)
        rungs[name] = explained(residuals[2])
    rungs = {name: rungs[name] for name in RUNGS if name in rungs}
    return Headroom(as_trained, rungs, len(fit) + len(choose), len(score))


#: Row, column and value of the entries of a matrix, and its width.
_Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


def _root_mean_squares(z: torch.Tensor) -> torch.Tensor:
    """Of each latent where it is active, (d_sae,); 1 for one that never is."""
    squares = torch.zeros(z.shape[1]).index_add_(0, z.col_indices(), z.values().pow(2))
    counts = torch.bincount(z.col_indices(), minlength=z.shape[1])
    return torch.where(counts > 0, (squares / counts.clamp_min(1)).sqrt(), 1.0)


def _csr(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Other entries at the same places."""
    return torch.sparse_csr_tensor(
        like.crow_indices(), like.col_indices(), values, like.shape, check_invariants=False
    )


def _divided(z: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return _csr(z, z.values() / scale[z.col_indices()])


def _side_by_side(n: int, parts: list[_Entries]) -> torch.Tensor:
    """CSR of entries (row, column, value, width) of several matrices, one beside the other."""
    rows = torch.cat([row for row, *_ in parts])
    starts = torch.tensor([0] + [width for *_, width in parts]).cumsum(0).tolist()
    cols = torch.cat([col + start for (_, col, *_), start in zip(parts, starts[:-1], strict=True)])
    values = torch.cat([value for _, _, value, _ in parts])
    size = (n, starts[-1])
    indices = torch.stack([rows, cols])
    whole = torch.sparse_coo_tensor(indices, values, size, check_invariants=False)
    return whole.coalesce().to_sparse_csr()


def _rows_of(z: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(z)).repeat_interleave(z.crow_indices().diff())


def _curves(u: torch.Tensor) -> torch.Tensor:
    """``u``, whether it is active, its square and its cube, side by side."""
    rows, cols, values, d_sae = _rows_of(u), u.col_indices(), u.values(), u.shape[1]
    # A token of a massive activation would be all that a cube is fitted to.
    held = values.clamp(-_LIMIT, _LIMIT)
    powers = [values, torch.ones_like(values), held**2, held**3]
    return _side_by_side(len(u), [(rows, cols, power, d_sae) for power in powers])


def _pairs_of_rows(
    z: torch.Tensor, first: int, last: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, key ``i d_sae + j`` of its pairs i < j, and their entries, of some tokens."""
    crow = z.crow_indices()
    counts = crow.diff()[first:last]
    if not len(counts) or int(counts.max()) < 2:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, nothing, nothing
    i, j = torch.triu_indices(int(counts.max()), int(counts.max()), offset=1)
    fits = j[None] < counts[:, None]
    token, pair = fits.nonzero(as_tuple=True)
    one, two = crow[first:last][token] + i[pair], crow[first:last][token] + j[pair]
    keys = z.col_indices()[one] * z.shape[1] + z.col_indices()[two]
    return token + first, keys, one, two


def frequent_pairs(z: torch.Tensor, n: int = N_PAIRS) -> torch.Tensor:
    """Keys ``i d_sae + j``, i < j, of the pairs that are active together most often, sorted.

    Args:
        z: Codes, CSR (n, d_sae).
        n: How many pairs at most.
    """
    per_token = z.crow_indices().diff().double()
    most = int(((per_token * (per_token - 1) / 2).cumsum(0) <= _MOST_KEYS).sum())
    keys = torch.cat(
        [
            _pairs_of_rows(z, start, min(start + 1024, most))[1]
            for start in range(0, max(most, 1), 1024)
        ]
    )
    found, counts = keys.unique(return_counts=True)
    return found[counts.topk(min(n, len(counts))).indices].sort().values


def _products(u: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """``u`` and the products of the pairs, side by side."""
    rows, cols, values = [], [], []
    for start in range(0, len(u), 1024):
        token, keys, one, two = _pairs_of_rows(u, start, min(start + 1024, len(u)))
        at = torch.searchsorted(pairs, keys).clamp_max(max(len(pairs) - 1, 0))
        known = pairs[at] == keys if len(pairs) else torch.zeros_like(keys, dtype=torch.bool)
        rows.append(token[known])
        cols.append(at[known])
        both = u.values()[one[known]] * u.values()[two[known]]
        values.append(both.clamp(-(_LIMIT**2), _LIMIT**2))
    products = (torch.cat(rows), torch.cat(cols), torch.cat(values), len(pairs))
    own = (_rows_of(u), u.col_indices(), u.values(), u.shape[1])
    return _side_by_side(len(u), [own, products])


def _least_squares(
    features: list[torch.Tensor], targets: list[torch.Tensor], n_steps: int = 40
) -> list[torch.Tensor]:
    """What least squares leave over of the targets to fit, to choose by, and to score.

    Conjugate gradients on ``(Phi^T Phi + D) W = Phi^T R``, one problem for each column, with its
    diagonal as preconditioner, and the mean taken off. D shrinks what is seen on few tokens. The
    step is kept that leaves the least of ``targets[1]``; none at all, if that is best.
    """
    ones = [torch.ones(len(of), 1) for of in targets]
    phi = features[0]
    phi_t = phi.to_sparse_coo().t().coalesce().to_sparse_csr()
    values, cols, width = phi.values(), phi.col_indices(), phi.shape[1]
    squares = torch.zeros(width).index_add_(0, cols, values.pow(2))
    counts = torch.bincount(cols, minlength=width).clamp_min(1)
    prior = (_PRIOR_TOKENS * squares / counts).clamp_min(1e-6)[:, None]
    mean = torch.zeros(width).index_add_(0, cols, values)[None] / len(phi)
    centre = targets[0].mean(dim=0, keepdim=True)

    def apply(W: torch.Tensor) -> torch.Tensor:
        y = phi @ W - mean @ W
        return phi_t @ y - mean.T * y.sum(dim=0) + prior * W

    W = torch.zeros(width, targets[0].shape[1])
    r = phi_t @ (targets[0] - centre)
    inverse = 1 / (squares[:, None] + prior)
    best, best_W, since = float("inf"), None, 0
    s = inverse * r
    p, rs = s.clone(), (r * s).sum(dim=0)
    for step in range(n_steps + 1):
        left = targets[1] - centre - (features[1] @ W - mean @ W)
        loss = left.double().pow(2).sum().item()
        if loss < best * (1 - 1e-5):
            best, best_W, since = loss, W.clone(), 0
        else:
            since += 1
        if since == 3 or step == n_steps:
            break
        Ap = apply(p)
        length = rs / (p * Ap).sum(dim=0).clamp_min(1e-20)
        W += p * length
        r -= Ap * length
        s = inverse * r
        rs_new = (r * s).sum(dim=0)
        p = s + p * (rs_new / rs.clamp_min(1e-20))
        rs = rs_new
    assert best_W is not None
    constant = centre - mean @ best_W
    return [
        target - phi @ best_W - one @ constant
        for target, phi, one in zip(targets, features, ones, strict=True)
    ]


class _Quadratic(nn.Module):
    """``(u V)^2 C + u W + b``."""

    def __init__(self, d_sae: int, d_in: int, l0: float, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(RANK, d_sae)
        self.V = nn.Parameter(torch.randn(d_sae, rank, generator=generator) / l0**0.5)
        self.C = nn.Parameter(torch.zeros(rank, d_in))
        self.W = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b = nn.Parameter(torch.zeros(d_in))

    def forward(self, bag: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        # Held, as a token of a massive activation would be all that a square is fitted to.
        return bag(self.V).clamp(-_LIMIT, _LIMIT).pow(2) @ self.C + bag(self.W) + self.b


class _Units(nn.Module):
    """``gelu(u A + a) B + u W + b``."""

    def __init__(self, d_sae: int, d_in: int, l0: float, generator: torch.Generator) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(d_sae, N_UNITS, generator=generator) / l0**0.5)
        self.a = nn.Parameter(torch.zeros(N_UNITS))
        self.B = nn.Parameter(torch.zeros(N_UNITS, d_in))
        self.W = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b = nn.Parameter(torch.zeros(d_in))

    def forward(self, bag: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return F.gelu(bag(self.A) + self.a) @ self.B + bag(self.W) + self.b


def _bag(u: torch.Tensor, tokens: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Products of the codes of some tokens with a matrix (d_sae, m)."""
    counts = u.crow_indices().diff()[tokens]
    starts = F.pad(counts.cumsum(0), (1, 0))
    offset = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(counts)
    at = u.crow_indices()[tokens].repeat_interleave(counts) + offset
    cols, values = u.col_indices()[at], u.values()[at]
    return lambda matrix: F.embedding_bag(
        cols, matrix, starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _by_gradient(
    model: nn.Module,
    codes: list[torch.Tensor],
    targets: list[torch.Tensor],
    generator: torch.Generator,
    n_steps: int = 800,
    batch: int = 512,
) -> list[torch.Tensor]:
    """What Adam leaves over of the targets to fit, to choose by, and to score.

    In ``n_steps`` steps, and 4 passes, at least. After each pass the rate is halved where the
    targets to choose by are not met better; the best state is kept, which is the start if no pass
    helps.
    """

    def left(which: int) -> torch.Tensor:
        parts = torch.arange(len(targets[which])).split(4096)
        return torch.cat([targets[which][t] - model(_bag(codes[which], t)) for t in parts])

    size = targets[0].pow(2).mean().sqrt().clamp_min(1e-12)
    best = targets[1].double().pow(2).sum().item()
    kept = {name: w.clone() for name, w in model.state_dict().items()}
    small = [w for name, w in model.named_parameters() if name in ("W", "b")]
    large = [w for name, w in model.named_parameters() if name not in ("W", "b")]
    # The linear decoder has been fitted; what is added moves it a little.
    optimizer = torch.optim.Adam(
        [{"params": large, "lr": 2e-3}, {"params": small, "lr": 2e-4}], betas=(0.9, 0.99)
    )
    for _ in range(max(4, -(-n_steps * batch // len(targets[0])))):
        with torch.enable_grad():
            for tokens in torch.randperm(len(targets[0]), generator=generator).split(batch):
                y = model(_bag(codes[0], tokens))
                loss = ((targets[0][tokens] - y) / size).pow(2).sum(dim=-1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        found = left(1).double().pow(2).sum().item()
        if found < best:
            best, kept = found, {name: w.clone() for name, w in model.state_dict().items()}
        else:
            model.load_state_dict(kept)
            for group in optimizer.param_groups:
                group["lr"] /= 2
            if optimizer.param_groups[0]["lr"] < 1e-4:
                break
    model.load_state_dict(kept)
    return [left(which) for which in range(3)]
