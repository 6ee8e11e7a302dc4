"""Wrong command lines are refused in a sentence, before anything slow is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sae_lens_poly
from sae_lens_poly.cli import main

# An evaluation needs a dictionary's files to get as far as its flags.
DICTIONARY = "dictionary"
WRONG = {
    "train --lr nan": "lr=nan",
    "train --arch topk": "--architecture",
    "train --k": "k needs a value",
    "train --mask_p many": "mask_p='many'",
    "train --output_path file": "output_path='file'",
    "train --architecture poly_topk --hook_name blocks.{0,1}.hook_resid_post": "one hook point",
    "train --model_name stdlib-6l,stdlib-6l": "twice",
    "train --device cuda": "device='cuda'",
    "train --structure free": "structure='free'",
    "train --preset plt": "preset='plt'",
    "evaluate": "required: folder",
    "evaluate nowhere": "folder='nowhere' is not there",
    "evaluate file": "folder='file' is not a folder",
    "evaluate empty": "folder='empty' has no cfg.json",
    f"evaluate {DICTIONARY} --n_batches 0": "n_batches=0",
    f"evaluate {DICTIONARY} --n_batches many": "n_batches",
    f"evaluate {DICTIONARY} --n_bat 1": "--n_bat",
    f"evaluate {DICTIONARY} --test_share nan": "test_share=nan",
    f"evaluate {DICTIONARY} --test_share 1": "test_share=1.0",
    f"evaluate {DICTIONARY} --skip_rows -1": "skip_rows=-1",
    f"evaluate {DICTIONARY} --probing missing.jsonl": "probing='missing.jsonl'",
    f"evaluate {DICTIONARY} --dataset_path ..": "dataset_path='..'",
    f"evaluate {DICTIONARY} --output file": "output='file'",
    f"evaluate {DICTIONARY} --device cuda": "device='cuda'",
    f"evaluate {DICTIONARY} --revision main": "revision='main'",
    "evaluate user/repo:a/../b": "path='a/../b'",
    f"features {DICTIONARY} --n_bins 0": "n_bins=0",
    f"features {DICTIONARY} --output file": "output='file'",
    "compare": "either a YAML file or --preset",
    "compare no_such": "the presets are",
    "compare --preset stdlib-polysae file": "either a YAML file or --preset",
    "compare --preset stdlib-polysae --seeds 0": "seeds=0",
    "compare --preset stdlib-polysae --jobs -1": "jobs=-1",
    "compare --preset stdlib-polysae --arms topk": "there is no 'topk'",
    "compare --preset stdlib-polysae --arms TopK TopK": "named twice",
    "compare --preset stdlib-polysae --learning_rates nan": "learning_rates=[nan]",
    "compare --preset stdlib-polysae --learning_rates 0.1 0.1": "twice",
    "compare --preset stdlib-polysae --learning_rates": "learning_rates",
    "compare --preset stdlib-polysae --training_tokens 0": "training_tokens=0",
    "compare --preset stdlib-polysae --probing missing.csv": "probing='missing.csv'",
    "compare --preset stdlib-polysae --text missing.txt": "dataset_path='missing.txt'",
    "compare --preset stdlib-polysae --model_name ./nowhere": "model_name='./nowhere'",
    "compare --preset stdlib-polysae --device cuda": "device='cuda'",
    "compare --preset stdlib-polysae --output file/x": "output='file/x'",
    "compare --pre stdlib-polysae": "--pre",
    "compare wrong.yaml": "learning_rates=[nan]",
    "export": "required: checkpoint, folder",
    "export nowhere x": "checkpoint='nowhere' is not there",
    f"export {DICTIONARY} {DICTIONARY}/": "is a checkpoint, which",
    f"export {DICTIONARY} file": "folder='file'",
    f"export {DICTIONARY} x --dens": "--dens",
    "upload nowhere a/b:c": "folder='nowhere' is not there",
    f"upload {DICTIONARY} a/b": "user/repo:path",
    "fly": "usage:",
}

# What takes seconds to import.
SLOW = ("torch", "sae_lens", "transformer_lens", "transformers", "datasets", "sklearn", "wandb")

PROGRAM = f"""
import contextlib, io, json, sys
sys.argv = ["sae-lens-poly"]
from sae_lens_poly.cli import main
outcomes = {{}}
for line in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = main(line.split())
    outcomes[line] = status, said.getvalue(), sorted({set(SLOW)} & sys.modules.keys())
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Status, output and slow modules that are imported, after each command of one process."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    (folder / DICTIONARY).mkdir()
    for name in ("cfg.json", "sae_weights.safetensors"):
        (folder / DICTIONARY / name).write_text("{}")
    (folder / "wrong.yaml").write_text(
        "{model_name: stdlib-6l, hook_name: blocks.1.hook_resid_post, dataset_path: stdlib,"
        " d_sae: 9, k: 4, training_tokens: 4096, learning_rates: [.nan],"
        " arms: {a: {architecture: topk}}}"
    )
    before = sorted(folder.rglob("*"))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(WRONG)),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert sorted(folder.rglob("*")) == before
    return json.loads(run.stdout)


@pytest.mark.parametrize("line", list(WRONG))
def test_wrong_command_lines(line, outcomes):
    status, said, imported = outcomes[line]
    assert status == 2
    assert imported == []
    assert WRONG[line] in said
    if not line.startswith("fly"):
        assert said.startswith("error: ")
        assert said.count("\n") == 1


def test_python_m_refuses_before_it_imports(tmp_path):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sae_lens_poly", "train", "--lr", "nan"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    modules = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert run.returncode == 2
    assert "sae_lens_poly.cli" in modules
    assert not modules & set(SLOW)


@pytest.mark.parametrize(
    ("argv", "orig_argv", "is_command"),
    [
        (["-m", "train"], ["python", "-m", "sae_lens_poly", "train"], True),
        (["/usr/bin/sae-lens-poly", "train"], ["python", "/usr/bin/sae-lens-poly", "train"], True),
        (["-m"], ["python", "-m", "sae_lens_poly.embedded.train_model"], False),
        (["-m"], ["python", "-m", "other", "sae_lens_poly"], False),
        (["-m"], ["python", "-mother"], False),
        (["script.py", "-m", "sae_lens_poly"], ["python", "script.py", "-m", "x"], False),
        (["-c"], ["python", "-c", "..."], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_only_the_commands_import_late(monkeypatch, argv, orig_argv, is_command):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert sae_lens_poly._starts_a_command() is is_command


def test_a_command_has_everything_once_it_is_asked_for(tmp_path):
    program = (
        "import sys; sys.argv = ['sae-lens-poly']; import sae_lens_poly\n"
        "from sae_lens_poly import constraints\n"
        "assert 'torch' not in sys.modules\n"
        "sae_lens_poly.TrainingRunner\n"
        "from sae_lens.registry import SAE_CLASS_REGISTRY\n"
        "assert 'poly_crosscoder' in SAE_CLASS_REGISTRY\n"
        "assert not hasattr(sae_lens_poly, 'no_such')\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_output_that_an_encoding_lacks(tmp_path):
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    run = subprocess.run(
        [sys.executable, "-m", "sae_lens_poly", "train", "--output_path=ä\0"[:-1], "--lr=é"],
        capture_output=True,
        env={**environment, "PYTHONIOENCODING": "ascii:strict"},
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith(b"error: lr=")


def test_interrupted_and_out_of_memory(monkeypatch, capsys):
    def raising(error):
        def command(flags):
            raise error

        return command

    for error, status, said in (
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 2, "error: not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: not enough memory"),
    ):
        monkeypatch.setattr("sae_lens_poly.commands.train.train", raising(error))
        assert main(["train"]) == status
        assert said in capsys.readouterr().err
    monkeypatch.setattr("sae_lens_poly.commands.train.train", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train"])


def test_help_lists_flags_and_what_train_sets(capsys):
    assert main(["train", "--architecture", "topk", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--lr_scheduler_name" in said
    assert "--training_tokens 500000" in said
    assert Path("output").name in said
