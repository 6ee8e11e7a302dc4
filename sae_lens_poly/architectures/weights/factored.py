"""Factored weights, computed with in rank space.

``W[i, l, a] = sum_q B[i, q] M[q, l, a]``: a latent is ``B_i``, Q numbers, and M, the basis, is made
of the factors A of the activation's dimensions and C of the hook points.

The formulas of the forms are multiplied by a constant, ``gain = n_hooks * d_model / sqrt(S)`` with
S the number of products that add up to an entry. With it the entries of all factors have the size
of those of a dense tensor, ``1 / sqrt(n_hooks * d_model)`` for latents of norm 1. Adam moves every
entry by about the learning rate, so one that suits dense weights suits factored ones; without it,
theirs is several times higher. (See benchmarks/crosscoder_settings.py for what was measured.)
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import nn

from sae_lens_poly.architectures.weights.base import WEIGHTS, Weights
from sae_lens_poly.architectures.weights.matrix_atoms import MatrixAtoms
from sae_lens_poly.errors import InputError


class Factored(Weights):
    """Weights whose tensor is factored into ``activation``, ``latent`` and ``hook``.

    Args:
        ranks: As the subclass says.
        same_init: Whether a latent starts with one direction at all hook points.
    """

    #: Size of the entries of the hook points' factor against the activation's; measured.
    IMBALANCE = 3.0

    of_latents = ("latent",)

    activation: nn.Parameter
    """The factor A of the dimensions of the activation."""
    latent: nn.Parameter
    """The factor B of the latents, (d_sae, Q)."""
    hook: nn.Parameter
    """The factor C of the hook points, whose first dimension is n_hooks."""

    def __init__(
        self,
        n_hooks: int,
        d_model: int,
        d_sae: int,
        ranks: list[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        same_init: bool = False,
    ) -> None:
        super().__init__(n_hooks, d_model, d_sae)
        self.ranks = ranks
        self.gain = n_hooks * d_model / math.prod(ranks) ** 0.5
        for name, shape in self.shapes(n_hooks, d_model, d_sae, ranks).items():
            factor = torch.empty(shape, dtype=dtype, device=device)
            setattr(self, name, nn.Parameter(factor))
        if not self.latent.is_meta:  # a dictionary that is being loaded gets its weights later
            with torch.no_grad():
                for factor in self.parameters():
                    nn.init.normal_(factor)
                if same_init:
                    self.hook.copy_(self.hook[:1].expand_as(self.hook))

    @staticmethod
    @abstractmethod
    def shapes(
        n_hooks: int, d_model: int, d_sae: int, ranks: list[int]
    ) -> dict[str, tuple[int, ...]]:
        """Shapes of the factors ``activation``, ``latent`` and ``hook``."""

    @abstractmethod
    def combine(self, hook: torch.Tensor) -> torch.Tensor:
        """A and C combined, (Q, n, d_model), for the factor C of n hook points."""

    @staticmethod
    @abstractmethod
    def mode_ranks(ranks: list[int]) -> dict[str, int]:
        """What the ranks allow the unfoldings along ``activation``, ``latent`` and ``hook``."""

    @classmethod
    def count(cls, n_hooks: int, d_model: int, d_sae: int, ranks: list[int]) -> int:
        shapes = cls.shapes(n_hooks, d_model, d_sae, ranks)
        return sum(math.prod(shape) for shape in shapes.values())

    @property
    def rows(self) -> torch.Tensor:
        return self.latent

    def basis(self, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        """M, (Q, n_hooks * d_model), at all hook points or at some."""
        hook = self.hook if hooks is None else self.hook[list(hooks)]
        return (self.gain * self.combine(hook)).flatten(1)

    def into(self, x: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return x @ self.basis(hooks).T

    def out_of(self, h: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return h @ self.basis(hooks)

    def norms(self) -> torch.Tensor:
        """Norm of each latent's vector at each hook point, (d_sae, n_hooks).

        Hook point by hook point: with no gradient to keep, one slice of the dense tensor at a
        time is in memory. This costs as much as one product with the dense tensor.
        """
        per_hook = self.basis().unflatten(1, (self.n_hooks, self.d_model)).unbind(1)
        return torch.stack([(self.latent @ matrix).norm(dim=-1) for matrix in per_hook], dim=-1)

    def stack_norms(self) -> torch.Tensor:
        M = self.basis()
        return ((self.latent @ (M @ M.T)) * self.latent).sum(dim=-1).clamp_min(1e-30).sqrt()

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        shape = (-1,) + (1,) * (self.hook.ndim - 1)
        self.hook.mul_(factor.view(shape).to(self.hook.dtype))

    @torch.no_grad()
    def balance_(self, stack_norm: float) -> None:
        """Give every latent this norm over the stack, and the factors their sizes.

        Entries of the latents' factor are 9 times smaller than those of the hook points', which
        Adam therefore turns 9 times as slowly; those of the activation's lie between. All the
        latents hang on the other two factors.
        """
        wanted = {"activation": 1.0, "latent": 1 / self.IMBALANCE, "hook": self.IMBALANCE}
        entry = stack_norm ** (1 / 3) / (self.n_hooks * self.d_model) ** 0.5
        for name, relative in wanted.items():
            factor = getattr(self, name)
            factor.mul_(relative * entry / factor.pow(2).mean().sqrt())
        self.scale_latents_(stack_norm / self.stack_norms().clamp_min(1e-12))


def check_ranks(
    field: str, form: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int
) -> None:
    """Refuse ranks that cannot work.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    weights = WEIGHTS.get(form)
    if weights is None:
        known = ", ".join(WEIGHTS)
        raise InputError(f"{field.replace('ranks', 'weights')}={form!r} is unknown: choose {known}")
    if weights.n_ranks == 0:
        if ranks:
            raise InputError(f"{field}={ranks} is for factored weights: leave it out for {form!r}")
        return
    if issubclass(weights, MatrixAtoms):
        weights.check_ranks(field, ranks, n_hooks, d_model, d_sae)
        return
    assert issubclass(weights, Factored)
    if len(ranks) != weights.n_ranks or min(ranks) < 1:
        wanted = "one rank, [R]" if weights.n_ranks == 1 else "three ranks, [R1, R2, R3]"
        raise InputError(f"{field}={ranks}: {form!r} takes {wanted}, each at least 1")
    Q = weights.shapes(n_hooks, d_model, d_sae, ranks)["latent"][1]
    if min(d_sae, n_hooks * d_model) < Q:
        raise InputError(
            f"{field}={ranks} gives every latent {Q} numbers, and no weight matrix between "
            f"n_hooks * d_model={n_hooks * d_model} and d_sae={d_sae} has a rank above "
            f"{min(d_sae, n_hooks * d_model)}: lower them, or take 'dense'"
        )
    n_factored = weights.count(n_hooks, d_model, d_sae, ranks)
    if n_factored >= n_hooks * d_model * d_sae:
        raise InputError(
            f"{field}={ranks} makes {n_factored:,} parameters, and the dense tensor has "
            f"{n_hooks * d_model * d_sae:,}: lower the ranks, or take 'dense'"
        )


def rank_limits(
    form: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int, n_groups: int = 1
) -> dict[str, int]:
    """The highest ranks that an encoder or a decoder of this form can have.

    ``matrix``: of the (n_hooks * d_model, d_sae) matrix, which is also the most dimensions of the
    stack that a linear decoder can reach: explained variance cannot beat that of a principal
    component analysis with so many components. ``hook point``: the same at one hook point.
    ``activation``, ``latent``, ``hook``: of the unfoldings of the tensor along one of its modes.

    With several groups of latents, which read or write different hook points, each group has its
    part of the basis to itself, which raises what the whole can have.
    """
    d_in = n_hooks * d_model
    limits = {
        "activation": min(d_model, n_hooks * d_sae),
        "latent": min(d_sae, d_in),
        "hook": min(n_hooks, d_model * d_sae),
    }
    weights = WEIGHTS[form]
    if issubclass(weights, Factored):
        allowed = weights.mode_ranks(ranks)
        limits = {mode: min(limit, allowed[mode]) for mode, limit in limits.items()}
    per_group = limits["latent"]
    if n_groups > 1:
        limits["latent"] = min(n_groups * limits["latent"], d_sae, d_in)
        limits["hook"] = n_hooks
    return {
        "matrix": limits["latent"],
        "hook point": min(per_group, limits["activation"]),
        **limits,
    }
