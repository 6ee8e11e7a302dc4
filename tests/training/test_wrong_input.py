"""Runs that cannot work end before training, with the field and the remedy."""

import pytest

from sae_lens_poly import InputError, StackedHooks, TrainingPolyCrosscoderConfig, TrainingRunner
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.training.checkpoints import check_checkpoint
from sae_lens_poly.training.data import load_text
from sae_lens_poly.training.runner import check_stack
from tests.training.test_resume import HOOKS, runner_config


@pytest.fixture(scope="module")
def stack(embedded_model):
    return StackedHooks(embedded_model, HOOKS)


def dictionary(**changes):
    fields = {"d_in": 256, "d_sae": 128, "n_hooks": 2, "k": 8, "rank_2": 8, "rank_3": 4}
    return TrainingPolyCrosscoderConfig(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sae": dictionary(n_hooks=4)}, "n_hooks=4, .* set n_hooks=2"),
        ({"sae": dictionary(d_in=512)}, "d_in=512, .* set d_in=256"),
        ({"context_size": 600}, "context_size=600 .* 512"),
        ({"n_batches_in_buffer": 2}, "train_batch_size_tokens=256 .* 64"),
        ({"training_tokens": 100}, "training_tokens=100"),
    ],
)
def test_configs_that_do_not_fit_the_model(stack, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        check_stack(runner_config(tmp_path, **changes), stack)


def test_data_sets(tmp_path):
    with pytest.raises(InputError, match="dataset_path='no/such-data'"):
        load_text("no/such-data", "train")
    (tmp_path / "damaged.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"damaged\.parquet"):
        load_text(str(tmp_path / "damaged.parquet"), "train")
    (tmp_path / "two.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    two = str(tmp_path / "two.jsonl")
    assert len(load_text(two, "train")) == 2
    assert load_text(two, "held_out", skip_rows=1)["text"] == ["b"]
    with pytest.raises(InputError, match="all of its 2 rows"):
        load_text(two, "held_out", skip_rows=2)


@pytest.fixture(scope="module")
def checkpoint(stack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    short = {"training_tokens": 512, "lr_warm_up_steps": 0, "n_checkpoints": 0}
    cfg = runner_config(folder, **short, save_final_checkpoint=True)
    TrainingRunner(cfg, stdlib_dataset("train").select(range(30)), stack).run()
    return next((folder / "checkpoints").glob("*/final_512"))


def test_a_whole_checkpoint_passes(checkpoint, tmp_path):
    check_checkpoint(checkpoint, runner_config(tmp_path))


def test_checkpoints_that_are_not_there(checkpoint, tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        check_checkpoint(tmp_path / "nowhere", runner_config(tmp_path))


@pytest.mark.parametrize(
    "name", ["sae_weights.safetensors", "trainer_state.pt", "cfg.json", "activation_scaler.json"]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_checkpoints(checkpoint, tmp_path, name, damage):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=name):
        check_checkpoint(tmp_path, runner_config(tmp_path))


def test_a_checkpoint_of_another_dictionary(checkpoint, tmp_path):
    cfg = runner_config(tmp_path, sae=dictionary(k=9))
    with pytest.raises(InputError, match="k=8, and this run has k=9"):
        check_checkpoint(checkpoint, cfg)
