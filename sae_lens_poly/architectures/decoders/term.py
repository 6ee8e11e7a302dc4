"""The terms above degree 1 of a decoder: what all kinds of them share.

A decoder is ``x_hat = b_dec + z W_dec + sum_i y_i(z)``. The classes here are the last sum. They
know nothing of encoders, sparsifiers or hook points: their output has the flat width ``d_in``, over
which the hook points of a crosscoder are laid end to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import Self

from sae_lens_poly.architectures.world import World
from sae_lens_poly.errors import InputError

#: What is raised to a power is held at this size, in units of its root mean square on the first
#: batch. Ordinary tokens stay below half of it. A token with a massive activation (attention
#: sinks are a hundred times the norm of others) would else end at its cube.
CODE_LIMIT = 10.0

#: All latents, or all columns of the output.
ALL = slice(None)

#: Computes the linear decoder per unit of each feature activation, (d_sae, d_in).
Directions = Callable[[], torch.Tensor]

#: Adds up over the processes of a run what is a sum over latents.
Across = Callable[[torch.Tensor], torch.Tensor]


def alone(of_latents: torch.Tensor) -> torch.Tensor:
    """Where this process has all latents."""
    return of_latents


#: Kind of term to its class. The kind is what ``decoder`` of a config names, or
#: ``decoder/projection`` where there are several.
TERMS: dict[str, type[Term]] = {}


class Term(nn.Module, ABC):
    """Maps codes ``z`` (..., d_sae), dense or sparse, to one contribution (..., d_in) a degree.

    In two steps. :meth:`sums` are linear in latents that do not overlap: those of nested sets of
    latents (Matryoshka levels) add up. :meth:`terms` makes the contributions of them.

    ``code_scale`` is a constant, set from the first training batch, that brings the numbers
    which are raised to a power to the order of 1. The polynomial stays in the same class of
    functions; without it a cube is far smaller or far larger than the linear term, depending
    on the units of the activations, and Adam cannot train it.

    Args:
        ranks: Degree to rank, for example ``{2: 64, 3: 64}``.
        code_limit: Bound on what is raised to a power; None: none.
        n_scales: Shape of ``code_scale``: one number, or one a latent.
    """

    #: Its tensors that have a row for each latent; None: they cannot be shared among processes.
    of_latents: ClassVar[tuple[str, ...] | None] = None

    #: Whether a term of degree i is divided by the (i - 1)th power of :func:`size_of` the code.
    homogeneous: bool = False

    #: Whether dictionaries train with it; if not, it is read from files.
    trains: ClassVar[bool] = True

    code_scale: torch.Tensor
    scaled: torch.Tensor
    """Whether ``code_scale`` has been set, shape ()."""

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind is not None:
            TERMS[kind] = cls

    def __init__(
        self,
        ranks: dict[int, int],
        code_limit: float | None,
        n_scales: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.code_limit = code_limit
        at_least_float32 = torch.promote_types(dtype, torch.float32)
        code_scale = torch.ones(n_scales, dtype=at_least_float32, device=device)
        self.register_buffer("code_scale", code_scale)
        self.register_buffer("scaled", torch.tensor(False, device=device))

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: Any, dtype: torch.dtype, device: torch.device) -> Self:
        """The term of a config with the fields of a polynomial decoder, ``d_in`` and ``d_sae``."""

    @classmethod
    def most_rank(cls, d_in: int, d_sae: int) -> int:
        """The highest rank that makes sense."""
        return min(d_in, d_sae)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        code_scale = self.code_scale
        super()._apply(fn, recurse)
        if self.code_scale.dtype.itemsize < 4:  # a rounded one would change the function
            self.code_scale = code_scale.to(self.code_scale.device)
        return self

    @abstractmethod
    def sums(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, latents: slice = ALL
    ) -> torch.Tensor:
        """What the terms are made of, (..., n_sums); it adds up over latents.

        Args:
            z: Codes (..., d_sae), or those of ``latents`` alone.
            linear: Their linear term (..., d_in).
            directions: The linear decoder of all latents per unit of ``z``, (d_sae, d_in).
            latents: Which latents ``z`` holds.
        """

    @abstractmethod
    def products(self, sums: torch.Tensor) -> dict[int, torch.Tensor]:
        """What the output factors are applied to, (..., rank), by degree."""

    @abstractmethod
    def output_factors(self) -> dict[int, torch.Tensor]:
        """Degree to the matrix (rank, d_in) that writes its term; its columns follow d_in."""

    def terms(self, sums: torch.Tensor, outputs: slice = ALL) -> dict[int, torch.Tensor]:
        """The contribution of each degree above 1, by degree.

        Args:
            sums: As :meth:`sums` gives them.
            outputs: Which of the d_in columns are wanted.
        """
        factors = self.output_factors()
        return {d: product @ factors[d][:, outputs] for d, product in self.products(sums).items()}

    def pair_factors(
        self, directions: Directions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """L, R (d_sae, R2) and C (R2, d_in): latents i != j add ``z_i z_j B_ij`` in degree 2.

        ``B_ij = sum_r (L_ir R_jr + L_jr R_ir) C_r`` (PolySAE, interaction strength of a pair).

        Raises:
            InputError: If no two latents interact in this decoder.
        """
        raise InputError(
            "this dictionary has no pairs of latents that interact by themselves: that takes "
            "decoder='interactions' with degree 2 or 3, and homogeneous=False"
        )

    @torch.no_grad()
    def scale_codes_from_(
        self,
        z: torch.Tensor,
        linear: torch.Tensor,
        directions: Directions,
        world: World | None = None,
    ) -> None:
        """Set ``code_scale`` from a batch of codes and its linear terms.

        What is raised to a power has a root mean square of 1 then.
        """
        if world is None:
            squares, number = self.sum_of_squares(z, linear, directions)
        else:
            found = self.sum_of_squares(z, linear, directions, world.across)
            squares, number = world.sum(torch.stack(found))
        scale = 1 / (squares / number).sqrt().clamp_min(1e-12)
        self.code_scale.mul_(scale.to(self.code_scale.dtype))
        self.scaled.fill_(True)

    @abstractmethod
    def sum_of_squares(
        self, z: torch.Tensor, linear: torch.Tensor, directions: Directions, across: Across = alone
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of what is raised to a power, and how many numbers that are, each of shape ().

        Args:
            z: Codes (n, d_sae) of a batch.
            linear: Their linear term (n, d_in).
            directions: As :meth:`sums` is given it.
            across: Adds up what is a sum over latents, where others have the rest of them.
        """

    @torch.no_grad()
    def rescale_latents_(self, factor: torch.Tensor) -> None:
        """Make the terms at ``z * factor`` what they were at ``z``; ``factor`` is (d_sae,).

        The linear term is taken to stay what it was. A term with one ``code_scale`` for all
        latents overrides this.
        """
        self.code_scale.div_(factor.to(self.code_scale.dtype))

    @torch.no_grad()
    def rescale_outputs_(self, factor: torch.Tensor) -> None:
        """Multiply every term by ``factor`` (d_in,), as the linear term has been."""
        for matrix in self.output_factors().values():
            matrix.mul_(factor.to(matrix.dtype))

    @torch.no_grad()
    def map_outputs_(self, to_new: torch.Tensor, to_old: torch.Tensor) -> None:
        """Multiply every term by ``to_new`` (d_in, d_in), as the linear term has been.

        Args:
            to_new: Applied from the right, ``y_new = y to_new``.
            to_old: Its inverse.
        """
        for matrix in self.output_factors().values():
            matrix.copy_(matrix.to(to_new.dtype) @ to_new)

    def retract_(self) -> None:
        """Return constrained weights to their constraint. Most terms have none."""


def size_of(mean_square: torch.Tensor) -> torch.Tensor:
    """What terms are divided by in the homogeneous form: a root mean square above 0."""
    return mean_square.clamp_min(1e-24).sqrt()


def gain(degree: int, rank: int, lr_scale: float = 1.0) -> float:
    """What powers are multiplied by before C.

    One over the root mean square norm of the powers of ``rank`` standard normal numbers, times
    ``4^-degree``, which was measured: the smaller, the longer C needs to grow, and the less of
    Adam's noise reaches the reconstruction through it (benchmarks/polysae_toy.py).

    Args:
        degree: 2 or 3.
        rank: Of the term.
        lr_scale: ``terms_lr_scale`` of the config. Adam's steps are as long whatever the size of a
            gradient, so that the term moves this many times as far in each.
    """
    return lr_scale * 4.0**-degree * (rank * {2: 3, 3: 15}[degree]) ** -0.5
