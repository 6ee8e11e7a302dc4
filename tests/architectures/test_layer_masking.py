"""Stochastic layer masking."""

import pytest
import torch

from sae_lens_poly import InputError
from sae_lens_poly.architectures.crosscoders.layer_masking import LayerMasking
from tests.architectures.dictionaries import (
    D_SAE,
    N_HOOKS,
    activations,
    step_input,
    training_dictionary,
)

LIKE = torch.zeros(())


def test_each_hook_point_is_hidden_by_itself():
    seen = LayerMasking("bernoulli", 0.2, 0, 4).draw(100_000, 3, LIKE)
    hidden = 1 - seen
    torch.testing.assert_close(hidden.mean(0), torch.full((4,), 0.2), rtol=0.05, atol=0)
    both = (hidden[:, 0] * hidden[:, 1]).mean().item()
    assert both == pytest.approx(0.04, rel=0.1)


def test_one_hides_exactly_one_in_a_share_of_the_tokens():
    assert LayerMasking("one", 1.0, 0, 4).draw(1000, 0, LIKE).sum(1).eq(3).all()
    seen = LayerMasking("one", 0.25, 0, 4).draw(100_000, 0, LIKE)
    assert set(seen.sum(1).tolist()) == {3.0, 4.0}
    torch.testing.assert_close((1 - seen).mean(0), torch.full((4,), 0.25 / 4), rtol=0.05, atol=0)


def test_draws_depend_on_seed_and_step_alone():
    masking = LayerMasking("bernoulli", 0.5, 7, 4)
    first = masking.draw(100, 5, LIKE)
    torch.manual_seed(99)
    assert torch.equal(first, LayerMasking("bernoulli", 0.5, 7, 4).draw(100, 5, LIKE))
    assert not torch.equal(first, masking.draw(100, 6, LIKE))
    assert not torch.equal(first, LayerMasking("bernoulli", 0.5, 8, 4).draw(100, 5, LIKE))


@pytest.mark.parametrize("subtract", [True, False])
def test_hidden_is_zero_for_the_encoder_and_clean_in_the_target(subtract):
    sae = training_dictionary(mask_p=0.5, apply_b_dec_to_input=subtract)
    x = activations(64)
    sae.initialise_from_batch_(x)
    output = sae.training_forward_pass(step_input(x, step=4))
    seen = sae.masking.draw(64, 4, x)
    replaced = sae.per_hook(x).clone()
    unseen = sae.per_hook(sae.hook_scales.denormalise(sae.b_dec)) if subtract else 0.0
    replaced = torch.where(seen[..., None] == 1, replaced, unseen).flatten(1)
    torch.testing.assert_close(
        output.feature_acts.to_dense(), sae.encode(replaced), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(output.sae_in, sae.hook_scales.normalise(x))
    assert (sae.encode(x) != output.feature_acts.to_dense()).any()


def test_not_masked_at_evaluation():
    masked, plain = training_dictionary(mask_p=0.5), training_dictionary()
    plain.load_state_dict(masked.state_dict())
    x = activations(32)
    torch.testing.assert_close(masked.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mask_p": 1.0}, "mask_p=1"),
        ({"mask_p": -0.1}, "mask_p=-0.1"),
        ({"mask_p": 0.1, "mask_mode": "layers"}, "mask_mode='layers'"),
        ({"mask_p": 0.1, "n_hooks": 1}, "n_hooks=1"),
    ],
)
def test_wrong_masking_is_refused(fields, named):
    with pytest.raises(InputError, match=named):
        training_dictionary(**fields)


def test_the_inference_threshold_is_that_of_clean_inputs():
    masked, plain = training_dictionary(mask_p=0.5), training_dictionary()
    x = activations(64)
    for sae in (masked, plain):
        sae.initialise_from_batch_(x)
    plain.load_state_dict(masked.state_dict())
    for sae in (masked, plain):
        for step in range(12):
            sae.training_forward_pass(step_input(x, step))
    assert (masked.sparsifier.n_batches, plain.sparsifier.n_batches) == (20, 12)
    torch.testing.assert_close(masked.sparsifier.threshold, plain.sparsifier.threshold)


def test_shapes():
    assert LayerMasking("bernoulli", 0.0, 0, N_HOOKS).draw(D_SAE, 0, LIKE) is None
