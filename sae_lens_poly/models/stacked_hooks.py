"""Several hook points of a model, presented to SAELens as one."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from sae_lens.load_model import HookedProxyLM
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name
from transformer_lens.hook_points import HookedRootModule, HookPoint

from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.models.hugging_face import HuggingFaceModel
from sae_lens_poly.models.state_hooks import StatePoint, add_state_hooks_

#: As TransformerLens calls it: ``fn(activations, hook=hook_point)``.
HookFunction = Callable[..., torch.Tensor | None]

# Arguments that say what a run returns, not what it computes; a run that only gathers ignores them.
_OUTPUT_ARGUMENTS = {
    "return_type",
    "loss_per_token",
    "names_filter",
    "return_cache_object",
    "stop_at_layer",
}


class StackedHooks(HookedRootModule):
    """A model with one more, virtual hook point: the concatenation of several real ones.

    The activation at the virtual hook point is (batch, pos, n_hooks * d_model), the real hook
    points end to end. SAELens' store, runner and evals ask a model for one hook point, by
    :meth:`run_with_cache` and :meth:`run_with_hooks`; with this wrapper they work on many.
    Everything else is the wrapped model's.

    Replacing the virtual activation takes two forward passes: the first gathers the clean
    activations of all hook points, the second runs with each replaced by its slice.

    Args:
        model: A ``HookedTransformer``, or SAELens' ``HookedProxyLM`` around a Hugging Face model.
        hook_name: Hook points as :func:`expand_hook_names` reads them. The text itself becomes
            the name of the virtual hook point.

    Raises:
        InputError: If a hook point does not exist, is named twice, or their widths differ.
    """

    def __init__(self, model: HookedRootModule, hook_name: str | list[str]) -> None:
        super().__init__()
        names = expand_hook_names(hook_name)
        if isinstance(model, HookedProxyLM):
            model = HuggingFaceModel.of(model)
            add_state_hooks_(model, names)
        self.model = model
        self.run_kwargs: dict[str, Any] = {}
        self.autocast = False
        self.hook_names = names
        self.hook_name = hook_name if isinstance(hook_name, str) else ",".join(hook_name)
        self.virtual_hook = HookPoint()
        self.virtual_hook.name = self.hook_name
        for name in self.hook_names:
            if name not in model.hook_dict:
                near = difflib.get_close_matches(name, model.hook_dict, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "see model.hook_dict for the names"
                raise InputError(f"hook_name: the model has no hook point {name!r}; {hint}")
        stops = [extract_stop_at_layer_from_tlens_hook_name(name) for name in self.hook_names]
        self._stop_at_layer = None if None in stops else max(s for s in stops if s is not None)
        self.d_model = self._common_width()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    @property
    def n_ctx(self) -> int | None:
        """The longest context that the model reads, in tokens; None: it does not say."""
        if isinstance(self.model, HuggingFaceModel):
            return self.model.n_ctx
        return getattr(getattr(self.model, "cfg", None), "n_ctx", None)

    @property
    def d_vocab(self) -> int | None:
        """Number of token ids that the model reads; None: it does not say."""
        if isinstance(self.model, HuggingFaceModel):
            return self.model.d_vocab
        return getattr(getattr(self.model, "cfg", None), "d_vocab", None)

    @property
    def dtype_name(self) -> str:
        """Of the model's weights, as ``bfloat16``."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def n_hooks(self) -> int:
        """Number of hook points."""
        return len(self.hook_names)

    @property
    def d_in(self) -> int:
        """Width of the virtual hook point."""
        return self.n_hooks * self.d_model

    @property
    def state_shape(self) -> tuple[int, int] | None:
        """d_k and d_v, where all hook points are on recurrent states of that shape; else None."""
        points = [self.model.hook_dict[name] for name in self.hook_names]
        shapes = {point.shape if isinstance(point, StatePoint) else None for point in points}
        return shapes.pop() if len(shapes) == 1 else None

    def check_context_size(self, context_size: int) -> None:
        """Refuse contexts that the model cannot read.

        Raises:
            InputError: If ``context_size`` is more than the model's.
        """
        if self.n_ctx is not None and context_size > self.n_ctx:
            raise InputError(
                f"context_size={context_size} is more than the model's {self.n_ctx}: lower it"
            )

    def with_run(self, run_kwargs: dict[str, Any], autocast: bool) -> StackedHooks:
        """The same model, which runs with these settings.

        Args:
            run_kwargs: Arguments of each run that does not give them itself.
            autocast: Whether runs are in mixed precision, in bfloat16 as in SAELens' store.
        """
        if (run_kwargs, autocast) == (self.run_kwargs, self.autocast):
            return self
        other = copy.copy(self)
        other.run_kwargs, other.autocast = dict(run_kwargs), autocast
        return other

    def running(self) -> AbstractContextManager[Any]:
        """The precision that runs are in, as a context."""
        if not self.autocast:  # that of who calls, such as SAELens' store
            return nullcontext()
        return torch.autocast(_device_of(self.model).type, dtype=torch.bfloat16)

    def narrowed(self, hook_name: str) -> StackedHooks:
        """The same model with these hook points stacked instead."""
        return StackedHooks(self.model, hook_name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped model's forward pass."""
        with self.running():
            return self.model(*args, **self.run_kwargs | kwargs)

    def gather(self, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Clean activations (batch, pos, d_in) of a run on tokens (batch, pos)."""
        kept = {k: v for k, v in kwargs.items() if k not in _OUTPUT_ARGUMENTS}
        return self.run_with_cache(tokens, names_filter=[self.hook_name], **kept)[1][self.hook_name]

    def run_with_cache(
        self,
        tokens: torch.Tensor,
        *args: Any,
        names_filter: Sequence[str] | str | None = None,
        stop_at_layer: int | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Run the model once; the cache holds the virtual hook point, and others if asked for.

        ``stop_at_layer`` is not heeded: the run ends after the last hook point of the stack, or
        at the end where an output (``return_type``) or another hook point is asked for.
        """
        asked = [names_filter] if isinstance(names_filter, str) else list(names_filter or [])
        others = [name for name in asked if name != self.hook_name]
        with self.running():
            output, cache = self.model.run_with_cache(
                tokens,
                *args,
                names_filter=[*self.hook_names, *others],
                stop_at_layer=None if others or "return_type" in kwargs else self._stop_at_layer,
                **self.run_kwargs | kwargs,
            )
        stacked = torch.cat([cache[name] for name in self.hook_names], dim=-1)
        return output, {self.hook_name: stacked, **{name: cache[name] for name in others}}

    def run_with_hooks(
        self,
        tokens: torch.Tensor,
        *args: Any,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **kwargs: Any,
    ) -> Any:
        """Run the model with functions on the virtual hook point (and on real ones, if given)."""
        real = [(name, fn) for name, fn in fwd_hooks if name != self.hook_name]
        virtual = [fn for name, fn in fwd_hooks if name == self.hook_name]
        if not virtual:
            with self.running():
                return self.model.run_with_hooks(
                    tokens, *args, fwd_hooks=real, **self.run_kwargs | kwargs
                )
        with self.model.hooks(fwd_hooks=real):
            stacked = self.gather(tokens, **kwargs)
        stacked = self.apply_functions(stacked, virtual)
        return self.splice(tokens, stacked, *args, fwd_hooks=real, **kwargs)

    def apply_functions(
        self, stacked: torch.Tensor, functions: Sequence[HookFunction]
    ) -> torch.Tensor:
        """The virtual activation after hook functions, which may change it or return another."""
        for fn in functions:
            changed = fn(stacked, hook=self.virtual_hook)
            stacked = stacked if changed is None else changed
        return stacked

    def splice(
        self,
        tokens: torch.Tensor,
        stacked: torch.Tensor,
        *args: Any,
        at: Sequence[int] | None = None,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **kwargs: Any,
    ) -> Any:
        """Run the model with hook points replaced by their slices of ``stacked``.

        Args:
            tokens: Shape (batch, pos).
            stacked: Shape (batch, pos, d_in).
            at: Numbers of the hook points to replace; None: all.
        """
        slices = stacked.unflatten(-1, (self.n_hooks, self.d_model)).unbind(-2)
        replacements = [
            (self.hook_names[i], partial(replace_activation, slices[i]))
            for i in (range(self.n_hooks) if at is None else at)
        ]
        with self.running():
            return self.model.run_with_hooks(
                tokens,
                *args,
                fwd_hooks=[*fwd_hooks, *replacements],
                **self.run_kwargs | kwargs,
            )

    @torch.no_grad()
    def _common_width(self) -> int:
        tokens = torch.zeros(1, 2, dtype=torch.long, device=_device_of(self.model))
        _, cache = self.model.run_with_cache(
            tokens, names_filter=self.hook_names, stop_at_layer=self._stop_at_layer
        )
        shapes = {name: tuple(cache[name].shape) for name in self.hook_names if name in cache}
        first = self.hook_names[0]
        for name in self.hook_names:
            shape = shapes.get(name)
            if shape is None or len(shape) != 3:
                raise InputError(
                    f"hook_name: the activation at {name!r} is not (batch, pos, width) but "
                    f"{shape}: use hook points on the residual stream, or the output of an "
                    "attention or MLP layer"
                )
            if shape[-1] != shapes[first][-1]:
                raise InputError(
                    f"hook_name: {first!r} is {shapes[first][-1]} wide and {name!r} is "
                    f"{shape[-1]}: a crosscoder needs hook points of one width"
                )
        return shapes[first][-1]


def replace_activation(
    new: torch.Tensor, activations: torch.Tensor, hook: Any, where: torch.Tensor | None = None
) -> torch.Tensor:
    """A hook function, once ``new`` is bound: the activation at a hook point becomes ``new``.

    Args:
        new: Shape (batch, pos, d_model).
        activations: What stood there, as wide.
        hook: The hook point.
        where: True at positions (batch, pos) that become ``new``; None: all.
    """
    new = new.to(activations)
    return new if where is None else torch.where(where.to(new.device)[..., None], new, activations)


def _device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
