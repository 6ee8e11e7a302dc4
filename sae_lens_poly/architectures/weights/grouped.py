"""Weights of latents that read or write only some of the hook points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sae_lens_poly.architectures.kernels.sparse_code import (
    ActiveEntries,
    ActivePattern,
    code_times,
    latent_range,
)
from sae_lens_poly.architectures.weights.base import ALL, WEIGHTS, Weights


@dataclass(frozen=True)
class Group:
    """The weights of one group of latents."""

    form: Weights
    latents: slice
    """Which latents of the dictionary they are."""
    hooks: tuple[int, ...]
    """Which hook points they read or write."""
    own_rows: slice
    """Which rows of the form are theirs."""
    own_hooks: tuple[int, ...] | None
    """Which hook points of the form; None: all that it has."""
    columns: torch.Tensor | slice
    """Where the hook points lie in the width n_hooks * d_model."""

    @property
    def rows(self) -> torch.Tensor:
        """The numbers of each latent, (n_latents, Q)."""
        return self.form.rows[self.own_rows]

    def into(self, x: torch.Tensor) -> torch.Tensor:
        """Activations (..., n_hooks * d_model) in the space of the rows, (..., Q)."""
        return self.form.into(x[..., self.columns], self.own_hooks)

    def out_of(self, h: torch.Tensor) -> torch.Tensor:
        """The transpose, at the hook points of the group alone."""
        return self.form.out_of(h, self.own_hooks)


class Grouped(Weights):
    """One form a group of latents: dense weights as blocks, factored ones with shared factors.

    A dense form stores what a group reads or writes and nothing else: a causal dictionary of 26
    layers costs its blocks, not the rectangle. Factored forms share A, B and C between the groups
    and leave hook points out of the basis.

    Args:
        form: Name of the form of each group.
        latents: Range of latents of each group, in order.
        hooks: Numbers of the hook points of each group.
    """

    def __init__(
        self,
        form: str,
        latents: Sequence[slice],
        hooks: Sequence[tuple[int, ...]],
        n_hooks: int,
        d_model: int,
        d_sae: int,
        ranks: list[int],
        **options: Any,
    ) -> None:
        super().__init__(n_hooks, d_model, d_sae)
        self.latents, self.hooks = list(latents), list(hooks)
        make: Any = WEIGHTS[form]
        self.reads_input_itself = make.reads_input_itself  # type: ignore[misc]
        self.shared = make.n_ranks > 0
        sizes = [(n_hooks, d_sae)]
        if not self.shared:
            sizes = [(len(h), s.stop - s.start) for s, h in zip(latents, hooks, strict=True)]
        self.forms = nn.ModuleList(make(h, d_model, n, ranks, **options) for h, n in sizes)

    @property
    def groups(self) -> list[Group]:
        """The groups, in order."""
        return [self._group(number) for number in range(len(self.latents))]

    def _group(self, number: int) -> Group:
        latents, hooks = self.latents[number], self.hooks[number]
        columns = self._columns(hooks)
        if self.shared:
            return Group(self._form(0), latents, hooks, latents, hooks, columns)
        return Group(self._form(number), latents, hooks, ALL, None, columns)

    def _form(self, number: int) -> Any:
        return self.forms[number]

    def _columns(self, hooks: tuple[int, ...]) -> torch.Tensor | slice:
        d = self.d_model
        if hooks == tuple(range(hooks[0], hooks[-1] + 1)):
            return slice(hooks[0] * d, (hooks[-1] + 1) * d)
        return torch.cat([torch.arange(h * d, (h + 1) * d) for h in hooks])

    @property
    def rows(self) -> torch.Tensor:
        raise NotImplementedError("the groups have rows of different lengths")

    def into(self, x: torch.Tensor, hooks: tuple[int, ...] | None = None) -> list[torch.Tensor]:
        return [group.into(x) for group in self.groups]

    def out_of(self, h: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        raise NotImplementedError("the groups have rows of different lengths")

    def read(self, x: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        parts = [
            group.into(x) @ group.rows[_chosen(latents, group.latents)].T for group in self.groups
        ]
        return torch.cat(parts, dim=-1)

    def products(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        h = self.into(x)
        with torch.no_grad():
            parts = [part @ group.rows.T for part, group in zip(h, self.groups, strict=True)]
            return h, torch.cat(parts, dim=-1)

    def entries_of(
        self,
        h: Any,
        values: torch.Tensor,
        pattern: ActivePattern,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        entries = torch.zeros_like(values)
        for part, group in zip(h, self.groups, strict=True):
            inside, own = pattern.within(group.latents)
            own_b_dec = None if b_dec is None else b_dec[group.columns]
            own_seen = None if seen is None else seen[:, list(group.hooks)]
            of_group = ActiveEntries.apply(
                values[inside], part.to(values.dtype), group.rows, own_b_dec, own_seen, own
            )
            entries = entries.index_put((inside,), of_group)
        return entries

    def write(self, z: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        """``z W``; ``latents`` is a mask, the range of one group, or all."""
        shape = (*z.shape[:-1], self.n_hooks * self.d_model)
        written, start = torch.zeros(shape, dtype=z.dtype, device=z.device), 0
        for group in self.groups:
            chosen = _chosen(latents, group.latents)
            rows = group.rows[chosen]
            if not len(rows):
                continue
            code = latent_range(z, slice(start, start + len(rows)))
            start += len(rows)
            written[..., group.columns] += group.out_of(code_times(code, rows))
        return written

    def dense(self) -> torch.Tensor:
        rows = [self._over_width(group, group.out_of(group.rows)) for group in self.groups]
        return torch.cat(rows)

    def vectors(self, latents: slice | torch.Tensor) -> torch.Tensor:
        groups = self.groups
        numbers = torch.arange(self.d_sae, device=groups[0].rows.device)[latents]
        vectors = groups[0].rows.new_zeros(len(numbers), self.n_hooks * self.d_model)
        for group in groups:
            of_group = (numbers >= group.latents.start) & (numbers < group.latents.stop)
            rows = group.out_of(group.rows[numbers[of_group] - group.latents.start])
            vectors[of_group] = self._over_width(group, rows)
        return vectors

    def _over_width(self, group: Group, part: torch.Tensor) -> torch.Tensor:
        whole = part.new_zeros(len(part), self.n_hooks * self.d_model)
        whole[:, group.columns] = part
        return whole

    def norms(self) -> torch.Tensor:
        norms = []
        for group in self.groups:
            part = group.out_of(group.rows).unflatten(1, (len(group.hooks), self.d_model))
            whole = part.new_zeros(len(part), self.n_hooks)
            whole[:, list(group.hooks)] = part.norm(dim=-1)
            norms.append(whole)
        return torch.cat(norms)

    def read_norms(self, x: torch.Tensor) -> torch.Tensor:
        norms = [
            x[..., group.columns]
            .norm(dim=-1, keepdim=True)
            .expand(*x.shape[:-1], group.latents.stop - group.latents.start)
            for group in self.groups
        ]
        return torch.cat(norms, dim=-1)

    @torch.no_grad()
    def scale_latents_(self, factor: torch.Tensor) -> None:
        for group in self.groups:
            group.rows.mul_(factor[group.latents, None].to(group.rows.dtype))

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        if self.shared:
            self._form(0).scale_hooks_(factor)
            return
        for group in self.groups:
            group.form.scale_hooks_(factor[list(group.hooks)])

    @torch.no_grad()
    def copy_from_(self, other: Weights) -> None:
        if not self.shared and not isinstance(other, Grouped):
            self.take_dense_(other.dense())
        elif not self.shared and isinstance(other, Grouped) and other.shared:
            for mine, theirs in zip(self.groups, other.groups, strict=True):
                mine.rows.copy_(theirs.out_of(theirs.rows))
        else:
            super().copy_from_(other)

    @torch.no_grad()
    def take_dense_(self, rows: torch.Tensor) -> None:
        """Take blocks of a matrix (d_sae, n_hooks * d_model)."""
        for group in self.groups:
            group.rows.copy_(rows[group.latents, group.columns])


def _chosen(latents: slice | torch.Tensor, of_group: slice) -> slice | torch.Tensor:
    """What a selection of the dictionary's latents selects of a group's, counted from its first."""
    if torch.is_tensor(latents):  # a mask
        return latents[of_group]
    start = max(latents.start or 0, of_group.start) - of_group.start
    stop = of_group.stop if latents.stop is None else min(latents.stop, of_group.stop)
    return slice(start, max(start, stop - of_group.start))
