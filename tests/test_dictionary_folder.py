"""Saved dictionaries that are not what they claim."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.dictionary_folder import check_dictionary, load_dictionary
from sae_lens_poly.manifest import write_manifest
from tests.hub.dictionaries import NAMES, saved


@pytest.fixture
def folder(tmp_path):
    saved(tmp_path / "dictionary")
    return tmp_path / "dictionary"


def change_config(folder, **changes):
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    for field, value in changes.items():
        where = config["metadata"] if field.startswith("m_") else config
        where[field.removeprefix("m_")] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("architecture", NAMES)
def test_with_and_without_a_manifest(tmp_path, architecture):
    saved(tmp_path, architecture)
    load_dictionary(tmp_path)
    write_manifest(tmp_path)
    load_dictionary(tmp_path)
    change_config(tmp_path, m_model_name="gpt3")
    with pytest.raises(InputError, match=r"cfg.json is not what was saved.*delete manifest.json"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": "4", "d_sae": "64"}, "d_sae: Input should be a valid integer, and is '64'"),
        ({"d_in": True}, "d_in: Input should be a valid integer"),
        ({"d_sae": 10**12}, "d_sae=1000000000000 cannot be the width"),
        ({"d_in": -24}, "d_in=-24 cannot be the width"),
        ({"n_hooks": 3.5}, "n_hooks: Input should be a valid integer"),
        ({"dtype": "float"}, "dtype='float' in cfg.json is no dtype"),
        ({"dtype": 32}, "dtype: Input should be a valid string"),
        ({"structure": "causal"}, "structure: Input should be"),
        ({"sae_lens_version": "six"}, "sae_lens_version='six' is no version"),
        ({"m_sae_lens_version": [6]}, r"sae_lens_version=\[6\] is no version"),
        ({"metadata": [1, 2]}, "damaged"),
        ({"metadata": "none"}, "damaged"),
        ({"m_hook_name": 4}, "hook_name: Input should be a valid string"),
        ({"m_hook_name": "a.{1..99}.{1..99}"}, "more than 4,096 hook points"),
        ({"m_hook_names": "abc"}, "hook_names: Input should be a valid array"),
        ({"m_hook_names": ["a", "b"], "m_hook_scales": [1.0]}, "2 hook_names and 1 hook_scales"),
        ({"m_hook_scales": [float("nan")] * 3}, "nan is no value"),
        ({"m_model_name": ["gpt2"]}, "model_name: Input should be a valid string"),
        ({"m_model_from_pretrained_kwargs": "x"}, "model_from_pretrained_kwargs"),
        ({"m_context_size": 10**10}, "context_size"),
        ({"m_context_size": 0}, "context_size"),
        ({"m_prepend_bos": "yes"}, "prepend_bos: Input should be a valid boolean"),
        ({"m_n_dataset_rows_read": -1}, "n_dataset_rows_read"),
        ({"m_dataset_path": {"a": 1}}, "dataset_path: Input should be a valid string"),
    ],
)
def test_configs(folder, changes, words):
    change_config(folder, **changes)
    with pytest.raises(InputError, match=words):
        check_dictionary(folder)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("W_enc", lambda w: w.round().long(), "W_enc is I64, and cfg.json says float32"),
        ("W_dec", lambda w: w > 0, "W_dec is BOOL"),
        ("W_dec", lambda w: w.half(), "W_dec is F16"),
        ("threshold", lambda w: w.bfloat16(), "threshold is BF16"),
        ("W_dec", lambda w: w * 0, "all numbers of W_dec are 0"),
        ("b_enc", lambda w: w.index_fill(0, torch.tensor(3), torch.nan), "1 of 64 numbers"),
        ("polynomial.C.2", lambda w: w - torch.inf, "polynomial.C.2 has NaN or infinity"),
        ("W_enc", lambda w: w * 1e30, "above 1e"),
        ("W_enc", lambda w: w[:, :10].clone(), "cannot be loaded"),
    ],
)
def test_weights(folder, name, change, words):
    path = folder / "sae_weights.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name])}, path)
    with pytest.raises(InputError, match=words):
        load_dictionary(folder)


def test_wider_weights_are_taken(folder):
    path = folder / "sae_weights.safetensors"
    save_file({n: t.double() if t.ndim else t for n, t in load_file(path).items()}, path)
    assert load_dictionary(folder).dtype == torch.float32


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"settings": 3}', '{"settings": {"n_batches": "8"}}', "{" * 9999]
)
def test_damaged_figures_are_one_sentence(folder, content, capsys):
    (folder / "evaluation.json").write_text(content)
    assert main(["evaluate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert "evaluation.json' is damaged" in error
    assert "delete it" in error
