"""States, writes and interventions beside reference values of a tiny Qwen3.5, and float64."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states import (
    Change,
    DeltaInputs,
    changed_run,
    decay_only_shift,
    delta_layers,
    kl_divergences,
    reached,
    read_out_shift,
    scan,
    scanned_layers,
)
from sae_lens_poly.recurrent_states.reached_layers import check_read_out
from tests.recurrent_states.tiny_hybrid import tiny_hybrid

FOLDER = Path(__file__).parents[1] / "data" / "gated_deltanet"


@pytest.fixture(scope="module")
def reference():
    return load_file(FOLDER / "reference.safetensors")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def inputs_of(reference, layer):
    return DeltaInputs.of_kernel(
        *(reference[f"layer{layer}.{n}"] for n in ("q", "k", "v", "g", "beta"))
    )


def double(inputs):
    return DeltaInputs(*(getattr(inputs, n).double() for n in ("q", "k", "v", "g", "beta")))


def close(mine, theirs, atol=1e-5):
    torch.testing.assert_close(mine, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_scan_gives_states_writes_and_read_outs(reference, layer):
    scanned = scan(inputs_of(reference, layer))
    close(scanned.states, reference[f"layer{layer}.states"])
    close(scanned.writes, reference[f"layer{layer}.writes"])
    close(scanned.out, reference[f"layer{layer}.out"])
    close(scanned.states[:, -1], reference[f"layer{layer}.cache_state"])


def test_a_scan_in_two_parts_is_the_whole_scan(reference):
    whole = inputs_of(reference, 1)
    first, second = (
        DeltaInputs(*(getattr(whole, n)[:, part] for n in ("q", "k", "v", "g", "beta")))
        for part in (slice(0, 6), slice(6, None))
    )
    later = scan(second, initial=scan(first).states[:, -1])
    close(later.states, reference["layer1.states"][:, 6:])


def test_in_the_model_the_scan_sees_the_same(reference, model):
    seen = scanned_layers(model, reference["input_ids"], {0, 2})
    assert set(seen) == {0, 2}
    for layer, (inputs, scanned) in seen.items():
        close(inputs.v, reference[f"layer{layer}.v"])
        close(scanned.states, reference[f"layer{layer}.states"])


def test_read_outs_of_the_scan_take_the_place_of_the_layers_own(reference, model):
    # In float64: what is left to the tolerance is the model's own rounding, on any machine.
    with (
        torch.no_grad(),
        reached(model, {0, 1, 2}, lambda n, inputs, own: scan(double(inputs)).out),
    ):
        close(model(reference["input_ids"]).logits, reference["logits"])
    with torch.no_grad(), reached(model, {1}, lambda n, inputs, own: 2 * own):
        assert (model(reference["input_ids"]).logits - reference["logits"]).abs().max() > 1e-3
    with torch.no_grad():  # the hooks are gone
        close(model(reference["input_ids"]).logits, reference["logits"])


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5_moe_text", "olmo_hybrid"])
def test_the_state_of_other_models_is_that_of_their_cache(kind):
    model, tokens = tiny_hybrid(kind), torch.randint(0, 60, (2, 70))
    seen = scanned_layers(model, tokens, {0, 2})  # compares the read-outs as well
    with torch.no_grad():
        output = model(tokens, use_cache=True)
    cache = output.past_key_values
    for layer, (_, scanned) in seen.items():
        # transformers 5.9 has a cache of its own for Olmo Hybrid, and no dict for the others.
        own = cache.layers[layer] if hasattr(cache, "layers") else cache
        state = own.recurrent_states
        state = state if torch.is_tensor(state) else state[0 if own is not cache else layer]
        close(scanned.states[:, -1], state)
    deleted = changed_run(model, tokens, Change(layer=0, head=1, position=60))
    close(deleted[:, :60], output.logits[:, :60])
    assert (deleted - output.logits)[:, 60:].abs().max() > 1e-5


def test_a_run_that_goes_on_from_a_cache_is_refused(reference, model):
    past = model(reference["input_ids"], use_cache=True).past_key_values

    def look(number, inputs, own):
        check_read_out(number, scan(inputs).out, own)

    with (
        reached(model, {0}, look),
        pytest.raises(InputError, match=r"layer 0 is not what its rec.* without a cache"),
    ):
        model(reference["input_ids"][:, :1], past_key_values=past)


@pytest.mark.parametrize("what", ["delete", "substitute"])
def test_interventions(reference, model, what):
    atom = reference["atom"] if what == "substitute" else None
    change = Change(layer=1, head=2, position=5, atom=atom, scale="matched")
    logits = changed_run(model, reference["input_ids"], change)
    close(logits, reference[f"logits_{what}"])
    forward, backward = kl_divergences(reference["logits"], logits)
    close(forward, reference[f"kl_native_to_patched_{what}"])
    close(backward, reference[f"kl_patched_to_native_{what}"])
    assert torch.equal(logits[:, :5], changed_run(model, reference["input_ids"], change)[:, :5])


def test_the_natural_scale_takes_the_atom_as_it_is():
    write = torch.randn(2, 1, 4, 5)
    atom = torch.randn(4, 5)
    natural = Change(0, 1, 7, atom)(7, write)
    assert torch.equal(natural, atom.expand(2, 1, 4, 5))
    matched = Change(0, 1, 7, atom, "matched")(7, write)
    close(matched.flatten(1).norm(dim=-1), write.flatten(1).norm(dim=-1))
    assert Change(0, 1, 7, atom)(6, write) is write


def test_the_change_of_the_read_out_is_exact_with_the_delta_factor(reference):
    inputs = double(inputs_of(reference, 1))
    head, position, eps = 2, 5, 0.7
    torch.manual_seed(0)
    v, w = torch.randn(8).double(), torch.randn(6).double()

    def add(at, write):
        write = write.clone()
        if at == position:
            write[:, head] += eps * v[:, None] * w
        return write

    change = (scan(inputs, edit=add).out - scan(inputs).out)[:, :, head]
    close(read_out_shift(inputs, head, position, v, w) * eps, change, atol=1e-14)
    approximate = decay_only_shift(inputs, head, position, v, w) * eps
    close(approximate[:, : position + 1], change[:, : position + 1], atol=1e-14)
    assert (approximate - change)[:, position + 1 :].norm() > 0.05 * change[
        :, position + 1 :
    ].norm()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(3, 0, 0), "layers \\[3\\] have no recurrent state"),
        (Change(1, 4, 0), "head=4 is not one of the 4 heads"),
        (Change(1, 0, 13), "position=13 is not in a text of 13 tokens"),
        (Change(1, 0, 0, torch.zeros(6, 8)), r"shape \(6, 8\) cannot take the place"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(reference, model, change, message):
    with pytest.raises(InputError, match=message):
        changed_run(model, reference["input_ids"], change)


@pytest.mark.parametrize(
    ("kind", "reason"), [("gpt2", "no recurrent state"), ("mamba2", "does not hand out the state")]
)
def test_models_whose_state_cannot_be_reached_are_refused_by_name(kind, reason):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, num_hidden_layers=1))
    with pytest.raises(InputError, match=f"{kind}.*{reason}"):
        delta_layers(model)
