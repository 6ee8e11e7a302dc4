"""Recorded activations are those of the model, for the whole stack and for parts of it."""

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
    assert len(list(tmp_path.iterdir())) == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


def test_other_runs_are_the_models(recorded, tmp_path):
    tokens = torch.randint(1, 4096, (2, 8))
    live = StackedHooks(recorded.model, HOOKS)
    args = {"names_filter": [HOOKS], "return_type": "loss"}
    assert torch.equal(
        recorded.run_with_cache(tokens, **args)[0], live.run_with_cache(tokens, **args)[0]
    )
    assert not list(tmp_path.iterdir())
    # the same numbers in another arrangement are other tokens
    assert recorded.gather(tokens).shape != recorded.gather(tokens.reshape(4, 4)).shape
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_recorded_is_refused(recorded):
    with pytest.raises(InputError, match=r"'blocks\.4\.hook_resid_post' is not among"):
        recorded.narrowed("blocks.4.hook_resid_post")
