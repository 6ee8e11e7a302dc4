"""Latents that are matrices of low rank, beside plain float64 and WriteSAE's own code."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file

from sae_lens_poly import TrainingCrosscoder, TrainingCrosscoderConfig
from sae_lens_poly.architectures.weights import MatrixAtoms
from sae_lens_poly.errors import InputError

FIXTURES = Path(__file__).parents[1] / "data" / "writesae"
D_K, D_V, D_SAE, K = 6, 5, 24, 4

#: Of WriteSAE's cases: what its code calls our weights, and what the config says.
CASES = {
    "bilinear_rank1_topk": (
        {
            "encoder_weights.left": "V_enc",
            "encoder_weights.right": "W_enc",
            "decoder_weights.left": "V_dec",
            "decoder_weights.right": "W_dec",
            "b_enc": "b_enc",
            "b_dec": "bias",
        },
        {"encoder_weights": "matrix", "decoder_weights": "matrix"},
    ),
    "matrix_dense_encoder_topk": (
        {
            "encoder_weights.W": "encoder.weight",
            "decoder_weights.left": "V",
            "decoder_weights.right": "W",
            "b_enc": "encoder.bias",
            "b_dec": "bias",
        },
        {"decoder_weights": "matrix"},
    ),
    "flat_topk": (
        {
            "encoder_weights.W": "encoder.weight",
            "decoder_weights.W": "decoder.weight",
            "b_enc": "encoder.bias",
            "b_dec": "decoder.bias",
        },
        {},
    ),
}


def as_ours(theirs, like):
    """A tensor of their code in the layout of ours; their flat decoder has latents as columns."""
    return theirs.T if theirs.shape == (D_K * D_V, D_SAE) else theirs.reshape(like.shape)


def config(**options):
    options = {"d_in": D_K * D_V, "d_sae": D_SAE, "k": K, "sparsifier": "topk"} | options
    for part in ("encoder", "decoder"):
        if options.get(f"{part}_weights") == "matrix":
            options.setdefault(f"{part}_ranks", [D_K, 1])
    return TrainingCrosscoderConfig(
        apply_b_dec_to_input=False, normalize_hooks=False, score_by_decoder_norm=False, **options
    )


@pytest.mark.parametrize("sparsely", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_codes_losses_and_gradients_are_those_of_the_authors_code(case, sparsely):
    names, options = CASES[case]
    theirs = load_file(FIXTURES / case / "weights.safetensors")
    reference = load_file(FIXTURES / case / "reference.safetensors")
    sae = TrainingCrosscoder(
        config(use_sparse_activations=sparsely, aux_loss_coefficient=0.0, **options)
    )
    parameters = dict(sae.named_parameters())
    with torch.no_grad():
        for mine, name in names.items():
            parameters[mine].copy_(as_ours(theirs[name], parameters[mine]))
    x = reference["input"].flatten(1)
    step = TrainStepInput(
        sae_in=x, coefficients={}, dead_neuron_mask=None, n_training_steps=1, is_logging_step=False
    )
    out = sae.training_forward_pass(step)
    codes = out.feature_acts
    codes = codes.to_dense() if codes.is_sparse else codes
    assert torch.equal(codes > 0, reference["codes"] > 0)
    torch.testing.assert_close(codes, reference["codes"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        out.sae_out, reference["reconstruction"].flatten(1), atol=1e-5, rtol=0
    )
    # They take the mean over the entries of a state, SAELens the sum.
    mse = out.losses["mse_loss"] / x.shape[1]
    torch.testing.assert_close(mse, reference["mse"][0], atol=1e-5, rtol=0)
    if reference["aux_loss"].item() == 0:
        mse.backward()
        for mine, name in names.items():
            expected = as_ours(reference[f"grad.{name}"], parameters[mine])
            torch.testing.assert_close(parameters[mine].grad, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [1, 2])
def test_it_reads_and_writes_like_the_sum_of_outer_products(rank):
    torch.manual_seed(0)
    n_hooks, n = 3, 7
    weights = MatrixAtoms(n_hooks, D_K * D_V, D_SAE, [D_K, rank], dtype=torch.float64)
    W = torch.einsum("ilrk,ilrv->ilkv", weights.left, weights.right).reshape(D_SAE, -1)
    x = torch.randn(n, n_hooks * D_K * D_V, dtype=torch.float64)
    S = x.view(n, n_hooks, D_K, D_V)
    bilinear = torch.einsum("ilrk,nlkv,ilrv->ni", weights.left, S, weights.right)
    torch.testing.assert_close(weights.read(x), bilinear)
    z = torch.rand(n, D_SAE, dtype=torch.float64)
    torch.testing.assert_close(weights.write(z), z @ W)
    torch.testing.assert_close(weights.write(z[:, 4:9], slice(4, 9)), z[:, 4:9] @ W[4:9])
    torch.testing.assert_close(weights.norms(), W.view(D_SAE, n_hooks, -1).norm(dim=-1))
    latents, hooks = torch.rand(D_SAE).double() + 0.5, torch.rand(n_hooks).double() + 0.5
    weights.scale_latents_(latents)
    weights.scale_hooks_(hooks)
    wide = hooks.repeat_interleave(D_K * D_V)
    torch.testing.assert_close(weights.dense(), latents[:, None] * W * wide)
    weights.balance_(0.5)
    torch.testing.assert_close(weights.stack_norms(), torch.full((D_SAE,), 0.5).double())
    torch.testing.assert_close(weights.left.norm(dim=-1), weights.right.norm(dim=-1))
    assert MatrixAtoms.count(n_hooks, D_K * D_V, D_SAE, [D_K, rank]) == sum(
        p.numel() for p in weights.parameters()
    )


def test_taking_dense_rows_keeps_what_the_rank_allows():
    torch.manual_seed(0)
    whole = MatrixAtoms(1, D_K * D_V, D_SAE, [D_K, 2])
    again = MatrixAtoms(1, D_K * D_V, D_SAE, [D_K, 2])
    again.take_dense_(whole.dense())
    torch.testing.assert_close(again.dense(), whole.dense())
    cut = MatrixAtoms(1, D_K * D_V, D_SAE, [D_K, 1])
    cut.take_dense_(whole.dense())
    error = (cut.dense() - whole.dense()).norm(dim=-1)
    second = torch.linalg.svdvals(whole.dense().view(-1, D_K, D_V).detach())[:, 1]
    torch.testing.assert_close(error, second)


@pytest.mark.parametrize("encoder", ["matrix", "dense"])
@pytest.mark.parametrize("sparsifier", ["topk", "batchtopk", "jumprelu", "relu"])
def test_every_sparsifier_exports_it_with_the_same_reconstruction(sparsifier, encoder, tmp_path):
    torch.manual_seed(0)
    sae = TrainingCrosscoder(
        config(sparsifier=sparsifier, encoder_weights=encoder, decoder_weights="matrix")
    )
    x = torch.randn(64, D_K * D_V)
    sae.save_inference_model(tmp_path)
    again = SAE.load_from_disk(tmp_path)
    assert isinstance(again.decoder_weights, MatrixAtoms)
    if sparsifier != "batchtopk":  # its threshold is learnt in training
        torch.testing.assert_close(again(x), sae(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.W_dec, sae.W_dec)
    torch.testing.assert_close(again.W_enc, sae.W_enc)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_ranks": [D_K]}, r"takes \[d_k, r\]"),
        ({"decoder_ranks": [4, 1]}, "d_k=4 rows do not divide d_model=30"),
        ({"decoder_ranks": [D_K, 6]}, "has the rank 6"),
        ({"n_hooks": 3, "decoder_ranks": [5, 1], "structure": "weakly_causal"}, "take 'acausal'"),
    ],
)
def test_ranks_that_cannot_work_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        config(decoder_weights="matrix", **options)
