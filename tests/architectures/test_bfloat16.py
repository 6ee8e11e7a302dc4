"""Sparse steps in bfloat16: products under autocast, and dictionaries that are in it as a whole."""

import pytest
import torch

from sae_lens_poly.architectures.kernels.sparse_code import ActivePattern, code_times
from tests.architectures.dictionaries import (
    D_SAE,
    VARIANTS,
    activations,
    randomise,
    step_input,
    training_dictionary,
)
from tests.architectures.poly_saes import poly_sae
from tests.architectures.poly_saes import step_input as poly_step_input

WEIGHTS = {
    "dense": {},
    "cp": {
        "encoder_weights": "cp",
        "encoder_ranks": [16],
        "decoder_weights": "cp",
        "decoder_ranks": [16],
    },
    "causal": {"structure": "weakly_causal"},
}
UNIT = 2.0**-8  # the relative step of bfloat16


def a_pattern(n=40, d_sae=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, d_sae, generator=generator) < 0.2
    return ActivePattern(*active.nonzero().unbind(1), (n, d_sae)), active


def relative_error(got, want):
    return float((got.double() - want).detach().norm() / want.detach().norm())


def test_sparse_products_in_bfloat16_are_those_of_float64():
    pattern, active = a_pattern()
    generator = torch.Generator().manual_seed(1)
    values, W, x = (
        torch.randn(*size, generator=generator).bfloat16()
        for size in [(len(pattern.cols),), (30, 50), (40, 50)]
    )
    Z = torch.zeros(40, 30, dtype=torch.float64)
    Z[active] = values.double()
    assert relative_error(pattern.times(values, W), Z @ W.double()) < UNIT
    assert relative_error(pattern.transposed_times(values, x), Z.T @ x.double()) < UNIT
    entries = pattern.entries_of_product(x, W)
    assert relative_error(entries, (x.double() @ W.double().T)[active]) < 1e-6

    values.requires_grad_(), W.requires_grad_()
    product = code_times(pattern.code(values), W)
    product.backward(x)
    assert product.dtype == values.grad.dtype == W.grad.dtype == torch.bfloat16
    assert relative_error(values.grad, (x.double() @ W.double().T)[active]) < UNIT
    assert relative_error(W.grad, Z.T @ x.double()) < UNIT


def gradients_of(sae, x, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = sae.training_forward_pass(step_input(x, step=1))
    output.loss.backward()
    gradients = {name: p.grad for name, p in sae.named_parameters() if p.grad is not None}
    sae.zero_grad()
    return output, gradients


def like_in(sae, dtype, variant, fields):
    other = training_dictionary(variant, dtype=dtype, **fields)
    other.load_state_dict(sae.state_dict())
    return other


@pytest.mark.parametrize("sparsifier", ["topk", "batchtopk"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mask_p", [0.0, 0.3])
def test_a_step_under_autocast_is_sparse_and_has_the_gradients_of_float64(
    sparsifier, weights, variant, mask_p
):
    fields = {"sparsifier": sparsifier, "mask_p": mask_p, **WEIGHTS[weights]}
    if variant != "linear":
        fields["code_limit"] = None  # at the bound the gradient jumps
    torch.manual_seed(0)
    sae = training_dictionary(variant, **fields)
    x = activations()
    sae.initialise_from_batch_(x)
    randomise(sae)
    in_float64 = like_in(sae, "float64", variant, fields)
    output, gradients = gradients_of(sae, x, autocast=True)
    assert output.feature_acts.is_sparse
    assert output.feature_acts.dtype == torch.float32
    z, own_z = output.feature_acts.to_dense(), in_float64.encode(x.double())
    if not mask_p:  # near the cut, other latents may be kept
        assert ((z > 0) & (own_z > 0)).sum() > 0.97 * (own_z > 0).sum()

    kept = tuple(output.feature_acts.indices())
    in_float64.sparsifier.select = lambda *_: kept
    exact, exact_gradients = gradients_of(in_float64, x.double())
    assert relative_error(z, exact.feature_acts.to_dense()) < 2 * UNIT
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.01)
    assert gradients.keys() == exact_gradients.keys()
    most = 20 * UNIT if weights == "cp" else 8 * UNIT  # factored: two products in a row
    for name, exact_gradient in exact_gradients.items():
        assert gradients[name].dtype == torch.float32
        assert relative_error(gradients[name], exact_gradient) < most, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_dictionary_in_bfloat16_steps_sparsely(variant):
    torch.manual_seed(0)
    sae = training_dictionary(variant)
    x = activations()
    sae.initialise_from_batch_(x)
    randomise(sae)
    narrow = like_in(sae, "bfloat16", variant, {})
    output, gradients = gradients_of(narrow, x.bfloat16())
    in_float64 = like_in(narrow, "float64", variant, {})
    kept = tuple(output.feature_acts.indices())
    in_float64.sparsifier.select = lambda *_: kept
    _, exact_gradients = gradients_of(in_float64, x.double())
    assert output.feature_acts.is_sparse
    assert output.feature_acts.shape == (len(x), D_SAE)
    got, want = gradients["decoder_weights.W"], exact_gradients["decoder_weights.W"]
    assert got.dtype == torch.bfloat16
    assert relative_error(got, want) < 8 * UNIT


@pytest.mark.parametrize(
    "architecture", ["poly_topk", "poly_batchtopk", "poly_matryoshka_batchtopk"]
)
def test_polynomial_saes_step_sparsely_under_autocast(architecture):
    sae = poly_sae(architecture)
    x = torch.randn(64, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        output = sae.training_forward_pass(poly_step_input(x, 0))
    output.loss.backward()
    assert output.feature_acts.is_sparse
    assert {p.dtype for p in sae.parameters()} == {torch.float32}
    assert all(p.grad.isfinite().all() for p in sae.parameters() if p.grad is not None)
