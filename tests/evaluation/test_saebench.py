"""SAEBench's evaluations of our dictionaries: what runs, what is refused, and the same figures."""

import random

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from sklearn.linear_model import LogisticRegression

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.saebench import (
    DECODER_FREE,
    READ_W_DEC,
    check_saebench_eval,
    run_core,
    run_sparse_probing,
)
from sae_lens_poly.evaluation.settings import EvaluationSettings
from tests.architectures import poly_saes
from tests.architectures.dictionaries import train, training_dictionary

HOOKS = "blocks.{1,3,5}.hook_resid_post"
PIECES = {
    "imports": ["import os", "import sys", "from re import sub", "import json as j"],
    "classes": ["class A:", "    def f(self):", "        return self.x", "    pass"],
}


def texts(n, seed):
    draw = random.Random(seed)
    return {
        name: ["\n".join(draw.choices([*pieces, "x = 1", "# text"], k=6)) for _ in range(n)]
        for name, pieces in PIECES.items()
    }


@pytest.fixture(scope="module")
def stack(embedded_model):
    return StackedHooks(embedded_model, HOOKS)


@pytest.fixture(scope="module")
def crosscoder(stack):
    tokens = stack.tokenizer(texts(8, 0)["classes"], padding=True, return_tensors="pt")["input_ids"]
    x = stack.gather(tokens).flatten(0, 1)
    return train(training_dictionary(d_in=stack.d_in), x=x).to_inference()


def token_batches():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(1, 4096, (4, 32), generator=generator) for _ in range(2)]
    for tokens in batches:
        tokens[:, 0] = 0
    return batches


def exported(sae, folder):
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder)


def test_what_reads_W_dec_is_refused_for_polynomials(tmp_path):
    polynomial, linear = (
        exported(poly_saes.poly_sae(degree=d), tmp_path / f"degree {d}") for d in (3, 1)
    )
    for evaluation in READ_W_DEC:
        with pytest.raises(InputError, match="linear term alone"):
            check_saebench_eval(polynomial, evaluation)
        check_saebench_eval(linear, evaluation)
    for evaluation in DECODER_FREE:
        check_saebench_eval(polynomial, evaluation)
    with pytest.raises(InputError, match="not one whose use"):
        check_saebench_eval(linear, "beauty")


@pytest.mark.parametrize("variant", ["linear", "interactions"])
def test_of_a_crosscoder_one_hook_point_is_evaluated(variant):
    crosscoder = training_dictionary(variant).to_inference()
    view = HookPointView(crosscoder, 1)
    for evaluation in ("core", "sparse_probing"):
        check_saebench_eval(view, evaluation)
        with pytest.raises(InputError, match="HookPointView"):
            check_saebench_eval(crosscoder, evaluation)
    with pytest.raises(InputError, match="depends on the whole stack"):
        check_saebench_eval(view, "ravel")
    with pytest.raises(InputError, match="linear term" if variant != "linear" else "whole stack"):
        check_saebench_eval(view, "tpp")


def test_wrong_texts_and_models(stack, crosscoder, embedded_model):
    view, own = HookPointView(crosscoder, 0), texts(3, 0)
    with pytest.raises(InputError, match="the same two or more"):
        run_sparse_probing(view, stack, own, {"imports": ["x"]})
    with pytest.raises(InputError, match="same number"):
        run_sparse_probing(view, stack, own, {**own, "imports": ["x"]})
    one = StackedHooks(embedded_model, "blocks.1.hook_resid_post")
    with pytest.raises(InputError, match="384"):
        run_sparse_probing(view, one, own, own)
    with pytest.raises(InputError, match="none"):
        run_core(view, stack, [])


@torch.no_grad()
def mean_codes(sae, model, rows):
    means = []
    for row in rows:
        x = model.gather(model.tokenizer([row], return_tensors="pt")["input_ids"][:, :32])
        means.append(sae.encode(x)[0].double().mean(0).numpy())
    return np.array(means)


def reference_accuracy(train_codes, test_codes, k, positive):
    """Of two classes: the negatives are the whole other class, so that nothing is drawn."""
    names = sorted(train_codes, key=lambda name: name != positive)
    x, x_test = (np.concatenate([codes[n] for n in names]) for codes in (train_codes, test_codes))
    y, y_test = (np.repeat([1, 0], len(codes[positive])) for codes in (train_codes, test_codes))
    top = np.argsort(-abs(x[y == 1].mean(0) - x[y == 0].mean(0)))[:k]
    return LogisticRegression(max_iter=1000).fit(x[:, top], y).score(x_test[:, top], y_test)


@pytest.mark.filterwarnings("ignore")
def test_sparse_probing_of_two_classes_is_logistic_regression(stack, crosscoder, tmp_path):
    pytest.importorskip("sae_bench")
    train_texts, test_texts = texts(16, 1), texts(16, 2)
    view, before = HookPointView(crosscoder, 1), crosscoder.cfg.to_dict()
    state, python_state = torch.get_rng_state(), random.getstate()
    options = {"k_values": (1, 2), "context_length": 32, "artifacts_folder": tmp_path}
    result = run_sparse_probing(view, stack, train_texts, test_texts, **options)
    assert torch.equal(state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert crosscoder.cfg.to_dict() == before
    codes = [
        {name: mean_codes(view, stack, rows) for name, rows in own.items()}
        for own in (train_texts, test_texts)
    ]
    for k in (1, 2):
        accuracies = result.per_class[f"sae_top_{k}_test_accuracy"]
        for name, accuracy in accuracies.items():
            expected = reference_accuracy(*codes, k, name)
            assert accuracy == pytest.approx(expected, abs=0.5 / 32)
        assert result.mean[f"sae_top_{k}_test_accuracy"] == pytest.approx(
            np.mean(list(accuracies.values()))
        )
    assert result.mean["llm_test_accuracy"] > 0.9


def test_core_agrees_with_our_figures(stack, crosscoder):
    pytest.importorskip("sae_bench")
    batches = token_batches()
    special = get_special_token_ids(stack.tokenizer)
    ours = evaluate_dictionary(
        crosscoder,
        EvaluationData(stack, batches, special, EvaluationSettings(n_splice_batches=len(batches))),
    )
    keep = [~torch.isin(tokens, torch.tensor(special)) for tokens in batches]
    x = torch.cat([stack.gather(t)[k] for t, k in zip(batches, keep, strict=True)])
    for hook, name in enumerate(stack.hook_names):
        theirs = run_core(HookPointView(crosscoder, hook), stack, batches)
        ce = theirs["model_performance_preservation"]
        own = ours.per_hook[name]
        assert ce["ce_loss_score"] == pytest.approx(own.ce_recovered, abs=1e-4)
        assert ce["ce_loss_with_sae"] == pytest.approx(own.ce_spliced, abs=1e-4)
        assert ce["ce_loss_without_sae"] == pytest.approx(ours.ce_clean, abs=1e-4)
        assert theirs["sparsity"]["l0"] == pytest.approx(ours.l0, rel=1e-5)
        here = slice(hook * stack.d_model, (hook + 1) * stack.d_model)
        cosine = torch.cosine_similarity(x[:, here], crosscoder(x)[:, here]).mean().item()
        assert theirs["reconstruction_quality"]["cossim"] == pytest.approx(cosine, abs=1e-4)
        # SAEBench 0.6.0's explained variance, as the docstring of run_core tells it.
        error = (x[:, here] - crosscoder(x)[:, here]).pow(2).sum(-1).mean().item()
        square = x[:, here].pow(2).sum(-1).mean().item()
        expected = 1 - error / (square - (square / stack.d_model) ** 2)
        variance = theirs["reconstruction_quality"]["explained_variance"]
        assert variance == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("architecture", poly_saes.ARCHITECTURES)
def test_core_takes_polynomial_saes_as_they_are(embedded_model, architecture, tmp_path):
    pytest.importorskip("sae_bench")
    model = StackedHooks(embedded_model, "blocks.3.hook_resid_post")
    sae = exported(poly_saes.poly_sae(architecture, "codes", d_in=128), tmp_path)
    batches = token_batches()
    theirs = run_core(sae, model, batches)
    ours = evaluate_dictionary(
        sae,
        EvaluationData(
            model,
            batches,
            get_special_token_ids(model.tokenizer),
            EvaluationSettings(n_splice_batches=len(batches)),
        ),
    )
    ce = theirs["model_performance_preservation"]
    assert ce["ce_loss_with_sae"] == pytest.approx(ours.pooled.ce_spliced, abs=1e-3)
    assert theirs["sparsity"]["l0"] == pytest.approx(ours.l0, rel=1e-5)
