"""Several hook points as one."""

import pytest
import torch
from sae_lens.load_model import HookedProxyLM

from sae_lens_poly import InputError, StackedHooks, load_stacked_model
from tests.models.tiny_llama import tiny_llama

PATTERN = "blocks.{1,3,4}.hook_resid_post"
TOKENS = torch.randint(1, 4096, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def stack(embedded_model):
    return StackedHooks(embedded_model, PATTERN)


def test_gathers_hook_points_end_to_end(stack, embedded_model):
    _, cache = embedded_model.run_with_cache(TOKENS)
    expected = torch.cat([cache[f"blocks.{i}.hook_resid_post"] for i in (1, 3, 4)], dim=-1)
    torch.testing.assert_close(stack.gather(TOKENS), expected)
    assert (stack.n_hooks, stack.d_model, stack.d_in) == (3, 128, 384)


def test_stops_after_the_last_hook_point(stack):
    output, _ = stack.run_with_cache(TOKENS, names_filter=[stack.hook_name])
    assert output.shape[-1] == 128  # a residual stream, not logits


def test_identity_hook_changes_nothing(stack, embedded_model):
    hooked = stack.run_with_hooks(TOKENS, fwd_hooks=[(stack.hook_name, lambda x, hook: x)])
    torch.testing.assert_close(hooked, embedded_model(TOKENS))


def test_a_function_on_the_stack_replaces_every_hook_point(stack, embedded_model):
    clean = stack.gather(TOKENS)
    hooked = stack.run_with_hooks(TOKENS, fwd_hooks=[(stack.hook_name, lambda x, hook: x * 0.5)])
    by_hand = [
        (f"blocks.{i}.hook_resid_post", lambda x, hook, n=n: clean[..., n : n + 128] * 0.5)
        for i, n in ((1, 0), (3, 128), (4, 256))
    ]
    torch.testing.assert_close(hooked, embedded_model.run_with_hooks(TOKENS, fwd_hooks=by_hand))


def test_splice_at_one_hook_point(stack, embedded_model):
    new = torch.randn(2, 12, 384)
    name = "blocks.3.hook_resid_post"
    expected = embedded_model.run_with_hooks(
        TOKENS, fwd_hooks=[(name, lambda x, hook: new[..., 128:256])]
    )
    torch.testing.assert_close(stack.splice(TOKENS, new, at=[1]), expected)


def test_everything_else_is_the_models(stack, embedded_model):
    assert stack.tokenizer is embedded_model.tokenizer
    assert stack.cfg is embedded_model.cfg
    assert torch.equal(stack.to_tokens("import os"), embedded_model.to_tokens("import os"))


def test_hugging_face_models(embedded_model):
    llama = tiny_llama()
    names = ["model.layers.1", "model.layers.2"]
    proxy = HookedProxyLM(llama, embedded_model.tokenizer, hook_names=names)
    stack = StackedHooks(proxy, "model.layers.{1..2}")
    with torch.no_grad():
        hidden = llama(TOKENS, output_hidden_states=True).hidden_states
        torch.testing.assert_close(stack.gather(TOKENS), torch.cat(hidden[2:4], dim=-1))
        hooked = stack.run_with_hooks(
            TOKENS, fwd_hooks=[(stack.hook_name, lambda x, hook: x)], return_type="logits"
        )
        torch.testing.assert_close(hooked, llama(TOKENS).logits)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("blocks.1.hook_resid_pots", "did you mean 'blocks.1.hook_resid_post'"),
        ("blocks.{5..6}.hook_resid_post", "blocks.6.hook_resid_post"),
        ("blocks.1.hook_resid_post,blocks.{0..2}.hook_resid_post", "more than once"),
        ("blocks.0.hook_resid_post,blocks.0.mlp.hook_post", "one width"),
        ("blocks.{0..1}.attn.hook_z", r"not \(batch, pos, width\)"),
    ],
)
def test_wrong_hook_points(embedded_model, pattern, words):
    with pytest.raises(InputError, match=words):
        StackedHooks(embedded_model, pattern)


def test_models_that_cannot_be_found(tmp_path):
    with pytest.raises(InputError, match="model_name='no-such-model'"):
        load_stacked_model("no-such-model", "blocks.0.hook_resid_post")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_stacked_model(str(tmp_path), "model.layers.0")
