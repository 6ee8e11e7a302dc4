"""Texts through models and dictionaries of every kind."""

import pytest
import torch
from sae_lens.load_model import HookedProxyLM
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from sae_lens_poly import StackedHooks
from sae_lens_poly.evaluation.saved import model_of
from sae_lens_poly.explorer.try_text import TriedTexts
from sae_lens_poly.models.attached import AttachedCrosscoder, add
from tests.explorer.dictionaries import crosscoder, two_models
from tests.models.tiny_llama import tiny_llama

EDIT = add(9, 200.0)


def test_edits_are_those_of_an_attached_crosscoder():
    sae = crosscoder()
    model = model_of(sae, "", "cpu")
    tokens = model.to_tokens("import os\n")
    attached = AttachedCrosscoder(model.model, sae, error_term=True, edits=[EDIT])
    with torch.no_grad():
        expected = attached(tokens, where=tokens != tokens[0, 0])[0, -1].softmax(-1)
    found = TriedTexts(sae, model).run("import os\n", [EDIT])
    assert found["next"][-1][0][2] <= expected.max().item() * 1.001
    after = max(q for _, _, q in found["next"][-1])
    assert after == pytest.approx(expected.max().item(), rel=1e-3)


def test_a_stock_sae_on_a_hugging_face_model(embedded_model):
    names = ["model.layers.1"]
    proxy = HookedProxyLM(tiny_llama(), embedded_model.tokenizer, hook_names=names)
    sae = StandardSAE(StandardSAEConfig(d_in=32, d_sae=16, metadata=SAEMetadata(prepend_bos=True)))
    torch.nn.init.normal_(sae.W_enc)
    torch.nn.init.normal_(sae.W_dec)
    tried = TriedTexts(sae, StackedHooks(proxy, names))
    assert max(tried.run("import os\n")["divergence"]) == 0
    found = tried.run("import os\n", [add(3, 50.0)])
    assert found["special"][0]
    assert found["divergence"][-1] > 0


def test_two_models():
    sae = two_models()
    found = TriedTexts(sae, model_of(sae, "", "cpu")).run("import os\n", [EDIT])
    assert found["divergence"][-1] > 0
