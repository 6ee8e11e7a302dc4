"""Small dictionaries and activations for the tests of this folder."""

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

N_HOOKS, D_MODEL, D_SAE, K = 3, 8, 64, 4
VARIANTS = {
    "linear": {"architecture": "crosscoder"},
    "interactions": {
        "architecture": "poly_crosscoder",
        "degree": 3,
        "rank_2": 8,
        "rank_3": 5,
    },
    "powers": {
        "architecture": "poly_crosscoder",
        "decoder": "powers",
        "degree": 3,
        "rank_2": 8,
        "rank_3": 5,
    },
    "degree 2": {"architecture": "poly_crosscoder", "degree": 2, "rank_2": 8},
}


def training_dictionary(variant="interactions", **changes):
    fields = {
        "d_in": N_HOOKS * D_MODEL,
        "n_hooks": N_HOOKS,
        "d_sae": D_SAE,
        "k": K,
        **VARIANTS[variant],
        **changes,
    }
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())


def activations(n=512, seed=0, dtype=torch.float32):
    """Hook points of scale 1, 10 and 100, with means of their own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, N_HOOKS, D_MODEL, generator=generator, dtype=torch.float64)
    mean = torch.linspace(-1, 2, N_HOOKS * D_MODEL, dtype=torch.float64).view(N_HOOKS, D_MODEL)
    scale = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)[:, None]
    return ((x + mean) * scale).flatten(1).to(dtype)


def step_input(x, step=0, dead=None):
    dead = torch.zeros(D_SAE, dtype=torch.bool) if dead is None else dead
    return TrainStepInput(
        sae_in=x,
        coefficients={},
        dead_neuron_mask=dead,
        n_training_steps=step,
        is_logging_step=True,
    )


def train(sae, steps=20, lr=1e-2, x=None):
    x = activations(dtype=sae.dtype) if x is None else x
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr)
    for step in range(steps):
        batch = x[torch.randint(len(x), (128,), generator=torch.Generator().manual_seed(step))]
        sae.training_forward_pass(step_input(batch, step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sae


def randomise(sae):
    """Move every weight away from where it starts, zeros included."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
        sae.retract_()
    return sae
