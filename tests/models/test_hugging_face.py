"""What of a HookedTransformer is used in tutorials and README, on a model of the other kind."""

import pytest
import torch
from sae_lens import SAE
from sae_lens.load_model import HookedProxyLM

from sae_lens_poly import AttachedCrosscoder, InputError, StackedHooks
from sae_lens_poly.architectures.crosscoders.config import CrosscoderConfig
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.models.attached import add
from tests.models.tiny_llama import LONGEST_CONTEXT, tiny_llama

NAMES = ["model.layers.1", "model.layers.2"]
TEXT = "def area(radius):\n    return 3 * radius ** 2\n"


@pytest.fixture(scope="module")
def proxy():
    return HookedProxyLM(tiny_llama(), load_embedded_tokenizer())


@pytest.fixture(scope="module")
def stack(proxy):
    return StackedHooks(proxy, NAMES)


def attached(model, **options):
    torch.manual_seed(0)
    crosscoder = SAE.from_dict(CrosscoderConfig(d_in=64, n_hooks=2, d_sae=16).to_dict())
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.normal_(std=0.3)
    return AttachedCrosscoder(model, crosscoder, hook_names=NAMES, codes="causal", **options)


def test_text_as_tokens(stack, embedded_model):
    for text in (TEXT, "", "x"):
        assert torch.equal(stack.to_tokens(text), embedded_model.to_tokens(text))
        without = embedded_model.to_tokens(text, prepend_bos=False)
        assert torch.equal(stack.to_tokens(text, prepend_bos=False), without)
    assert torch.equal(stack.to_tokens([TEXT, "x"])[0:1], embedded_model.to_tokens(TEXT))
    assert stack.to_tokens(TEXT * 99).shape == (1, LONGEST_CONTEXT)
    assert stack.to_tokens(TEXT * 99, truncate=False).shape[1] > LONGEST_CONTEXT
    tokens = stack.to_tokens(TEXT)
    assert stack.to_string(tokens) == embedded_model.to_string(tokens)
    assert stack.to_string(tokens[0, 1:]) == TEXT
    assert stack.to_str_tokens(TEXT) == embedded_model.to_str_tokens(TEXT)
    assert stack.to_single_token("def") == embedded_model.to_single_token("def")
    with pytest.raises(InputError, match="has to be one"):
        stack.to_single_token(TEXT)


def test_the_readme(stack):
    assert stack.gather(stack.to_tokens("Hello world")).shape[-1] == 64


def test_losses(stack, proxy):
    tokens = stack.to_tokens(TEXT)
    logits, loss = stack(tokens, return_type="both")
    assert torch.equal(proxy(tokens), logits)
    assert stack(TEXT, return_type="loss") == loss
    per_token = stack(tokens, return_type="loss", loss_per_token=True)
    assert per_token.shape == (1, tokens.shape[1] - 1)
    torch.testing.assert_close(per_token.mean(), loss)
    assert stack(tokens, return_type=None) is None
    assert stack.W_U.shape == (32, 4096)
    assert stack.run_with_hooks(TEXT, return_type="loss") == loss


def test_an_argument_that_would_not_be_heeded(stack):
    tokens = stack.to_tokens(TEXT)
    with pytest.raises(InputError, match="attention_mask"):
        stack(tokens, attention_mask=torch.zeros_like(tokens))


def test_it_generates(stack, proxy):
    greedy = {"max_new_tokens": 5, "do_sample": False, "stop_at_eos": False, "verbose": False}
    tokens = stack.to_tokens(TEXT)
    grown = stack.generate(tokens, **greedy)
    assert grown.shape == (1, tokens.shape[1] + 5)
    assert torch.equal(proxy(grown)[0, -6:-1].argmax(-1), grown[0, -5:])
    assert stack.generate(TEXT, **greedy).startswith(TEXT)
    assert torch.equal(stack.generate(TEXT, return_type="tokens", **greedy), grown)
    assert isinstance(stack.generate(TEXT, max_new_tokens=2, temperature=0.7, top_k=5), str)


def test_a_crosscoder_in_it_generates(proxy, stack):
    greedy = {"max_new_tokens": 4, "do_sample": False, "stop_at_eos": False}
    tokens = stack.to_tokens(TEXT)
    plain = stack.generate(tokens, **greedy)
    assert torch.equal(attached(proxy, error_term=True).generate(tokens, **greedy), plain)
    steered = attached(proxy, error_term=True, edits=[add(3, 50.0)])
    grown = steered.generate(tokens, **greedy)
    assert not torch.equal(grown, plain)
    assert torch.equal(steered(grown)[0, -5:-1].argmax(-1), grown[0, -4:])
    assert steered(tokens, return_type="loss").ndim == 0
