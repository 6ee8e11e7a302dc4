"""Steps of several processes with parts of a batch, against one process with all of it."""

import math
import os

import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_poly.distributed.join import joined
from sae_lens_poly.distributed.selection import highest_of_all, kth_largest
from sae_lens_poly.errors import InputError
from tests.architectures.dictionaries import activations
from tests.distributed.processes import in_processes

N_HOOKS, D_MODEL, D_SAE, BATCH, STEPS = 3, 8, 24, 16, 20

SPARSIFIERS = {
    "batchtopk": {"sparsifier": "batchtopk", "k": 3},
    "topk": {"sparsifier": "topk", "k": 3},
    "jumprelu": {"sparsifier": "jumprelu", "l0_coefficient": 0.1},
    "relu": {"sparsifier": "relu", "l1_coefficient": 0.1},
}
WEIGHTS = {
    "dense": {},
    "cp": {"encoder_weights": "cp", "decoder_weights": "cp"}
    | {"encoder_ranks": [5], "decoder_ranks": [5]},
    "tensor_ring": {"encoder_weights": "tensor_ring", "decoder_weights": "tensor_ring"}
    | {"encoder_ranks": [2, 3, 2], "decoder_ranks": [2, 3, 2]},
}
DECODERS = {
    "linear": {"architecture": "crosscoder"},
    "interactions": {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 3},
    "through the reconstruction": {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 3}
    | {"projection": "reconstruction"},
    "powers": {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 3, "decoder": "powers"},
}
OPTIONS = {
    "masking": {"mask_p": 0.3},
    "masking of one": {"mask_p": 0.5, "mask_mode": "one"},
    "geometric median": {"b_dec_init": "geometric_median"},
    "annealed": {"k_start": 8, "k_anneal_steps": 10},
    "dense steps": {"use_sparse_activations": False},
    "matryoshka": {"matryoshka_widths": [6, 14]},
    "causal": {"structure": "weakly_causal"},
    "cosine": {"encoder_score": "cosine"},
    "cosine of each latent": {"encoder_score": "cosine_per_latent"},
    "read by the cosine": {"encoder_score": "read_by_cosine"},
    "dense encoder, cp decoder": {"decoder_weights": "cp", "decoder_ranks": [5]},
    "cp encoder, tensor ring decoder": WEIGHTS["cp"]
    | {"decoder_weights": "tensor_ring", "decoder_ranks": [2, 3, 2]}
    | {"encoder_init": "independent"},
    "matrices": {"architecture": "write_sae", "d_k": 4},
    "matrices, tied encoder": {"architecture": "write_sae", "d_k": 4, "encoder": "tied"}
    | {"renormalise_every": 3},
    "no self-terms": {"architecture": "poly_crosscoder", "rank_2": 4, "self_terms": False},
}
POLYNOMIAL_SAES = {
    "poly_standard": {"l1_coefficient": 0.1},
    "poly_gated": {"l1_coefficient": 0.1},
    "poly_jumprelu": {"l0_coefficient": 0.1},
    "poly_topk": {"k": 3},
    "poly_batchtopk": {"k": 3},
    "poly_matryoshka_batchtopk": {"k": 3, "matryoshka_widths": [6, 14]},
    "polysae_topk": {"k": 3},
    "polysae_batchtopk": {"k": 3},
    "polysae_matryoshka_batchtopk": {"k": 3, "matryoshka_widths": [6, 14]},
    "standard": {"l1_coefficient": 0.1},
    "gated": {"l1_coefficient": 0.1},
    "jumprelu": {"l0_coefficient": 0.1},
    "topk": {"k": 3, "use_sparse_activations": False},
}

PRODUCT = {
    f"{sparsifier}, {weights}, {decoder}": SPARSIFIERS[sparsifier]
    | WEIGHTS[weights]
    | DECODERS[decoder]
    for sparsifier in SPARSIFIERS
    for weights in WEIGHTS
    for decoder in DECODERS
}
CROSSCODERS = PRODUCT | {
    name: {"architecture": "crosscoder", "k": 3} | fields for name, fields in OPTIONS.items()
}
SAES = {
    f"{name}, {kind}": {"architecture": name} | fields | more
    for name, fields in POLYNOMIAL_SAES.items()
    for kind, more in (
        ("sparse", {}),
        *([("dense", {"use_sparse_activations": False})] if "topk" in name else []),
    )
}


def make(fields):
    if fields["architecture"] in ("crosscoder", "poly_crosscoder", "write_sae"):
        fields = {"n_hooks": N_HOOKS, "aux_loss_coefficient": 1.0, "k_aux": 4, **fields}
    elif fields["architecture"].startswith("poly"):
        fields = {"rank_2": 4, "rank_3": 3, **fields}
    fields = {"d_in": N_HOOKS * D_MODEL, "d_sae": D_SAE, "dtype": "float64", **fields}
    torch.manual_seed(0)
    sae = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    return sae.double()  # running estimates and thresholds as well, which would else be float32


def make_trainer(sae, batches):
    cfg = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        device="cpu",
        autocast=False,
        lr=1e-2,
        lr_end=1e-3,
        lr_scheduler_name="constant",
        lr_warm_up_steps=2,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=5,
        n_restart_cycles=1,
        train_batch_size_samples=BATCH,
        dead_feature_window=3,
        feature_sampling_window=8,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
    return SAETrainer(cfg, sae, batches)


def result_of(trainer):
    """All that has to be equal."""
    moments = {
        f"moments of parameter {number}": moment["exp_avg_sq"]
        for number, moment in trainer.optimizer.state_dict()["state"].items()
    }
    counts = {
        "active": trainer.act_freq_scores,
        "since": trainer.n_forward_passes_since_fired,
        "samples": torch.tensor([trainer.n_training_samples, trainer.n_frac_active_samples]),
    }
    return {**trainer.sae.state_dict(), **moments, **counts}


def batches_of(mesh=None):
    x = activations(STEPS * BATCH, dtype=torch.float64)
    for batch in x.split(BATCH):
        yield batch if mesh is None else mesh.own_rows(batch)


def train_parts(mesh, cases):
    results = {}
    for name, fields in cases.items():
        trainer = make_trainer(make(fields), batches_of(mesh))
        with joined(trainer, mesh):
            trainer.fit()
        results[name] = result_of(trainer)
    return results


def assert_equal(found, wanted, case):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if not tensor.is_floating_point():
            assert torch.equal(found[name], tensor), (case, name)
            continue
        error = (found[name] - tensor).norm() / tensor.norm().clamp_min(1e-30)
        assert error <= 1e-10, (case, name, float(error))


_OF_ONE = {}


def of_one_process(fields):
    """The result of one process, which every number of processes is compared with."""
    key = repr(sorted(fields.items()))
    if key not in _OF_ONE:
        alone = make_trainer(make(fields), batches_of())
        alone.fit()
        _OF_ONE[key] = result_of(alone)
    return _OF_ONE[key]


def check(n_processes, cases):
    of_processes = in_processes(n_processes, train_parts, cases)
    for name, fields in cases.items():
        for results in of_processes:
            assert_equal(results[name], of_one_process(fields), name)


def some_for_four(n_processes, cases):
    """Every fifth case where there are four processes, which are slow on two cores.

    5 divides none of the sides of the product, so that each part is in it. Two processes take all,
    and four do where EVERY_CASE is set.
    """
    step = 5 if n_processes == 4 and "EVERY_CASE" not in os.environ else 1
    return dict(list(cases.items())[::step])


QUICK = ["batchtopk, dense, interactions", "relu, cp, powers", "masking", "geometric median"]


def test_two_processes_learn_what_one_does():
    check(2, {name: CROSSCODERS[name] for name in QUICK} | {"sae": SAES["poly_batchtopk, sparse"]})


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 4])
@pytest.mark.parametrize("cases", [CROSSCODERS, SAES], ids=["crosscoders", "SAEs"])
def test_several_processes_learn_what_one_does(n_processes, cases):
    check(n_processes, some_for_four(n_processes, cases) if cases is CROSSCODERS else cases)


def test_latents_die_and_are_revived_in_these_runs():
    # else AuxK would not have been compared
    trainer = make_trainer(make(CROSSCODERS["batchtopk, dense, interactions"]), batches_of())
    died = []
    step = trainer.sae.training_forward_pass

    def watched(step_input):
        died.append(int(step_input.dead_neuron_mask.sum()))
        return step(step_input=step_input)

    trainer.sae.training_forward_pass = watched
    trainer.fit()
    assert max(died) > 0


def selected(mesh, scores, n_kept):
    own = mesh.own_rows(scores)
    rows, columns = highest_of_all(own, n_kept, mesh)
    kept = torch.zeros_like(own, dtype=torch.bool)
    kept[rows, columns] = True
    positive = own[own > 0]
    return mesh.gather_rows(kept.to(torch.uint8)).bool(), kth_largest(positive, n_kept, mesh)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_highest_scores_of_two_processes(dtype):
    # the first process has nearly all of them
    scores = torch.randn(8, 50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    scores[4:] *= 0.1
    for kept, (cut, n_above) in in_processes(2, selected, scores, 60):
        best = scores.flatten().topk(60)
        wanted = torch.zeros(400, dtype=torch.bool)
        wanted[best.indices] = True
        assert torch.equal(kept.flatten(), wanted)
        assert cut == best.values[-1]
        assert n_above == 59


def test_of_equal_scores_no_more_than_asked_for_are_kept():
    for kept, (cut, n_above) in in_processes(2, selected, torch.ones(4, 5), 7):
        assert kept.sum() == 7
        assert (cut, n_above) == (1, 0)


def test_where_fewer_are_positive_all_of_them_are_kept():
    scores = -torch.ones(4, 5)
    scores[3, 2] = math.pi
    for kept, _ in in_processes(2, selected_alone, scores):
        assert kept.nonzero().tolist() == [[3, 2]]


def selected_alone(mesh, scores):
    own = mesh.own_rows(scores)
    kept = torch.zeros_like(own, dtype=torch.uint8)
    kept[highest_of_all(own, 7, mesh)] = 1
    return mesh.gather_rows(kept), None


def refused(mesh):
    sae = make({"architecture": "batchtopk", "k": 3})
    with (
        pytest.raises(InputError, match="take 'poly_batchtopk'"),
        joined(make_trainer(sae, iter(())), mesh),
    ):
        pass


def test_sae_lens_batchtopk_is_refused():
    in_processes(2, refused)
