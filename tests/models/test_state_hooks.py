"""Hook points on recurrent states, beside reference values of a tiny Qwen3.5."""

from pathlib import Path

import pytest
import torch
from sae_lens.load_model import HookedProxyLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sae_lens_poly import StackedHooks
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.recurrent_states import DeltaInputs, reached, scan
from tests.models.tiny_llama import tiny_llama

FOLDER = Path(__file__).parents[1] / "data" / "gated_deltanet"
STATE = "model.layers.1.linear_attn.state[head=2]"
WRITE = "model.layers.1.linear_attn.write[head=2]"


@pytest.fixture(scope="module")
def reference():
    return load_file(FOLDER / "reference.safetensors")


@pytest.fixture(scope="module")
def proxy():
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return HookedProxyLM(model, load_embedded_tokenizer())


def close(mine, theirs):
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_the_activation_is_the_state_or_the_write_of_the_head(proxy, reference):
    for what in ("state", "write"):
        stack = StackedHooks(proxy, f"model.layers.{{0..2}}.linear_attn.{what}[head={{3,1}}]")
        assert (stack.n_hooks, stack.d_model, stack.state_shape) == (6, 48, (8, 6))
        x = stack.gather(reference["input_ids"]).unflatten(-1, (3, 2, 8, 6))
        for layer in range(3):
            for place, head in enumerate((3, 1)):
                expected = reference[f"layer{layer}.{what}s"][:, :, head]
                close(x[:, :, layer, place], expected)
    assert StackedHooks(proxy, "model.layers.1").state_shape is None


def test_a_write_that_a_function_deletes_is_gone_from_later_states(proxy, reference):
    stack = StackedHooks(proxy, WRITE)
    tokens = reference["input_ids"]

    def delete(x, hook):
        x[:, 5] = 0
        return x

    logits = stack.model.run_with_hooks(tokens, fwd_hooks=[(WRITE, delete)])
    close(logits, reference["logits_delete"])
    close(stack(tokens), reference["logits"])


def test_states_that_a_splice_puts_in_place_are_read_out(proxy, reference):
    stack, tokens = StackedHooks(proxy, STATE), reference["input_ids"]
    new = torch.randn(*tokens.shape, 8, 6, generator=torch.Generator().manual_seed(0))

    def read_new(number, inputs, own):
        own = own.clone()
        own[:, :, 2] = torch.einsum("btkv,btk->btv", new, inputs.q[:, :, 2]) / 8**0.5
        return own

    with torch.no_grad(), reached(stack.model.model, {1}, read_new):
        expected = stack(tokens)
    close(stack.splice(tokens, new.flatten(-2)), expected)


def test_later_states_follow_from_one_that_is_changed(proxy, reference):
    stack = StackedHooks(proxy, [STATE, WRITE])
    tokens, new = reference["input_ids"], torch.randn(8, 6)
    seen = {}

    def change(x, hook):
        x[:, 4] = new.flatten()

    def look(number, inputs, own):
        seen[number] = inputs, own

    hooks = [(STATE, change), (WRITE, lambda x, hook: x)]
    with torch.no_grad(), reached(stack.model.model, {1}, look):
        stack.model.run_with_hooks(tokens, fwd_hooks=hooks)
    inputs, own = seen[1]  # a hook of torch that is set later sees what the earlier one put there
    later = DeltaInputs(
        *(getattr(inputs, n)[:, 5:, [2]].double() for n in ("q", "k", "v")),
        *(getattr(inputs, n)[:, 5:, [2]].double() for n in ("g", "beta")),
    )
    initial = new.double().expand(len(tokens), 1, 8, 6)
    close(own[:, 5:, [2]].double(), scan(later, initial).out)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.3.linear_attn.state[head=0]", "not on a layer with a recurrent state"),
        ("model.layers.0.linear_attn.state[head=4]", "has heads 0 to 3"),
        ("model.layers.0.linear_attn.states[head=1]", "the model has no hook point"),
    ],
)
def test_states_that_are_not_there_are_refused(proxy, name, message):
    with pytest.raises(InputError, match=message):
        StackedHooks(proxy, name)


def test_models_whose_state_cannot_be_reached_are_refused_by_name(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    load_embedded_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model_type='llama' cannot be reached: it has no"):
        load_stacked_model(str(tmp_path), "model.layers.0.linear_attn.state[head=0]")
