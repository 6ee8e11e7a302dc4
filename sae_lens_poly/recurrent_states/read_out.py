"""How the read-out of later positions changes with a write, without running the model again."""

from __future__ import annotations

import torch

from sae_lens_poly.recurrent_states.gated_deltanet import DeltaInputs


def read_out_shift(
    inputs: DeltaInputs, head: int, position: int, v: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """Change of a head's read-out when ``v w^T`` is added to its state at a position. Exact.

    ``z = v``; at each later position ``z <- e^g (z - beta k <k, z>)``, and the read-out changes by
    ``<z, q> w / sqrt(d_k)``: the delta rule erases what a later key finds. The layer's inputs
    must be those of the run that is changed.

    Args:
        inputs: Of the layer.
        head: Which value head.
        position: After its write.
        v: Shape (d_k,), or one for each text, (batch, d_k).
        w: Shape (d_v,), or (batch, d_v).

    Returns:
        (batch, pos, d_v); zeros before the position.
    """
    return _shift(inputs, head, position, v, w, erases=True)


def decay_only_shift(
    inputs: DeltaInputs, head: int, position: int, v: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """The same as WriteSAE has it (arXiv 2605.12770, appendix A): only the decay acts on z.

    There a gain is fitted for each prompt, latent and token; here none is. Arguments and result
    are those of :func:`read_out_shift`.
    """
    return _shift(inputs, head, position, v, w, erases=False)


def _shift(
    inputs: DeltaInputs,
    head: int,
    position: int,
    v: torch.Tensor,
    w: torch.Tensor,
    erases: bool,
) -> torch.Tensor:
    q, k, g, beta = (t[:, :, head] for t in (inputs.q, inputs.k, inputs.g, inputs.beta))
    z = v.to(q.dtype).expand(len(q), -1)
    shifts = [q.new_zeros(len(q))] * position
    for at in range(position, q.shape[1]):
        if at > position:
            if erases:
                z = z - beta[:, at, None] * k[:, at] * (k[:, at] * z).sum(dim=-1, keepdim=True)
            z = g[:, at, None].exp() * z
        shifts.append((z * q[:, at]).sum(dim=-1))
    w = w.to(q.dtype).expand(len(q), -1)[:, None]
    return torch.stack(shifts, dim=1)[..., None] * w / q.shape[-1] ** 0.5
