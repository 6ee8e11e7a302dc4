"""What every form of weights does, and the dense form.

The weights of an encoder or a decoder are a tensor W over latent i, hook point l and dimension a of
the activation. Seen as a matrix (d_sae, n_hooks * d_model) it is ``rows @ basis``: every latent is
a row of Q numbers, and the basis takes Q numbers to the stack of hook points. Dense weights have
the identity for a basis; factored ones build it from their other factors. What encoders and
decoders do follows from the two, and the matrix itself is never needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from sae_lens_poly.architectures.kernels.sparse_code import (
    ActiveEntries,
    ActivePattern,
    code_times,
)

#: Form to its class, by the name that a config gives it.
WEIGHTS: dict[str, type[Weights]] = {}

#: All latents, or all columns.
ALL = slice(None)


class Weights(nn.Module, ABC):
    """The weights of an encoder or of a decoder.

    Args:
        n_hooks: Number of hook points L.
        d_model: Width of one.
        d_sae: Number of latents.
        ranks: As the form takes them.
    """

    #: Its tensors that have a row for each latent; None: they cannot be shared among processes.
    of_latents: ClassVar[tuple[str, ...] | None] = None

    #: How many ranks the form takes.
    n_ranks: ClassVar[int] = 0

    #: Whether :meth:`into` is the identity: then the input needs no gradient for the weights' sake.
    reads_input_itself: ClassVar[bool] = False

    def __init_subclass__(cls, form: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if form is not None:
            WEIGHTS[form] = cls

    def __init__(self, n_hooks: int, d_model: int, d_sae: int) -> None:
        super().__init__()
        self.n_hooks, self.d_model, self.d_sae = n_hooks, d_model, d_sae

    @property
    @abstractmethod
    def rows(self) -> torch.Tensor:
        """The numbers of each latent, (d_sae, Q)."""

    @abstractmethod
    def into(self, x: torch.Tensor, hooks: tuple[int, ...] | None = None) -> Any:
        """Activations (..., n_hooks * d_model) in the space of the rows, (..., Q).

        Args:
            x: The activations.
            hooks: Numbers of the hook points that ``x`` holds; None: all.
        """

    @abstractmethod
    def out_of(self, h: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        """The transpose: (..., Q) to activations at ``hooks``."""

    def read(self, x: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        """``x W^T``, (..., n_latents), for a range or a mask of latents."""
        return self.into(x) @ self.rows[latents].T

    def products(self, x: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """What :meth:`into` gives, and without gradient what :meth:`read` gives, (n, d_sae)."""
        h = self.into(x)
        with torch.no_grad():
            return h, h @ self.rows.T

    def write(self, z: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        """``z W``, (..., n_hooks * d_model), for the codes of a range or a mask of latents."""
        return self.out_of(code_times(z, self.rows[latents]))

    def entries_of(
        self,
        h: Any,
        values: torch.Tensor,
        pattern: ActivePattern,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        """Entries of :meth:`read` (nnz,), with a gradient.

        Args:
            h: As :meth:`products` gave it.
            values: The entries.
            pattern: Where they lie.
            b_dec: What was taken off the input, if its gradient is to be computed here.
            seen: What of the input was seen, (n, n_hooks); None: all.
        """
        rows = self.rows
        return ActiveEntries.apply(values, h.to(rows.dtype), rows, b_dec, seen, pattern)

    def dense(self) -> torch.Tensor:
        """W as (d_sae, n_hooks * d_model)."""
        return self.out_of(self.rows)

    def vectors(self, latents: slice | torch.Tensor) -> torch.Tensor:
        """W of some latents, (n_latents, n_hooks * d_model)."""
        return self.out_of(self.rows[latents])

    @abstractmethod
    def norms(self) -> torch.Tensor:
        """Norm of each latent's vector at each hook point, (d_sae, n_hooks)."""

    def stack_norms(self) -> torch.Tensor:
        """Norm of each latent's vector over the stack, (d_sae,)."""
        return self.norms().norm(dim=-1)

    def read_norms(self, x: torch.Tensor) -> torch.Tensor:
        """Norm of what latents read of activations (..., n_hooks * d_model).

        Shape (..., 1) where all read the same, else (..., d_sae).
        """
        return x.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def scale_latents_(self, factor: torch.Tensor) -> None:
        """Multiply each latent's vector by its factor, (d_sae,)."""
        self.rows.mul_(factor[:, None].to(self.rows.dtype))

    @abstractmethod
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        """Multiply what is read or written at each hook point by its factor, (n_hooks,)."""

    @torch.no_grad()
    def copy_from_(self, other: Weights) -> None:
        """Take the weights of another of the same form, or its tensor where this one is dense."""
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)

    @staticmethod
    def count(n_hooks: int, d_model: int, d_sae: int, ranks: list[int]) -> int:
        """Number of parameters."""
        return n_hooks * d_model * d_sae


class Dense(Weights, form="dense"):
    """``W`` itself, a parameter (d_sae, n_hooks * d_model).

    An encoder has its latents as rows as well (``W_enc`` is the transpose): what Adam is given as
    the gradient of a sparse step then lies in memory as the weights do, which it steps 2.7 times
    as fast.
    """

    reads_input_itself = True
    of_latents = ("W",)

    def __init__(
        self,
        n_hooks: int,
        d_model: int,
        d_sae: int,
        ranks: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(n_hooks, d_model, d_sae)
        self.W = nn.Parameter(torch.zeros(d_sae, n_hooks * d_model, dtype=dtype, device=device))

    @property
    def rows(self) -> torch.Tensor:
        return self.W

    def into(self, x: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return x

    def read(self, x: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        return x @ self.W[latents].T

    @torch.no_grad()
    def products(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x @ self.W.T

    def entries_of(
        self,
        h: Any,
        values: torch.Tensor,
        pattern: ActivePattern,
        b_dec: torch.Tensor | None,
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        return ActiveEntries.apply(values, h, self.W, b_dec, seen, pattern)

    def write(self, z: torch.Tensor, latents: slice | torch.Tensor = ALL) -> torch.Tensor:
        return code_times(z, self.W[latents]) if z.is_sparse else z @ self.W[latents]

    def out_of(self, h: torch.Tensor, hooks: tuple[int, ...] | None = None) -> torch.Tensor:
        return h

    def norms(self) -> torch.Tensor:
        return self.W.unflatten(1, (self.n_hooks, self.d_model)).norm(dim=-1)

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        self.W.mul_(factor.repeat_interleave(self.d_model).to(self.W.dtype))

    @torch.no_grad()
    def take_dense_(self, rows: torch.Tensor) -> None:
        """Take a matrix (d_sae, n_hooks * d_model)."""
        self.W.copy_(rows)

    @torch.no_grad()
    def take_rows_(self, latents: slice | torch.Tensor, rows: torch.Tensor) -> None:
        """Take vectors (n_latents, n_hooks * d_model) for some latents."""
        self.W[latents] = rows.to(self.W)

    @torch.no_grad()
    def copy_from_(self, other: Weights) -> None:
        self.take_dense_(other.dense())
