"""One hook point of a crosscoder, in the form that tools for SAEs take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import SAE, SAEConfig, SAEMetadata
from typing_extensions import Self, override

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.skips import refuse_skips
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import hook_number
from sae_lens_poly.models.one_hook_point import OneHookPoint


@dataclass
class HookPointViewConfig(SAEConfig):
    """SAELens' fields; ``d_in`` is the width of the whole stack, ``d_out`` of one hook point."""

    d_out: int = 0

    @override
    @classmethod
    def architecture(cls) -> str:
        return "hook_point_view"


class HookPointView(SAE[HookPointViewConfig]):
    """What a crosscoder is at one hook point: the whole stack in, that hook point out.

    Like SAELens' transcoders it reads ``d_in`` and writes ``d_out``: ``encode`` gives the
    crosscoder's codes (..., d_sae) from the stack (..., n_hooks * d_model), and ``decode`` gives
    ``x_hat`` (..., d_model) at the hook point, polynomial terms included. The weights are those of
    the crosscoder, not copies: ``W_enc`` (n_hooks * d_model, d_sae) of the whole stack, ``W_dec``
    (d_sae, d_model) and ``b_dec`` (d_model,) of the hook point; ``W_dec`` is the linear term alone.

    It cannot encode from its hook point alone, which is one input of several. With ``at``, the
    model at that hook point, it takes activations (..., d_model) of that model's latest run, and
    looks up the rest of their stack; so it fits tools that run a model, read one hook point,
    encode and decode, and put the result back.

    Args:
        crosscoder: An inference crosscoder, linear or polynomial.
        hook: Number of the hook point in the stack, or its name.
        at: The model at that hook point; None: only whole stacks are encoded.

    Raises:
        InputError: If ``crosscoder`` is none, it has no such hook point, or no latent writes it.
    """

    crosscoder: Crosscoder

    def __init__(
        self, crosscoder: Crosscoder, hook: int | str, at: OneHookPoint | None = None
    ) -> None:
        if not isinstance(crosscoder, Crosscoder):
            raise InputError(
                f"crosscoder: a {type(crosscoder).__name__} has no hook points to view: SAEs of "
                "one hook point are taken as they are, a crosscoder in training after export"
            )
        refuse_skips(crosscoder, "a view decodes")
        n_hooks, metadata = crosscoder.n_hooks, crosscoder.cfg.metadata
        names = list(metadata.hook_names or [f"hook point {i}" for i in range(n_hooks)])
        number = hook_number(hook, names)
        if number not in crosscoder.written_hooks:
            raise InputError(
                f"hook={hook!r}: no latent writes it (structure={crosscoder.cfg.structure!r}), so "
                f"that there is nothing to view; written are {list(crosscoder.written_hooks)}"
            )
        if at is not None and (at.hook, at.n_hooks) != (number, n_hooks):
            raise InputError(
                f"at: hook point {at.hook} of a stack of {at.n_hooks}, but the view is of hook "
                f"point {number} of {n_hooks}: stack the model as the crosscoder was trained"
            )
        if at is not None and metadata.hook_names not in (None, at.stacked.hook_names):
            raise InputError(
                f"at: the model is stacked at {at.stacked.hook_names}, and the crosscoder was "
                f"trained at {names}: stack it at these"
            )
        cfg = HookPointViewConfig(
            d_in=crosscoder.cfg.d_in,
            d_sae=crosscoder.cfg.d_sae,
            d_out=crosscoder.d_model,
            dtype=crosscoder.cfg.dtype,
            device=crosscoder.cfg.device,
            apply_b_dec_to_input=crosscoder.cfg.apply_b_dec_to_input,
            metadata=SAEMetadata(**copy.deepcopy(metadata.to_dict())),
        )
        cfg.metadata.hook_name = names[number] if at is None else at.hook_name
        super().__init__(cfg)
        self.crosscoder = crosscoder
        self.hook = number
        # The method, not the model: a model would become part of this module.
        self._stack_of: Callable[[torch.Tensor], torch.Tensor] | None = (
            None if at is None else at.stack_of
        )
        self.setup()

    @override
    def initialize_weights(self) -> None:
        """It has none."""

    def attached_to(self, at: OneHookPoint) -> HookPointView:
        """The same view, for activations that are read from ``at``."""
        return HookPointView(self.crosscoder, self.hook, at)

    @property
    def W_enc(self) -> torch.Tensor:
        """The crosscoder's encoder over the whole stack, (n_hooks * d_model, d_sae)."""
        return self.crosscoder.W_enc

    @property
    def b_enc(self) -> torch.Tensor:
        """The crosscoder's encoder bias, (d_sae,)."""
        return self.crosscoder.b_enc

    @property
    def W_dec(self) -> torch.Tensor:
        """The linear term of the decoder at the hook point, (d_sae, d_model)."""
        return self.crosscoder.W_dec_per_hook[:, self.hook]

    @property
    def b_dec(self) -> torch.Tensor:
        """The decoder bias at the hook point, (d_model,)."""
        return self._own(self.crosscoder.b_dec)

    @override
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (..., d_sae) of the whole stack (..., n_hooks * d_model).

        Raises:
            InputError: If ``x`` has another width; if it is an activation of the one hook point
                and there is no model to look up the rest, or it is not of the model's latest run.
        """
        if x.shape[-1] != self.cfg.d_in:
            if x.shape[-1] != self.cfg.d_out:
                raise InputError(
                    f"x has shape {tuple(x.shape)}: a view reads the whole stack, "
                    f"{self.crosscoder.n_hooks} hook points of {self.cfg.d_out} each, (..., "
                    f"{self.cfg.d_in})"
                )
            if self._stack_of is None:
                raise InputError(
                    f"x has shape {tuple(x.shape)}, one hook point: a crosscoder's code depends on "
                    f"all {self.crosscoder.n_hooks}, so it cannot be computed from one alone: give "
                    f"the whole stack (..., {self.cfg.d_in}), or attach the view to a model with "
                    "view.attached_to(OneHookPoint(model, hook))"
                )
            x = self._stack_of(x)
        return self.hook_sae_acts_post(self.crosscoder.encode(self.hook_sae_input(x)))

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """``x_hat`` (..., d_model) at the hook point from codes (..., d_sae)."""
        return self.hook_sae_recons(self._own(self.crosscoder.decode(feature_acts)))

    def _own(self, stack: torch.Tensor) -> torch.Tensor:
        return stack.narrow(-1, self.hook * self.cfg.d_out, self.cfg.d_out)

    @override
    def to(self, *args: Any, **kwargs: Any) -> Self:
        self.crosscoder.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    @override
    def fold_W_dec_norm(self) -> None:
        """A fold changes the codes of all hook points; it is refused.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "fold_W_dec_norm: decoder norms at one hook point would change the code of all; fold "
            "the crosscoder, whose norms are over the stack, and make the view of that"
        )

    @override
    def save_model(self, path: str | Path) -> Any:
        """A view is not saved.

        Raises:
            InputError: Always.
        """
        raise InputError(f"path={str(path)!r}: save the crosscoder, and make the view of that")
