"""A run that is interrupted and resumed is the run that was not."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.sae_trainer import SAETrainer
from safetensors import SafetensorError
from safetensors.torch import load_file

from sae_lens_poly import StackedHooks, StoppedRun, TrainingPolyCrosscoderConfig, TrainingRunner
from sae_lens_poly.embedded.corpus import stdlib_dataset
from tests.architectures.dictionaries import activations, training_dictionary

HOOKS = "blocks.{1,3}.hook_resid_post"


#: What is trained: a variant, and changes of its config.
RUNS = {
    "linear": ("linear", {}),
    "interactions": ("interactions", {}),
    "powers": ("powers", {}),
    "masked tensor ring, k annealed": (
        "interactions",
        {
            "encoder_weights": "tensor_ring",
            "decoder_weights": "tensor_ring",
            "encoder_ranks": [2, 3, 2],
            "decoder_ranks": [2, 3, 2],
            "mask_p": 0.3,
            "mask_seed": 5,
            "k_start": 12,
            "k_anneal_steps": 20,
        },
    ),
    "jumprelu, weakly causal": (
        "linear",
        {"sparsifier": "jumprelu", "structure": "weakly_causal", "l0_warm_up_steps": 20},
    ),
    "relu": ("powers", {"sparsifier": "relu", "l1_warm_up_steps": 20}),
    "topk matryoshka": ("linear", {"sparsifier": "topk", "matryoshka_widths": [16, 40]}),
}


class Interrupt(Exception):
    pass


def numbered_batches(first=0, stop_at=None):
    step = first
    while True:
        if step == stop_at:
            raise Interrupt
        yield activations(64, seed=step)
        step += 1


def trainer_for(run, folder, batches):
    torch.manual_seed(0)
    config = SAETrainerConfig(
        total_training_samples=30 * 64,
        train_batch_size_samples=64,
        lr=1e-2,
        lr_end=1e-2,
        lr_warm_up_steps=5,
        lr_decay_steps=10,
        dead_feature_window=2,
        checkpoint_path=str(folder),
    )
    variant, changes = RUNS[run]
    return SAETrainer(config, training_dictionary(variant, **changes), batches)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_resumed_equals_uninterrupted_weight_for_weight(run, tmp_path):
    whole = trainer_for(run, tmp_path, numbered_batches())
    whole.fit()

    stopped = trainer_for(run, tmp_path, numbered_batches(stop_at=15))
    with pytest.raises(Interrupt):
        stopped.fit()
    stopped.save_checkpoint("stopped")

    resumed = trainer_for(run, tmp_path, numbered_batches(first=15))
    resumed.load_trainer_state(tmp_path / "stopped")
    resumed.sae.load_weights_from_checkpoint(tmp_path / "stopped")
    assert resumed.n_training_steps == 15
    resumed.fit()

    weights = whole.sae.state_dict()
    assert weights.keys() == resumed.sae.state_dict().keys()
    for name, value in resumed.sae.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for a, b in zip(
        whole.optimizer.state_dict()["state"].values(),
        resumed.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(a[key], b[key]) for key in a)


def runner_config(folder, **changes):
    settings = {
        "sae": TrainingPolyCrosscoderConfig(
            d_in=256, d_sae=128, n_hooks=2, k=8, rank_2=8, rank_3=4
        ),
        "model_name": "stdlib-6l",
        "hook_name": HOOKS,
        "dataset_path": "stdlib",
        "context_size": 32,
        "training_tokens": 6000,
        "train_batch_size_tokens": 256,
        "store_batch_size_prompts": 8,
        "n_batches_in_buffer": 32,
        "lr": 1e-3,
        "lr_warm_up_steps": 4,
        "exclude_special_tokens": True,
        "n_checkpoints": 4,
        "checkpoint_path": str(folder / "checkpoints"),
        "output_path": str(folder / "output"),
        "logger": LoggingConfig(log_to_wandb=False),
        "verbose": False,
    }
    return LanguageModelSAERunnerConfig(**(settings | changes))


class SignalsItself(StackedHooks):
    """Sends this process a signal at one of its forward passes."""

    countdown = 10**9

    def run_with_cache(self, *args, **kwargs):
        self.countdown -= 1
        if self.countdown == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().run_with_cache(*args, **kwargs)


@pytest.fixture
def keep_signal_handlers():
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def assert_state_is_of(checkpoint, trainer):
    saved = torch.load(checkpoint / "trainer_state.pt")
    assert trainer.n_training_steps == saved["n_training_steps"]
    assert trainer.n_training_samples == saved["n_training_samples"]
    assert trainer.lr_scheduler.state_dict() == saved["lr_scheduler"]
    for a, b in zip(
        trainer.optimizer.state_dict()["state"].values(),
        saved["optimizer"]["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(a[key], b[key]) for key in a)
    weights = load_file(checkpoint / "sae_weights.safetensors")
    state = trainer.sae.state_dict()
    trainer.sae.process_state_dict_for_saving(state)
    assert {"hook_scales.scale", "sparsifier.threshold"} <= weights.keys()
    assert all(torch.equal(value, state[name]) for name, value in weights.items())


@pytest.mark.slow
@pytest.mark.usefixtures("keep_signal_handlers")
def test_stock_runner_interrupted_and_resumed(embedded_model, tmp_path):
    text = stdlib_dataset("train").select(range(60))
    model = SignalsItself(embedded_model, HOOKS)
    model.countdown = 18
    cfg = runner_config(tmp_path)
    # Stopped, the stock runner tries to save the position in the data set alone, to a folder
    # that does not exist yet, and fails at it: what counts is the last periodic checkpoint.
    with pytest.raises((InterruptedException, SafetensorError)):
        LanguageModelSAETrainingRunner(cfg, text, model).run()
    complete = [p.parent for p in Path(cfg.checkpoint_path).glob("*/trainer_state.pt")]
    newest = max(complete, key=lambda p: int(p.name))

    states = []

    class Watching(LanguageModelSAETrainingRunner):
        def run_trainer_with_interruption_handling(self, trainer):
            assert_state_is_of(newest, trainer)
            states.append(trainer)
            return super().run_trainer_with_interruption_handling(trainer)

    resumed = runner_config(tmp_path, resume_from_checkpoint=str(newest))
    Watching(resumed, text, StackedHooks(embedded_model, HOOKS)).run()
    assert states[0].n_training_samples >= 6000
    assert (tmp_path / "output" / "sae_weights.safetensors").is_file()


@pytest.mark.slow
def test_our_runner_saves_everything_when_it_is_stopped(embedded_model, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    text = stdlib_dataset("train").select(range(60))
    model = SignalsItself(embedded_model, HOOKS)
    model.countdown = 12
    # A rate of numpy, as a search gives it: torch would not read it back.
    cfg = runner_config(tmp_path, n_checkpoints=0, lr=np.float64(1e-3))
    with pytest.raises(StoppedRun) as stopped:
        TrainingRunner(cfg, text, model).run()
    assert signal.getsignal(signal.SIGINT) == handler
    checkpoint = stopped.value.checkpoint

    class Watching(TrainingRunner):
        def run_trainer_with_interruption_handling(self, trainer):
            assert_state_is_of(checkpoint, trainer)
            assert 0 < trainer.n_training_samples == int(checkpoint.name)
            return super().run_trainer_with_interruption_handling(trainer)

    cfg = runner_config(tmp_path, resume_from_checkpoint=str(checkpoint))
    sae = Watching(cfg, text, StackedHooks(embedded_model, HOOKS)).run()
    assert sae.cfg.metadata.hook_names == ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]
