"""The recurrence of Gated DeltaNet, position by position.

Of a head with keys of width d_k and values of width d_v (Yang et al. 2025, arXiv 2412.06464):

    S <- exp(g) S;   u = beta (v - S^T k);   S <- S + k u^T;   o = S^T q / sqrt(d_k)

with k and q of norm 1. ``k u^T`` is the *write*: the delta rule takes what the state already has
for the key off the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

#: Position and matrices (batch, n_heads, d_k, d_v) to the matrices that take their place.
Edit = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class DeltaInputs:
    """What the recurrence of a layer gets, one entry per value head.

    Args:
        q: Queries of norm 1, (batch, pos, n_heads, d_k).
        k: Keys of norm 1, likewise.
        v: Values, (batch, pos, n_heads, d_v).
        g: Logarithm of the decay, (batch, pos, n_heads).
        beta: Strength of the write, likewise.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    beta: torch.Tensor

    @classmethod
    def of_kernel(
        cls,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        normalise: bool = True,
    ) -> DeltaInputs:
        """From the arguments of transformers' kernels, in float32 at least.

        Args:
            q: Queries, (batch, pos, n_key_heads, d_k).
            k: Keys, likewise.
            v: As above.
            g: As above.
            beta: As above.
            normalise: Whether queries and keys still have to get the norm 1.
        """
        q, k, v, g, beta = (
            t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v, g, beta)
        )
        if normalise:
            q, k = (t * torch.rsqrt(t.pow(2).sum(dim=-1, keepdim=True) + 1e-6) for t in (q, k))
        repeats = v.shape[2] // k.shape[2]
        q, k = (t.repeat_interleave(repeats, dim=2) for t in (q, k))
        return cls(q, k, v, g, beta)

    def of_heads(self, heads: list[int]) -> DeltaInputs:
        """Those of some value heads; heads know nothing of each other."""
        return DeltaInputs(*(t[:, :, heads] for t in (self.q, self.k, self.v, self.g, self.beta)))


@dataclass(frozen=True)
class Scanned:
    """What the recurrence gave at every position."""

    out: torch.Tensor
    """Read-outs, (batch, pos, n_heads, d_v)."""
    states: torch.Tensor
    """States after the position, (batch, pos, n_heads, d_k, d_v)."""
    writes: torch.Tensor
    """What was added to them there, likewise."""


def scan(
    inputs: DeltaInputs,
    initial: torch.Tensor | None = None,
    edit: Edit | None = None,
    edit_state: Edit | None = None,
) -> Scanned:
    """Run the recurrence; later states follow from an edited write or state.

    Args:
        inputs: Of the layer.
        initial: State before the first position, (batch, n_heads, d_k, d_v); None: zeros.
        edit: Changes writes.
        edit_state: Changes states, after their position's write.
    """
    k, v = inputs.k, inputs.v
    if initial is None:
        initial = v.new_zeros(len(v), v.shape[2], k.shape[-1], v.shape[-1])
    S = initial.to(v.dtype)
    states, writes, out = [], [], []
    for at in range(v.shape[1]):
        S = inputs.g[:, at, :, None, None].exp() * S
        held = torch.einsum("bhkv,bhk->bhv", S, k[:, at])
        u = inputs.beta[:, at, :, None] * (v[:, at] - held)
        write = k[:, at, :, :, None] * u[:, :, None, :]
        write = write if edit is None else edit(at, write)
        S = S + write
        S = S if edit_state is None else edit_state(at, S)
        states.append(S)
        writes.append(write)
        out.append(torch.einsum("bhkv,bhk->bhv", S, inputs.q[:, at]) / k.shape[-1] ** 0.5)
    return Scanned(*(torch.stack(each, dim=1) for each in (out, states, writes)))
