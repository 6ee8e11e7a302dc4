"""A stacked model presented at one of its hook points, for tools that read and replace one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformer_lens.hook_points import HookedRootModule, HookPoint

from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import hook_number
from sae_lens_poly.models.stacked_hooks import HookFunction, StackedHooks


class OneHookPoint(HookedRootModule):
    """One hook point of a stacked model, with the rest of the stack kept from the latest run.

    The activation at :attr:`hook_name` is (batch, pos, d_model), and replacing it replaces that
    hook point alone: later ones follow from it, as in the model itself. A crosscoder's encoder
    wants the others too; :meth:`stack_of` gives them for an activation of the latest run.

    Args:
        model: The model with its hook points stacked.
        hook: Number of the hook point in the stack, or its name.

    Raises:
        InputError: If the stack has no such hook point.
    """

    def __init__(self, model: StackedHooks, hook: int | str) -> None:
        super().__init__()
        self.stacked = model
        self.hook = hook_number(hook, model.hook_names)
        self.hook_name = model.hook_names[self.hook]
        self.d_model = model.d_model
        self._point = HookPoint()
        self._point.name = self.hook_name
        self._latest: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("stacked"), name)

    @property
    def d_in(self) -> int:
        """Width of the hook point."""
        return self.d_model

    def stack_of(self, x: torch.Tensor) -> torch.Tensor:
        """The whole stack (..., n_hooks * d_model) of an activation (..., d_model).

        Raises:
            InputError: If ``x`` is not, number for number, what stood at the hook point in the
                latest run; a stack that does not belong to it would give a wrong code.
        """
        if self._latest is None:
            raise InputError(f"{self.hook_name!r}: the model has not been run yet: run it first")
        if not torch.equal(x, self._slice(self._latest).to(x)):
            raise InputError(
                f"an activation of shape {tuple(x.shape)} is not the one at {self.hook_name!r} in "
                "the model's latest run, so that the other hook points of its tokens are unknown: "
                "encode it before the next run and unchanged, or give the whole stack"
            )
        return self._latest

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass."""
        return self.stacked(*args, **kwargs)

    def run_with_cache(
        self,
        tokens: torch.Tensor,
        *args: Any,
        names_filter: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Run the model once; the cache holds the hook point, and others if asked for."""
        asked = [names_filter] if isinstance(names_filter, str) else list(names_filter or [])
        others = [name for name in asked if name != self.hook_name]
        stack_name = self.stacked.hook_name
        output, cache = self.stacked.run_with_cache(
            tokens, *args, names_filter=[stack_name, *others], **kwargs
        )
        self._latest = cache[stack_name]
        here = {self.hook_name: self._slice(self._latest)}
        return output, here | {name: cache[name] for name in others}

    def run_with_hooks(
        self,
        tokens: torch.Tensor,
        *args: Any,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **kwargs: Any,
    ) -> Any:
        """Run the model with functions on the hook point; they see the clean run's activation.

        Raises:
            InputError: If a function is for another hook point.
        """
        for name, _ in fwd_hooks:
            if name != self.hook_name:
                raise InputError(
                    f"fwd_hooks: this is the model at {self.hook_name!r}; for {name!r} use the "
                    "stacked model, or OneHookPoint at that one"
                )
        self._latest = self.stacked.gather(tokens, **kwargs)
        new = self._slice(self._latest)
        for _, fn in fwd_hooks:
            changed = fn(new, hook=self._point)
            new = new if changed is None else changed
        replaced = self._latest.clone()
        self._slice(replaced).copy_(new)
        return self.stacked.splice(tokens, replaced, *args, at=[self.hook], **kwargs)

    def _slice(self, stack: torch.Tensor) -> torch.Tensor:
        return stack.narrow(-1, self.hook * self.d_model, self.d_model)
