"""Writes that push towards a token."""

import pytest
import torch

from sae_lens_poly.errors import InputError
from sae_lens_poly.recurrent_states import (
    Change,
    DirectPath,
    changed_run,
    reached,
    scan,
    steering_direction,
    steering_writes,
)
from tests.recurrent_states.tiny_hybrid import tiny_hybrid

LAYER, HEAD, TOKEN = 2, 1, 17


@pytest.mark.parametrize("kind", ["qwen3_5_text", "olmo_hybrid"])
def test_the_direction_is_the_one_that_raises_the_token_most(kind, tokens):
    model = tiny_hybrid(kind)
    direction = steering_direction(model, LAYER, HEAD, TOKEN)
    path = DirectPath.of_run(model, tokens, LAYER)
    shift = torch.zeros(6, *path.read_out.shape[1:])
    for entry in range(6):
        shift[entry, 4, HEAD, entry] = 1
    gradient = path.bare_logit_shift(shift)[:, 4, TOKEN]
    torch.testing.assert_close(direction, gradient / gradient.norm())


def test_writes_at_consecutive_positions_are_all_made(tokens):
    model, w = tiny_hybrid("qwen3_5_text"), torch.randn(6)
    writes = steering_writes(model, tokens, LAYER, HEAD, [5, 6, 7], w, 3)
    logits = changed_run(model, tokens, writes)

    def by_hand(number, inputs, own):
        one = inputs.of_heads([HEAD])

        def edit(at, write):
            if at not in (5, 6, 7):
                return write
            k = torch.nn.functional.normalize(inputs.k[:, at, HEAD], dim=-1)
            put = k[:, None, :, None] * (w / w.norm())
            return write + 3 * torch.linalg.matrix_norm(write)[..., None, None] * put

        own = own.clone()
        own[:, :, HEAD] = scan(one, edit=edit).out[:, :, 0]
        return own

    with torch.no_grad(), reached(model, [LAYER], by_hand):
        expected = model(tokens, use_cache=False).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    one_by_one = changed_run(model, tokens, writes[:1])
    torch.testing.assert_close(one_by_one[:, :6], logits[:, :6], atol=1e-5, rtol=0)
    assert (one_by_one - logits)[:, 6].abs().max() > 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0, 0), "layer=3 has no recurrent state"),
        ((1, 4, 0), "head=4 is not one"),
        ((1, 0, 60), "token=60 is not one of the model's 60"),
    ],
)
def test_directions_that_are_not_there_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        steering_direction(tiny_hybrid("qwen3_5_text"), *arguments)


def test_changes_that_do_not_go_together_are_refused(tokens):
    model = tiny_hybrid("qwen3_5_text")
    with pytest.raises(InputError, match="several heads"):
        changed_run(model, tokens, [Change(1, 0, 3), Change(1, 1, 3)])
    with pytest.raises(InputError, match="names no write"):
        changed_run(model, tokens, [])
    with pytest.raises(InputError, match="position=16 is not in a text"):
        steering_writes(model, tokens, 1, 0, [16], torch.ones(6), 1.5)
