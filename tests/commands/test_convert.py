"""``convert`` and ``evaluate`` of dictionaries of other packages."""

import json
import shutil

import pytest
import torch
from sae_lens import SAE

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.commands.convert import convert
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.formats.convert import write_public
from tests.circuits.crosscoders import cross_layer, names_of
from tests.formats.folders import CASES

# One of each format.
ONE_EACH = {case.path.split("/")[0]: case for case in CASES[::-1] if case.folder is not None}


@pytest.mark.parametrize("case", ONE_EACH.values(), ids=ONE_EACH)
def test_every_format_becomes_a_dictionary_of_ours(tmp_path, capsys, case):
    flags = ["--scales", *map(str, case.scales)] if case.scales else []
    out = tmp_path / "ours"
    assert main(["convert", str(case.folder), str(out), *flags, "--model_name", "tiny"]) == 0
    assert "latents at" in capsys.readouterr().out
    sae = load_dictionary(out)
    assert sae.cfg.metadata.model_name == "tiny"
    x, codes, x_hat = case.reference(sae)
    assert torch.equal(sae.encode(x) != 0, codes != 0)
    torch.testing.assert_close(sae.encode(x), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x)[:, -x_hat.shape[1] :], x_hat, rtol=1e-5, atol=1e-5)


def test_to_circuit_tracer_and_back(tmp_path):
    sae = cross_layer(dtype="float32", metadata={"hook_names": names_of(3), "prepend_bos": True})
    sae.save_model(tmp_path / "ours")
    flags = ["--to", "circuit_tracer_clt", "--model_name", "tiny"]
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), *flags]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    back = SAE.load_from_disk(tmp_path / "back")
    x = torch.randn(9, sae.cfg.d_in)
    torch.testing.assert_close(back.encode(x), sae.encode(x))


CLT = ONE_EACH["circuit_tracer_clt"]
REFUSED = {
    "nowhere out": "source='nowhere' is not there",
    "theirs theirs": "is what is read",
    "theirs out --format other": "format='other'",
    "theirs out --scales 1 2": "is given no scales",
    "theirs out --scales 0": "scales",
    "theirs out --hook_name blocks.{0..2}.hook_resid_mid": "names 3 hook points",
    "theirs out --revision main": "revision='main'",
    "theirs out --to circuit_tracer_clt": "has no cfg.json",
    "theirs out --to circuit_tracer_clt --format ckkissane": "--model_name at most",
    "user/repo:path out --to circuit_tracer_clt": "what this package saved",
}


@pytest.mark.parametrize(("words", "reason"), REFUSED.items(), ids=REFUSED)
def test_wrong_flags(tmp_path, monkeypatch, words, reason):
    shutil.copytree(CLT.folder, tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=reason):
        convert(words.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_figures_are_those_of_the_dictionary_that_was_written(tmp_path, monkeypatch, capsys):
    """On the embedded model, whose width is 128."""
    metadata = {"hook_names": names_of(2), "model_name": "stdlib-6l"}
    metadata["hook_name"] = ",".join(metadata["hook_names"])
    sae = cross_layer(n_layers=2, d_model=128, d_sae=64, dtype="float32", metadata=metadata)
    sae.save_model(tmp_path / "ours")
    write_public(sae, tmp_path / "theirs", "circuit_tracer_clt")
    monkeypatch.chdir(tmp_path)
    few = ["--n_batches", "1", "--batch_size_prompts", "1", "--n_splice_batches", "1"]
    few += ["--n_coherence_tokens", "64", "--n_headroom_tokens", "0", "--probing"]
    figures = []
    for name, at in (("ours", "ours"), ("theirs", "evaluations/theirs")):
        assert main(["evaluate", name, *few]) == 0
        figures.append(json.loads((tmp_path / at / "evaluation.json").read_text()))
    assert not (tmp_path / "theirs/evaluation.json").exists()
    for hook, expected in figures[0]["per_hook"].items():
        found = figures[1]["per_hook"][hook]["explained_variance"]
        assert found == pytest.approx(expected["explained_variance"], rel=1e-4)
    nameless = ONE_EACH["dictionary_learning_crosscoder"].folder
    assert main(["evaluate", str(nameless), *few]) == 2
    assert "give --model_name" in capsys.readouterr().err
