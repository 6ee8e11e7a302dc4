"""What SAEDashboard takes, and what it would show of it."""

import pytest
import torch
from sae_lens import SAE

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.saedashboard import (
    LINEAR_TERM_LABEL,
    StackAtHookPoint,
    dashboard_label,
    dashboard_transcoder,
)
from sae_lens_poly.models.one_hook_point import OneHookPoint
from tests.architectures import poly_saes
from tests.architectures.dictionaries import activations, randomise, train, training_dictionary

NAME = "blocks.3.hook_resid_post"
TOKENS = torch.randint(1, 4096, (4, 16), generator=torch.Generator().manual_seed(0))


def exported(sae, folder):
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder)


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_the_transcoder_is_the_view(apply_b_dec_to_input):
    sae = training_dictionary("linear", apply_b_dec_to_input=apply_b_dec_to_input)
    view = HookPointView(randomise(train(sae)).to_inference(), 2)
    transcoder, x = dashboard_transcoder(view), activations(64)
    torch.testing.assert_close(transcoder.encode(x), view.encode(x), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(transcoder(x), view(x), rtol=1e-4, atol=1e-2)


def test_what_is_refused_and_what_is_labelled(tmp_path):
    polynomial = HookPointView(training_dictionary("interactions").to_inference(), 0)
    with pytest.raises(InputError, match="polynomial"):
        dashboard_transcoder(polynomial)
    with pytest.raises(InputError, match="dashboard_transcoder"):
        dashboard_label(polynomial)
    topk = HookPointView(training_dictionary("linear", sparsifier="topk").to_inference(), 0)
    with pytest.raises(InputError, match="select_k=4"):
        dashboard_transcoder(topk)
    for architecture in ("poly_jumprelu", "poly_gated", "poly_standard"):
        with pytest.raises(InputError, match="by name"):
            dashboard_label(exported(poly_saes.poly_sae(architecture), tmp_path / architecture))
    label = dashboard_label(exported(poly_saes.poly_sae(), tmp_path / "3"))
    assert label == LINEAR_TERM_LABEL
    assert dashboard_label(exported(poly_saes.poly_sae(degree=1), tmp_path / "1")) is None


def pages(encoder, model):
    config = pytest.importorskip("sae_dashboard.sae_vis_data").SaeVisConfig(
        hook_point=NAME, features=[1, 2], minibatch_size_features=2, minibatch_size_tokens=4
    )
    runner = pytest.importorskip("sae_dashboard.sae_vis_runner").SaeVisRunner(config)
    return runner.run(encoder, model, TOKENS).feature_data_dict


@pytest.mark.filterwarnings("ignore")
def test_pages_of_a_poly_topk_sae_and_of_a_linear_crosscoder(embedded_model, tmp_path):
    sae = exported(poly_saes.poly_sae("poly_topk", "codes", d_in=128), tmp_path)
    assert list(pages(sae, embedded_model)) == [1, 2]

    stack = StackedHooks(embedded_model, "blocks.{1,3}.hook_resid_post")
    x = stack.gather(TOKENS).flatten(0, 1)
    own = train(training_dictionary("linear", d_in=stack.d_in, n_hooks=2), x=x).to_inference()
    at = OneHookPoint(stack, NAME)
    view = HookPointView(own, NAME if own.cfg.metadata.hook_names else at.hook, at)
    own_pages = pages(dashboard_transcoder(view), StackAtHookPoint(at))
    assert list(own_pages) == [1, 2]
    masking = pytest.importorskip("sae_dashboard.feature_data_generator").FeatureMaskingContext
    with pytest.raises((KeyError, ValueError)):  # it puts weights in place of the dictionary's
        masking(own, [1]).__enter__()
