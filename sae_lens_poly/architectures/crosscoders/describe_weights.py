"""What the weights of a crosscoder cost, and how far they reach."""

from __future__ import annotations

from typing import Any

from sae_lens_poly.architectures.crosscoders.stack import sizes, structure_of
from sae_lens_poly.architectures.weights import WEIGHTS, rank_limits


def describe_weights(cfg: Any) -> str:
    """Parameters of the encoder and the decoder, and the ranks that they cannot exceed.

    Args:
        cfg: The config of a crosscoder, in training or not.
    """
    n_hooks, d_model, d_sae = sizes(cfg)
    n_groups = len(structure_of(cfg).groups)
    dense = n_hooks * d_model * d_sae
    lines = [f"{n_hooks} hook points of width {d_model}, {d_sae} latents"]
    for part in ("encoder", "decoder"):
        form, ranks = getattr(cfg, f"{part}_weights"), getattr(cfg, f"{part}_ranks")
        n = WEIGHTS[form].count(*sizes(cfg), ranks)
        limits = rank_limits(form, ranks, *sizes(cfg), n_groups)
        lines.append(
            f"{part} {form}{tuple(ranks) or ''}: {n:,} parameters ({n / dense:.1%} of dense); rank "
            f"at most {limits['matrix']} of {min(n_hooks * d_model, d_sae)} over the stack, "
            f"{limits['hook point']} of {min(d_model, d_sae)} at one hook point; modes: activation "
            f"{limits['activation']} of {d_model}, latent {limits['latent']} of "
            f"{min(d_sae, n_hooks * d_model)}, hook point {limits['hook']} of {n_hooks}"
        )
        if limits["matrix"] < min(n_hooks * d_model, d_sae):
            lines.append(
                f"  explained variance of the linear term cannot exceed that of the first "
                f"{limits['matrix']} principal components of the stack"
                if part == "decoder"
                else f"  codes depend on {limits['matrix']} directions of the stack"
            )
    return "\n".join(lines)
