"""Hook points on recurrent states: ``model.layers.1.linear_attn.state[head=3]``.

The activation at one is (batch, pos, d_k * d_v): the state of a value head after each position, or,
with ``write`` for ``state``, what was added to it there; both row by row, with keys as rows. Else
they are hook points of a Hugging Face model like all others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.hugging_face import HuggingFaceModel
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs, Edit, scan
from sae_lens_poly.recurrent_states.reached_layers import (
    check_read_out,
    named_delta_layers,
    reach_layer,
    state_shape,
)

_NAME = re.compile(r"(?P<layer>.+)\.(?P<what>state|write)\[head=(?P<head>\d{1,6})\]")


class StatePoint(HookPoint):
    """A hook point on the states or the writes of a head.

    Args:
        layer: Name of the layer's module.
        what: ``state`` or ``write``.
        head: Number of the value head.
    """

    shape: tuple[int, int]
    """d_k and d_v."""

    def __init__(self, layer: str, what: str, head: int) -> None:
        super().__init__()
        self.layer_name, self.what, self.head = layer, what, head
        self.name = f"{layer}.{what}[head={head}]"

    @classmethod
    def of_name(cls, name: str) -> StatePoint | None:
        """None if the name is that of another hook point."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(match["layer"], match["what"], int(match["head"]))

    @property
    def is_used(self) -> bool:
        """Whether there are functions on it."""
        return bool(self.fwd_hooks)


def add_state_hooks_(model: HuggingFaceModel, hook_names: Sequence[str]) -> None:
    """Give a model those of these hook points that are on recurrent states and that it lacks.

    A forward pass scans the heads that have functions on their hook points, and no others. From a
    state or a write that a function changes, the read-out and later states follow; positions that
    it leaves as they are follow the recurrence.

    Args:
        model: Changed in place.
        hook_names: Of any kind.

    Raises:
        InputError: If the states of this model cannot be reached, or there is no such head.
    """
    points = [point for name in hook_names if (point := StatePoint.of_name(name)) is not None]
    if not points:
        return
    layers = {name: (n, layer) for n, (name, layer) in named_delta_layers(model.model).items()}
    for point in points:
        if point.layer_name not in layers:
            raise InputError(
                f"hook_name: {point.name!r} is not on a layer with a recurrent state: the model "
                f"has {', '.join(layers)}"
            )
        number, layer = layers[point.layer_name]
        n_heads, *shape = state_shape(layer)
        if point.head >= n_heads:
            raise InputError(
                f"hook_name: {point.name!r}: the layer has heads 0 to {n_heads - 1}: name one of "
                "them"
            )
        if point.name in model.hook_dict:
            continue
        point.shape = shape[0], shape[1]
        of_layer = _PointsOfLayer(point.layer_name, model.hook_dict)
        if not of_layer.points():
            reach_layer(number, layer, of_layer, of_layer.are_used)
        model.hook_dict[point.name] = model.mod_dict[point.name] = point
        model.named_modules_dict[point.name] = layer  # behind it, a run that gathers may stop


class _PointsOfLayer:
    """What the hook points of a layer do in a forward pass, once it has its read-outs."""

    def __init__(self, layer_name: str, hook_dict: Mapping[str, HookPoint]) -> None:
        self.layer_name, self.hook_dict = layer_name, hook_dict

    def points(self) -> list[StatePoint]:
        return [
            point
            for point in self.hook_dict.values()
            if isinstance(point, StatePoint) and point.layer_name == self.layer_name
        ]

    def are_used(self) -> bool:
        return any(point.is_used for point in self.points())

    def __call__(self, number: int, inputs: DeltaInputs, own: torch.Tensor) -> torch.Tensor | None:
        used = [point for point in self.points() if point.is_used]
        heads = sorted({point.head for point in used})
        inputs = inputs.of_heads(heads)
        scanned = scan(inputs)
        check_read_out(number, scanned.out, own[:, :, heads])
        edits: dict[str, Any] = {}
        for what, argument in (("write", "edit"), ("state", "edit_state")):
            seen = scanned.writes if what == "write" else scanned.states
            changes = [
                _Change(point, heads.index(point.head), seen)
                for point in used
                if point.what == what
            ]
            if any(change.at.any() for change in changes):
                edits[argument] = _edit_of(changes)
                scanned = scan(inputs, **edits)
        if not edits:
            return None
        new = own.clone()
        new[:, :, heads] = scanned.out.to(own.dtype)
        return new


class _Change:
    """What the functions on a hook point make of what they are given, and where they change it."""

    def __init__(self, point: StatePoint, place: int, seen: torch.Tensor) -> None:
        self.place = place
        native = seen[:, :, place].flatten(-2)
        new = point(native.clone()).to(native)
        self.at = (new != native).any(dim=-1)
        self.new = new.unflatten(-1, point.shape)


def _edit_of(changes: Sequence[_Change]) -> Edit:
    def edit(at: int, matrices: torch.Tensor) -> torch.Tensor:
        of_heads: list[Any] = list(matrices.unbind(1))
        for change in changes:
            here = change.at[:, at, None, None]
            of_heads[change.place] = torch.where(here, change.new[:, at], of_heads[change.place])
        return torch.stack(of_heads, dim=1)

    return edit
