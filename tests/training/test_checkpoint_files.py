"""Which checkpoint a run is resumed from, and what is refused before it trains."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_poly import InputError, StackedHooks, TrainingRunner
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.training.checkpoint_files import find_checkpoint
from sae_lens_poly.training.checkpoints import check_checkpoint
from tests.training.test_resume import HOOKS, runner_config


@pytest.fixture(scope="module")
def run(embedded_model, tmp_path_factory):
    """Folder of a run with two checkpoints, and how to run it with other settings."""
    folder = tmp_path_factory.mktemp("run")
    text = stdlib_dataset("train").select(range(30))

    def train(**changes):
        cfg = runner_config(folder, training_tokens=1024, n_checkpoints=2, **changes)
        return TrainingRunner(cfg, text, StackedHooks(embedded_model, HOOKS)).run()

    train()
    return folder, train


@pytest.fixture
def checkpoints(run, tmp_path):
    """A copy of the folder of checkpoints, to be damaged, without manifests."""
    copy = tmp_path / "checkpoints"
    shutil.copytree(run[0] / "checkpoints", copy)
    for manifest in copy.glob("*/*/manifest.json"):
        manifest.unlink()
    return copy


def found(folder, tmp_path):
    cfg = runner_config(tmp_path, training_tokens=1024)
    return find_checkpoint(folder, partial(check_checkpoint, cfg=cfg))


def test_the_newest_whole_one_is_taken_and_named(checkpoints, tmp_path, caplog):
    (own,) = checkpoints.iterdir()
    assert sorted(path.name for path in own.iterdir()) == ["512", "768"]
    (own / ".unfinished-1024").mkdir()
    (own / ".unfinished-1024" / "cfg.json").write_text("{")
    for folder in (checkpoints, own):
        assert found(folder, tmp_path) == own / "768"
        assert f"{own / '768'}, the newest whole checkpoint" in caplog.text
    assert not list(own.glob(".*"))
    (own / "768" / "trainer_state.pt").write_bytes(b"PK")
    caplog.clear()
    assert found(own, tmp_path) == own / "512"
    assert "passed over: " in caplog.text
    assert "768/trainer_state.pt' is damaged" in caplog.text
    with pytest.raises(InputError, match=r"is damaged.*the newest whole one beside it is .*/512"):
        found(own / "768", tmp_path)
    shutil.rmtree(own / "512")
    with pytest.raises(InputError, match=r"holds none that this run can be resumed from .*damaged"):
        found(own, tmp_path)
    with pytest.raises(InputError, match=r"no folder in it has a trainer_state.pt"):
        found(tmp_path / "none", tmp_path)


def change_tensors(name, path, **changes):
    tensors = load_file(path / name)
    tensors.update(changes)
    save_file({k: v for k, v in tensors.items() if v is not None}, path / name)


def change_state(path, place, value):
    state = torch.load(path / "trainer_state.pt", weights_only=True)
    inner = state
    *parents, last = place
    for key in parents:
        inner = inner[key]
    inner[last] = value
    torch.save(state, path / "trainer_state.pt")


ROWS = partial(change_tensors, "activations_store_state.safetensors")
WEIGHTS = partial(change_tensors, "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (partial(ROWS, n_dataset_processed=torch.tensor(2**60)), "n_dataset_processed=1,152,921"),
        (partial(ROWS, n_dataset_processed=torch.tensor(-1)), "n_dataset_processed=-1"),
        (partial(ROWS, n_dataset_processed=torch.zeros(3, dtype=torch.int64)), r"is I64 \(3,\)"),
        (partial(ROWS, n_dataset_processed=torch.tensor(3.0)), "is F32"),
        (partial(ROWS, more=torch.zeros(5)), "'more', which does not belong"),
        (partial(ROWS, n_dataset_processed=None, other=torch.tensor(1)), "has no n_dataset"),
        (partial(WEIGHTS, W_dec=torch.full((128, 256), torch.inf)), "W_dec has NaN or infinity"),
        (partial(WEIGHTS, W_enc=torch.zeros(256, 128).half()), "W_enc is F16"),
        (partial(WEIGHTS, W_enc=torch.zeros(256, 128)), "all numbers of W_enc are 0"),
        (partial(WEIGHTS, W_enc=torch.ones(256, 64)), "size mismatch|damaged"),
        (partial(WEIGHTS, more=torch.zeros(5)), "is damaged"),
        (partial(change_state, place=["n_training_steps"], value="3"), "n_training_steps is str"),
        (partial(change_state, place=["n_training_samples"], value=-5), "n_training_samples=-5"),
        (partial(change_state, place=["act_freq_scores"], value=torch.zeros(7)), "act_freq_scores"),
        (
            partial(change_state, place=["optimizer", "state", 0, "exp_avg"], value=torch.zeros(2)),
            "optimizer.state.0.exp_avg",
        ),
        (
            partial(change_state, place=["optimizer", "param_groups", 0, "lr"], value=float("nan")),
            r"optimizer.param_groups.0.lr=nan",
        ),
        (
            partial(change_state, place=["lr_scheduler", "_schedulers", 0, "base_lrs"], value=[]),
            "lr_scheduler._schedulers.0.base_lrs",
        ),
        (
            partial(
                change_state, place=["n_forward_passes_since_fired", slice(0, 1)], value=torch.nan
            ),
            "NaN",
        ),
    ],
)
def test_checkpoints_that_are_not_what_they_claim(run, checkpoints, change, words):
    checkpoint = next(checkpoints.glob("*/768"))
    change(checkpoint)
    before = (run[0] / "output" / "cfg.json").read_bytes()
    with pytest.raises(InputError, match=words):
        run[1](resume_from_checkpoint=str(checkpoint))
    assert (run[0] / "output" / "cfg.json").read_bytes() == before


def test_a_manifest_tells_of_every_change(run, tmp_path):
    own = next((run[0] / "checkpoints").glob("*/768"))
    names = json.loads((own / "manifest.json").read_text())["files"]
    assert {path.name for path in own.iterdir()} == {*names, "manifest.json"}
    for name in names:
        copy = tmp_path / "copy"
        shutil.copytree(own, copy)
        content = bytearray((copy / name).read_bytes())
        content[-1] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} is not what was saved"):
            found(copy, tmp_path)
        (copy / name).unlink()
        with pytest.raises(InputError, match=rf"(no {name}|{name} is in manifest.json)"):
            found(copy, tmp_path)
        shutil.rmtree(copy)
