"""Amplified differences against loops by hand, at the ends of alpha, and on rare outputs."""

import copy

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import LogitsProcessorList

from sae_lens_poly import InputError
from sae_lens_poly.analysis.amplification import AmplifiedDifference, amplify, generate_amplified
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from tests.models.tiny_llama import tiny_llama

TOKENIZER = load_embedded_tokenizer()
PROMPTS = torch.tensor([[5, 17, 9, 300], [8, 4000, 2, 7]])


def shaken(model, seed):
    """A copy with other weights, far enough away that the next tokens differ."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def llamas():
    return [shaken(tiny_llama(), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def hooked():
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=20, d_head=8, n_heads=2, d_vocab=4096, act_fn="gelu", seed=1
    )
    model = HookedTransformer(cfg, tokenizer=TOKENIZER)
    return [shaken(model, seed) for seed in (1, 2)]


def by_hand(before, after, tokens, alpha, n=8):
    """The most probable tokens, each from a run on all of the text."""
    for _ in range(n):
        a, b = (getattr(o, "logits", o)[:, -1] for o in (after(tokens), before(tokens)))
        new = (a + alpha * (a - b)).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


def test_ends_of_alpha_are_exact():
    before, after = torch.randn(2, 3, 7).unbind()
    after[0, 2] = -torch.inf
    assert torch.equal(amplify(before, after, 0), after)
    expected = before.clone()
    expected[0, 2] = -torch.inf
    assert torch.equal(amplify(before, after, -1), expected)
    assert amplify(before, after, 3.0)[0, 2] == -torch.inf
    torch.testing.assert_close(amplify(before, after, 2.0)[1:], (3 * after - 2 * before)[1:])


def hugging_face(before, after, alpha, mask=None, tokens=PROMPTS, **options):
    processor = AmplifiedDifference(before, alpha, (TOKENIZER, TOKENIZER), mask)
    options = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    } | options
    mask = torch.ones_like(tokens) if mask is None else mask
    return after.generate(
        tokens, attention_mask=mask, logits_processor=LogitsProcessorList([processor]), **options
    )


@torch.no_grad()
@pytest.mark.parametrize("alpha", [-1, -0.5, 0, 0.3, 4.0])
def test_generate_of_hugging_face(llamas, alpha):
    before, after = llamas
    got = hugging_face(before, after, alpha)
    assert torch.equal(got, by_hand(before, after, PROMPTS, alpha))
    plain = {-1: before, 0: after}.get(alpha)
    if plain is not None:
        mask = torch.ones_like(PROMPTS)
        alone = plain.generate(
            PROMPTS, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None
        )
        assert torch.equal(got, alone)


@torch.no_grad()
def test_options_of_generate(llamas):
    before, after = llamas
    beams = hugging_face(before, after, 2.0, num_beams=3)
    one_beam_each = [hugging_face(before, after, 2.0, tokens=p[None], num_beams=3) for p in PROMPTS]
    assert torch.equal(beams, torch.cat(one_beam_each))
    torch.manual_seed(0)
    sampled = hugging_face(before, after, 2.0, do_sample=True, top_k=1)
    assert torch.equal(sampled, by_hand(before, after, PROMPTS, 2.0))
    assert len(hugging_face(before, after, 2.0, num_return_sequences=3, do_sample=True)) == 6


@torch.no_grad()
def test_prompts_padded_on_the_left(llamas):
    before, after = llamas
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), PROMPTS], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    got = hugging_face(before, after, 2.0, mask, padded)
    assert torch.equal(got[:, 3:], by_hand(before, after, PROMPTS, 2.0))


@torch.no_grad()
def test_a_processor_serves_several_calls(llamas):
    before, after = llamas
    processor = AmplifiedDifference(before, 2.0, (TOKENIZER, TOKENIZER))
    for prompts in (PROMPTS, PROMPTS.flip(0), PROMPTS[:1]):
        scores = after(prompts).logits[:, -1]
        expected = scores + 2.0 * (scores - before(prompts).logits[:, -1])
        torch.testing.assert_close(processor(prompts, scores), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [-1, -0.5, 0, 0.3, 4.0])
@torch.no_grad()
def test_transformer_lens(hooked, alpha):
    before, after = hooked
    got = generate_amplified(before, after, PROMPTS, alpha, max_new_tokens=8, temperature=0.0)
    assert torch.equal(got, by_hand(before, after, PROMPTS, alpha))
    plain = {-1: before, 0: after}.get(alpha)
    if plain is not None:
        alone = plain.generate(
            PROMPTS, max_new_tokens=8, temperature=0.0, stop_at_eos=False, verbose=False
        )
        assert torch.equal(got, alone)


def test_a_text_that_is_complete_stops(hooked):
    before, after = hooked
    whole = generate_amplified(before, after, PROMPTS, 1.0, max_new_tokens=8, temperature=0.0)
    stop = int(whole[0, 6])
    stopped = generate_amplified(
        before, after, PROMPTS[:1], 1.0, max_new_tokens=8, stop_at=stop, temperature=0.0
    )
    n = whole[0, 4:].tolist().index(stop) + 5
    assert torch.equal(stopped, whole[:1, :n])


def test_what_is_refused(llamas, hooked):
    same = (TOKENIZER, TOKENIZER)
    for alpha in (float("nan"), float("inf"), None):
        with pytest.raises(InputError, match="alpha="):
            AmplifiedDifference(llamas[0], alpha, same)
        with pytest.raises(InputError, match="alpha="):
            generate_amplified(*hooked, PROMPTS, alpha)
    other = copy.deepcopy(TOKENIZER)
    other.add_tokens(["<|another|>"])
    with pytest.raises(InputError, match="different tokenizers"):
        AmplifiedDifference(llamas[0], 1.0, (TOKENIZER, other))
    with pytest.raises(InputError, match="max_new_tokens=17"):
        generate_amplified(*hooked, PROMPTS, 1.0, max_new_tokens=17)
    wider = tiny_llama()
    wider.resize_token_embeddings(4100)
    with pytest.raises(InputError, match="4100 logits"):
        hugging_face(wider, llamas[1], 1.0)
