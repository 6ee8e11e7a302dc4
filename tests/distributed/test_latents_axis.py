"""Steps of processes that share the latents, against one process that has all."""

import pytest
import torch
from sae_lens import TrainingSAEConfig

from sae_lens_poly.distributed.join import joined
from sae_lens_poly.distributed.shards import SharedLatents, check_can_shard
from sae_lens_poly.errors import InputError
from tests.distributed.processes import in_processes
from tests.distributed.test_data_axis import (
    CROSSCODERS,
    assert_equal,
    batches_of,
    make,
    make_trainer,
    of_one_process,
    result_of,
    some_for_four,
)

CASES = {name: fields for name, fields in CROSSCODERS.items() if name != "causal"}


def train_shards(mesh, cases):
    results = {}
    for name, fields in cases.items():
        trainer = make_trainer(make(fields), batches_of(mesh))
        shared = SharedLatents(trainer, mesh)
        shared.divide_()
        with joined(trainer, mesh):
            trainer.fit()
        held = {p.shape[0] for p in (trainer.sae.b_enc, trainer.act_freq_scores)}
        assert held == {trainer.sae.cfg.d_sae} == {24 // mesh.n_shards}
        shared.unite_()
        results[name] = result_of(trainer)
    return results


def check(n_processes, n_shards, cases):
    of_processes = in_processes(n_processes, train_shards, cases, n_shards=n_shards)
    for name, fields in cases.items():
        for results in of_processes:
            assert_equal(results[name], of_one_process(fields), name)


QUICK = ["batchtopk, dense, interactions", "topk, cp, powers", "matryoshka"]


def test_two_shards_learn_what_one_process_does():
    check(2, 2, {name: CASES[name] for name in QUICK})


@pytest.mark.slow
@pytest.mark.parametrize(("n_processes", "n_shards"), [(2, 2), (4, 4), (4, 2)])
def test_shards_learn_what_one_process_does(n_processes, n_shards):
    check(n_processes, n_shards, some_for_four(n_processes, CASES))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": "poly_batchtopk"}, "is for crosscoders"),
        ({"architecture": "crosscoder", "d_sae": 25}, "does not divide d_sae=25"),
        ({"architecture": "crosscoder", "structure": "weakly_causal"}, "take 'acausal'"),
        (
            {"architecture": "crosscoder", "sparsifier": "jumprelu", "target_l0": 3}
            | {"jumprelu_sparsity_loss_mode": "quadratic"},
            "take 'step' or 'tanh'",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_reason(fields, said):
    fields = {"d_in": 24, "d_sae": 24, "k": 3, **fields}
    if fields["architecture"] == "crosscoder":
        fields["n_hooks"] = 3
    with pytest.raises(InputError, match=said):
        check_can_shard(TrainingSAEConfig.from_dict(fields), 2)


def gathered(mesh):
    trainer = make_trainer(make(CASES["batchtopk, dense, powers"]), batches_of(mesh))
    before = {name: tensor.clone() for name, tensor in trainer.sae.state_dict().items()}
    shared = SharedLatents(trainer, mesh)
    shared.divide_()
    shapes = {name: tuple(tensor.shape) for name, tensor in trainer.sae.state_dict().items()}
    with shared.united():
        inside = trainer.sae.state_dict()
        assert all(torch.equal(inside[name], tensor) for name, tensor in before.items())
    assert trainer.sae.cfg.d_sae == 12
    shared.unite_()
    after = trainer.sae.state_dict()
    return shapes, all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_shards_hold_their_latents_and_no_others():
    for shapes, same in in_processes(2, gathered, n_shards=2):
        assert same
        assert shapes["encoder_weights.W"] == (12, 24)
        assert shapes["polynomial.A.2"] == (12, 4)
        assert shapes["polynomial.code_scale"] == shapes["b_enc"] == (12,)
        assert shapes["polynomial.B.2"] == (4, 24)
