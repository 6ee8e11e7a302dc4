"""Splices against loops by hand, SAELens' run_evals, and cases where the answer is known."""

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_poly import InputError, StackedHooks, load_stacked_model
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.evaluation.splicing import SpliceBaselines, measure_splices, splice_kinds
from sae_lens_poly.models.stacked_models import StackedModels
from tests.architectures import poly_saes
from tests.models.test_attached import HOOKS, trained

L, D, VOCAB, BOS = 3, 12, 30, 0
NAMES = [f"blocks.{layer}.hook_resid_post" for layer in range(L)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = HookedTransformerConfig(
        n_layers=L, d_model=D, n_ctx=9, d_head=6, n_heads=2, d_vocab=VOCAB, act_fn="gelu", seed=1
    )
    tiny = HookedTransformer(cfg).double()
    for parameter in tiny.parameters():
        parameter.data.mul_(5)  # else all logits are much alike
    return tiny


@pytest.fixture(scope="module")
def stack(model):
    return StackedHooks(model, "blocks.{0..2}.hook_resid_post")


def batches():
    generator = torch.Generator().manual_seed(3)
    made = [torch.randint(1, VOCAB, (n, 9), generator=generator) for n in (2, 3)]
    for tokens in made:
        tokens[:, 0] = BOS
        tokens[0, 4] = BOS
    return made


@pytest.fixture(scope="module")
def baselines(stack):
    return SpliceBaselines(stack, batches(), [BOS])


def crosscoder(**fields):
    """With random weights, hook points end to end."""
    d_sae = 20
    sae = SAE.from_dict(
        {
            "architecture": "crosscoder",
            "d_in": L * D,
            "n_hooks": L,
            "d_sae": d_sae,
            "dtype": "float64",
            "device": "cpu",
            **fields,
        }
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn)
    return sae


def exact():
    """``x = relu(x) - relu(-x)``."""
    sae = SAE.from_dict({**crosscoder().cfg.to_dict(), "d_sae": 2 * L * D})
    eye = torch.eye(L * D).double()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae


def by_hand(model, replace, at, causal):
    """Cross-entropy and KL per token, by numpy, of runs where ``replace(x, hook)`` stands at hooks.

    ``x`` (L, pos, d_model) are the activations of this run as far as it has come, else zeros; or,
    not causal, those of the clean run.
    """
    ce, kl = [], []
    for tokens in batches():
        for row in tokens:
            keep = row != BOS
            x = torch.zeros(L, 9, D).double()
            if not causal:
                cache = model.run_with_cache(row[None])[1]
                x = torch.stack([cache[name][0] for name in NAMES])

            def fn(activation, hook, x=x, keep=keep):
                number = NAMES.index(hook.name)
                if causal:
                    x[number] = activation[0]
                if number in at:
                    new = replace(x, number)
                    activation = torch.where(keep[:, None], new, x[number])[None]
                return activation

            with torch.no_grad():
                clean = model(row[None])[0].numpy()
                spliced = model.run_with_hooks(row[None], fwd_hooks=[(n, fn) for n in NAMES])
            p, q = (softmax(logits) for logits in (clean, spliced[0].numpy()))
            for position in range(9):
                if row[position] == BOS:
                    continue
                kl.append((p[position] * np.log(p[position] / q[position])).sum())
                if position < 8:
                    ce.append(-np.log(q[position, row[position + 1]]))
    return np.mean(ce), np.mean(kl)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


SITES = {(0,): ("alone", 0), (2,): ("alone", 2), (0, 1): ("cumulative", 1), (0, 1, 2): "together"}


def figures_at(splices, at):
    where = SITES[at]
    if where == "together":
        return splices.together
    kind, number = where
    return splices.alone[NAMES[number]] if kind == "alone" else splices.cumulative[number]


@pytest.mark.parametrize("at", SITES)
def test_causal_codes_are_a_loop_by_hand(model, baselines, at):
    """Later hook points are zeros to the loop's encoder, special positions keep their own."""
    sae = crosscoder()

    @torch.no_grad()
    def replace(x, number):
        seen = (torch.arange(L) <= number).double()
        z = sae.encode(x.permute(1, 0, 2).flatten(1), seen)
        return sae.per_hook(sae.decode(z))[:, number]

    got = figures_at(measure_splices(sae, baselines, ["causal"]), at)["causal"]
    ce, kl = by_hand(model, replace, at, causal=True)
    assert got.ce == pytest.approx(ce, rel=1e-5)
    assert got.kl == pytest.approx(kl, rel=1e-4)


def test_causal_codes_do_not_see_later_hook_points(baselines):
    sae = crosscoder()
    before = measure_splices(sae, baselines, ["clean", "causal"])
    with torch.no_grad():
        sae.W_enc[D:] += 1.0  # what the second and third hook point are read with
    after = measure_splices(sae, baselines, ["clean", "causal"])
    first = NAMES[0]
    assert before.alone[first]["causal"] == after.alone[first]["causal"]
    assert before.alone[first]["clean"] != after.alone[first]["clean"]
    assert before.alone[NAMES[1]]["causal"] != after.alone[NAMES[1]]["causal"]


@pytest.mark.parametrize("at", SITES)
def test_clean_codes_are_a_loop_by_hand(model, baselines, at):
    sae = crosscoder()

    @torch.no_grad()
    def replace(x, number):
        return sae.per_hook(sae(x.permute(1, 0, 2).flatten(1)))[:, number]

    got = figures_at(measure_splices(sae, baselines, ["clean"]), at)["clean"]
    ce, kl = by_hand(model, replace, at, causal=False)
    assert got.ce == pytest.approx(ce, rel=1e-5)
    assert got.kl == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize("at", SITES)
def test_ablations_are_a_loop_by_hand(model, baselines, stack, at):
    x = torch.cat([stack.gather(t)[t != BOS] for t in batches()])
    mean = x.mean(dim=0).view(L, D)
    torch.testing.assert_close(baselines.mean, mean.flatten())
    splices = measure_splices(crosscoder(), baselines, [])
    got = figures_at(splices, at)
    ce, kl = by_hand(model, lambda x, number: mean[number].expand(9, D), at, causal=False)
    assert got["mean"].ce == pytest.approx(ce, rel=1e-5)
    assert got["mean"].kl == pytest.approx(kl, rel=1e-4)
    assert got["mean"].ce_recovered_vs_mean == got["zero"].ce_recovered == 0
    assert got["zero"].kl_recovered == 0
    clean, _ = by_hand(model, None, (), causal=False)
    assert splices.ce_clean == pytest.approx(clean, rel=1e-5)
    zero = got["zero"].ce
    assert got["mean"].ce_recovered == pytest.approx((zero - ce) / (zero - clean), rel=1e-4)
    assert splices.n_tokens == 5 * 8 - 7
    assert splices.n_tokens_kl == 5 * 9 - 7


def test_exact_reconstructions_cost_nothing(baselines):
    splices = measure_splices(exact(), baselines)
    for at in (*splices.alone.values(), *splices.cumulative):
        assert at["clean"].ce_recovered == pytest.approx(1, abs=1e-9)
        assert at["clean"].ce_recovered_vs_mean == pytest.approx(1, abs=1e-9)
        assert at["clean"].kl == pytest.approx(0, abs=1e-6)
        assert at["clean"].kl_recovered == pytest.approx(1, abs=1e-6)
        assert at["causal"].kl == pytest.approx(0, abs=1e-6)
    assert splices.cumulative[0] is splices.alone[NAMES[0]]
    assert splices.cumulative[-1] is splices.together
    assert splices.alone[NAMES[1]]["zero"].ce_recovered == 0


def test_linear_drops_the_terms_above_degree_1(baselines):
    fields = {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 4}
    sae = crosscoder(**fields)
    plain = crosscoder()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(sae.get_parameter(name))
    assert splice_kinds(sae, baselines.model) == ("clean", "causal", "linear")
    whole = measure_splices(sae, baselines, ["clean", "linear"])
    linear = measure_splices(plain, baselines, ["clean"])
    for site, of_plain in linear.alone.items():
        assert whole.alone[site]["linear"].ce == pytest.approx(of_plain["clean"].ce)
        assert whole.alone[site]["clean"].ce != pytest.approx(of_plain["clean"].ce, rel=1e-6)


def test_only_written_hook_points_are_sites(baselines):
    splices = measure_splices(crosscoder(structure="strictly_causal"), baselines)
    assert list(splices.alone) == NAMES[1:]
    assert len(splices.cumulative) == 2


def test_baselines_are_run_once_for_many_dictionaries(stack, monkeypatch):
    shared = SpliceBaselines(stack, batches(), [BOS])
    measure_splices(crosscoder(), shared, ["clean"])
    runs = []
    splice = StackedHooks.splice
    monkeypatch.setattr(
        StackedHooks, "splice", lambda *a, **k: (runs.append(1), splice(*a, **k))[1]
    )
    measure_splices(exact(), shared, ["clean"])
    assert len(runs) == 5 * 2  # sites times batches: 3 alone, 2 of them and 3 of them together


def test_large_batches_are_run_in_parts(stack, baselines, monkeypatch):
    monkeypatch.setattr("sae_lens_poly.evaluation.splicing.TOKENS_AT_A_TIME", 9)
    in_parts = SpliceBaselines(stack, batches(), [BOS])
    assert [len(part) for part in in_parts.batches] == [1] * 5
    one, other = (measure_splices(crosscoder(), b, ["clean"]) for b in (in_parts, baselines))
    assert one.together["clean"].kl == pytest.approx(other.together["clean"].kl)


def test_a_plain_sae_at_one_hook_point(model):
    one = StackedHooks(model, NAMES[1])
    sae = poly_saes.poly_sae(dtype="float64")
    poly_saes.train(sae, steps=2)
    plain = SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict() | {"dtype": "float64"})
    assert splice_kinds(plain, one) == ("clean", "linear")
    splices = measure_splices(plain, SpliceBaselines(one, batches(), [BOS]))
    assert len(splices.alone) == len(splices.cumulative) == 1
    assert splices.together is splices.alone[NAMES[1]]


def test_a_stack_of_models_has_clean_codes_only(embedded_model):
    two = StackedModels([embedded_model, embedded_model], "blocks.2.hook_resid_post")
    torch.manual_seed(0)
    sae = SAE.from_dict({**crosscoder().cfg.to_dict(), "d_in": two.d_in, "n_hooks": 2})
    measured = measure_splices(sae, SpliceBaselines(two, [torch.randint(5, 4000, (2, 8))]))
    assert set(measured.together) == {"clean", "zero", "mean"}


@pytest.mark.slow
@pytest.mark.parametrize("special", [True, False])
def test_agrees_with_run_evals(embedded_model, special):
    stack = load_stacked_model("stdlib-6l", HOOKS)
    sae = trained(stack)
    sae.cfg.metadata.hook_name, sae.cfg.metadata.prepend_bos = HOOKS, True
    ignored = get_special_token_ids(stack.tokenizer) if special else []

    def store():
        text = stdlib_dataset("held_out").select(range(10))
        return ActivationsStore.from_sae(
            stack, sae, text, context_size=64, store_batch_size_prompts=3
        )

    ours_store = store()
    tokens = [ours_store.get_batch_tokens() for _ in range(2)]
    ours = measure_splices(sae, SpliceBaselines(stack, tokens, ignored), ["clean"])
    config = EvalConfig(n_eval_reconstruction_batches=2, compute_kl=True, compute_ce_loss=True)
    theirs = run_evals(
        sae, store(), stack, ActivationScaler(), config, exclude_special_tokens=ignored
    )[0]
    behaviour, performance = (
        theirs[name] for name in ("model_behavior_preservation", "model_performance_preservation")
    )
    clean, zero = ours.together["clean"], ours.together["zero"]
    pairs = {
        "ce_loss_score": clean.ce_recovered,
        "ce_loss_with_sae": clean.ce,
        "ce_loss_without_sae": ours.ce_clean,
        "ce_loss_with_ablation": zero.ce,
    }
    for name, value in pairs.items():
        assert value == pytest.approx(performance[name], abs=1e-4), name
    pairs = {
        "kl_div_score": clean.kl_recovered,
        "kl_div_with_sae": clean.kl,
        "kl_div_with_ablation": zero.kl,
    }
    for name, value in pairs.items():
        assert value == pytest.approx(behaviour[name], abs=1e-4), name


def test_wrong_input_is_refused(stack, baselines):
    with pytest.raises(InputError, match=r"d_in=24.*36"):
        measure_splices(SAE.from_dict({**crosscoder().cfg.to_dict(), "d_in": 24}), baselines)
    with pytest.raises(InputError, match="no kind 'linear'"):
        measure_splices(crosscoder(), baselines, ["linear"])
    with pytest.raises(InputError, match="batches"):
        SpliceBaselines(stack, [torch.zeros(2, 9, dtype=torch.long)], [BOS])
