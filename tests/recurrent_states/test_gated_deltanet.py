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
    read_out_shift,
    replaced_scan,
    scan,
)

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


def test_in_the_model_the_scan_sees_the_same_and_changes_nothing(reference, model):
    with torch.no_grad(), replaced_scan(model, {0, 2}) as seen:
        logits = model(reference["input_ids"]).logits
    close(logits, reference["logits"])
    assert set(seen) == {0, 2}
    for layer, (_, scanned) in seen.items():
        close(scanned.states, reference[f"layer{layer}.states"])
    with torch.no_grad():  # the kernel is back
        close(model(reference["input_ids"]).logits, reference["logits"])
    assert set(seen) == {0, 2}


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
    write = torch.randn(2, 3, 4, 5)
    atom = torch.randn(4, 5)
    natural = Change(0, 1, 7, atom)(7, write)
    assert torch.equal(natural[:, 1], atom.expand(2, 4, 5))
    assert torch.equal(natural[:, [0, 2]], write[:, [0, 2]])
    matched = Change(0, 1, 7, atom, "matched")(7, write)
    close(matched[:, 1].flatten(1).norm(dim=-1), write[:, 1].flatten(1).norm(dim=-1))
    assert Change(0, 1, 7, atom)(6, write) is write


def test_the_change_of_the_read_out_is_exact_with_the_delta_factor(reference):
    inputs = inputs_of(reference, 1)
    inputs = DeltaInputs(*(getattr(inputs, n).double() for n in ("q", "k", "v", "g", "beta")))
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
    ("kind", "reason"), [("gpt2", "no recurrent state"), ("mamba2", "TransformerLens")]
)
def test_models_whose_state_cannot_be_reached_are_refused_by_name(kind, reason):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, num_hidden_layers=1))
    with pytest.raises(InputError, match=f"{kind}.*{reason}"):
        delta_layers(model)
