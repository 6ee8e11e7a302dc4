"""Replaced models against runs by hand, and where the answer is known."""

import pytest
import torch

from sae_lens_poly import InputError
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.replacement import add_skips
from sae_lens_poly.evaluation.replaced_model import measure_replaced_model
from tests.circuits.crosscoders import cross_layer
from tests.circuits.folders import DATA, FolderReplacement, load_model

BOS = 0


def batches():
    generator = torch.Generator().manual_seed(3)
    made = [torch.randint(1, 24, (n, 7), generator=generator) for n in (2, 3)]
    for tokens in made:
        tokens[:, 0] = BOS
        tokens[0, 4] = BOS
    return made


def case(name):
    model = load_model(DATA / name)
    return model, FolderReplacement(DATA / name / "transcoder", model)


def by_hand(model, replacement, kind):
    """Cross-entropy and KL per counted token, layer by layer."""
    ce, kl = [], []
    for tokens in batches():
        for row in tokens:
            keep = row != BOS
            clean, cache = model.run_with_cache(row[None])
            clean_x = torch.stack([cache[name][0] for name in replacement.read_hooks], dim=-2)
            x = clean_x.clone() if kind == "clean_codes" else torch.zeros_like(clean_x)
            clean_decoded = replacement.decode(replacement.encode(clean_x))
            clean_decoded = add_skips(replacement, clean_decoded, clean_x)

            def read(activation, hook, x=x):
                x[:, replacement.read_hooks.index(hook.name)] = activation[0]

            def write(activation, hook, x=x, keep=keep, cache=cache, clean_decoded=clean_decoded):
                number = replacement.write_hooks.index(hook.name)
                codes = replacement.encode(x)
                codes[:, replacement.read_of > number] = 0
                new = add_skips(replacement, replacement.decode(codes), x)[:, number]
                if kind == "with_errors":
                    new = new + cache[hook.name][0] - clean_decoded[:, number]
                return torch.where(keep[:, None], new, activation[0])[None]

            hooks = [(name, write) for name in replacement.write_hooks]
            if kind != "clean_codes":
                hooks += [(name, read) for name in replacement.read_hooks]
            # Hidden from later codes, or as they were.
            logits = model.run_with_hooks(row[None], fwd_hooks=hooks)
            p, q = clean[0].log_softmax(-1), logits[0].log_softmax(-1)
            kl += (p.exp() * (p - q)).sum(-1)[keep].tolist()
            ce += (-q[:-1].gather(-1, row[1:, None])[:, 0])[keep[:-1]].tolist()
    return sum(ce) / len(ce), sum(kl) / len(kl)


@pytest.mark.parametrize("name", ["clt_rmsnorm", "transcoder_set_layernorm"])
@pytest.mark.parametrize("kind", ["replaced", "clean_codes", "with_errors"])
def test_a_run_by_hand(name, kind):
    model, replacement = case(name)
    figures = getattr(measure_replaced_model(replacement, model, batches(), [BOS]), kind)
    ce, kl = by_hand(model, replacement, kind)
    assert figures.ce == pytest.approx(ce, abs=1e-4)
    assert figures.kl == pytest.approx(kl, abs=1e-4)


@pytest.mark.parametrize("name", ["clt_rmsnorm", "transcoder_set_layernorm"])
def test_with_errors_the_model_is_what_it_was(name):
    model, replacement = case(name)
    measured = measure_replaced_model(replacement, model, batches(), [BOS])
    assert measured.with_errors.ce == pytest.approx(measured.ce_clean, abs=1e-5)
    assert measured.with_errors.kl == pytest.approx(0, abs=1e-5)
    assert measured.with_errors.ce_recovered == pytest.approx(1, abs=1e-3)
    assert measured.zero.ce_recovered == pytest.approx(0)
    assert measured.replaced.kl > 1e-3
    assert measured.clean_codes.kl != measured.replaced.kl


def test_a_polynomial_crosscoder():
    model = load_model(DATA / "clt_layernorm")
    replacement = CrosscoderReplacement(cross_layer("degree 3", dtype="float32"))
    measured = measure_replaced_model(replacement, model, batches(), [BOS])
    assert measured.with_errors.kl == pytest.approx(0, abs=1e-3)
    ce, kl = by_hand(model, replacement, "replaced")
    assert measured.replaced.ce == pytest.approx(ce, rel=1e-4)
    assert measured.replaced.kl == pytest.approx(kl, rel=1e-4)


def test_text_of_special_tokens_only_is_refused():
    model, replacement = case("clt_rmsnorm")
    with pytest.raises(InputError, match="no token that is counted"):
        measure_replaced_model(replacement, model, [torch.zeros(2, 5, dtype=torch.long)], [BOS])
