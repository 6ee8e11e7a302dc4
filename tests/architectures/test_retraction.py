"""The projection is orthonormal after every step, and its retraction moves nothing else."""

import pytest
import torch
from safetensors.torch import load_file

from sae_lens_poly.architectures.decoders.interactions import positive_qr
from tests.architectures.dictionaries import activations, step_input, train, training_dictionary


def error(V):
    return (V.T @ V - torch.eye(V.shape[1])).abs().max().item()


def test_qr_has_a_positive_diagonal():
    matrix = torch.randn(40, 6)
    q, r = positive_qr(matrix)
    assert error(q) < 1e-5
    torch.testing.assert_close(q @ r, matrix)
    assert (r.diagonal() > 0).all()
    assert ((q.T @ matrix).diagonal() > 0).all()


def test_orthonormal_in_every_step():
    sae = training_dictionary()
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-2)
    moved = 0.0
    for step in range(6):
        sae.training_forward_pass(step_input(activations(seed=step), step)).loss.backward()
        assert error(sae.polynomial.projection.V.detach()) < 1e-5
        optimizer.step()
        optimizer.zero_grad()
        moved = max(moved, error(sae.polynomial.projection.V.detach()))
    assert moved > 1e-3  # else this test shows nothing


def test_retraction_leaves_the_linear_term_to_the_bit_and_is_idempotent():
    sae = train(training_dictionary(), lr=3e-2)
    assert error(sae.polynomial.projection.V.detach()) > 1e-4
    before = {n: p.clone() for n, p in sae.named_parameters()}
    sae.retract_()
    for name, p in sae.named_parameters():
        assert torch.equal(p, before[name]) == (not name.endswith(".projection.weight"))
    once = sae.polynomial.projection.V.detach().clone()
    sae.retract_()
    assert torch.equal(sae.polynomial.projection.V, once)


@pytest.mark.parametrize("way", ["save", "eval", "export"])
def test_saving_and_evaluating_retract(way, tmp_path):
    sae = train(training_dictionary(), lr=3e-2)
    if way == "eval":
        V = sae.eval().polynomial.projection.V.detach()
    else:
        (sae.save_model if way == "save" else sae.save_inference_model)(tmp_path)
        V = load_file(tmp_path / "sae_weights.safetensors")["polynomial.projection.weight"]
        V = V / sae.polynomial.projection.size
    assert error(V) < 1e-5


def test_projection_scales_and_threshold_stay_in_float32():
    sae = train(training_dictionary())
    V, threshold = sae.polynomial.projection.V.clone(), sae.sparsifier.threshold.clone()
    sae.to(torch.bfloat16)
    assert sae.W_dec.dtype == torch.bfloat16
    assert torch.equal(sae.polynomial.projection.V, V)
    assert torch.equal(sae.sparsifier.threshold, threshold)
    assert sae.hook_scales.scale.dtype == torch.float32
    train(sae, steps=2)
