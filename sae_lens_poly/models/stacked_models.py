"""The same hook points of several models, presented to SAELens as one: model diffing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformer_lens.hook_points import HookedRootModule, HookPoint

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import HookFunction, StackedHooks


class StackedModels(StackedHooks):
    """Two or more models with one virtual hook point: the concatenation of theirs.

    The activation at the virtual hook point is (batch, pos, n_models * n_hooks_each * d_model), the
    hook points of the first model, then those of the second. All models read the same tokens.

    What a forward pass returns speaks for all models: the mean of their losses, and as logits the
    mean of their log-probabilities. The share of the cross-entropy that a splice at one hook point
    keeps is the same as in its model alone, since the losses of the others cancel.

    Args:
        models: Of class ``HookedTransformer``, or SAELens' ``HookedProxyLM``.
        hook_name: Hook points of each, as :func:`expand_hook_names` reads them.
        names: What the models are called in the names of hook points, ``"base/blocks.3..."``;
            None: ``model_0``, ``model_1``.

    Raises:
        InputError: If there is one model only, a hook point does not exist in one of them, widths
            differ, or the tokenizers are not the same.
    """

    def __init__(
        self,
        models: Sequence[HookedRootModule],
        hook_name: str | list[str],
        names: Sequence[str] | None = None,
    ) -> None:
        HookedRootModule.__init__(self)
        if len(models) < 2:
            raise InputError("models: a stack of models needs two or more; one is StackedHooks'")
        self.model_names = list(names or [f"model_{i}" for i in range(len(models))])
        if len(set(self.model_names)) != len(models):
            raise InputError(f"names={self.model_names} must be {len(models)} different names")
        check_tokenizers([model.tokenizer for model in models], self.model_names)
        self.stacks = torch.nn.ModuleList(StackedHooks(model, hook_name) for model in models)
        first: Any = self.stacks[0]
        self.model = first.model
        self.run_kwargs, self.autocast = {}, False
        self.hook_name = first.hook_name
        self.hook_names = [
            f"{name}/{hook}"
            for name, stack in zip(self.model_names, self._stacks(), strict=True)
            for hook in stack.hook_names
        ]
        self.virtual_hook = HookPoint()
        self.virtual_hook.name = self.hook_name
        widths = [stack.d_model for stack in self._stacks()]
        if len(set(widths)) > 1:
            raise InputError(
                f"models: their hook points are {widths} wide: a crosscoder needs one width"
            )
        self.d_model = widths[0]

    def _stacks(self) -> list[Any]:
        return list(self.stacks)

    @property
    def n_ctx(self) -> int | None:
        """The longest context that all models read."""
        return min((s.n_ctx for s in self._stacks() if s.n_ctx is not None), default=None)

    @property
    def d_vocab(self) -> int | None:
        """Number of token ids that all models read."""
        return min((s.d_vocab for s in self._stacks() if s.d_vocab is not None), default=None)

    @property
    def state_shape(self) -> tuple[int, int] | None:
        """See :attr:`StackedHooks.state_shape`; that of all models."""
        shapes = {stack.state_shape for stack in self._stacks()}
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def dtype_name(self) -> str:
        """Of the models' weights; of each, where they differ."""
        return ",".join(dict.fromkeys(stack.dtype_name for stack in self._stacks()))

    def with_run(self, run_kwargs: dict[str, Any], autocast: bool) -> StackedModels:
        """The same models, which run with these settings; see :meth:`StackedHooks.with_run`."""
        other = super().with_run(run_kwargs, autocast)
        assert isinstance(other, StackedModels)
        if other is not self:
            other._modules = dict(self._modules)
            other.stacks = torch.nn.ModuleList(
                stack.with_run(run_kwargs, autocast) for stack in self._stacks()
            )
        return other

    def hooks_of_model(self, number: int) -> list[int]:
        """Numbers of the hook points of one model."""
        each = self.n_hooks // len(self.stacks)
        return list(range(number * each, (number + 1) * each))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the models return together."""
        return _together([stack(*args, **kwargs) for stack in self._stacks()])

    def run_with_cache(
        self,
        tokens: torch.Tensor,
        *args: Any,
        names_filter: Sequence[str] | str | None = None,
        stop_at_layer: int | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Run all models once; the cache holds the virtual hook point."""
        asked = [names_filter] if isinstance(names_filter, str) else list(names_filter or [])
        self._refuse_others(asked)
        runs = [
            stack.run_with_cache(tokens, *args, names_filter=[self.hook_name], **kwargs)
            for stack in self._stacks()
        ]
        parts = [cache[self.hook_name] for _, cache in runs]
        stacked = torch.cat([part.to(parts[0]) for part in parts], dim=-1)
        output = _together([output for output, _ in runs]) if "return_type" in kwargs else None
        return output, {self.hook_name: stacked}

    def run_with_hooks(
        self,
        tokens: torch.Tensor,
        *args: Any,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **kwargs: Any,
    ) -> Any:
        """Run the models with functions on the virtual hook point."""
        self._refuse_others([name for name, _ in fwd_hooks])
        if not fwd_hooks:
            return self(tokens, *args, **kwargs)
        clean = self.gather(tokens, **kwargs)
        stacked = self.apply_functions(clean, [fn for _, fn in fwd_hooks])
        return self.splice(tokens, stacked, *args, **kwargs)

    def splice(
        self,
        tokens: torch.Tensor,
        stacked: torch.Tensor,
        *args: Any,
        at: Sequence[int] | None = None,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **kwargs: Any,
    ) -> Any:
        """Run the models with hook points replaced by their slices of ``stacked``."""
        self._refuse_others([name for name, _ in fwd_hooks])
        sites = range(self.n_hooks) if at is None else at
        outputs = []
        for number, (stack, own) in enumerate(
            zip(self._stacks(), stacked.chunk(len(self.stacks), dim=-1), strict=True)
        ):
            hooks = self.hooks_of_model(number)
            here = [hooks.index(site) for site in sites if site in hooks]
            outputs.append(stack.splice(tokens, own, *args, at=here, **kwargs))
        return _together(outputs)

    def _refuse_others(self, names: Sequence[str]) -> None:
        others = [name for name in names if name != self.hook_name]
        if others:
            raise InputError(
                f"{others[0]!r} exists once in each of {self.model_names}: use the model that you "
                f"mean; the stack of models has {self.hook_name!r} only"
            )


def check_tokenizers(tokenizers: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse tokenizers of models that would read the same tokens as different text.

    Raises:
        InputError: Naming the models that differ.
    """
    for tokenizer, name in zip(tokenizers, names, strict=True):
        if tokenizer is None:
            raise InputError(f"{name!r} has no tokenizer: models are compared on the same text")
        first = tokenizers[0]
        if tokenizer.get_vocab() != first.get_vocab():
            raise InputError(
                f"{names[0]!r} and {name!r} have different tokenizers, so that the same tokens are "
                "different text to them: take models that share one"
            )
        if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (
            first.bos_token_id,
            first.eos_token_id,
        ):
            raise InputError(
                f"{names[0]!r} and {name!r} have different special tokens (BOS and EOS "
                f"{first.bos_token_id}, {first.eos_token_id}, against {tokenizer.bos_token_id}, "
                f"{tokenizer.eos_token_id}): set one tokenizer on both"
            )


def distinct_names(model_names: Sequence[str]) -> list[str]:
    """Short names for models that are loaded by name or path: the last part where that will do."""
    short = [Path(name).name for name in model_names]
    for names in (short, list(model_names)):
        if len(set(names)) == len(names):
            return names
    return [f"{name}#{i}" for i, name in enumerate(short)]


def _together(outputs: list[Any]) -> Any:
    if isinstance(outputs[0], tuple):
        return tuple(_together(list(parts)) for parts in zip(*outputs, strict=True))
    if outputs[0] is None:
        return None
    if outputs[0].ndim == 3:  # logits
        outputs = [logits.float().log_softmax(dim=-1) for logits in outputs]
    return torch.stack([output.to(outputs[0].device) for output in outputs]).mean(dim=0)
