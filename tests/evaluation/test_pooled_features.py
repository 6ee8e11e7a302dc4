"""Means over the tokens of texts, against a plain loop; what the units of latents change."""

import copy

import numpy as np
import pytest
import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from sae_lens_poly import StackedHooks
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.pooled_features import (
    hook_columns,
    pooled_activations,
    pooled_codes,
    tokenise,
)
from sae_lens_poly.evaluation.scaled_codes import (
    as_csr,
    latent_norms,
    scaled_codes,
    sparse_codes,
)
from tests.architectures.dictionaries import randomise, training_dictionary

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "import os",
    "# λ and 日本 " * 40,
    "x",
    "<|endoftext|>class A:\n    pass\n",
]


@pytest.fixture(scope="module")
def model(embedded_model):
    return StackedHooks(embedded_model, "blocks.{1,4}.hook_resid_post")


def crosscoder(model, variant="interactions", **changes):
    fields = {"d_in": model.d_in, "n_hooks": 2, "d_sae": 48, "k": 6, **changes}
    training = randomise(training_dictionary(variant, **fields))
    sae = training.to_inference()
    sae.cfg.metadata.hook_scales = [0.5, 3.0]
    return sae


def loop(model, texts, read, context_size):
    """One text after the other, one token after the other."""
    rows = []
    for text in texts:
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        tokens = torch.tensor([[model.tokenizer.bos_token_id, *ids][:context_size]])
        x = model.gather(tokens)[0]
        kept = [read(x[i : i + 1])[0].detach().double() for i, t in enumerate(tokens[0]) if t != 0]
        rows.append(torch.stack(kept).mean(dim=0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("batch_size", [2, 8])
def test_is_the_mean_over_tokens_that_are_not_special(model, batch_size):
    sae = crosscoder(model)
    scales = torch.tensor([0.5, 3.0])
    weights = sae.W_dec.detach().view(48, 2, 128) * scales[:, None]
    norms = weights.pow(2).sum(dim=(1, 2)).sqrt()
    expected = loop(model, TEXTS, lambda x: sae.encode(x) * norms, 40)
    found = pooled_codes(sae, model, TEXTS, context_size=40, batch_size=batch_size)
    assert found.dtype == np.float32
    assert (found != 0).any()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    raw = pooled_activations(model, TEXTS, 40, batch_size)
    np.testing.assert_allclose(raw, loop(model, TEXTS, lambda x: x, 40), rtol=1e-3, atol=1e-3)


def test_columns_of_a_hook_point_are_those_of_its_own_stack(model, embedded_model):
    alone = StackedHooks(embedded_model, "blocks.4.hook_resid_post")
    np.testing.assert_allclose(
        hook_columns(pooled_activations(model, TEXTS), model, 1),
        pooled_activations(alone, TEXTS),
        rtol=1e-3,
        atol=1e-4,
    )
    with pytest.raises(InputError, match="hook=2"):
        hook_columns(np.zeros((1, 256), dtype=np.float32), model, 2)


def test_tokens_are_bos_text_and_padding_on_the_right(model):
    tokens, keep = tokenise(model, TEXTS, 16)
    assert tokens.shape == keep.shape == (5, 16)
    assert (tokens[:, 0] == model.tokenizer.bos_token_id).all()
    assert not keep[:, 0].any()
    for row, text in enumerate(TEXTS):
        ids = model.tokenizer.encode(text, add_special_tokens=False)[:15]
        assert tokens[row, 1 : 1 + len(ids)].tolist() == ids
        assert keep[row].sum() == sum(i != 0 for i in ids)
    without, _ = tokenise(model, TEXTS[:1], 16, prepend_bos=False)
    assert without[0, 0] == tokens[0, 1]


@pytest.mark.parametrize("factored", [False, True])
def test_the_gauge_of_a_crosscoder_changes_nothing(model, factored):
    forms = {"encoder_weights": "cp", "decoder_weights": "cp"} if factored else {}
    ranks = {"encoder_ranks": [20], "decoder_ranks": [20]} if factored else {}
    sae = crosscoder(model, "linear", **forms, **ranks)
    other = copy.deepcopy(sae)
    other.fold_W_dec_norm()  # z to c z, W_dec to W_dec / c, with a c for each latent
    assert (latent_norms(other) - latent_norms(sae)).abs().max() > 0.1
    one = pooled_codes(sae, model, TEXTS)
    assert (one != 0).any()
    np.testing.assert_allclose(one, pooled_codes(other, model, TEXTS), rtol=1e-3, atol=1e-4)


def sae_lens_sae(model, kind, config, **fields):
    sae = kind(config(d_in=model.d_in, d_sae=32, **fields))
    generator = torch.Generator().manual_seed(0)
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return sae


def test_the_gauge_of_an_sae_changes_nothing(model):
    sae = sae_lens_sae(model, StandardSAE, StandardSAEConfig)
    c = torch.logspace(-1, 1, 32)
    other = copy.deepcopy(sae)
    other.W_enc.data *= c
    other.b_enc.data *= c
    other.W_dec.data /= c[:, None]
    one = pooled_codes(sae, model, TEXTS)
    np.testing.assert_allclose(one, pooled_codes(other, model, TEXTS), rtol=1e-3, atol=1e-2)


def test_codes_that_are_in_units_of_the_norm_are_left_as_they_are(model):
    fields = {"k": 4, "rescale_acts_by_decoder_norm": True}
    sae = sae_lens_sae(model, TopKSAE, TopKSAEConfig, **fields)
    x = torch.randn(10, model.d_in, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scaled_codes(sae, x), sae.encode(x))


def test_sparse_codes_are_the_dense_ones(model):
    sae = crosscoder(model)
    x = 5 * torch.randn(50, model.d_in, generator=torch.Generator().manual_seed(1))
    x[7] = 0
    codes = sparse_codes(sae, x, batch_size=12)
    assert codes.shape == (50, 48)
    assert codes.dtype == np.float32
    dense = scaled_codes(sae, x)
    np.testing.assert_allclose(codes.toarray(), dense.numpy(), rtol=1e-4, atol=1e-3)
    assert codes.nnz == pytest.approx(dense.count_nonzero().item(), abs=3)
    assert as_csr(torch.zeros(3, 4)).nnz == 0


def test_wrong_input_is_refused(model, embedded_model):
    sae = crosscoder(model)
    with pytest.raises(InputError, match=r"d_in=256 of the dictionary is not the 128"):
        pooled_codes(sae, StackedHooks(embedded_model, "blocks.1.hook_resid_post"), TEXTS)
    for texts, message in ((["a", ""], "number 1"), ([], "texts is empty")):
        with pytest.raises(InputError, match=message):
            pooled_codes(sae, model, texts)
    for context_size in (1, 513):
        with pytest.raises(InputError, match=f"context_size={context_size}"):
            pooled_activations(model, TEXTS, context_size)
    with pytest.raises(InputError, match="batch_size=0"):
        pooled_activations(model, TEXTS, batch_size=0)
