"""Checkpoints between steps; disks that are full."""

import os
import shutil
from contextlib import contextmanager

import pytest
import torch

from sae_lens_poly import InputError, StackedHooks, TrainingRunner, export_checkpoint
from sae_lens_poly.cli import main
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded.corpus import stdlib_dataset
from tests.training.test_resume import HOOKS, runner_config


@pytest.fixture
def train(embedded_model, tmp_path):
    text = stdlib_dataset("train").select(range(30))

    def run(**changes):
        cfg = runner_config(tmp_path, training_tokens=1024, **changes)
        return TrainingRunner(cfg, text, StackedHooks(embedded_model, HOOKS)).run()

    return run


def test_steps_of_a_checkpoint_are_those_of_its_weights(train, tmp_path):
    train(n_checkpoints=3, save_final_checkpoint=True)
    (own,) = (tmp_path / "checkpoints").iterdir()
    steps = {
        path.name: torch.load(path / "trainer_state.pt", weights_only=True)["n_training_steps"]
        for path in own.iterdir()
    }
    assert steps == {"512": 2, "768": 3, "1024": 4, "final_1024": 4}


def test_a_checkpoint_that_fails_does_not_end_the_run(train, tmp_path, monkeypatch, caplog):
    save = torch.save

    def half(state, path):
        save(state, path)
        os.truncate(path, 100)
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", half)
    train(n_checkpoints=1)
    assert "no checkpoint at 768, training continues" in caplog.text
    assert "PytorchStreamWriter failed" in caplog.text
    load_dictionary(tmp_path / "output")
    assert not list(tmp_path.glob("checkpoints/*/*"))


def test_a_dictionary_that_cannot_be_saved_is_kept(train, tmp_path, monkeypatch):
    @contextmanager
    def full(*_, **__):
        raise InputError("'output' cannot be written (No space left on device): free some space")
        yield

    monkeypatch.setattr("sae_lens_poly.training.runner.whole_folder", full)
    with pytest.raises(InputError, match=r"No space left.*it is kept in .*/final_1024"):
        train()
    export_checkpoint(next(tmp_path.glob("checkpoints/*/final_1024")), tmp_path / "exported")
    load_dictionary(tmp_path / "exported")


def test_no_room_is_found_out_before_training(train, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"output_path=.* MB are needed and 0.0 MB are free"):
        train()
    with pytest.raises(InputError, match=r"checkpoint_path=.* MB are needed and 0.0 MB are free"):
        train(output_path=None)


def test_exports_replace_no_checkpoint(train, tmp_path, capsys):
    train(n_checkpoints=1)
    checkpoint = next(tmp_path.glob("checkpoints/*/768"))
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    for folder in (checkpoint, checkpoint.parent / "." / "768"):
        assert main(["export", str(checkpoint), str(folder)]) == 2
        assert "is a checkpoint, which an export would replace" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", str(checkpoint), str(tmp_path / "file")]) == 2
    assert "cannot be written to as a folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert main(["export", str(checkpoint), str(tmp_path / "output")]) == 0
    load_dictionary(tmp_path / "output")
