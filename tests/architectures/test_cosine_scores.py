"""Scores by the cosine: the paper's code, exports, folds, and what reads the weights as linear."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors.torch import load_file

from sae_lens_poly.architectures.crosscoders.side_by_side import side_by_side
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.errors import InputError
from tests.architectures.dictionaries import (
    activations,
    randomise,
    step_input,
    train,
    training_dictionary,
)

OFFICIAL = Path(__file__).parents[1] / "data" / "cosine_sae"
SCORES = ["cosine", "cosine_per_latent", "input_power"]


def official(case):
    """Weights and reference of a case of the authors' code, and a dictionary of ours with them."""
    folder = OFFICIAL / case
    weights = load_file(folder / "weights.safetensors")
    sae = training_dictionary(
        "linear",
        d_in=8,
        n_hooks=1,
        d_sae=32,
        k=4,
        encoder_score="cosine" if "scale_a" in weights else "inner_product",
        normalize_hooks=False,
        score_by_decoder_norm=False,
        aux_loss_coefficient=0.0,
    )
    with torch.no_grad():
        sae.hook_scales.estimated.fill_(True)
        sae.encoder_weights.W.copy_(weights["W_enc"])
        sae.decoder_weights.W.copy_(weights["W_dec"])
        sae.b_enc.copy_(weights["b_enc"])
        sae.b_dec.copy_(weights["b_dec"])
        sae.sparsifier.threshold.copy_(weights["threshold"])
        if "scale_a" in weights:
            sae.encoder_score.power.copy_(weights["scale_a"])
            sae.encoder_score.log_scale.copy_(weights["scale_b"])
    return sae, load_file(folder / "reference.safetensors")


@pytest.mark.parametrize("case", ["global", "inner_product_baseline"])
@pytest.mark.parametrize("sparse", [True, False])
def test_the_papers_code(case, sparse):
    sae, reference = official(case)
    sae.steps_sparsely = sparse
    x = reference["input"]
    scores = sae.encode_with_hidden_pre(x)[1].relu()
    torch.testing.assert_close(scores, reference["scores_after_relu"], rtol=0, atol=1e-5)

    step = sae.training_forward_pass(step_input(x, 1, torch.zeros(32, dtype=torch.bool)))
    assert step.feature_acts.is_sparse == sparse
    codes = step.feature_acts.to_dense() if sparse else step.feature_acts
    wanted = reference["codes_batch_topk"]
    assert torch.equal(codes > 0, wanted > 0)
    torch.testing.assert_close(codes, wanted, rtol=0, atol=1e-5)
    out = reference["reconstruction_batch_topk"]
    torch.testing.assert_close(step.sae_out, out, rtol=0, atol=1e-5)
    torch.testing.assert_close(step.loss, reference["loss_sum_mean"].squeeze())

    step.loss.backward()
    named = {
        "W_enc": sae.encoder_weights.W,
        "W_dec": sae.decoder_weights.W,
        "b_enc": sae.b_enc,
        "b_dec": sae.b_dec,
    }
    if case == "global":
        named |= {"scale_a": sae.encoder_score.power, "scale_b": sae.encoder_score.log_scale}
    for name, weight in named.items():
        wanted = reference[f"grad.{name}"]
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("case", ["global", "inner_product_baseline"])
def test_the_papers_inference(case):
    sae, reference = official(case)
    inference = sae.to_inference()
    codes = inference.encode(reference["input"])
    assert torch.equal(codes > 0, reference["codes"] > 0)
    torch.testing.assert_close(codes, reference["codes"], rtol=0, atol=1e-5)
    out = inference.decode(codes)
    torch.testing.assert_close(out, reference["reconstruction"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("variant", ["linear", "interactions", "powers"])
def test_exports_and_folds_are_exact(score, variant, tmp_path):
    sae = training_dictionary(variant, encoder_score=score, dtype="float64")
    x = activations(64, dtype=torch.float64)
    train(sae, steps=5, x=x)
    with torch.no_grad():
        sae.encoder_score.power.add_(0.3)
        sae.sparsifier.threshold.fill_(0.05)
        inference = sae.to_inference()
        assert inference.cfg.encoder_score == "input_power"
        pre = sae.encode_with_hidden_pre(x)[1]
        torch.testing.assert_close(inference.pre_activations(x), pre)
        out = inference(x)
        sae.save_inference_model(tmp_path / "inference")
        loaded = SAE.load_from_disk(tmp_path / "inference")
        for name, value in inference.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        # Strides can change the last bit of a product: the file has W_enc the other way round.
        for parameter in loaded.parameters():
            parameter.data = parameter.data.contiguous()
        assert torch.equal(loaded(x), out)
        sae.save_model(tmp_path / "training")
        again = TrainingSAE.load_from_disk(tmp_path / "training")
        torch.testing.assert_close(again(x), sae(x), rtol=0, atol=0)

        inference.fold_W_dec_norm()
        torch.testing.assert_close(inference(x), out)
        scale = torch.tensor([3.0, 0.5, 10.0][: sae.n_hooks], dtype=torch.float64)
        inference.scale_hooks_(scale)
        smaller = x / scale.repeat_interleave(sae.d_model)
        rescaled = inference(smaller) * scale.repeat_interleave(sae.d_model)
        torch.testing.assert_close(rescaled, out)


def test_it_starts_where_the_inner_product_does():
    """For a token whose norm is the mean one, the cosine's first scores are products."""
    x = torch.nn.functional.normalize(torch.randn(64, 8), dim=-1) * 5
    for score in ("cosine", "cosine_per_latent"):
        sae = training_dictionary(
            "linear",
            d_in=8,
            n_hooks=1,
            encoder_score=score,
            normalize_hooks=False,
            b_dec_init="zeros",
        )
        sae.initialise_from_batch_(x)
        pre = sae.encode_with_hidden_pre(x)[1]
        torch.testing.assert_close(pre, sae.encoder_weights.read(x), rtol=1e-4, atol=1e-5)


def test_ordinary_weights_read_by_cosine():
    plain = training_dictionary("linear", dtype="float64")
    read = training_dictionary("linear", encoder_score="read_by_cosine", dtype="float64")
    read.load_state_dict(plain.state_dict(), strict=False)
    x = activations(64, dtype=torch.float64)
    for sae in (plain, read):
        train(sae, steps=5, x=x)
    for a, b in zip(plain.parameters(), read.parameters(), strict=True):
        assert torch.equal(a, b)

    inference, ordinary = read.to_inference(), plain.to_inference()
    centred = read.hook_scales.normalise(x) - read.b_dec
    size = centred.norm(dim=-1, keepdim=True)
    mean = read.encoder_score.mean_size
    assert (mean > size.min()).all()
    assert (mean < size.max()).all()
    products = ordinary.pre_activations(x) - ordinary.b_enc
    torch.testing.assert_close(
        inference.pre_activations(x) - inference.b_enc, products * mean / size
    )
    assert torch.equal(inference.threshold, ordinary.threshold)


def test_a_size_that_only_a_group_reads_is_that_of_its_hook_points():
    sae = training_dictionary("linear", structure="weakly_causal", encoder_score="cosine")
    randomise(sae)
    x = activations(16)
    changed = x.clone()
    changed[:, -sae.d_model :] *= 7  # read by the latents of the last hook point alone
    last = sae.structure.groups[-1].latents.start
    before, after = (sae.encode_with_hidden_pre(each)[1] for each in (x, changed))
    torch.testing.assert_close(after[:, :last], before[:, :last])
    assert not torch.allclose(after[:, last:], before[:, last:])


def test_what_is_linear_in_its_input_is_refused_elsewhere():
    one = training_dictionary("linear", d_in=8, n_hooks=1, encoder_score="cosine").to_inference()
    with pytest.raises(InputError, match="encoder_score='input_power'"):
        side_by_side([one, one])
    with pytest.raises(InputError, match="encoder_score='input_power'"):
        CrosscoderReplacement(one)
