"""Which latents read and write which hook points.

By default every latent reads and writes all of them (acausal). Else the latents fall into groups,
one after the other and of equal size, and each group has its own hook points to read and to write
(Lindsey et al. 2024, "Sparse Crosscoders", variants). SAEs, transcoders and cross-layer transcoders
are crosscoders with other sets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_poly.errors import InputError

STRUCTURES = ("acausal", "weakly_causal", "strictly_causal", "free")


@dataclass(frozen=True)
class LatentGroup:
    """Latents ``start`` up to ``stop``, and the numbers of their hook points."""

    start: int
    stop: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @property
    def latents(self) -> slice:
        """Which latents they are."""
        return slice(self.start, self.stop)


class HookStructure:
    """The groups of latents of a dictionary.

    Args:
        read_sets: Hook points that each group reads.
        write_sets: Hook points that each group writes, as many sets.
        n_hooks: Number of hook points L.
        d_sae: Number of latents, shared out evenly among the groups.
    """

    def __init__(
        self,
        read_sets: list[tuple[int, ...]],
        write_sets: list[tuple[int, ...]],
        n_hooks: int,
        d_sae: int,
    ) -> None:
        self.n_hooks, self.d_sae = n_hooks, d_sae
        n = len(read_sets)
        ends = [d_sae * g // n for g in range(n + 1)]
        self.groups = [
            LatentGroup(ends[g], ends[g + 1], read_sets[g], write_sets[g]) for g in range(n)
        ]
        everything = tuple(range(n_hooks))
        self.is_full = all(reads == writes == everything for reads, writes in self.sets())
        self.written = tuple(sorted({hook for group in self.groups for hook in group.writes}))
        """Hook points that some latent writes: what the loss is taken over."""

    def sets(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """What each group reads and writes."""
        return [(group.reads, group.writes) for group in self.groups]

    def write_mask(self, like: torch.Tensor) -> torch.Tensor:
        """1 where a latent writes a hook point, (d_sae, n_hooks), in the dtype of ``like``."""
        mask = torch.zeros(self.d_sae, self.n_hooks, dtype=like.dtype, device=like.device)
        for group in self.groups:
            mask[group.latents, list(group.writes)] = 1
        return mask


def make_structure(
    structure: str, reads: str | None, writes: str | None, n_hooks: int, d_sae: int
) -> HookStructure:
    """The structure that the fields of a config describe.

    ``weakly_causal``: one group a hook point, which reads it, and writes it and all later ones.
    ``strictly_causal``: it writes later ones only, so that the first hook point is not written,
    and there is no group for the last. ``free``: as ``reads`` and ``writes`` say.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if structure not in STRUCTURES:
        raise InputError(f"structure={structure!r} is unknown: choose of {', '.join(STRUCTURES)}")
    if structure != "free" and (reads is not None or writes is not None):
        raise InputError(
            f"reads={reads!r}, writes={writes!r} are for structure='free', and this is "
            f"{structure!r}: set structure='free' or leave them out"
        )
    if structure == "free" and reads is None and writes is None:
        raise InputError(
            "structure='free' with reads=None and writes=None says nothing: give one of them, "
            "such as reads='0', or take structure='acausal'"
        )
    everything = tuple(range(n_hooks))
    read_sets, write_sets = [everything], [everything]
    if structure == "weakly_causal":
        read_sets = [(hook,) for hook in everything]
        write_sets = [everything[hook:] for hook in everything]
    elif structure == "strictly_causal":
        if n_hooks < 2:
            raise InputError(
                f"structure='strictly_causal' writes later hook points only, and n_hooks={n_hooks} "
                "has none: give two or more"
            )
        read_sets = [(hook,) for hook in everything[:-1]]
        write_sets = [everything[hook + 1 :] for hook in everything[:-1]]
    elif structure == "free":
        read_sets = _parse_sets("reads", reads, n_hooks)
        write_sets = _parse_sets("writes", writes, n_hooks)
        n_groups = max(len(read_sets), len(write_sets))
        if {len(read_sets), len(write_sets)} - {1, n_groups}:
            raise InputError(
                f"reads={reads!r} has {len(read_sets)} sets and writes={writes!r} has "
                f"{len(write_sets)}: give as many of both, or one that serves all"
            )
        read_sets = read_sets * (n_groups if len(read_sets) == 1 else 1)
        write_sets = write_sets * (n_groups if len(write_sets) == 1 else 1)
    if len(read_sets) > d_sae:
        raise InputError(f"d_sae={d_sae} is less than the {len(read_sets)} groups of latents")
    return HookStructure(read_sets, write_sets, n_hooks, d_sae)


def _parse_sets(field: str, text: str | None, n_hooks: int) -> list[tuple[int, ...]]:
    """``"0..2; 3"`` to [(0, 1, 2), (3,)]; ``"all"`` or None to one set of all."""
    return [_parse_set(field, text, part, n_hooks) for part in (text or "all").split(";")]


def _parse_set(field: str, text: Any, part: str, n_hooks: int) -> tuple[int, ...]:
    if part.strip() == "all":
        return tuple(range(n_hooks))
    numbers: set[int] = set()
    for item in part.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:\.\.\s*(\d+)\s*)?", item)
        if match is None:
            raise InputError(
                f"{field}={text!r}: {item.strip()!r} is neither the number of a hook point nor a "
                "range like 0..3 (sets are separated by ';', hook points by ',')"
            )
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not numbers or max(numbers) >= n_hooks:
        raise InputError(
            f"{field}={text!r} names hook point {max(numbers, default='none')}, and there are "
            f"n_hooks={n_hooks}, counted from 0"
        )
    return tuple(sorted(numbers))
