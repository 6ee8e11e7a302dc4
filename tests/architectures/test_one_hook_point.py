"""At one hook point a crosscoder is SAELens' own SAE of that sparsifier, step for step."""

import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig

from tests.architectures.dictionaries import step_input

D_IN, D_SAE, STEPS = 10, 40, 10
SHARED = {"d_in": D_IN, "d_sae": D_SAE, "decoder_init_norm": 0.5}
SAME = {"n_hooks": 1, "normalize_hooks": False, "b_dec_init": "zeros"}
JUMPRELU = {
    "jumprelu_init_threshold": 0.1,
    "jumprelu_bandwidth": 0.5,
    "l0_coefficient": 0.3,
    "pre_act_loss_coefficient": 0.01,
    "jumprelu_ste_to_input": True,
}
#: SAELens' fields, and ours.
PAIRS = {
    "standard": (
        {"architecture": "standard", "l1_coefficient": 0.2},
        {"sparsifier": "relu", "l1_coefficient": 0.2},
    ),
    "topk": (
        {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": False},
        {"sparsifier": "topk", "k": 5, "score_by_decoder_norm": False},
    ),
    "topk, by decoder norm": (
        {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
        {"sparsifier": "topk", "k": 5, "score_by_decoder_norm": True},
    ),
    "batchtopk": (
        {"architecture": "batchtopk", "k": 4.5, "rescale_acts_by_decoder_norm": False},
        {"sparsifier": "batchtopk", "k": 4.5, "score_by_decoder_norm": False},
    ),
    "batchtopk, by decoder norm": (
        {"architecture": "batchtopk", "k": 4.5, "rescale_acts_by_decoder_norm": True},
        {"sparsifier": "batchtopk", "k": 4.5, "score_by_decoder_norm": True},
    ),
    "matryoshka": (
        {"architecture": "matryoshka_batchtopk", "k": 4, "matryoshka_widths": [8, 20, D_SAE]},
        {"sparsifier": "batchtopk", "k": 4, "matryoshka_widths": [8, 20]},
    ),
    "jumprelu step": (
        {"architecture": "jumprelu", **JUMPRELU},
        {"sparsifier": "jumprelu", "score_by_decoder_norm": False, **JUMPRELU},
    ),
    "jumprelu tanh": (
        {"architecture": "jumprelu", **JUMPRELU, "jumprelu_sparsity_loss_mode": "tanh"},
        {
            "sparsifier": "jumprelu",
            "score_by_decoder_norm": False,
            **JUMPRELU,
            "jumprelu_sparsity_loss_mode": "tanh",
        },
    ),
}


def make(fields):
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict({**SHARED, **fields}).to_dict())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("subtract", [True, False])
def test_ten_steps_are_the_same(pair, sparse, subtract):
    stock_fields, own_fields = PAIRS[pair]
    torch.manual_seed(0)
    stock = make({**stock_fields, "apply_b_dec_to_input": subtract})
    own = make(
        {
            "architecture": "crosscoder",
            **SAME,
            **own_fields,
            "apply_b_dec_to_input": subtract,
            "use_sparse_activations": sparse,
        }
    )
    weights = {name: getattr(stock, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    with torch.no_grad():
        for name, weight in weights.items():
            getattr(own, name).copy_(weight)
    optimizers = [torch.optim.Adam(sae.parameters(), lr=1e-2) for sae in (stock, own)]
    coefficients = {
        name: c if isinstance(c, float) else c.value for name, c in stock.get_coefficients().items()
    }
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[::7] = True
    for step in range(STEPS):
        x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(step)) + 0.3
        losses = []
        for sae, optimizer in zip((stock, own), optimizers, strict=True):
            given = step_input(x, step, dead if step > 3 else torch.zeros_like(dead))
            given.coefficients = coefficients
            output = sae.training_forward_pass(given)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(output.loss.detach())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(getattr(own, name), weight, rtol=1e-3, atol=1e-4)
    if "jumprelu" in pair:
        torch.testing.assert_close(own.sparsifier.threshold, stock.threshold, rtol=1e-4, atol=1e-5)
