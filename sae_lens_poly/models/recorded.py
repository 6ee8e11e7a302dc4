"""A stack of hook points whose activations are computed once and then read from disk."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from typing_extensions import override

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.whole_files import whole_file

# Arguments of a run that leave the activations at the hook points as they are.
_HARMLESS_ARGUMENTS = {"names_filter", "stop_at_layer"}


class RecordedStack(StackedHooks):
    """A :class:`StackedHooks` that remembers, on disk, the activations of every batch of tokens.

    Several dictionaries that see the same batches, one after the other or at once, then cost one
    pass of the language model together. A stack of fewer hook points reads the record of a larger
    one. Runs with an output, with other hook points or with hook functions are the model's.

    Args:
        stack: The hook points that are recorded.
        folder: Where; one file a batch of tokens, in the model's own dtype. Models, told apart by
            their weights, and stacks have folders of their own in it.
        hook_name: Those of them that this stack presents; None: all.

    Raises:
        InputError: If a hook point is not among the recorded ones.
    """

    def __init__(
        self, stack: StackedHooks, folder: str | Path, hook_name: str | None = None
    ) -> None:
        super().__init__(stack.model, hook_name or stack.hook_name)
        unrecorded = set(self.hook_names) - set(stack.hook_names)
        if unrecorded:
            raise InputError(
                f"hook_name={hook_name!r}: {min(unrecorded)!r} is not among the recorded hook "
                f"points, {stack.hook_name}: name those of the comparison"
            )
        # In a tuple, so that torch does not take it for a part of this module.
        self._recorded = (stack,)
        self.places = [stack.hook_names.index(name) for name in self.hook_names]
        self.root = Path(folder)
        self.folder = self.root / fingerprint(stack.model, stack.hook_names, stack.d_model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._in_hooks = False

    @override
    def narrowed(self, hook_name: str) -> RecordedStack:
        return RecordedStack(self._recorded[0], self.root, hook_name)

    @override
    def run_with_cache(
        self, tokens: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        asked = kwargs.get("names_filter")
        others = {k for k, v in kwargs.items() if v and k not in _HARMLESS_ARGUMENTS}
        plain = asked in (self.hook_name, [self.hook_name])
        if args or others or self._in_hooks or not plain or self.run_kwargs or self.autocast:
            return super().run_with_cache(tokens, *args, **kwargs)
        whole = self._read_or_record(tokens)
        if self.places != list(range(self._recorded[0].n_hooks)):
            whole = whole.unflatten(-1, (-1, self.d_model))[..., self.places, :].flatten(-2)
        return None, {self.hook_name: whole.to(tokens.device)}

    @override
    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        # What it gathers may be changed by hook functions: no business of the record.
        self._in_hooks = True
        try:
            return super().run_with_hooks(*args, **kwargs)
        finally:
            self._in_hooks = False

    def _read_or_record(self, tokens: torch.Tensor) -> torch.Tensor:
        ids = tokens.cpu().long().contiguous()
        key = hashlib.sha256(f"{tuple(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()
        path = self.folder / f"{key[:32]}.safetensors"
        if path.is_file():
            with suppress(SafetensorError, KeyError):  # a damaged record is made again
                return load_file(path)["x"]
        x = self._recorded[0].gather(tokens).cpu().contiguous()
        with whole_file(path) as unfinished:
            save_file({"x": x}, unfinished)
        return x


@torch.no_grad()
def fingerprint(model: torch.nn.Module, *told: Any) -> str:
    """A name that other weights do not have, nor other things that it is ``told``."""
    digest = hashlib.sha256(repr(told).encode())
    for name, weights in model.named_parameters():
        sums = weights.double().sum().item(), weights.double().abs().sum().item()
        digest.update(repr((name, tuple(weights.shape), str(weights.dtype), sums)).encode())
    return digest.hexdigest()[:16]
