"""Activations of a stack that are computed once."""

import pytest
import torch
from sae_lens import CacheActivationsRunnerConfig

from sae_lens_poly import InputError, TrainingRunner
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.training.cached import stacked_cache_runner
from tests.models.tiny_llama import tiny_llama
from tests.training.tiny_runs import CONTEXT, HOOKS, numbered_rows, tiny_config


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    tiny_llama().save_pretrained(folder / "model")
    load_embedded_tokenizer().save_pretrained(folder / "model")
    return folder, stacked_cache_runner(cache_config(folder), numbered_rows()).run()


def cache_config(folder, **changes):
    settings = {
        "dataset_path": "",
        "model_name": str(folder / "model"),
        "model_class_name": "AutoModelForCausalLM",
        "model_batch_size": 4,
        "hook_name": HOOKS,
        "d_in": 64,
        "training_tokens": 4096,
        "context_size": CONTEXT,
        "new_cached_activations_path": str(folder / "cache"),
        "shuffle": False,
        "buffer_size_gb": 0.0005,
        "device": "cpu",
    }
    return CacheActivationsRunnerConfig(**(settings | changes))


def run(tmp_path, cached, **changes):
    folder, _ = cached
    cfg = tiny_config(
        tmp_path,
        model_name=str(folder / "model"),
        use_cached_activations=True,
        cached_activations_path=str(folder / "cache"),
        **changes,
    )
    runner = TrainingRunner(cfg)
    runner.run()
    return runner


def test_the_cache_holds_the_stack(cached):
    folder, cache = cached
    stack = load_stacked_model(str(folder / "model"), HOOKS)
    row = cache[3]
    x = stack.gather(torch.tensor([row["token_ids"]]))[0]
    torch.testing.assert_close(torch.tensor(row[HOOKS]), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dataset_path", ["", "no/such-text", "stdlib"])
def test_no_text_is_needed_to_train_on_it(cached, tmp_path, dataset_path):
    run(tmp_path, cached, dataset_path=dataset_path)
    (text,) = load_dictionary(tmp_path / "output").cfg.metadata.texts_read
    assert text["n_rows"] is None


def test_a_cache_that_does_not_fit(cached, tmp_path):
    with pytest.raises(InputError, match=r"cached_activations_path=.*context_size"):
        run(tmp_path, cached, context_size=CONTEXT + 2)
    with pytest.raises(InputError, match="d_in=32, but 2 hook points of width 32 make 64"):
        stacked_cache_runner(cache_config(cached[0], d_in=32), numbered_rows())
