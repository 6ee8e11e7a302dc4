"""Small polynomial SAEs of every architecture for the tests of this folder."""

import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

D_IN, D_SAE, K = 12, 40, 5

ARCHITECTURES = {
    "poly_topk": {"k": K},
    "poly_batchtopk": {"k": K},
    "poly_matryoshka_batchtopk": {"k": K, "matryoshka_widths": [10, 20, D_SAE]},
    "poly_jumprelu": {"jumprelu_init_threshold": 0.05},
    "poly_gated": {},
    "poly_standard": {},
}

#: Every kind of decoder.
FORMS = {
    "reconstruction": {},
    "codes": {"projection": "codes"},
    "shared_u": {},
    "powers": {"decoder": "powers"},
    "no self-terms": {"projection": "codes", "self_terms": False},
    "no self-terms P": {"projection": "reconstruction", "self_terms": False},
    "order 2": {"degree": 2},
    "order 1": {"degree": 1},
    "official": {
        "init": "official",
        "retraction": "uncompensated",
        "code_limit": None,
    },
}

#: Forms that have architectures of their own, and what these are derived from.
PUBLISHED = ("shared_u", "official")
PUBLISHED_ARCHITECTURES = ("poly_topk", "poly_batchtopk", "poly_matryoshka_batchtopk")


def poly_sae(architecture="poly_topk", form="reconstruction", seed=0, **changes):
    fields = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "rank_2": 6,
        "rank_3": 4,
        "decoder_init_norm": 0.7,
        **ARCHITECTURES.get(architecture, {}),
        **FORMS[form],
        **changes,
    }
    if form in PUBLISHED:
        if architecture not in PUBLISHED_ARCHITECTURES:
            pytest.skip("the published form has TopK, BatchTopK and Matryoshka BatchTopK")
        fields["architecture"] = architecture.replace("poly_", "polysae_")
    for degree in range(fields.get("degree", 3) + 1, 4):
        del fields[f"rank_{degree}"]
    torch.manual_seed(seed)
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())


def activations(n=64, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D_IN, generator=generator, dtype=torch.float64)
    return (2 * x + torch.linspace(-1, 1, D_IN, dtype=torch.float64)).to(dtype)


def step_input(x, step=0, dead=None, d_sae=D_SAE):
    return TrainStepInput(
        sae_in=x,
        coefficients={"l1": 0.1, "l0": 0.1},
        dead_neuron_mask=torch.zeros(d_sae, dtype=torch.bool) if dead is None else dead,
        n_training_steps=step,
        is_logging_step=True,
    )


def train(sae, steps=15, lr=1e-2, seed=0, dead=None):
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    for step in range(steps):
        x = activations(seed=100 * seed + step, dtype=sae.dtype)
        sae.training_forward_pass(step_input(x, step, dead)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sae


def randomise(sae, size=0.3):
    """Move every weight away from where it starts, zeros included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
        sae.retract_()
    return sae


def orthonormality_error(projection):
    """Largest entry of |V^T V - I|."""
    V = projection.V
    return (V.T @ V - torch.eye(V.shape[1], dtype=V.dtype)).abs().max()
