"""Runs that torchrun starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from safetensors.torch import load_file

from sae_lens_poly.distributed.own_text import share_of

TINY = [
    *("--architecture", "crosscoder", "--hook_name", "blocks.{0,1}.hook_resid_post"),
    *("--d_sae", "64", "--k", "4", "--train_batch_size_tokens", "128", "--context_size", "32"),
    *("--n_batches_in_buffer", "16", "--store_batch_size_prompts", "4"),
]


def torchrun(n_processes, folder, *flags, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["-m", "sae_lens_poly", "train", *TINY, "--checkpoint_path", "checkpoints", *flags]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, cwd=folder, env=environment, **options)


@pytest.mark.slow
@pytest.mark.parametrize("n_shards", ["1", "2"])
def test_two_processes_train_save_and_print_as_one(tmp_path, n_shards):
    flags = ["--training_tokens", "2048", "--output_path", "output", "--latent_shards", n_shards]
    run = torchrun(2, tmp_path, *flags)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err[-3000:]
    assert out.count("training crosscoder:") == out.count("trained 2,048 tokens in") == 1
    assert out.count("saved to output: ") == 1
    assert err.count("training:   0%") <= 1
    # Of SAELens' trainer: mean number of active latents a token, over the whole batch.
    cfg = json.loads((tmp_path / "output" / "cfg.json").read_text())
    assert cfg["metadata"]["l0"] == pytest.approx(4, abs=0.05)
    frequencies = 10 ** load_file(tmp_path / "output" / "sparsity.safetensors")["sparsity"]
    assert float(frequencies.sum()) == pytest.approx(4, abs=0.05)


@pytest.mark.slow
def test_wrong_input_is_said_once(tmp_path):
    for flags, said in (
        (["--train_batch_size_tokens", "129"], "make it a multiple of 2"),
        (["--d_sae", "-1"], "d_sae"),
        (["--latent_shards", "3"], "latent_shards=3 does not divide the number of processes, 2"),
    ):
        run = torchrun(2, tmp_path, "--training_tokens", "2048", *flags)
        _, err = run.communicate(timeout=120)
        assert run.returncode != 0
        assert err.count("error: ") == 1
        assert said in err.partition("error: ")[2].splitlines()[0]
        assert "Traceback" not in err.partition("error: ")[0]


def test_rows_are_dealt_out_in_turn():
    rows = Dataset.from_dict({"text": [str(row) for row in range(10)]})
    for dataset in (rows, rows.to_iterable_dataset()):
        shares = [share_of(dataset, rank, 3) for rank in range(3)]
        assert [[int(row["text"]) for row in share] for share, _ in shares] == [
            [0, 3, 6, 9],
            [1, 4, 7],
            [2, 5, 8],
        ]
        assert all(from_front for _, from_front in shares)


def test_a_stream_of_many_files_is_dealt_out_by_the_file():
    rows = Dataset.from_dict({"text": [str(row) for row in range(8)]})
    stream = rows.to_iterable_dataset(num_shards=4)
    share, from_front = share_of(stream, 1, 2)
    assert not from_front
    assert len(list(share)) == 4
