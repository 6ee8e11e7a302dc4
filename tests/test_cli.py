"""The command line on the embedded model."""

import json

import pytest
import wandb

from sae_lens_poly.cli import main

SETTINGS = {
    "training_tokens": 4096,
    "train_batch_size_tokens": 512,
    "context_size": 64,
    "d_sae": 128,
    "k": 8,
    "rank_2": 8,
    "rank_3": 8,
    "n_batches_in_buffer": 16,
    "store_batch_size_prompts": 4,
}
SMALL = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "output"
    hooks = ["--hook_name", "blocks.{1..2}.hook_resid_post"]
    assert main(["train", *SMALL, *hooks, "--output_path", str(folder)]) == 0
    return folder


def numbers(value):
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value]


@pytest.mark.slow
def test_train_writes_and_evaluate_repeats_the_figures(trained, capsys, drawn):
    first = json.loads((trained / "evaluation.json").read_text())
    assert list(first["per_hook"]) == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    few = ["--n_headroom_tokens", "3000"]
    assert main(["evaluate", str(trained), "--probing", *few]) == 0
    printed = capsys.readouterr().out
    assert "blocks.2.hook_resid_post" in printed
    assert "pooled" in printed
    assert "headroom" in printed
    second = json.loads((trained / "evaluation.json").read_text())
    headroom = second.pop("headroom")  # which training leaves out
    assert next(iter(headroom["rungs"])) == "linear"
    assert first.pop("headroom") is None
    for figures in (first, second):
        figures["settings"].pop("n_headroom_tokens")
    assert numbers(second) == pytest.approx(numbers(first), abs=5e-4)
    heights = [bar.get_height() for bar in drawn[-1].axes[2].patches]
    variances = [figures["explained_variance"] for figures in second["per_hook"].values()]
    assert heights[:2] == pytest.approx(variances)
    assert (trained / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    metadata = json.loads((trained / "cfg.json").read_text())["metadata"]
    assert metadata["hook_names"] == list(first["per_hook"])


@pytest.mark.slow
def test_factored_masked_training_and_the_export_of_a_checkpoint(tmp_path, capsys):
    flags = ["--hook_name", "blocks.{1..2}.hook_resid_post", "--mask_p", "0.1"]
    for part in ("encoder", "decoder"):
        flags += [f"--{part}_weights", "tensor_ring", f"--{part}_ranks", "2", "16", "2"]
    flags += ["--output_path", str(tmp_path / "output"), "--n_checkpoints", "1"]
    assert main(["train", *SMALL, *flags, "--checkpoint_path", str(tmp_path / "ck")]) == 0
    assert "rank at most 32 of 128 over the stack" in capsys.readouterr().out
    checkpoint = next(folder for folder in tmp_path.glob("ck/*/*") if folder.is_dir())
    exported = tmp_path / "exported"
    assert main(["export", str(checkpoint), str(exported), "--dense"]) == 0
    assert (
        main(
            ["evaluate", str(exported), "--n_batches", "1", "--n_headroom_tokens", "0", "--probing"]
        )
        == 0
    )
    assert json.loads((exported / "cfg.json").read_text())["encoder_weights"] == "dense"
    assert main(["export", str(checkpoint), str(exported)]) == 0
    assert json.loads((exported / "cfg.json").read_text())["encoder_weights"] == "tensor_ring"
    assert main(["export", str(tmp_path), str(exported)]) == 2


@pytest.mark.slow
def test_logs_to_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # what another test has set up remembers the folder of its time
    flags = ["--log_to_wandb", "True", "--wandb_log_frequency", "2", "--hook_name"]
    flags += ["blocks.{1..2}.hook_resid_post", "--output_path", str(tmp_path / "output")]
    assert main(["train", *SMALL, *flags]) == 0
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--k", "4000"], "k=4000"),
        (["--hook_name", "blocks.9.hook_resid_post"], "blocks.9.hook_resid_post"),
        (["--hook_name", "blocks.1.hook_resid_post,blocks.{0..1}.hook_resid_post"], "once"),
        (["--hook_name", "blocks.0.hook_resid_post,blocks.0.mlp.hook_post"], "one width"),
        (["--rank_2", "4000"], "rank_2=4000"),
        (["--decoder", "powers", "--rank_3", "800", "--d_sae", "1000"], "rank_3=800"),
        (["--degree", "2"], "rank_3=8"),
        (["--model_name", "no-such-model"], "model_name='no-such-model'"),
        (["--dataset_path", "no/such-data"], "dataset_path='no/such-data'"),
        (["--d_in", "100"], "d_in=100"),
        (["--d_in", "600"], "d_in=600"),
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--k", "many"], "many"),
        (["--training_tokens", "many"], "many"),
        (["--architecture", "no_such_architecture"], "no_such_architecture"),
        (["--resume_from_checkpoint", "no-such-folder"], "no-such-folder"),
    ],
)
def test_wrong_flags_are_one_sentence_and_status_2(flags, words, tmp_path, capsys):
    status = main(["train", *SMALL, "--output_path", str(tmp_path), *flags])
    error = capsys.readouterr().err
    assert status == 2
    sentences = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    assert words in error[error.index("error: ") :]
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_folders_without_a_whole_dictionary(trained, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "has no cfg.json" in capsys.readouterr().err
    for name in ("cfg.json", "sae_weights.safetensors"):
        content = (trained / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // (2 if "safe" in name else 1)])
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_usage(capsys):
    assert main([]) == 0
    assert main(["fly"]) == 2
    assert "python -m sae_lens_poly train" in capsys.readouterr().out
