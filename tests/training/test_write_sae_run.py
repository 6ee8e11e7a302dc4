"""WriteSAE through the stock runner, by the command line, on a model with recurrent states."""

import re

import pytest
import torch
from sae_lens import SAE

from sae_lens_poly.cli import main
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.training.flags import read_run
from tests.recurrent_states.tiny_hybrid import tiny_hybrid

HOOKS = "model.layers.{0,2}.linear_attn.state[head=3]"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    tiny_hybrid("qwen3_5_text", vocab_size=4096).save_pretrained(folder)
    load_embedded_tokenizer().save_pretrained(folder)
    return str(folder)


def flags(model_folder, output, hook_name=HOOKS, **others):
    settings = {
        "architecture": "write_sae",
        "model_name": model_folder,
        "hook_name": hook_name,
        "d_sae": 24,
        "k": 4,
        "training_tokens": 4096,
        "context_size": 32,
        "train_batch_size_tokens": 128,
        "output_path": output,
    }
    settings |= others
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
def test_it_trains_on_a_model_of_the_users_own(model_folder, tmp_path, capsys):
    assert main(["train", *flags(model_folder, tmp_path / "sae", rank=2)]) == 0
    printed = capsys.readouterr().out
    assert "0 linear_attn.state" in printed or "state[head=3]" in printed
    sae = SAE.load_from_disk(tmp_path / "sae")
    assert (sae.cfg.architecture(), sae.cfg.d_k, sae.cfg.rank, sae.cfg.d_in) == (
        "write_sae",
        8,
        2,
        96,
    )
    atoms = sae.W_dec_per_hook.unflatten(-1, (8, 6))
    assert int(torch.linalg.matrix_rank(atoms).max()) == 2
    stack = load_stacked_model(model_folder, HOOKS)
    x = stack.gather(torch.arange(1, 33)[None])
    assert int((sae.encode(x) > 0).sum(-1).max()) <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook_name": "model.layers.1"}, "is for recurrent states of one shape"),
        ({"hook_name": "model.layers.3.linear_attn.state[head=0]"}, "not on a layer with a rec"),
        ({"d_k": 6}, "d_k=6, but the states at .* are 8 x 6: set d_k=8"),
        ({"rank": 7}, "has the rank 7"),
    ],
)
def test_what_cannot_be_trained_is_refused(model_folder, tmp_path, capsys, changes, message):
    assert main(["train", *flags(model_folder, tmp_path / "sae", **changes)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.mark.slow
def test_without_other_flags_it_trains_on_the_embedded_hybrid_model(tmp_path, monkeypatch, capsys):
    settings = read_run(["--architecture", "write_sae"])
    assert settings["model_name"] == "stdlib-hybrid"
    assert settings["model_class_name"] == "AutoModelForCausalLM"
    monkeypatch.chdir(tmp_path)
    short = {"training_tokens": 2048, "context_size": 64, "n_batches_in_buffer": 16}
    short |= {"checkpoint_path": "checkpoints", "n_checkpoints": 1}
    words = [word for name, value in short.items() for word in (f"--{name}", str(value))]
    assert main(["train", "--architecture", "write_sae", *words]) == 0
    assert "pooled / all spliced" in capsys.readouterr().out
    sae = SAE.load_from_disk("output")
    assert (sae.cfg.d_k, sae.cfg.d_in) == (32, 1024)
    (checkpoint,) = (path.parent for path in tmp_path.glob("checkpoints/*/*/runner_cfg.json"))
    assert main(["export", str(checkpoint), "exported"]) == 0
    exported = SAE.load_from_disk("exported")
    x = torch.randn(3, 1024)
    assert exported.cfg.architecture() == "write_sae"
    assert exported.encode(x).shape == sae.encode(x).shape
    few = ("--n_headroom_tokens", "0", "--n_batches", "1", "--probing")
    assert main(["evaluate", "exported", *few]) == 0
