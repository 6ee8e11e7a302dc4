"""Recorded activations are those of the model, for the whole stack and for parts of it."""

import copy

import pytest
import torch

from sae_lens_poly import InputError, StackedHooks
from sae_lens_poly.models.recorded import RecordedStack

HOOKS = "blocks.{1..3}.hook_resid_post"


@pytest.fixture
def recorded(embedded_model, tmp_path):
    return RecordedStack(StackedHooks(embedded_model, HOOKS), tmp_path)


def test_a_batch_is_computed_once(recorded, tmp_path, monkeypatch):
    tokens = torch.randint(1, 4096, (3, 16))
    live = StackedHooks(recorded.model, HOOKS).gather(tokens)
    torch.testing.assert_close(recorded.gather(tokens), live)
    monkeypatch.setattr(StackedHooks, "run_with_cache", None)
    _, cache = recorded.run_with_cache(
        tokens, names_filter=[HOOKS], stop_at_layer=None, prepend_bos=False
    )
    assert torch.equal(cache[HOOKS], live)
    part = recorded.narrowed("blocks.3.hook_resid_post,blocks.1.hook_resid_post").gather(tokens)
    assert torch.equal(part, live.view(3, 16, 3, 128)[:, :, [2, 0]].flatten(2))
    assert [path.suffix for path in recorded.folder.iterdir()] == [".safetensors"]


def test_other_runs_are_the_models(recorded, tmp_path):
    tokens = torch.randint(1, 4096, (2, 8))
    live = StackedHooks(recorded.model, HOOKS)
    args = {"names_filter": [HOOKS], "return_type": "loss"}
    assert torch.equal(
        recorded.run_with_cache(tokens, **args)[0], live.run_with_cache(tokens, **args)[0]
    )
    assert not list(recorded.folder.iterdir())
    # the same numbers in another arrangement are other tokens
    assert recorded.gather(tokens).shape != recorded.gather(tokens.reshape(4, 4)).shape
    assert len(list(recorded.folder.iterdir())) == 2


def test_other_hook_points_and_weights_have_records_of_their_own(recorded, tmp_path):
    tokens = torch.randint(1, 4096, (2, 8))
    recorded.gather(tokens)
    hooks = HOOKS.replace("{1..3}", "{2..4}")
    other = RecordedStack(StackedHooks(recorded.model, hooks), tmp_path)
    assert torch.equal(other.gather(tokens), StackedHooks(recorded.model, hooks).gather(tokens))
    tuned = copy.deepcopy(recorded.model)
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += 1
    assert RecordedStack(StackedHooks(tuned, HOOKS), tmp_path).folder != recorded.folder


def test_activations_that_hook_functions_change_are_not_recorded(recorded):
    tokens = torch.randint(1, 4096, (2, 8))
    seen = []
    recorded.run_with_hooks(
        tokens,
        fwd_hooks=[
            ("blocks.0.hook_resid_post", lambda x, hook: torch.zeros_like(x)),
            (HOOKS, lambda x, hook: seen.append(x)),
        ],
    )
    assert not list(recorded.folder.iterdir())
    assert not torch.allclose(seen[0], recorded.gather(tokens))


def test_what_is_not_recorded_is_refused(recorded):
    with pytest.raises(InputError, match=r"'blocks\.4\.hook_resid_post' is not among"):
        recorded.narrowed("blocks.4.hook_resid_post")
