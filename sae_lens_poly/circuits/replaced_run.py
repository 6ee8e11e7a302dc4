"""A model that runs with reconstructions in the place of its MLPs' outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sae_lens_poly.circuits.frozen_run import Hooks
from sae_lens_poly.circuits.replacement import MLPReplacement, add_skips
from sae_lens_poly.models.stacked_hooks import replace_activation


class ReplacedRun:
    """The hook functions of one run in which latents read what the run itself comes to.

    Args:
        replacement: Of the MLPs that it writes; others stay.
        errors: What is added to reconstructions, (batch, pos, n_writes, d_model); None: nothing.
        where: True at positions (batch, pos) that are replaced; None: all.
        edit: Changes codes (batch, pos, n_latents) before they are decoded. It is called at every
            MLP, with codes of 0 for latents that read behind it.
    """

    _x: torch.Tensor
    """What latents read in this pass, (batch, pos, n_reads, d_model); 0 where it is yet to come."""
    _codes: torch.Tensor
    """Of latents that have been reached, (batch, pos, n_latents); others are 0."""

    def __init__(
        self,
        replacement: MLPReplacement,
        errors: torch.Tensor | None = None,
        where: torch.Tensor | None = None,
        edit: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.replacement, self.errors, self.where, self.edit = replacement, errors, where, edit

    def hooks(self) -> Hooks:
        """Functions for ``model.run_with_hooks(tokens, fwd_hooks=...)``."""
        reads = enumerate(self.replacement.read_hooks)
        writes = enumerate(self.replacement.write_hooks)
        return [
            *((name, partial(self._read, number)) for number, name in reads),
            *((name, partial(self._write, number)) for number, name in writes),
        ]

    @torch.no_grad()
    def _read(self, number: int, activation: torch.Tensor, hook: Any) -> None:
        if number == 0:  # the model starts a pass
            n_reads = len(self.replacement.read_hooks)
            self._x = torch.zeros_like(activation)[..., None, :].repeat_interleave(n_reads, dim=-2)
        self._x[..., number, :] = activation
        codes = self.replacement.encode(self._x)
        reached = self.replacement.read_of == number
        self._codes = codes * reached if number == 0 else codes.where(reached, self._codes)

    @torch.no_grad()
    def _write(self, number: int, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        codes = self._codes if self.edit is None else self.edit(self._codes)
        decoded = self.replacement.decode(codes).to(self._x)
        new = add_skips(self.replacement, decoded, self._x)[..., number, :]
        if self.errors is not None:
            new = new + self.errors[..., number, :].to(new)
        return replace_activation(new, activation, hook, self.where)
