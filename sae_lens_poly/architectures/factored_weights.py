"""Factored forms of a crosscoder's weights, computed with in rank space.

The encoder and the decoder of a crosscoder are tensors W over dimension a of the activation,
latent i and hook point l. A factored form has ``W[l, a, i] = sum_q B[i, q] M[q, l, a]``: a latent
is ``B_i``, Q numbers, and M, the basis, is made of what is left of the factors. Reading is ``x M``
and then a product with B; writing is the transpose. The dense tensor is never made.

The formulas of the forms are multiplied by a constant, ``gain = n_hooks * d_model / sqrt(S)`` with
S the number of products that add up to an entry. With it the entries of all factors have the size
of those of a dense tensor, ``1 / sqrt(n_hooks * d_model)`` for latents of norm 1. Adam moves every
entry by about the learning rate, so one that suits dense weights suits factored ones; without it,
theirs is several times higher. (See benchmarks/crosscoder_settings.py for what was measured.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from sae_lens_poly.errors import InputError


class FactoredWeights(nn.Module, ABC):
    """An encoder or a decoder whose weight tensor is factored.

    Args:
        n_hooks: Number of hook points L.
        d_model: Width of one, d.
        d_sae: Number of latents F.
        ranks: As the subclass says.
    """

    #: Size of the entries of the hook points' factor against the activation's; measured.
    IMBALANCE = 3.0

    #: How many ranks the form has.
    n_ranks: int

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
        super().__init__()
        self.n_hooks, self.d_model, self.d_sae, self.ranks = n_hooks, d_model, d_sae, ranks
        self.gain = n_hooks * d_model / math.prod(ranks) ** 0.5
        shapes = self.shapes(n_hooks, d_model, d_sae, ranks)
        for name, shape in shapes.items():
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
    def combine(self) -> torch.Tensor:
        """The factors A and C combined, (Q, n_hooks, d_model)."""

    def basis(self) -> torch.Tensor:
        """M, (Q, n_hooks, d_model)."""
        return self.gain * self.combine()

    def read(self, x: torch.Tensor, hooks: torch.Tensor | None = None) -> torch.Tensor:
        """Activations (..., n_hooks * d_model) in rank space, (..., Q).

        Args:
            x: The activations.
            hooks: Factor of each hook point, (n_hooks,); None: 1.
        """
        return x @ self._flat_basis(hooks).T

    def write(self, h: torch.Tensor, hooks: torch.Tensor | None = None) -> torch.Tensor:
        """From rank space (..., Q) to (..., n_hooks * d_model); ``hooks`` as in :meth:`read`."""
        return h @ self._flat_basis(hooks)

    def _flat_basis(self, hooks: torch.Tensor | None) -> torch.Tensor:
        basis = self.basis()
        return (basis if hooks is None else basis * hooks[:, None]).flatten(1)

    def norms(self) -> torch.Tensor:
        """Norm of each latent's vector at each hook point, (d_sae, n_hooks).

        Hook point by hook point: with no gradient to keep, one slice of the dense tensor at a
        time is in memory. This costs as much as one product with the dense tensor.
        """
        return torch.stack(
            [(self.latent @ matrix).norm(dim=-1) for matrix in self.basis().unbind(1)], dim=-1
        )

    @torch.no_grad()
    def stack_norms(self) -> torch.Tensor:
        """Norm of each latent's vector over the stack, (d_sae,)."""
        M = self.basis().flatten(1)
        return ((self.latent @ (M @ M.T)) * self.latent).sum(dim=-1).clamp_min(0).sqrt()

    @torch.no_grad()
    def scale_latents_(self, factor: torch.Tensor) -> None:
        """Multiply each latent's vector by its factor, (d_sae,)."""
        self.latent.mul_(factor[:, None].to(self.latent.dtype))

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        """Multiply what is read or written at each hook point by its factor, (n_hooks,)."""
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

    @torch.no_grad()
    def copy_from_(self, other: FactoredWeights) -> None:
        """Take the factors of another tensor of the same form and ranks."""
        for own, new in zip(self.parameters(), other.parameters(), strict=True):
            own.copy_(new)


class CPWeights(FactoredWeights):
    """``W[l, a, i] = gain sum_r A[a, r] B[i, r] C[l, r]``, one rank R.

    fmxcoder (Demou et al. 2026, arXiv 2605.09438), the variant of its appendix.
    """

    n_ranks = 1

    @staticmethod
    def shapes(
        n_hooks: int, d_model: int, d_sae: int, ranks: list[int]
    ) -> dict[str, tuple[int, ...]]:
        (R,) = ranks
        return {"activation": (d_model, R), "latent": (d_sae, R), "hook": (n_hooks, R)}

    def combine(self) -> torch.Tensor:
        return torch.einsum("ar,lr->rla", self.activation, self.hook)


class TensorRingWeights(FactoredWeights):
    """``W[l, a, i] = gain Tr(A[a] B[i] C[l])``, A[a] (R1, R2), B[i] (R2, R3), C[l] (R3, R1).

    fmxcoder (Demou et al. 2026, arXiv 2605.09438), its main form; the order of the bonds is ours.
    """

    n_ranks = 3

    @staticmethod
    def shapes(
        n_hooks: int, d_model: int, d_sae: int, ranks: list[int]
    ) -> dict[str, tuple[int, ...]]:
        R1, R2, R3 = ranks
        return {
            "activation": (d_model, R1, R2),
            "latent": (d_sae, R2 * R3),
            "hook": (n_hooks, R3, R1),
        }

    def combine(self) -> torch.Tensor:
        return torch.einsum("apq,lrp->qrla", self.activation, self.hook).flatten(0, 1)


#: Forms by the name that a config gives them; "dense" has no factors.
FACTORED_FORMS: dict[str, type[FactoredWeights]] = {
    "cp": CPWeights,
    "tensor_ring": TensorRingWeights,
}


def check_ranks(
    field: str, form: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int
) -> None:
    """Refuse ranks that cannot work.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if form == "dense":
        if ranks:
            raise InputError(f"{field}={ranks} is for factored weights: leave it out for 'dense'")
        return
    if form not in FACTORED_FORMS:
        known = ", ".join(["dense", *FACTORED_FORMS])
        raise InputError(f"{field.replace('ranks', 'weights')}={form!r} is unknown: choose {known}")
    factored = FACTORED_FORMS[form]
    if len(ranks) != factored.n_ranks or min(ranks) < 1:
        wanted = "one rank, [R]" if factored.n_ranks == 1 else "three ranks, [R1, R2, R3]"
        raise InputError(f"{field}={ranks}: {form!r} takes {wanted}, each at least 1")
    Q = factored.shapes(n_hooks, d_model, d_sae, ranks)["latent"][1]
    if min(d_sae, n_hooks * d_model) < Q:
        raise InputError(
            f"{field}={ranks} gives every latent {Q} numbers, and no weight matrix between "
            f"n_hooks * d_model={n_hooks * d_model} and d_sae={d_sae} has a rank above "
            f"{min(d_sae, n_hooks * d_model)}: lower them, or take 'dense'"
        )
    n_factored = count(form, ranks, n_hooks, d_model, d_sae)
    if n_factored >= n_hooks * d_model * d_sae:
        raise InputError(
            f"{field}={ranks} makes {n_factored:,} parameters, and the dense tensor has "
            f"{n_hooks * d_model * d_sae:,}: lower the ranks, or take 'dense'"
        )


def count(form: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int) -> int:
    """Parameters of an encoder or a decoder, without biases."""
    if form == "dense":
        return n_hooks * d_model * d_sae
    shapes = FACTORED_FORMS[form].shapes(n_hooks, d_model, d_sae, ranks)
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def rank_limits(
    form: str, ranks: list[int], n_hooks: int, d_model: int, d_sae: int, n_groups: int = 1
) -> dict[str, int]:
    """The highest ranks that an encoder or a decoder of this form can have.

    ``matrix``: of the (n_hooks * d_model, d_sae) matrix, which is also the most dimensions of the
    stack that a linear decoder can reach: explained variance cannot beat that of a principal
    component analysis with so many components. ``hook point``: the same at one hook point.
    ``activation``, ``latent``, ``hook``: of the unfoldings of the tensor along one of its modes.

    With several groups of latents, which read or write sets of hook points of their own, each group
    has its own part of the basis, which raises what the whole can have.
    """
    d_in = n_hooks * d_model
    limits = {
        "activation": min(d_model, n_hooks * d_sae),
        "latent": min(d_sae, d_in),
        "hook": min(n_hooks, d_model * d_sae),
    }
    if form == "cp":
        limits = {mode: min(limit, ranks[0]) for mode, limit in limits.items()}
    elif form == "tensor_ring":
        R1, R2, R3 = ranks
        bonds = {"activation": R1 * R2, "latent": R2 * R3, "hook": R3 * R1}
        limits = {mode: min(limit, bonds[mode]) for mode, limit in limits.items()}
    per_group = limits["latent"]
    if n_groups > 1:
        limits["latent"] = min(n_groups * limits["latent"], d_sae, d_in)
        limits["hook"] = n_hooks
    return {
        "matrix": limits["latent"],
        "hook point": min(per_group, limits["activation"]),
        **limits,
    }
