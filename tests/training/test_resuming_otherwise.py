"""What a run that is resumed may change, and what is refused by name."""

import json

import pytest
import torch

from sae_lens_poly import InputError, TrainingPolyCrosscoderConfig, TrainingRunner
from sae_lens_poly.training.checkpoints import FREE, check_checkpoint
from tests.training.tiny_runs import HOOKS, numbered_rows, tiny_config, tiny_stack


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with a text in a file, and its checkpoint half-way."""
    folder = tmp_path_factory.mktemp("begun")
    numbered_rows().to_json(folder / "text.jsonl")
    numbered_rows(600, 13).to_json(folder / "other.jsonl")
    cfg = tiny_config(folder, dataset_path=str(folder / "text.jsonl"), n_checkpoints=1)
    TrainingRunner(cfg, override_model=tiny_stack()).run()
    return folder, next(path.parent for path in folder.glob("checkpoints/*/*/trainer_state.pt"))


def resumed(begun, tmp_path, hooks=HOOKS, **changes):
    folder, checkpoint = begun
    settings = {"dataset_path": str(folder / "text.jsonl"), "hook_name": hooks, **changes}
    cfg = tiny_config(tmp_path, resume_from_checkpoint=str(checkpoint), **settings)
    return TrainingRunner(cfg, override_model=tiny_stack(hooks))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "another"},
        {"seed": 7},
        {"context_size": 18},
        {"prepend_bos": False},
        {"train_batch_size_tokens": 32},
        {"store_batch_size_prompts": 2},
        {"lr": 2e-3},
        {"lr_warm_up_steps": 3},
        {"lr_decay_steps": 5},
        {"lr_scheduler_name": "cosineannealing"},
        {"adam_beta1": 0.8},
        {"dtype": "bfloat16"},
        {"autocast": True},
        {"autocast_lm": True},
        {"exclude_special_tokens": [3]},
        {"seqpos_slice": (1, None)},
        {"sequence_separator_token": None},
        {"disable_concat_sequences": True},
        {"activations_mixing_fraction": 0.2},
        {"dead_feature_window": 10},
        {"model_from_pretrained_kwargs": {"revision": "v2"}},
    ],
)
def test_what_changes_what_is_learned_is_refused_by_name(begun, tmp_path, changes):
    (name,) = changes
    with pytest.raises(InputError, match=rf"was written with {name}=.*this run has {name}="):
        resumed(begun, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hooks", ["model.layers.{2,1}", "model.layers.{0,1}"])
def test_other_hook_points_and_the_same_in_another_order(begun, tmp_path, hooks):
    with pytest.raises(InputError, match="was written with hook_name="):
        resumed(begun, tmp_path, hooks)


def test_another_way_to_write_the_same_hook_points(begun, tmp_path):
    resumed(begun, tmp_path, "model.layers.1,model.layers.2")


def test_another_text(begun, tmp_path):
    with pytest.raises(InputError, match=r"other\.jsonl.*resume on the same text"):
        resumed(begun, tmp_path, dataset_path=str(begun[0] / "other.jsonl"))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((begun[0] / "text.jsonl").read_bytes())
    resumed(begun, tmp_path, dataset_path=str(copy))


def test_a_model_in_another_dtype(begun, tmp_path):
    folder, checkpoint = begun
    cfg = tiny_config(
        tmp_path,
        dataset_path=str(folder / "text.jsonl"),
        resume_from_checkpoint=str(checkpoint),
    )
    with pytest.raises(InputError, match="was written with model_dtype='float32'"):
        TrainingRunner(cfg, override_model=tiny_stack().bfloat16())


def test_another_dictionary(begun, tmp_path):
    sae = TrainingPolyCrosscoderConfig(d_in=64, d_sae=32, n_hooks=2, k=5, rank_2=4, rank_3=4)
    with pytest.raises(InputError, match="was written with k=4, and this run has k=5"):
        resumed(begun, tmp_path, sae=sae)


def test_what_may_change(begun, tmp_path):
    changes = {
        "n_checkpoints": 3,
        "save_final_checkpoint": True,
        "prefetch_llm_batches": 2,
        "feature_sampling_window": 500,
        "n_eval_batches": 3,
    }
    assert set(changes) <= FREE
    resumed(begun, tmp_path, **changes).run()
    assert (tmp_path / "output" / "cfg.json").is_file()


def test_without_the_config_of_its_run(begun, tmp_path):
    for path in begun[1].iterdir():
        if path.name not in ("runner_cfg.json", "manifest.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    cfg = tiny_config(tmp_path, dataset_path=str(begun[0] / "text.jsonl"))
    with pytest.raises(InputError, match=r"no runner_cfg\.json"):
        check_checkpoint(tmp_path, cfg)


def test_a_checkpoint_of_before_terms_had_a_rate(begun, tmp_path):
    """Its terms learned at that of all else, whatever is the default today."""
    for path in begun[1].iterdir():
        if path.name not in ("cfg.json", "manifest.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    saved = json.loads((begun[1] / "cfg.json").read_text())
    del saved["terms_lr_scale"]
    (tmp_path / "cfg.json").write_text(json.dumps(saved))
    cfg = tiny_config(tmp_path, dataset_path=str(begun[0] / "text.jsonl"))
    cfg.sae.terms_lr_scale = 16.0
    with pytest.raises(InputError, match=r"terms_lr_scale=1\.0, and this run has .*=16\.0"):
        check_checkpoint(tmp_path, cfg)
    cfg.sae.terms_lr_scale = 1.0
    check_checkpoint(tmp_path, cfg)


class Rates(TrainingRunner):
    """Notes the learning rate of each step."""

    def run_trainer_with_interruption_handling(self, trainer):
        self.rates, step = [], trainer.step

        def noting(batch):
            self.rates.append(trainer.optimizer.param_groups[0]["lr"])
            return step(batch)

        trainer.step = noting
        return super().run_trainer_with_interruption_handling(trainer)


@pytest.mark.parametrize("scheduler", ["constant", "cosineannealing"])
def test_for_longer_the_schedule_is_that_of_the_longer_run(tmp_path, scheduler):
    rows = numbered_rows(1200)
    short = {"lr_scheduler_name": scheduler, "save_final_checkpoint": True}
    long = {"lr_scheduler_name": scheduler, "training_tokens": 4096, "lr_decay_steps": 8}
    long |= {"dead_feature_window": 100, "n_batches_in_buffer": 16}
    TrainingRunner(tiny_config(tmp_path / "short", **short), rows, tiny_stack()).run()
    whole = Rates(tiny_config(tmp_path / "whole", **long), rows, tiny_stack())
    whole.run()
    checkpoint = next((tmp_path / "short").glob("checkpoints/*/final_*"))
    cfg = tiny_config(
        tmp_path / "more",
        **{**long, "lr_warm_up_steps": 4},  # which is over: that of the checkpoint holds
        resume_from_checkpoint=str(checkpoint),
    )
    more = Rates(cfg, rows, tiny_stack())
    more.run()
    assert len(whole.rates) == 64
    assert more.rates == pytest.approx(whole.rates[32:], rel=1e-5)
    assert more.rates[-1] < more.rates[0]


def test_for_fewer_tokens(begun, tmp_path):
    with pytest.raises(InputError, match="training_tokens=1024 is less than the 2048"):
        resumed(begun, tmp_path, training_tokens=1024)


def test_resumed_as_it_was_it_goes_on_as_it_was(begun, tmp_path):
    runner = Rates.__new__(Rates)
    folder, checkpoint = begun
    cfg = tiny_config(
        tmp_path,
        dataset_path=str(folder / "text.jsonl"),
        resume_from_checkpoint=str(checkpoint),
    )
    runner.__init__(cfg, override_model=tiny_stack())
    runner.run()
    state = torch.load(checkpoint / "trainer_state.pt")
    assert runner.rates[0] == state["optimizer"]["param_groups"][0]["lr"]
    assert len(runner.rates) == 32 - state["n_training_steps"]
