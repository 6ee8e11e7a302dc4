"""From read-outs to logits, and from logits to win rates."""

import pytest
import torch

from sae_lens_poly.recurrent_states import (
    Change,
    DirectPath,
    changed_run,
    random_rank_one,
    reached,
    read_out_shift,
    scanned_layers,
    win_rate,
    wins_of,
)
from tests.recurrent_states.tiny_hybrid import tiny_hybrid

LAYER, HEAD, AT = 1, 1, 5


@pytest.mark.parametrize("kind", ["qwen3_5_text", "olmo_hybrid"])
def test_the_direct_path_is_the_run_with_later_layers_frozen(kind, tokens):
    model = tiny_hybrid(kind)
    path = DirectPath.of_run(model, tokens, LAYER)
    shift = torch.zeros_like(path.read_out)
    shift[:, AT:, HEAD] = torch.randn(3, 16 - AT, 6) * path.read_out.std()
    before, layers, handles = {}, model.model.layers, []

    def frozen(number):  # what later layers and the MLP of this one add is that of the run alone
        def hook(module, args, output):
            added = before[number]
            return args[0] + added if torch.is_tensor(output) else (args[0] + added, *output[1:])

        return hook

    def remember(number):
        def hook(module, args, output):
            before[number] = (output if torch.is_tensor(output) else output[0]) - args[0]

        return hook

    modules = {n: layers[n] for n in range(LAYER + 1, 4)}
    for each in (remember, frozen):
        handles = [m.register_forward_hook(each(n)) for n, m in modules.items()]
        mlp = layers[LAYER].mlp.register_forward_hook(
            lambda m, a, out, each=each: before.setdefault("mlp", out)
        )
        with (
            torch.no_grad(),
            reached(
                model, [LAYER], lambda n, i, own, each=each: own + shift if each is frozen else own
            ),
        ):
            logits = model(tokens, use_cache=False).logits
        for handle in (*handles, mlp):
            handle.remove()
    expected = logits - path.logits
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(path.logit_shift(shift), expected, atol=1e-5, rtol=1e-3)


def test_the_bare_path_is_linear_in_the_read_out(tokens):
    model = tiny_hybrid("qwen3_5_text")
    path = DirectPath.of_run(model, tokens, LAYER)
    shift = torch.zeros_like(path.read_out)
    w = torch.randn(6)
    shift[:, AT, HEAD] = w
    columns = slice(6 * HEAD, 6 * HEAD + 6)
    layer = model.model.layers[LAYER].linear_attn
    expected = model.lm_head.weight @ layer.out_proj.weight[:, columns] @ w
    torch.testing.assert_close(path.bare_logit_shift(shift)[1, AT], expected)


def test_atoms_that_are_added_change_the_run_as_the_read_out_says(tokens):
    model = tiny_hybrid("qwen3_5_text")
    v, w = torch.randn(3, 8), torch.randn(3, 6)
    atoms = v[:, :, None] * w[:, None, :]
    logits = changed_run(model, tokens, Change(LAYER, HEAD, AT, atoms, adds=True))
    inputs, _ = scanned_layers(model, tokens, [LAYER])[LAYER]
    shift = read_out_shift(inputs, HEAD, AT, v, w)

    def put(number, inputs, own):
        own = own.clone()
        own[:, :, HEAD] += shift
        return own

    with torch.no_grad(), reached(model, [LAYER], put):
        expected = model(tokens, use_cache=False).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_win_rates():
    wins = wins_of(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 2.0, 9.0]))
    assert wins.tolist() == [1, 0.5, 0, 1]
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(900, generator=generator) < 0.7).double()
    rate = win_rate(drawn)
    half = 1.96 * (rate.rate * (1 - rate.rate) / 900) ** 0.5
    assert (rate.rate, rate.n) == (drawn.mean().item(), 900)
    assert rate.low == pytest.approx(rate.rate - half, abs=0.004)
    assert rate.high == pytest.approx(rate.rate + half, abs=0.004)
    # Dictionaries that agree on every text tell no more than one of them.
    assert win_rate(drawn.expand(3, 900)) == rate


def test_random_matrices():
    drawn = random_rank_one(5, (8, 6))
    values = torch.linalg.svdvals(drawn)
    torch.testing.assert_close(values[:, 0], torch.ones(5))
    assert values[:, 1].max() < 1e-6
