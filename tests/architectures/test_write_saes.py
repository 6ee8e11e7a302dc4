"""The architecture `write_sae`, and files of WriteSAE's code."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file

from sae_lens_poly import Crosscoder, TrainingCrosscoder
from sae_lens_poly.architectures.weights import Dense, MatrixAtoms
from sae_lens_poly.architectures.write_saes import load_write_sae
from sae_lens_poly.errors import InputError

FIXTURES = Path(__file__).parents[1] / "data" / "writesae"
CASES = ("bilinear_rank1_topk", "bilinear_tied_rank1_topk", "matrix_dense_encoder_topk")


def training(**options):
    options = {"d_in": 30, "d_sae": 24, "d_k": 6, "k": 4} | options
    return TrainingSAE.from_dict({"architecture": "write_sae"} | options)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_published_files_give_the_codes_and_reconstructions_of_the_authors_code(
    case, older, tmp_path
):
    weights = load_file(FIXTURES / case / "weights.safetensors")
    reference = load_file(FIXTURES / case / "reference.safetensors")
    if older:  # factors without a rank dimension
        weights = {n: w.squeeze(1) if w.ndim == 3 else w for n, w in weights.items()}
    torch.save({"model_state_dict": weights, "config": {"k": 4}}, tmp_path / "best.pt")
    sae = load_write_sae(tmp_path / "best.pt")
    x = reference["input"].flatten(1)
    codes = sae.encode(x)
    assert torch.equal(codes > 0, reference["codes"] > 0)
    torch.testing.assert_close(codes, reference["codes"], atol=1e-5, rtol=0)
    expected = reference["reconstruction"].flatten(1)
    torch.testing.assert_close(sae.decode(codes), expected, atol=1e-5, rtol=0)
    sae.save_model(tmp_path / "ours")
    again = SAE.load_from_disk(tmp_path / "ours")
    torch.testing.assert_close(again(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"V_enc": torch.ones(2, 3)}, "no tensors under 'model_state_dict'"),
        ({"model_state_dict": {"V": torch.ones(2, 3)}, "config": {"k": 4}}, "holds V"),
    ],
)
def test_files_of_another_layout_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(InputError, match=message):
        load_write_sae(tmp_path / "best.pt")


def test_a_file_without_k_needs_one(tmp_path):
    weights = load_file(FIXTURES / CASES[0] / "weights.safetensors")
    torch.save({"model_state_dict": weights, "config": {}}, tmp_path / "best.pt")
    with pytest.raises(InputError, match="does not say k"):
        load_write_sae(tmp_path / "best.pt")
    assert load_write_sae(tmp_path / "best.pt", k=3).cfg.select_k == 3


@pytest.mark.parametrize("encoder", ["bilinear", "tied", "dense"])
@pytest.mark.parametrize("sparsifier", ["topk", "batchtopk", "jumprelu", "relu"])
def test_it_trains_saves_and_exports(encoder, sparsifier, tmp_path):
    sae = training(encoder=encoder, sparsifier=sparsifier, rank=2)
    assert isinstance(sae, TrainingCrosscoder)
    assert isinstance(sae.decoder_weights, MatrixAtoms)
    assert isinstance(sae.encoder_weights, Dense if encoder == "dense" else MatrixAtoms)
    sae.save_model(tmp_path / "training")
    again = TrainingSAE.load_from_disk(tmp_path / "training")
    assert again.cfg == sae.cfg
    x = torch.randn(5, 30)
    torch.testing.assert_close(again(x), sae(x))
    sae.save_inference_model(tmp_path / "inference")
    inference = SAE.load_from_disk(tmp_path / "inference")
    assert isinstance(inference, Crosscoder)
    assert inference.cfg.architecture() == "write_sae"
    assert inference.cfg.d_k == 6
    torch.testing.assert_close(inference.W_dec, sae.W_dec)
    again.save_inference_model(tmp_path / "of_loaded")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "of_loaded").W_enc, inference.W_enc)
    assert len(list(sae.parameters())) == len(list(again.parameters()))


@pytest.mark.parametrize("sparsely", [True, False])
@pytest.mark.parametrize("case", ["bilinear_rank1_topk", "bilinear_tied_rank1_topk"])
def test_aux_k_and_a_tied_encoder_have_the_losses_and_gradients_of_the_authors_code(case, sparsely):
    weights = load_file(FIXTURES / case / "weights.safetensors")
    reference = load_file(FIXTURES / case / "reference.safetensors")
    names = {"decoder_weights.left": "V_dec", "decoder_weights.right": "W_dec"}
    if "tied" not in case:
        names |= {"encoder_weights.left": "V_enc", "encoder_weights.right": "W_enc"}
    names |= {"b_enc": "b_enc", "b_dec": "bias"}
    sae = training(
        encoder="tied" if "tied" in case else "bilinear",
        aux_k="write_sae",
        k_aux=6,
        normalize_hooks=False,
        score_by_decoder_norm=False,
        use_sparse_activations=sparsely,
    )
    parameters = dict(sae.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for mine, name in names.items():
            parameters[mine].copy_(weights[name].reshape(parameters[mine].shape))
    # Their count of steps is set back by this pass before it says who is dead.
    dead = (weights["steps_since_active"] >= 100) & ~(reference["codes"] > 0).any(dim=0)
    x = reference["input"].flatten(1)
    out = sae.training_forward_pass(TrainStepInput(x, {}, dead, 1, False))
    for loss, name in (("mse_loss", "mse"), ("auxiliary_reconstruction_loss", "aux_loss")):
        torch.testing.assert_close(out.losses[loss] / 30, reference[name][0], atol=1e-5, rtol=0)
    (out.loss / 30).backward()
    for mine, name in names.items():
        expected = reference[f"grad.{name}"].reshape(parameters[mine].shape)
        torch.testing.assert_close(parameters[mine].grad, expected, atol=1e-5, rtol=0)


def test_steps_move_both_sides_of_a_tied_dictionary():
    torch.manual_seed(0)
    sae = training(encoder="tied", revive_every=2, renormalise_every=3)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.01)
    dead = torch.zeros(24, dtype=torch.bool)
    dead[:3] = True
    for number in range(5):
        out = sae.training_forward_pass(TrainStepInput(torch.randn(8, 30), {}, dead, number, False))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(sae.W_enc.T, sae.W_dec)


def test_fields_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="encoder='tensor' "):
        training(encoder="tensor")
    with pytest.raises(InputError, match="d_k=4 rows do not divide"):
        training(d_k=4)
    with pytest.raises(InputError, match="encoder_weights='cp' is not a choice"):
        training(encoder_weights="cp", encoder_ranks=[2])
