"""The highest scores of a batch of which every process has a part."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from sae_lens_poly.architectures.sparsifiers.batch_topk import guess_below_the_cut

#: Bits of a number that one round of :func:`kth_largest` settles.
_BITS = 11

_AS_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def highest_of_all(
    scores: torch.Tensor, n_kept: int, mesh: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of those of the ``n_kept`` highest positive scores that this process has.

    As :func:`~sae_lens_poly.architectures.sparsifiers.batch_topk.batch_top_k`, but over all
    processes: candidates are found where they are, and one cut for all of them is agreed on. Of
    scores that equal the cut those of the first processes are kept.

    Args:
        scores: Of this process, (n, d_sae).
        n_kept: How many to keep over all processes.
        mesh: The processes.
    """
    flat = scores.reshape(-1)
    share = min(math.ceil(n_kept / mesh.n_processes), len(flat))
    guess = mesh.least(flat.new_tensor([guess_below_the_cut(flat, share, scores.shape[-1])]))
    passed = (flat >= guess).nonzero().squeeze(-1)
    n_passed = _count(passed, mesh)
    if n_passed < n_kept:
        passed = (flat > 0).nonzero().squeeze(-1)
        n_passed = _count(passed, mesh)
    if n_passed > n_kept:
        values = flat[passed]
        cut, n_above = kth_largest(values, n_kept, mesh)
        equal = values == cut
        n_equal = n_kept - n_above - mesh.before(equal.sum())
        passed = passed[(values > cut) | (equal & (equal.cumsum(0) <= n_equal))]
    rows = passed // scores.shape[-1]
    return rows, passed - rows * scores.shape[-1]


@torch.no_grad()
def highest_of_rows(scores: torch.Tensor, k: int, mesh: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of those of the k highest of each row that this shard has, in order.

    Every shard tells the others its own k highest of each row.

    Args:
        scores: Of this shard, (n, n_latents).
        k: How many to keep of a row; at most the number of latents of all shards.
        mesh: The processes.
    """
    here = min(k, scores.shape[-1])
    own = torch.topk(scores, here, dim=-1)
    told = F.pad(own.values, (0, k - here), value=-math.inf).mT.contiguous()
    of_all = mesh.gather_latents(told).mT  # (n, n_shards k), a shard's own in order
    best = torch.topk(of_all, k, dim=-1, sorted=False).indices
    kept = torch.zeros_like(scores, dtype=torch.bool)
    slots = torch.zeros_like(of_all, dtype=torch.bool).scatter_(-1, best, True)
    first = mesh.shard * k
    kept.scatter_(-1, own.indices, slots[:, first : first + here])
    rows, columns = kept.nonzero(as_tuple=True)
    return rows, columns


def _count(passed: torch.Tensor, mesh: Any) -> int:
    return int(mesh.sum_of_all(torch.tensor(len(passed), device=passed.device)))


def kth_largest(values: torch.Tensor, k: int, mesh: Any) -> tuple[torch.Tensor, int]:
    """The k-th largest of the values of all processes, and how many are larger.

    Positive floating point numbers are ordered as the integers that their bits spell. So the
    answer is found from its first bits to its last, some in a round, by counts alone: each
    round exchanges 16 kB, however many values there are.

    Args:
        values: Of this process, (n,), none negative.
        k: At least 1, at most the number of values of all processes.
        mesh: The processes.
    """
    n_bits = 8 * values.element_size()
    integers = values.view(_AS_INTEGERS[values.element_size()]).long()
    found, n_above, inside = 0, 0, integers
    for shift in reversed(range(0, n_bits, _BITS)):
        digits = (inside >> shift) & (2**_BITS - 1)
        counts = mesh.sum_of_all(torch.bincount(digits, minlength=2**_BITS))
        from_above = counts.flip(0).cumsum(0)
        place = int((from_above >= k - n_above).nonzero()[0])
        n_above += int(from_above[place - 1]) if place else 0
        digit = 2**_BITS - 1 - place
        found += digit << shift
        inside = inside[digits == digit]
    bits = torch.tensor([found], device=values.device).to(_AS_INTEGERS[values.element_size()])
    return bits.view(values.dtype)[0], n_above
