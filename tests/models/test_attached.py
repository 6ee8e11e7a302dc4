"""A crosscoder in a running model."""

import pytest
import torch
from sae_lens import SAE, TrainingSAE, TrainingSAEConfig

from sae_lens_poly import InputError, load_stacked_model
from sae_lens_poly.models.attached import AttachedCrosscoder, add, clamp
from tests.architectures.dictionaries import step_input

HOOKS = "blocks.{1,3,4}.hook_resid_post"
NAMES = [f"blocks.{layer}.hook_resid_post" for layer in (1, 3, 4)]


@pytest.fixture(scope="module")
def stack(embedded_model):
    return load_stacked_model("stdlib-6l", HOOKS)


def trained(stack, **fields):
    torch.manual_seed(0)
    cfg = TrainingSAEConfig.from_dict(
        {
            "architecture": "poly_crosscoder",
            "d_in": stack.d_in,
            "n_hooks": 3,
            "d_sae": 96,
            "k": 8,
            "rank_2": 8,
            "rank_3": 8,
            "mask_p": 0.2,
            **fields,
        }
    )
    sae = TrainingSAE.from_dict(cfg.to_dict())
    sae.cfg.metadata.hook_names = NAMES
    x = stack.gather(stack.to_tokens("def f(x):\n    return x + 1\n" * 8)).flatten(0, 1)

    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(20):
        sae.training_forward_pass(step_input(x, step, torch.zeros(96).bool())).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sae.to_inference()


@pytest.fixture(scope="module")
def crosscoder(stack):
    return trained(stack)


@pytest.fixture(scope="module")
def tokens(stack):
    return stack.to_tokens("import os\n\nclass A:\n    def __init__(self):\n        pass\n")


@pytest.mark.parametrize("codes", ["clean", "causal"])
@pytest.mark.parametrize("at", [None, NAMES[1:2], NAMES[:2]])
def test_with_the_error_term_nothing_changes(stack, crosscoder, tokens, codes, at):
    attached = AttachedCrosscoder(stack.model, crosscoder, at, codes, error_term=True)
    torch.testing.assert_close(attached(tokens), stack.model(tokens), rtol=1e-3, atol=1e-3)
    bare = AttachedCrosscoder(stack.model, crosscoder, at, codes)
    assert (bare(tokens) - stack.model(tokens)).abs().max() > 0.1


def test_clean_codes_are_those_of_the_run_alone(stack, crosscoder, tokens):
    attached = AttachedCrosscoder(stack.model, crosscoder)
    x = stack.gather(tokens)
    torch.testing.assert_close(attached(tokens), stack.splice(tokens, crosscoder(x)))
    one = AttachedCrosscoder(stack.model, crosscoder, NAMES[1:2])
    torch.testing.assert_close(one(tokens), stack.splice(tokens, crosscoder(x), at=[1]))
    _, cache = attached.run_with_cache(tokens)
    torch.testing.assert_close(cache[NAMES[2]], crosscoder.per_hook(crosscoder(x))[..., 2, :])


def test_causal_codes_see_what_the_run_has_reached(stack, crosscoder, tokens):
    attached = AttachedCrosscoder(stack.model, crosscoder, codes="causal")
    _, cache = attached.run_with_cache(tokens)
    x, seen = torch.zeros(*tokens.shape, 3, 128), torch.zeros(3)
    for number, name in enumerate(NAMES):
        done = [(n, lambda a, hook, new=cache[n]: new) for n in NAMES[:number]]
        got = {}
        stack.model.run_with_hooks(
            tokens, fwd_hooks=[*done, (name, lambda a, hook, got=got: got.update(x=a))]
        )
        x[..., number, :] = got["x"]
        seen[number] = 1
        x_hat = crosscoder.decode(crosscoder.encode(x.flatten(-2), seen))
        torch.testing.assert_close(
            cache[name], crosscoder.per_hook(x_hat)[..., number, :], rtol=1e-4, atol=1e-4
        )


def test_causal_codes_of_a_prefix_do_not_need_the_rest(stack, crosscoder):
    attached = AttachedCrosscoder(stack.model, crosscoder, codes="causal")
    grown = attached.generate(
        stack.to_tokens("def f"), max_new_tokens=4, do_sample=False, verbose=False
    )
    logits = attached(grown[:, :-1])
    assert torch.equal(logits.argmax(-1)[0, -4:], grown[0, -4:])


@pytest.mark.parametrize("codes", ["clean", "causal"])
def test_edits(stack, crosscoder, tokens, codes):
    latent = int(crosscoder.encode(stack.gather(tokens)).sum((0, 1)).argmax())
    attached = AttachedCrosscoder(stack.model, crosscoder, codes=codes, error_term=True)
    plain = attached(tokens)
    for edit in (add(latent, 3.0), clamp(latent, 0.0)):
        assert (attached.with_edits(edit)(tokens) - plain).abs().max() > 1e-3
    # An edit at a hook point that is not the last changes what comes after it, nothing before.
    _, before = attached.run_with_cache(tokens)
    _, after = attached.with_edits(add(latent, 3.0, at=NAMES[1:2])).run_with_cache(tokens)
    assert torch.equal(before[NAMES[0]], after[NAMES[0]])
    assert not torch.equal(before[NAMES[1]], after[NAMES[1]])
    if codes == "clean":
        z = crosscoder.encode(stack.gather(tokens))
        raised = z.clone()
        raised[..., latent] += 3.0
        change = crosscoder.per_hook(crosscoder.decode(raised) - crosscoder.decode(z))[..., 1, :]
        torch.testing.assert_close(after[NAMES[1]] - before[NAMES[1]], change, rtol=1e-3, atol=1e-3)


def test_hooks_of_ones_own_run_too(stack, crosscoder, tokens):
    attached = AttachedCrosscoder(stack.model, crosscoder)
    zero = ("blocks.0.hook_mlp_out", lambda a, hook: torch.zeros_like(a))
    assert not torch.equal(attached.run_with_hooks(tokens, fwd_hooks=[zero]), attached(tokens))
    assert torch.equal(attached.run_with_hooks(tokens), attached(tokens))
    loss = attached(tokens, return_type="loss")
    assert loss.ndim == 0


def test_a_causal_structure_may_be_spliced_where_it_writes(stack, tokens):
    strict = trained(stack, structure="strictly_causal", mask_p=0.0)
    attached = AttachedCrosscoder(stack.model, strict, codes="causal")
    assert attached.at == [1, 2]
    # Hook point 0 is not spliced, and each latent reads only what was reached before it writes.
    x_hat = strict.per_hook(strict(stack.gather(tokens)))
    replaced = [(NAMES[i], lambda a, hook, i=i: x_hat[..., i, :]) for i in (1, 2)]
    expected = stack.model.run_with_hooks(tokens, fwd_hooks=replaced)
    torch.testing.assert_close(attached(tokens), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"blocks\.1\.hook_resid_post"):
        AttachedCrosscoder(stack.model, strict, at=NAMES[:1])


@pytest.mark.parametrize("codes", ["clean", "causal"])
def test_arguments_of_the_run_hold_for_the_codes_too(stack, crosscoder, codes):
    attached = AttachedCrosscoder(stack.model, crosscoder, codes=codes, error_term=True)
    tokens = torch.randint(5, 4000, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    torch.testing.assert_close(
        attached(tokens, attention_mask=mask)[mask == 1],
        stack.model(tokens, attention_mask=mask)[mask == 1],
        rtol=1e-3,
        atol=1e-3,
    )
    torch.testing.assert_close(
        attached("def f", prepend_bos=False),
        stack.model("def f", prepend_bos=False),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("codes", ["clean", "causal"])
def test_positions_can_be_left_alone(stack, crosscoder, tokens, codes):
    attached = AttachedCrosscoder(stack.model, crosscoder, codes=codes)
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, [0, 7]] = False
    _, cache = attached.run_with_cache(tokens, where=where)
    _, clean = stack.model.run_with_cache(tokens)
    _, whole = attached.run_with_cache(tokens)
    first = NAMES[0]
    torch.testing.assert_close(cache[first][:, 7], clean[first][:, 7], rtol=1e-4, atol=1e-4)
    assert torch.equal(cache[first][where], whole[first][where])
    # Later on it is its own: what was replaced before has changed it.
    assert not torch.allclose(cache[NAMES[2]][:, 7], clean[NAMES[2]][:, 7], atol=1e-2)
    assert torch.equal(attached(tokens, where=where), attached.run_with_hooks(tokens, where=where))
    nowhere = torch.zeros_like(where)
    torch.testing.assert_close(attached(tokens, where=nowhere), stack.model(tokens))
    with pytest.raises(InputError, match="where has shape"):
        attached(tokens, where=where[:, 1:])


def test_wrong_input_is_refused(stack, crosscoder, embedded_model):
    model = stack.model
    with pytest.raises(InputError, match=r"blocks\.9\.hook_resid_post"):
        AttachedCrosscoder(model, crosscoder, hook_names=[*NAMES[:2], "blocks.9.hook_resid_post"])
    with pytest.raises(InputError, match="hook_names"):
        AttachedCrosscoder(model, crosscoder, hook_names=NAMES[:2])
    with pytest.raises(InputError, match="codes='other'"):
        AttachedCrosscoder(model, crosscoder, codes="other")
    with pytest.raises(InputError, match="latent 96"):
        AttachedCrosscoder(model, crosscoder, edits=[clamp(96, 0.0)])
    with pytest.raises(InputError, match="did you mean"):
        AttachedCrosscoder(model, crosscoder, at=["blocks.3.hook_resid_pos"])
    with pytest.raises(InputError, match="causal"):
        AttachedCrosscoder(model, crosscoder).generate("x")
    narrow = SAE.from_dict({**crosscoder.cfg.to_dict(), "d_in": 3 * 8})
    with pytest.raises(InputError, match="another model"):
        AttachedCrosscoder(model, narrow)
