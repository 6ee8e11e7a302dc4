"""What becomes of a model's predictions when a write to a recurrent state is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sae_lens_poly.constraints import Choice, Flag, Number, check_fields
from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs, scan
from sae_lens_poly.recurrent_states.reached_layers import check_read_out, reached


@dataclass(frozen=True)
class Change:
    """What takes the place of one write.

    Args:
        layer: Number of the layer.
        head: Of its value head.
        position: Of the token.
        atom: Matrix (d_k, d_v) that takes the write's place, or one for each text,
            (batch, d_k, d_v); None: the write is deleted.
        scale: ``natural``: the atom as it is given. ``matched``: with the write's Frobenius norm.
        times: What the atom is multiplied by.
        adds: Whether the atom is added to the write, and does not take its place.
    """

    layer: int
    head: int
    position: int
    atom: torch.Tensor | None = None
    scale: Literal["natural", "matched"] = "natural"
    adds: bool = False
    times: float = 1.0

    def __post_init__(self) -> None:
        whole = Number(at_least=0, whole=True)
        check_fields(self, {"layer": whole, "head": whole, "position": whole})
        check_fields(self, {"scale": Choice("natural", "matched"), "adds": Flag()})
        check_fields(self, {"times": Number()})

    def __call__(self, at: int, write: torch.Tensor) -> torch.Tensor:
        """The write (batch, n_heads, d_k, d_v) of a position, changed if it is this one."""
        if at != self.position:
            return write
        if self.atom is None:
            return torch.zeros_like(write)
        put = self.atom.to(write)
        put = (put[:, None] if put.ndim == 3 else put).expand_as(write)
        if self.scale == "matched":
            size = torch.linalg.matrix_norm(write, keepdim=True)
            put = put * size / torch.linalg.matrix_norm(put, keepdim=True).clamp_min(1e-12)
        put = self.times * put
        return write + put if self.adds else put


def check_position(position: int, tokens: torch.Tensor) -> None:
    """Refuse a position that texts (batch, pos) do not have.

    Raises:
        InputError: Naming it.
    """
    if not 0 <= position < tokens.shape[1]:
        raise InputError(
            f"position={position} is not in a text of {tokens.shape[1]} tokens: lower it"
        )


@torch.no_grad()
def changed_run(
    model: nn.Module, tokens: torch.Tensor, change: Change | Sequence[Change]
) -> torch.Tensor:
    """Logits (batch, pos, d_vocab) with writes changed; all later states follow from them.

    Args:
        model: A transformers model.
        tokens: Shape (batch, pos).
        change: The write, and what takes its place; or several, of one head of a layer.

    Raises:
        InputError: If there is no such write, the atom is not of its shape, or the changes are not
            of one head.
    """
    changes = [change] if isinstance(change, Change) else list(change)
    if not changes:
        raise InputError("change=[] names no write: give one at least")
    if len({(each.layer, each.head) for each in changes}) > 1:
        raise InputError("change: writes of several heads are changed: take those of one")
    head, first = changes[0].head, min(each.position for each in changes)
    for each in changes:
        check_position(each.position, tokens)

    def edit(at: int, write: torch.Tensor) -> torch.Tensor:
        for each in changes:
            write = each(at, write)
        return write

    def at_layer(number: int, inputs: DeltaInputs, own: torch.Tensor) -> torch.Tensor:
        n_heads, shape = inputs.v.shape[2], (inputs.k.shape[-1], inputs.v.shape[-1])
        if head >= n_heads:
            raise InputError(f"head={head} is not one of the {n_heads} heads of the layer")
        shapes = (shape, (len(tokens), *shape))
        for each in changes:
            if each.atom is not None and tuple(each.atom.shape) not in shapes:
                raise InputError(
                    f"an atom of shape {tuple(each.atom.shape)} cannot take the place of a write "
                    f"of shape {shape}"
                )
        out = scan(inputs.of_heads([head]), edit=edit).out[:, :, 0]
        before = slice(first)
        check_read_out(number, out[:, before], own[:, before, head])
        new = own.clone()
        new[:, first:, head] = out[:, first:].to(own.dtype)
        return new

    with reached(model, [changes[0].layer], at_layer):
        return model(tokens, use_cache=False).logits


def kl_divergences(
    native: torch.Tensor, changed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(native || changed) and KL(changed || native) in nats at every position, (batch, pos).

    Args:
        native: Logits of the untouched run, (batch, pos, d_vocab).
        changed: Those of the changed one.
    """
    p, q = (logits.float().log_softmax(dim=-1) for logits in (native, changed))
    return (p.exp() * (p - q)).sum(dim=-1), (q.exp() * (q - p)).sum(dim=-1)
