"""Commas in model_name: between models, and in the paths of folders."""

from pathlib import Path

import pytest

from sae_lens_poly import InputError
from sae_lens_poly.model_names import check_model_names, guess_model_class, split_model_names


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("llama,v2", "a,b,c", "plain"):
        Path("models", name).mkdir(parents=True)
        Path("models", name, "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpt2", ["gpt2"]),
        ("gpt2, stdlib-6l", ["gpt2", "stdlib-6l"]),
        ("models/llama,v2", ["models/llama,v2"]),
        ("models/llama,v2,models/plain", ["models/llama,v2", "models/plain"]),
        ("gpt2, models/a,b,c ,models/llama,v2", ["gpt2", "models/a,b,c", "models/llama,v2"]),
        ("models/llama,v3", ["models/llama", "v3"]),
        ("a," * 5000 + "b", ["a"] * 5000 + ["b"]),
    ],
)
def test_a_folder_is_one_model(text, names):
    assert split_model_names(text) == names


def test_a_folder_with_a_comma_is_hugging_faces():
    assert guess_model_class("models/llama,v2") == "AutoModelForCausalLM"
    assert guess_model_class("gpt2,models/plain") == "HookedTransformer"


@pytest.mark.parametrize("text", ["gpt2,gpt2", "models/plain,./models/plain", "gpt2,", ""])
def test_models_that_are_no_stack(text):
    with pytest.raises(InputError, match="model_name="):
        check_model_names(text)
