"""Our figures agree with SAELens' run_evals where both apply."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids

from sae_lens_poly import InputError, StackedHooks, TrainingRunner
from sae_lens_poly.analysis.interactions import without_degrees
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.saved import (
    evaluate_saved,
    load_evaluation_data,
)
from sae_lens_poly.evaluation.settings import EvaluationSettings
from tests.training.test_resume import runner_config
from tests.training.test_wrong_input import dictionary


def drawing_from():
    """Where torch's and numpy's generators are."""
    return [torch.get_rng_state(), *np.random.get_state(legacy=False)["state"].values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hooks", "n_hooks"), [("blocks.{1,3}.hook_resid_post", 2), ("blocks.2.hook_resid_post", 1)]
)
def test_agrees_with_run_evals(embedded_model, tmp_path, hooks, n_hooks):
    model = StackedHooks(embedded_model, hooks)
    cfg = runner_config(tmp_path, hook_name=hooks, sae=dictionary(d_in=model.d_in, n_hooks=n_hooks))
    TrainingRunner(cfg, stdlib_dataset("train").select(range(60)), model).run()
    sae = load_dictionary(tmp_path / "output")

    def store():
        text = stdlib_dataset("held_out").select(range(10))
        return ActivationsStore.from_sae(model, sae, text, store_batch_size_prompts=4)

    ours_store = store()
    batches = [ours_store.get_batch_tokens() for _ in range(3)]
    special = get_special_token_ids(model.tokenizer)
    ours = evaluate_dictionary(
        sae, EvaluationData(model, batches, special, EvaluationSettings(n_splice_batches=3))
    )
    config = EvalConfig(
        n_eval_reconstruction_batches=3,
        n_eval_sparsity_variance_batches=3,
        compute_ce_loss=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    theirs_store = store()
    reconstruction = run_evals(
        sae, theirs_store, model, ActivationScaler(), config, exclude_special_tokens=special
    )[0]
    performance = reconstruction["model_performance_preservation"]
    assert ours.pooled.ce_recovered == pytest.approx(performance["ce_loss_score"], abs=1e-4)
    assert ours.ce_clean == pytest.approx(performance["ce_loss_without_sae"], abs=1e-4)
    assert ours.pooled.ce_spliced == pytest.approx(performance["ce_loss_with_sae"], abs=1e-4)

    config = EvalConfig(
        n_eval_sparsity_variance_batches=3,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    theirs = run_evals(
        sae, store(), model, ActivationScaler(), config, exclude_special_tokens=special
    )[0]
    assert ours.l0 == pytest.approx(theirs["sparsity"]["l0"], rel=1e-4)
    if n_hooks == 1:
        theirs_ev = theirs["reconstruction_quality"]["explained_variance"]
        assert ours.pooled.explained_variance == pytest.approx(theirs_ev, abs=1e-4)
    assert sum(ours.pooled.degree_shares.values()) == pytest.approx(1)
    assert list(ours.per_hook) == model.hook_names


@pytest.mark.slow
def test_the_exported_dictionary_is_the_trained_one(embedded_model, tmp_path):
    model = StackedHooks(embedded_model, "blocks.{1,3}.hook_resid_post")
    runner = TrainingRunner(
        runner_config(tmp_path), stdlib_dataset("train").select(range(60)), model
    )
    sae = runner.run()
    tokens = [torch.randint(1, 4096, (4, 32))]
    data = EvaluationData(model, tokens)
    saved = evaluate_dictionary(load_dictionary(tmp_path / "output"), data)
    assert evaluate_dictionary(sae.to_inference(), data) == saved


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["weakly_causal", "strictly_causal"])
def test_what_is_not_written_has_no_figures(embedded_model, tmp_path, structure, drawn):
    hooks = "blocks.{1,2,4}.hook_resid_post"
    sae = dictionary(d_in=3 * 128, n_hooks=3, structure=structure)
    cfg = runner_config(tmp_path, hook_name=hooks, sae=sae)
    model = StackedHooks(embedded_model, hooks)
    TrainingRunner(cfg, stdlib_dataset("train").select(range(60)), model).run()
    settings = EvaluationSettings(n_batches=1, batch_size_prompts=2, dataset_path="stdlib")
    before = drawing_from()
    evaluation = evaluate_saved(tmp_path / "output", settings, model=model)
    assert all(np.array_equal(a, b) for a, b in zip(before, drawing_from(), strict=True))
    written = model.hook_names[1 if structure == "strictly_causal" else 0 :]
    assert list(evaluation.per_hook) == written
    sae = load_dictionary(tmp_path / "output")
    data = load_evaluation_data(sae, model, settings)
    (tokens,) = data.batches
    x = model.gather(tokens)[data.keep(tokens)]
    scale = 128**0.5 / x.view(-1, 3, 128).norm(dim=-1).mean(dim=0)[:, None]
    with torch.no_grad():
        both = [at.view(-1, 3, 128) * scale for at in (x, sae(x))]
    x, x_hat = (at[:, -len(written) :].double().flatten(1) for at in both)
    pooled = 1 - (x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert evaluation.pooled.explained_variance == pytest.approx(pooled.item(), abs=1e-4)
    bars = [bar.get_height() for bar in drawn[-1].axes[2].patches]
    assert bars[: len(written)] == [f.explained_variance for f in evaluation.per_hook.values()]


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["standard", "poly_topk"])
def test_normalisation_at_run_time(embedded_model, architecture, normalize):
    """SAELens undoes it once for each encoding."""
    model = StackedHooks(embedded_model, "blocks.2.hook_resid_post")
    fields = {"architecture": architecture, "d_in": 128, "d_sae": 64}
    fields |= {"k": 8, "rank_2": 4, "rank_3": 4} if architecture == "poly_topk" else {}
    torch.manual_seed(0)
    sae = SAE.from_dict({**fields, "normalize_activations": normalize, "dtype": "float32"})
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_(std=0.1)
    tokens = torch.randint(1, 4096, (4, 32))
    found = evaluate_dictionary(sae, EvaluationData(model, [tokens]))
    x = model.gather(tokens).flatten(0, 1)
    with torch.no_grad():
        error = (x - sae(x)).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    assert found.pooled.explained_variance == pytest.approx(1 - error.item(), rel=1e-3)
    assert sum(found.pooled.degree_shares.values()) == pytest.approx(1, abs=1e-4)
    if architecture == "poly_topk":
        with torch.no_grad(), without_degrees(sae):
            error = (x - sae(x)).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    linear = found.pooled.explained_variance_linear
    assert linear == pytest.approx(1 - error.item(), rel=1e-3)


@pytest.mark.slow
def test_text_that_was_trained_on_is_refused(embedded_model, tmp_path):
    model = StackedHooks(embedded_model, "blocks.{1,3}.hook_resid_post")
    path = tmp_path / "text.jsonl"
    text = "".join(stdlib_dataset("train").select(range(40))["text"])
    rows = [json.dumps({"text": text[i : i + 300]}) for i in range(0, 300_000, 300)]
    path.write_text("\n".join(rows))
    cfg = runner_config(tmp_path, dataset_path=str(path))
    TrainingRunner(cfg, override_model=model).run()
    sae = load_dictionary(tmp_path / "output")
    read = sae.cfg.metadata.n_dataset_rows_read
    assert read > 0
    settings = EvaluationSettings(n_batches=1, batch_size_prompts=2)
    data = load_evaluation_data(sae, model, settings)
    named = load_evaluation_data(sae, model, replace(settings, dataset_path=str(path)))
    assert torch.equal(data.batches[0], named.batches[0])
    with pytest.raises(InputError, match=f"skip_rows=0, and training read {read} rows"):
        load_evaluation_data(sae, model, replace(settings, skip_rows=0))
    with pytest.raises(InputError, match="fewer than 9999 batches"):
        load_evaluation_data(sae, model, replace(settings, n_batches=9999))
    sae.cfg.metadata.dataset_path, sae.cfg.metadata.model_name = None, "gpt2"
    with pytest.raises(InputError, match="name one with --dataset_path"):
        load_evaluation_data(sae, model, settings)
