"""Starts, annealing, ranks, structures: what the fields of a crosscoder's config do and refuse."""

import pytest
import torch
from sae_lens import SAE, TrainingSAE

from sae_lens_poly import InputError, TrainingCrosscoderConfig, describe_weights, export_checkpoint
from sae_lens_poly.architectures.crosscoders.hook_structure import make_structure
from sae_lens_poly.architectures.kernels.geometric_median import geometric_median
from sae_lens_poly.architectures.weights.factored import rank_limits
from tests.architectures.dictionaries import (
    D_MODEL,
    D_SAE,
    N_HOOKS,
    K,
    activations,
    step_input,
    train,
    training_dictionary,
)

CP = {
    "encoder_weights": "cp",
    "decoder_weights": "cp",
    "encoder_ranks": [6],
    "decoder_ranks": [6],
}
RING = {
    "encoder_weights": "tensor_ring",
    "decoder_weights": "tensor_ring",
    "encoder_ranks": [2, 3, 2],
    "decoder_ranks": [2, 3, 2],
}


@pytest.mark.parametrize("weights", [{}, CP, RING])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("over", ["stack", "hook"])
@torch.no_grad()
def test_starts(weights, same, over):
    torch.manual_seed(0)
    sae = training_dictionary(
        "linear", **weights, same_hook_init=same, decoder_init_norm=0.3, init_norm_over=over
    )
    torch.testing.assert_close(sae.W_enc, sae.W_dec.T)
    norms = sae.decoder_norms()
    stack = 0.3 if over == "stack" else 0.3 * N_HOOKS**0.5
    torch.testing.assert_close(norms.norm(dim=1), torch.full((D_SAE,), stack))
    if over == "hook" and (not weights or same):
        torch.testing.assert_close(norms, torch.full((D_SAE, N_HOOKS), 0.3))
    directions = torch.nn.functional.normalize(sae.W_dec_per_hook, dim=-1)
    alike = (directions[:, :1] * directions).sum(-1)[:, 1:]
    if same:
        torch.testing.assert_close(alike, torch.ones_like(alike))
    else:
        assert alike.abs().mean() < 0.9
    independent = training_dictionary("linear", **weights, encoder_init="independent")
    assert (independent.W_enc - independent.W_dec.T).abs().max() > 0.01


@pytest.mark.parametrize(("encoder", "decoder"), [("cp", "dense"), ("dense", "cp")])
@torch.no_grad()
def test_a_dense_half_starts_as_the_factored_one(encoder, decoder):
    ranks = {"cp": [6], "dense": []}
    sae = training_dictionary(
        "linear",
        encoder_weights=encoder,
        decoder_weights=decoder,
        encoder_ranks=ranks[encoder],
        decoder_ranks=ranks[decoder],
    )
    torch.testing.assert_close(sae.W_enc, sae.W_dec.T)


@torch.no_grad()
def test_a_transcoder_starts_with_norms_at_what_it_reads_and_writes():
    sae = training_dictionary("linear", structure="free", reads="0", writes="1,2")
    assert sae.written_hooks == (1, 2)
    want = torch.full((D_SAE,), sae.cfg.decoder_init_norm)
    torch.testing.assert_close(sae.W_enc_per_hook[0].norm(dim=0), want)
    torch.testing.assert_close(sae.W_dec_per_hook[:, 1:].flatten(1).norm(dim=1), want)
    assert sae.W_enc_per_hook[1:].abs().max() == sae.W_dec_per_hook[:, 0].abs().max() == 0


def test_a_structure_stores_its_blocks_and_no_more():
    sae = training_dictionary("interactions", structure="weakly_causal")
    stored = [
        sum(p.numel() for p in w.parameters()) for w in (sae.encoder_weights, sae.decoder_weights)
    ]
    sizes = [len(range(D_SAE)[group.latents]) for group in sae.structure.groups]
    assert stored[0] == D_SAE * D_MODEL
    assert stored[1] == sum(n * (N_HOOKS - hook) * D_MODEL for hook, n in enumerate(sizes))
    train(sae)
    for hook, group in enumerate(sae.structure.groups):
        assert (
            sae.W_enc_per_hook[:, :, group.latents].abs().sum(dim=(1, 2)).nonzero().item() == hook
        )
        assert (sae.W_dec_per_hook[group.latents].abs().sum(dim=(0, 2)) != 0).tolist() == [
            other >= hook for other in range(N_HOOKS)
        ]


def test_k_is_annealed_and_goes_on_after_a_resume(tmp_path):
    sae = training_dictionary("linear", k_start=20, k_anneal_steps=8)
    x = activations(64)
    active = []
    for step in range(12):
        output = sae.training_forward_pass(step_input(x, step))
        active.append(output.feature_acts.bool().sum().item() / 64)
    expected = [20 + (K - 20) * min(step / 8, 1) for step in range(12)]
    assert active == pytest.approx(expected, abs=1 / 64)
    sae.save_model(tmp_path)
    again = TrainingSAE.load_from_disk(tmp_path)
    output = again.training_forward_pass(step_input(x, 3))
    assert output.feature_acts.bool().sum().item() / 64 == pytest.approx(expected[3], abs=1 / 64)


@pytest.mark.parametrize("b_dec_init", ["mean", "geometric_median", "zeros"])
@torch.no_grad()
def test_b_dec_starts_where_it_should(b_dec_init):
    sae = training_dictionary("linear", b_dec_init=b_dec_init)
    x = activations(200)
    sae.initialise_from_batch_(x)
    normal = sae.per_hook(sae.hook_scales.normalise(x))
    want = {
        "mean": normal.mean(0),
        "geometric_median": torch.stack([geometric_median(normal[:, i]) for i in range(N_HOOKS)]),
        "zeros": torch.zeros(N_HOOKS, D_MODEL),
    }[b_dec_init]
    torch.testing.assert_close(sae.per_hook(sae.b_dec), want.float(), rtol=1e-4, atol=1e-5)


def test_geometric_median_has_the_least_sum_of_distances():
    x = torch.randn(300, 4, dtype=torch.double)
    x[:20] += 1000
    median = geometric_median(x)
    assert (median - x[20:].mean(0)).norm() < 0.5 < (x.mean(0) - x[20:].mean(0)).norm()
    least = (x - median).norm(dim=1).sum()
    for _ in range(20):
        moved = median + 0.05 * torch.randn(4, dtype=torch.double)
        assert (x - moved).norm(dim=1).sum() > least


@pytest.mark.parametrize(
    ("form", "ranks"), [("cp", [5]), ("tensor_ring", [2, 3, 2]), ("tensor_ring", [1, 7, 2])]
)
@torch.no_grad()
def test_rank_limits_are_the_ranks_of_random_weights(form, ranks):
    weights = {f"{p}_weights": form for p in ("encoder", "decoder")}
    weights |= {f"{p}_ranks": ranks for p in ("encoder", "decoder")}
    sae = training_dictionary("linear", dtype="float64", **weights)
    limits = rank_limits(form, ranks, N_HOOKS, D_MODEL, D_SAE)
    W = sae.W_dec_per_hook  # (F, L, d)
    rank = torch.linalg.matrix_rank
    assert limits["matrix"] == limits["latent"] == rank(W.flatten(1))
    assert limits["activation"] == rank(W.flatten(0, 1))
    assert limits["hook"] == rank(W.transpose(0, 1).flatten(1))
    assert limits["hook point"] == rank(W[:, 0])


@torch.no_grad()
def test_groups_of_latents_raise_what_the_rank_can_be():
    sae = training_dictionary("linear", dtype="float64", structure="weakly_causal", **CP)
    limits = rank_limits("cp", [6], N_HOOKS, D_MODEL, D_SAE, n_groups=N_HOOKS)
    W = sae.W_dec_per_hook
    assert limits["matrix"] == 18 == torch.linalg.matrix_rank(W.flatten(1))
    assert limits["hook point"] == 6 == torch.linalg.matrix_rank(W[:, -1])
    assert limits["hook"] == torch.linalg.matrix_rank(W.transpose(0, 1).flatten(1))
    assert "first 18 principal" in describe_weights(sae.cfg)


@pytest.mark.parametrize("sparsifier", ["topk", "batchtopk"])
@torch.no_grad()
def test_one_vector_is_encoded_as_a_batch_of_one(sparsifier):
    sae = train_with_grad(sparsifier)
    x = activations(4)
    torch.testing.assert_close(sae.encode(x[0]), sae.encode(x)[0])
    torch.testing.assert_close(sae.encode(x.view(2, 2, -1)), sae.encode(x).view(2, 2, -1))


def train_with_grad(sparsifier):
    with torch.enable_grad():
        return train(training_dictionary("linear", sparsifier=sparsifier)).to_inference()


def test_the_description_has_the_published_sizes():
    weights = {f"{p}_weights": "tensor_ring" for p in ("encoder", "decoder")}
    weights |= {f"{p}_ranks": [4, 192, 4] for p in ("encoder", "decoder")}
    cfg = TrainingCrosscoderConfig(d_in=8 * 768, n_hooks=8, d_sae=16384, **weights)
    text = describe_weights(cfg)
    assert "13,172,864 parameters (13.1% of dense)" in text
    assert "rank at most 768 of 6144" in text
    assert "768 principal components" in text


def test_structures():
    def sets(*args):
        return make_structure(*args, 3, 12).sets()

    everything = (0, 1, 2)
    assert sets("acausal", None, None) == [(everything, everything)]
    weak = [((0,), (0, 1, 2)), ((1,), (1, 2)), ((2,), (2,))]
    assert sets("weakly_causal", None, None) == weak
    assert sets("strictly_causal", None, None) == [((0,), (1, 2)), ((1,), (2,))]
    assert sets("free", "0; 0..1", "2") == [((0,), (2,)), ((0, 1), (2,))]
    assert sets("free", None, "all;1") == [(everything, everything), (everything, (1,))]
    structure = make_structure("weakly_causal", None, None, 3, 13)
    assert [group.stop - group.start for group in structure.groups] == [4, 4, 5]
    assert structure.written == everything


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sparsifier": "top"}, "sparsifier='top'"),
        ({"sparsifier": "topk", "k": 2.5}, "k=2.5"),
        ({"k": 0}, "k=0"),
        ({"k_start": 10}, "k_anneal_steps"),
        ({"sparsifier": "relu", "k_start": 10, "k_anneal_steps": 5}, "k_start=10"),
        ({"sparsifier": "jumprelu", "jumprelu_sparsity_loss_mode": "quadratic"}, "target_l0"),
        ({"matryoshka_widths": [8, 4]}, r"matryoshka_widths=\[8, 4\]"),
        ({"matryoshka_widths": [8], "structure": "weakly_causal"}, "structure='weakly_causal'"),
        ({"structure": "causal"}, "structure='causal'"),
        ({"reads": "0"}, "structure='free'"),
        ({"structure": "free"}, "reads=None"),
        ({"k": float("nan")}, "k=nan"),
        ({"k": float("inf")}, "k=inf"),
        ({"aux_loss_coefficient": float("nan")}, "aux_loss_coefficient=nan"),
        ({"l1_coefficient": float("nan")}, "l1_coefficient=nan"),
        ({"decoder_init_norm": float("inf")}, "decoder_init_norm=inf"),
        ({"dtype": "float16"}, "float16"),
        ({"encoder_score": "cosin"}, "encoder_score='cosin'"),
        ({"structure": "free", "reads": "0..3"}, "reads='0..3'"),
        ({"structure": "free", "reads": "x"}, "reads='x'"),
        ({"structure": "free", "reads": "0;1", "writes": "0;1;2"}, "2 sets"),
        ({"structure": "strictly_causal", "n_hooks": 1}, "n_hooks=1"),
        ({"encoder_weights": "cp"}, r"encoder_ranks=\[\]"),
        ({"encoder_weights": "tucker", "encoder_ranks": [3]}, "encoder_weights='tucker'"),
        ({"encoder_ranks": [3]}, r"encoder_ranks=\[3\]"),
        ({**CP, "decoder_ranks": [6, 6]}, r"decoder_ranks=\[6, 6\]"),
        ({**RING, "decoder_ranks": [2, 0, 2]}, r"decoder_ranks=\[2, 0, 2\]"),
        ({**CP, "decoder_ranks": [100]}, "rank above"),
        ({**RING, "decoder_ranks": [10, 6, 4]}, "dense tensor has"),
        ({**CP, "decoder_ranks": [5]}, "encoder_init='transposed'"),
        ({"sparsifier": "jumprelu", "target_l0": 100}, "target_l0=100"),
        ({"k_aux": 0}, "k_aux=0"),
        ({"decoder_init_norm": 0.0}, "decoder_init_norm=0.0"),
        ({"sparsifier": "jumprelu", "jumprelu_bandwidth": 0.0}, "jumprelu_bandwidth=0.0"),
        ({"topk_threshold_lr": 5.0}, "topk_threshold_lr=5.0"),
        ({"aux_loss_coefficient": -1.0}, "aux_loss_coefficient=-1.0"),
        ({"b_dec_init": "median"}, "b_dec_init='median'"),
        ({"init_norm_over": "layer"}, "init_norm_over='layer'"),
        ({"encoder_init": "random"}, "encoder_init='random'"),
        ({"sparsity_penalty": "l1"}, "sparsity_penalty='l1'"),
    ],
)
def test_what_cannot_work_is_refused(fields, named):
    with pytest.raises(InputError, match=named):
        training_dictionary("linear", **fields)


@pytest.mark.parametrize("dense", [None, True])
def test_a_checkpoint_is_exported_as_the_end_of_a_run_is(dense, tmp_path):
    sae = train(training_dictionary("interactions", **RING))
    sae.save_model(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "exported", dense=dense)
    loaded = SAE.load_from_disk(tmp_path / "exported")
    assert (loaded.cfg.decoder_weights == "dense") == bool(dense)
    x = activations(50)
    torch.testing.assert_close(loaded(x), sae.to_inference()(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"cfg\.json"):
        export_checkpoint(tmp_path, tmp_path / "other")
    with pytest.raises(InputError, match="output_path"):
        export_checkpoint(tmp_path / "exported", tmp_path / "other")


def test_folding_norms_in_training_is_refused():
    with pytest.raises(InputError, match="to_inference"):
        training_dictionary("linear").fold_W_dec_norm()
