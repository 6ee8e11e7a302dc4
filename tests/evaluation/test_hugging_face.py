"""The whole evaluation on a model of the Hugging Face kind, from a folder."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.coherence import FunctionalCoherence
from sae_lens_poly.evaluation.pooled_features import check_context_size
from sae_lens_poly.evaluation.saved import evaluate_saved, load_evaluation_data, settings_for
from sae_lens_poly.models.loading import load_stacked_model
from tests.models.tiny_llama import tiny_llama
from tests.test_cli import SMALL


@pytest.fixture(scope="module")
def trained(tmp_path_factory, embedded_model):
    """A llama without training, and a crosscoder of three of its layers."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(folder / "model")
    embedded_model.tokenizer.save_pretrained(folder / "model")
    flags = ["--model_name", str(folder / "model"), "--hook_name", "model.layers.{0..2}"]
    flags += ["--dataset_path", "stdlib", "--output_path", str(folder / "output")]
    assert main(["train", *SMALL, *flags]) == 0
    return folder


@pytest.mark.slow
def test_every_figure(trained, tmp_path):
    labelled = tmp_path / "labelled.jsonl"
    words = {"numbers": "one two three", "colours": "red green blue"}
    rows = [{"text": f"{i} {words[name]}", "label": name} for i in range(60) for name in words]
    labelled.write_text("\n".join(json.dumps(row) for row in rows))
    output = trained / "output"
    settings = settings_for(
        output, n_batches=2, n_splice_batches=1, probing=(str(labelled),), max_texts_per_class=60
    )
    evaluation = evaluate_saved(output, settings)
    assert list(evaluation.per_hook) == [f"model.layers.{i}" for i in range(3)]
    sae = load_dictionary(output)
    model = load_stacked_model(str(trained / "model"), "model.layers.{0..2}")
    data = load_evaluation_data(sae, model, settings)
    llama = LlamaForCausalLM.from_pretrained(trained / "model")
    with torch.no_grad():
        hidden = [llama(tokens, output_hidden_states=True).hidden_states for tokens in data.batches]
        keep = [data.keep(tokens) for tokens in data.batches]
        stacked = [torch.cat(own[1:4], dim=-1)[at] for own, at in zip(hidden, keep, strict=True)]
        x = torch.cat(stacked)
        error, spread = x - sae(x), x - x.mean(dim=0)
    variances = [figures.explained_variance for figures in evaluation.per_hook.values()]
    by_hook = [at.square().view(-1, 3, 32).sum((0, 2)) for at in (error, spread)]
    assert variances == pytest.approx((1 - by_hook[0] / by_hook[1]).tolist(), abs=1e-4)
    (scores,) = evaluation.probing.values()
    assert set(scores) == {"codes", "raw", *(f"raw at model.layers.{i}" for i in range(3))}
    assert scores["raw"]["all"]["f1"] == 1.0  # other words, other embeddings
    coherence = FunctionalCoherence(sae)
    coherence.update(x)
    selected, _ = coherence.compute().mean()
    assert evaluation.coherence["selected"] == pytest.approx(selected, rel=1e-4)


@pytest.mark.slow
def test_the_longest_context(trained):
    model = load_stacked_model(str(trained / "model"), "model.layers.{0..2}")
    assert model.n_ctx == 128

    check_context_size(model, 128)
    with pytest.raises(InputError, match="context_size=129"):
        check_context_size(model, 129)
