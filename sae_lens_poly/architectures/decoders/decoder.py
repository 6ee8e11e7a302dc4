"""A decoder: ``x_hat = b_dec + z W_dec + y_2(z) + y_3(z)``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_poly.architectures.decoders.term import ALL, Term
from sae_lens_poly.architectures.kernels.sparse_code import (
    code_times,
    latent_range,
    scale_latents,
)
from sae_lens_poly.architectures.world import World


class LinearDecoder(Protocol):
    """What the linear term is written by."""

    def write(self, z: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        """``z W_dec``, (..., d_in), for the codes (..., n) of some latents."""

    def dense(self) -> torch.Tensor:
        """``W_dec`` per unit of each feature activation, (d_sae, d_in)."""


@dataclass(frozen=True)
class DenseRows:
    """A ``W_dec`` that belongs to SAELens' class, (d_sae, d_in).

    Args:
        W_dec: The rows.
        of_norm_1: Whether a feature activation is that of a latent whose row has norm 1
            (SAELens' ``rescale_acts_by_decoder_norm``).
    """

    W_dec: torch.Tensor
    of_norm_1: bool = False

    def write(self, z: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        """``z W_dec``, (..., d_in)."""
        if self.of_norm_1:
            z = scale_latents(z, 1 / self.W_dec.norm(dim=-1)[latents])
        return code_times(z, self.W_dec[latents])

    def dense(self) -> torch.Tensor:
        """``W_dec`` per unit of each feature activation."""
        return self.W_dec / self.W_dec.norm(dim=-1, keepdim=True) if self.of_norm_1 else self.W_dec


@dataclass(frozen=True)
class PairBlock:
    """Pairs of latents, one of each range, and the columns of d_in that both of them write."""

    first: slice
    second: slice
    """The same range as ``first``, or one that starts where it stops or later."""
    columns: torch.Tensor | slice

    def holds(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Which of the pairs (i, j) it has, in either order, (n,)."""
        i, j = torch.minimum(i, j), torch.maximum(i, j)
        return (
            (self.first.start <= i)
            & (i < self.first.stop)
            & (self.second.start <= j)
            & (j < self.second.stop)
        )


@dataclass(frozen=True)
class Writers:
    """Latents that write some of the hook points only, and the columns of d_in of each of these."""

    latents: slice
    columns: tuple[slice, ...]


@dataclass(frozen=True)
class Decoder:
    """Assembled of a dictionary's parts; ``W_dec`` and ``b_dec`` stay where SAELens has them.

    Args:
        term: The terms above degree 1; None: the decoder is linear.
        hooks: Hook points on what is raised to a power, and on the terms of degree 1, 2 and 3.
        writers: Groups of latents that write only some hook points; none: all latents write
            all. A hook point is reconstructed from the latents that write it, in every term.
        world: Who has the rest of the latents; None: nobody.
    """

    term: Term | None
    hooks: tuple[HookPoint, HookPoint, HookPoint, HookPoint]
    writers: tuple[Writers, ...] = ()
    world: World | None = None

    def __call__(self, z: torch.Tensor, W: LinearDecoder, b_dec: torch.Tensor) -> torch.Tensor:
        """Decode codes (..., d_sae), dense or sparse, to (..., d_in) in units of the weights."""
        if self.term is None:
            linear = W.write(z) if self.world is None else self.world.across(W.write(z))
            return b_dec + self.hooks[1](linear)
        a, y1, y2, y3 = self.hooks
        watched = a.has_hooks() or y1.has_hooks() or y2.has_hooks() or y3.has_hooks()
        as_it_is = torch.compiler.is_compiling() or torch.is_autocast_enabled(z.device.type)
        if self.writers or z.ndim != 2 or watched or as_it_is:
            return sum(self.by_degree(z, W).values(), start=b_dec)
        linear = W.write(z)  # all terms above it by one product
        sums = self.term.sums(z, linear, W.dense)
        if self.world is not None:
            linear, sums = self.world.across(linear), self.world.across(sums)
        products = self.term.products(sums)
        factors = self.term.output_factors()
        C = torch.cat([factors[degree] for degree in products])
        return torch.addmm(linear + b_dec, torch.cat(list(products.values()), dim=-1), C)

    def by_degree(self, z: torch.Tensor, W: LinearDecoder) -> dict[int, torch.Tensor]:
        """The contribution of each degree, (..., d_in); with ``b_dec`` they add up."""
        watch_sums, *watch = self.hooks
        if self.term is not None and self.writers:
            terms = self._by_writers(z, W, self.term)
        else:
            linear = W.write(z)
            sums = None if self.term is None else self.term.sums(z, linear, W.dense)
            terms = {1: linear if self.world is None else self.world.across(linear)}
            if self.term is not None and sums is not None:
                sums = sums if self.world is None else self.world.across(sums)
                terms |= self.term.terms(watch_sums(sums))
        return {degree: watch[degree - 1](term) for degree, term in sorted(terms.items())}

    def nested(
        self, z: torch.Tensor, W: LinearDecoder, b_dec: torch.Tensor, widths: Sequence[int]
    ) -> Generator[tuple[int, torch.Tensor], None, None]:
        """What the first latents alone reconstruct, for each width: Matryoshka's levels.

        The linear term and what the others are made of are sums over latents, so that a level
        costs its own latents and no more.
        """
        linear: Any = 0
        sums: Any = 0
        start = 0
        for width in widths:
            latents = slice(start, width)
            code = latent_range(z, latents)
            of_level = W.write(code, latents)
            of_term = None
            if self.term is not None:
                of_term = self.term.sums(code, of_level, W.dense, latents)
            if self.world is not None:
                of_level = self.world.across(of_level)
                of_term = None if of_term is None else self.world.across(of_term)
            linear = linear + of_level
            if self.term is None:
                yield width, linear + b_dec
            else:
                sums = sums + of_term
                yield width, sum(self.term.terms(sums).values(), start=linear + b_dec)
            start = width

    def _by_writers(self, z: torch.Tensor, W: LinearDecoder, term: Term) -> dict[int, torch.Tensor]:
        """The terms, hook point by hook point from the latents that write it."""
        linear: Any = 0
        sums: dict[tuple[int, int], Any] = {}
        for group in self.writers:
            code = latent_range(z, group.latents)
            of_group = W.write(code, group.latents)
            linear = linear + of_group
            sums_of_group = term.sums(code, of_group, W.dense, group.latents)
            for columns in group.columns:
                at = (columns.start, columns.stop)
                sums[at] = sums.get(at, 0) + sums_of_group
        terms = {1: linear, **{degree: torch.zeros_like(linear) for degree in term.ranks}}
        for (start, stop), sums_at_hook in sums.items():
            for degree, at_hook in term.terms(sums_at_hook, slice(start, stop)).items():
                terms[degree][..., start:stop] = at_hook
        return terms
