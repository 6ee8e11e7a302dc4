"""A run that diverges ends at its first loss that is not finite, and overwrites nothing."""

import dataclasses

import pytest
import torch

from sae_lens_poly import InputError, PolyTopKTrainingSAEConfig, TrainingRunner
from sae_lens_poly.training.checkpoints import check_checkpoint
from sae_lens_poly.training.finite_loss import DivergedRun, LossWatch
from tests.training.tiny_runs import numbered_rows, tiny_config, tiny_stack

ROWS = numbered_rows()


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("changes", [{"lr": 1e30}, {"lr": 1e12, "lr_warm_up_steps": 0}])
def test_a_rate_that_is_too_large(tmp_path, changes):
    TrainingRunner(tiny_config(tmp_path), ROWS, tiny_stack()).run()
    before = files(tmp_path / "output")
    cfg = tiny_config(tmp_path, n_checkpoints=15, **changes)
    with pytest.raises(DivergedRun, match=r"not finite at step \d+.*: lower lr="):
        TrainingRunner(cfg, ROWS, tiny_stack()).run()
    assert files(tmp_path / "output") == before
    for state in tmp_path.glob("checkpoints/*/*/trainer_state.pt"):
        saved = torch.load(state)
        moments = saved["optimizer"]["state"].values()
        assert all(m["exp_avg"].isfinite().all() for m in moments)
        again = tiny_config(tmp_path, n_checkpoints=15, **changes)
        check_checkpoint(state.parent, again)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 17, 31])
def test_the_step_is_named_before_its_weights_change(tmp_path, bad, at):
    class Spoilt(TrainingRunner):
        def run_trainer_with_interruption_handling(self, trainer):
            sae, self.trainer = self.sae, trainer
            forward = sae.training_forward_pass

            def spoilt(step_input):
                output = forward(step_input=step_input)
                if step_input.n_training_steps == at:
                    self.before = [p.clone() for p in sae.parameters()]
                    output = dataclasses.replace(output, loss=output.loss * bad)
                return output

            sae.training_forward_pass = spoilt
            return super().run_trainer_with_interruption_handling(trainer)

    runner = Spoilt(tiny_config(tmp_path), ROWS, tiny_stack())
    with pytest.raises(DivergedRun, match=f"not finite at step {at}:"):
        runner.run()
    for old, new in zip(runner.before, runner.sae.parameters(), strict=True):
        assert torch.equal(old, new)
    assert not (tmp_path / "output").exists()
    assert not list(tmp_path.glob("checkpoints/*/*"))


def test_a_polynomial_sae_too(tmp_path):
    sae = PolyTopKTrainingSAEConfig(d_in=32, d_sae=32, k=4, rank_2=4, rank_3=4)
    cfg = tiny_config(tmp_path, sae=sae, hook_name="model.layers.1", lr=1e30)
    with pytest.raises(DivergedRun, match="not finite at step"):
        TrainingRunner(cfg, ROWS, tiny_stack("model.layers.1")).run()


class Trainer:
    def __init__(self):
        self.n_training_steps, self.n_training_samples = 3, 0
        self.sae = torch.nn.Linear(2, 2)
        self.sae.cfg = self.cfg = type("cfg", (), {"lr": 1, "lr_warm_up_steps": 0, "dtype": ""})


def test_weights_that_are_not_finite_are_not_saved():
    trainer = Trainer()
    LossWatch(trainer).check_weights()
    with torch.no_grad():
        trainer.sae.bias[1] = float("nan")
    with pytest.raises(DivergedRun, match="bias has NaN or infinity after step 3"):
        LossWatch(trainer).check_weights()


def test_a_hook_point_without_activations(tmp_path):
    stack = tiny_stack()
    silence = {"model.layers.2": lambda module, inputs, output: torch.zeros_like(output)}
    stack.model.named_modules_dict["model.layers.2"].register_forward_hook(
        silence["model.layers.2"], prepend=True
    )
    with pytest.raises(InputError, match=r"activations at model\.layers\.2 are all but zero"):
        TrainingRunner(tiny_config(tmp_path), ROWS, stack).run()
