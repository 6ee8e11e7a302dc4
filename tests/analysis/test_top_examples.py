"""Top examples against a plain sort of all activations."""

import pytest
import torch

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.analysis.top_examples import top_examples
from tests.architectures.dictionaries import randomise, training_dictionary

TEXTS = [f"def f{i}(x):\n    return x + {i} * {i * i}\n" for i in range(6)]


@pytest.fixture(scope="module")
def model(embedded_model):
    return StackedHooks(embedded_model, "blocks.{1,4}.hook_resid_post")


def test_against_a_plain_sort(model):
    torch.manual_seed(0)
    sae = randomise(training_dictionary(d_in=model.d_in, n_hooks=2, d_sae=48, k=6)).to_inference()
    tokens = torch.cat([model.to_tokens(text)[:, :12] for text in TEXTS])
    bos = int(tokens[0, 0])
    z = sae.encode(model.gather(tokens)).detach()
    z[tokens == bos] = 0
    latents = z.amax(dim=(0, 1)).topk(3).indices.tolist()
    found = top_examples(sae, model, tokens.split(2), latents, n=4, window=3, special_tokens=[bos])
    assert list(found) == latents
    for latent in latents:
        by_row = z[..., latent].max(dim=1)
        order = by_row.values.argsort(descending=True)[:4]
        expected = [row for row in order.tolist() if by_row.values[row] > 0]
        assert len(found[latent]) == len(expected)
        for example, row in zip(found[latent], expected, strict=True):
            at = int(by_row.indices[row])
            first = max(0, at - 3)
            assert example.activation == pytest.approx(by_row.values[row].item(), rel=1e-5)
            assert example.peak == at - first
            assert example.activations == pytest.approx(
                z[row, first : at + 4, latent].tolist(), 1e-5
            )
            assert example.tokens[example.peak] == model.tokenizer.decode([tokens[row, at]])
            assert f"«{example.tokens[example.peak]}»".replace("\n", "\\n") in str(example)
            assert "\n" not in str(example)


def test_latents_that_are_never_active_and_that_do_not_exist(model):
    sae = training_dictionary(d_in=model.d_in, n_hooks=2, d_sae=48, k=6).to_inference()
    with torch.no_grad():
        sae.b_enc[5] = -1e9
    tokens = model.to_tokens(TEXTS[0])
    assert top_examples(sae, model, [tokens], [5]) == {5: []}
    with pytest.raises(InputError, match="latents: 48"):
        top_examples(sae, model, [tokens], [48])
