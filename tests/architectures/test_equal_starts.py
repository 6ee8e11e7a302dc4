"""A dictionary with terms starts as the linear one of the same seed, and so do its batches."""

import pytest
import torch

from tests.architectures.dictionaries import VARIANTS, training_dictionary
from tests.architectures.poly_saes import ARCHITECTURES, FORMS, PUBLISHED, poly_sae


def start(make, *args, seed=0, **changes):
    """What it starts from, and what torch draws next."""
    torch.manual_seed(seed)
    sae = make(*args, **changes)
    return sae.state_dict(), torch.rand(4)


def is_equal(linear, other):
    (weights, drawn), (others, drawn_next) = linear, other
    return torch.equal(drawn, drawn_next) and all(
        torch.equal(weight, others[name]) for name, weight in weights.items()
    )


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "linear"])
@pytest.mark.parametrize("weights", ["dense", "cp", "tensor_ring"])
def test_crosscoders(variant, weights):
    ranks = {"dense": None, "cp": [6], "tensor_ring": [2, 3, 2]}[weights]
    form = {"encoder_weights": weights, "decoder_weights": weights}
    form |= {"encoder_ranks": ranks, "decoder_ranks": ranks} if ranks else {}
    linear, other = (start(training_dictionary, v, **form) for v in ("linear", variant))
    assert is_equal(linear, other)
    assert not is_equal(linear, start(training_dictionary, variant, seed=1, **form))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", [form for form in FORMS if form not in (*PUBLISHED, "order 1")])
def test_polynomial_saes(architecture, form):
    linear = start(poly_sae, architecture, "order 1")
    assert is_equal(linear, start(poly_sae, architecture, form))


def test_drawing_aside_leaves_the_generators_of_gpus_alone(monkeypatch):
    def refuse(seed):
        raise AssertionError("all GPUs are seeded, and only this one's generator is kept")

    for module in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(module, "manual_seed", refuse)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    training_dictionary("interactions")


@pytest.mark.parametrize("variant", ["interactions", "powers"])
def test_factors_are_not_the_numbers_that_weights_were_drawn_from(variant):
    torch.manual_seed(0)
    sae = training_dictionary(variant)
    drawn = [p.detach().flatten() for p in sae.polynomial.parameters() if p.any()]
    drawn.append(sae.decoder_weights.W.detach().flatten())
    assert len(drawn) > 1
    for number, first in enumerate(drawn):
        for second in drawn[:number]:
            n = min(len(first), len(second))
            assert torch.corrcoef(torch.stack([first[:n], second[:n]]))[0, 1].abs() < 0.3
