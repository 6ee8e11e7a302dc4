"""A stacked model at one of its hook points."""

import pytest
import torch

from sae_lens_poly import InputError, StackedHooks, StackedModels
from sae_lens_poly.models.one_hook_point import OneHookPoint

PATTERN = "blocks.{1,3,4}.hook_resid_post"
NAME = "blocks.3.hook_resid_post"
TOKENS = torch.randint(1, 4096, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def stack(embedded_model):
    return StackedHooks(embedded_model, PATTERN)


@pytest.mark.parametrize("hook", [1, NAME])
def test_reads_and_replaces_that_hook_point_alone(stack, embedded_model, hook):
    at = OneHookPoint(stack, hook)
    _, cache = at.run_with_cache(TOKENS, names_filter=[NAME])
    torch.testing.assert_close(cache[NAME], embedded_model.run_with_cache(TOKENS)[1][NAME])
    assert (at.hook_name, at.d_in, at.n_hooks) == (NAME, 128, 3)
    torch.testing.assert_close(at(TOKENS), embedded_model(TOKENS))
    halved = at.run_with_hooks(TOKENS, fwd_hooks=[(NAME, lambda x, hook: 0.5 * x)])
    expected = embedded_model.run_with_hooks(TOKENS, fwd_hooks=[(NAME, lambda x, hook: 0.5 * x)])
    torch.testing.assert_close(halved, expected)


def test_knows_the_stack_of_the_latest_run_only(stack):
    at = OneHookPoint(stack, NAME)
    with pytest.raises(InputError, match="has not been run"):
        at.stack_of(torch.zeros(2, 12, 128))
    x = at.run_with_cache(TOKENS, names_filter=NAME)[1][NAME]
    torch.testing.assert_close(at.stack_of(x), stack.gather(TOKENS))
    for other in (x + 1e-4, x[:, :-1], torch.zeros_like(x)):
        with pytest.raises(InputError, match="not the one at"):
            at.stack_of(other)
    at.run_with_cache(TOKENS.flip(1), names_filter=NAME)
    with pytest.raises(InputError, match="latest run"):
        at.stack_of(x)


def test_of_several_models(embedded_model):
    models = StackedModels([embedded_model, embedded_model], NAME, ["a", "b"])
    at = OneHookPoint(models, f"b/{NAME}")
    loss = at.run_with_hooks(
        TOKENS, fwd_hooks=[(at.hook_name, lambda x, hook: 0 * x)], return_type="loss"
    )
    zeroed = embedded_model.run_with_hooks(
        TOKENS, fwd_hooks=[(NAME, lambda x, hook: 0 * x)], return_type="loss"
    )
    clean = embedded_model(TOKENS, return_type="loss")
    torch.testing.assert_close(loss, (clean + zeroed) / 2)


def test_wrong_hook_points(stack):
    with pytest.raises(InputError, match="not in the stack"):
        OneHookPoint(stack, "blocks.2.hook_resid_post")
    with pytest.raises(InputError, match="0 to 2"):
        OneHookPoint(stack, 3)
    with pytest.raises(InputError, match="fwd_hooks"):
        OneHookPoint(stack, 1).run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", lambda x, hook: x)])
