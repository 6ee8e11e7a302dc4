"""One hook point of a crosscoder, as tools for SAEs use it."""

import pytest
import torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.util import get_special_token_ids

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.linear_decoder import is_linear
from sae_lens_poly.evaluation.saebench import TokenBatches
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.one_hook_point import OneHookPoint
from tests.architectures import poly_saes
from tests.architectures.dictionaries import (
    D_MODEL,
    D_SAE,
    N_HOOKS,
    VARIANTS,
    activations,
    randomise,
    train,
    training_dictionary,
)

FACTORED = {
    "encoder_weights": "cp",
    "decoder_weights": "cp",
    "encoder_ranks": [6],
    "decoder_ranks": [6],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("hook", range(N_HOOKS))
def test_is_the_crosscoder_at_that_hook_point(variant, hook):
    crosscoder = randomise(training_dictionary(variant)).to_inference()
    view = HookPointView(crosscoder, hook)
    x = activations(64)
    codes = crosscoder.encode(x)
    here = slice(hook * D_MODEL, (hook + 1) * D_MODEL)
    torch.testing.assert_close(view.encode(x), codes)
    torch.testing.assert_close(view.decode(codes), crosscoder.decode(codes)[:, here])
    torch.testing.assert_close(view(x), crosscoder(x)[:, here])
    linear = codes @ view.W_dec + view.b_dec
    close = torch.allclose(view.decode(codes), linear, rtol=1e-4, atol=1e-4)
    assert close == is_linear(view) == (variant == "linear")
    assert isinstance(view, SAE)
    assert (view.cfg.d_in, view.cfg.d_out) == (N_HOOKS * D_MODEL, D_MODEL)
    assert view.W_enc.shape == (N_HOOKS * D_MODEL, D_SAE)


def test_factored_weights():
    crosscoder = randomise(training_dictionary("linear", **FACTORED)).to_inference()
    view = HookPointView(crosscoder, 2)
    codes = view.encode(activations(16))
    linear = codes @ view.W_dec + view.b_dec
    torch.testing.assert_close(linear, view.decode(codes), rtol=1e-4, atol=1e-3)


def test_moves_with_its_crosscoder():
    view = HookPointView(training_dictionary().to_inference(), 1).to(dtype=torch.float64)
    assert view(activations(4)).dtype == view.crosscoder.dtype == view.dtype == torch.float64


def test_refuses_one_hook_point_alone():
    view = HookPointView(training_dictionary().to_inference(), 1)
    with pytest.raises(InputError, match="cannot be computed from one alone"):
        view.encode(torch.zeros(4, D_MODEL))
    with pytest.raises(InputError, match="reads the whole stack"):
        view.encode(torch.zeros(4, 5))


def test_wrong_input(embedded_model, tmp_path):
    crosscoder = training_dictionary().to_inference()
    with pytest.raises(InputError, match="0 to 2"):
        HookPointView(crosscoder, 3)
    with pytest.raises(InputError, match="not in the stack"):
        HookPointView(crosscoder, "blocks.9.hook_resid_post")
    with pytest.raises(InputError, match="taken as they are"):
        HookPointView(poly_saes.poly_sae(), 0)
    with pytest.raises(InputError, match="after export"):
        HookPointView(training_dictionary(), 0)
    unwritten = training_dictionary(structure="strictly_causal").to_inference()
    with pytest.raises(InputError, match="no latent writes it"):
        HookPointView(unwritten, 0)
    at = OneHookPoint(StackedHooks(embedded_model, "blocks.{0,1}.hook_resid_post"), 1)
    with pytest.raises(InputError, match="of a stack of 2"):
        HookPointView(crosscoder, 1, at)
    with pytest.raises(InputError, match="fold the crosscoder"):
        HookPointView(crosscoder, 1).fold_W_dec_norm()
    with pytest.raises(InputError, match="save the crosscoder"):
        HookPointView(crosscoder, 1).save_model(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["linear", "interactions"])
def test_run_evals_of_saelens_agrees_with_our_figures(embedded_model, variant):
    model = StackedHooks(embedded_model, "blocks.{1,3,5}.hook_resid_post")
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(1, 4096, (4, 32), generator=generator) for _ in range(2)]
    for tokens in batches:
        tokens[:, 0] = 0
    x = model.gather(batches[0])[:, 1:].flatten(0, 1)
    crosscoder = train(training_dictionary(variant, d_in=model.d_in), x=x).to_inference()
    special = get_special_token_ids(embedded_model.tokenizer)
    ours = evaluate_dictionary(
        crosscoder,
        EvaluationData(model, batches, special, EvaluationSettings(n_splice_batches=len(batches))),
    )
    config = EvalConfig(
        n_eval_reconstruction_batches=2,
        n_eval_sparsity_variance_batches=2,
        compute_ce_loss=True,
        compute_variance_metrics=True,
    )
    for hook, name in enumerate(model.hook_names):
        at = OneHookPoint(model, hook)
        view = HookPointView(crosscoder, hook, at)
        theirs, _ = run_evals(
            view, TokenBatches(batches), at, ActivationScaler(), config, {}, list(special)
        )
        own = ours.per_hook[name]
        ce = theirs["model_performance_preservation"]
        assert ce["ce_loss_with_sae"] == pytest.approx(own.ce_spliced, abs=1e-4)
        assert ce["ce_loss_score"] == pytest.approx(own.ce_recovered, abs=1e-4)
        variance = theirs["reconstruction_quality"]["explained_variance"]
        assert variance == pytest.approx(own.explained_variance, abs=1e-4)
