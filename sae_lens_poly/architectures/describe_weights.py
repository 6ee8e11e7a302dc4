"""What the weights of a crosscoder cost, and how far they reach."""

from __future__ import annotations

from sae_lens_poly.architectures.crosscoder_config import StackConfig
from sae_lens_poly.architectures.factored_weights import count, rank_limits


def describe_weights(cfg: StackConfig) -> str:
    """Parameters of the encoder and the decoder, and the ranks that they cannot exceed.

    Args:
        cfg: The config of a crosscoder, in training or not.
    """
    sizes = cfg.sizes()
    n_hooks, d_model, d_sae = sizes
    n_groups = len(cfg.make_structure().groups)
    dense = count("dense", [], *sizes)
    lines = [f"{n_hooks} hook points of width {d_model}, {d_sae} latents"]
    for part in ("encoder", "decoder"):
        form, ranks = cfg.form(part)
        n, limits = count(form, ranks, *sizes), rank_limits(form, ranks, *sizes, n_groups)
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
