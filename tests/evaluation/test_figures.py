"""Every figure of an evaluation, computed a second time in float64 from codes and weights."""

import numpy as np
import pytest
import torch

from sae_lens_poly import StackedHooks
from sae_lens_poly.analysis.interactions import (
    CoOccurrence,
    interaction_correlations,
    random_pairs,
)
from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from sae_lens_poly.evaluation.coherence import FunctionalCoherence
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.report import print_evaluation, save_picture
from sae_lens_poly.evaluation.settings import EvaluationSettings
from tests.architectures.dictionaries import train, training_dictionary

HOOKS = "blocks.{1,4}.hook_resid_post"
NAMES = ["blocks.1.hook_resid_post", "blocks.4.hook_resid_post"]
SPECIAL = 7


@pytest.fixture(scope="module")
def data(embedded_model):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(8, 4096, (4, 24), generator=generator) for _ in range(3)]
    for tokens in batches:
        tokens[:, ::6] = SPECIAL
    settings = EvaluationSettings(n_splice_batches=2, n_coherence_tokens=70, n_pairs=60)
    return EvaluationData(StackedHooks(embedded_model, HOOKS), batches, [SPECIAL], settings)


@pytest.fixture(scope="module")
def x(data):
    """All tokens that count, (n, d_in)."""
    kept = [data.model.gather(tokens)[tokens != SPECIAL] for tokens in data.batches]
    return torch.cat(kept)


@pytest.fixture(scope="module")
def sae(data, x):
    trained = training_dictionary(d_in=data.model.d_in, n_hooks=2, d_sae=48, k=6)
    trained.initialise_from_batch_(x)
    sae = train(trained, steps=60, x=x).to_inference()
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            if ".C." in name:  # so that the terms above degree 1 count
                weight.add_(0.02 * torch.randn(weight.shape))
        sae.b_enc[5] = -1e9  # never active
        sae.b_enc[9] = 30.0  # on every token
    sae.cfg.metadata.hook_names = NAMES
    return sae


@pytest.fixture(scope="module")
def evaluation(sae, data):
    return evaluate_dictionary(sae, data)


def apart(x):
    """(n, 2, d_model) in float64."""
    return x.detach().double().numpy().reshape(len(x), 2, 128)


def explained(x, x_hat):
    return 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()


def cosine(a, b):
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()


@torch.no_grad()
def test_reconstruction(evaluation, sae, x):
    z = sae.encode(x)
    terms = {degree: apart(term) for degree, term in sae.degree_terms(z).items()}
    b_dec = apart(sae.b_dec[None])
    x, x_hat = apart(x), apart(sae.decode(z))
    linear = terms[1] + b_dec
    scale = 128**0.5 / np.linalg.norm(x, axis=-1).mean(axis=0)[:, None]
    whole = sum(terms.values())
    per_hook = zip(evaluation.per_hook.items(), NAMES, strict=True)
    for hook, ((name, figures), expected) in enumerate(per_hook):
        assert name == expected
        error = ((x - x_hat)[:, hook] ** 2).sum(-1).mean()
        assert figures.explained_variance == pytest.approx(
            explained(x[:, hook], x_hat[:, hook]), abs=1e-4
        )
        assert figures.explained_variance_linear == pytest.approx(
            explained(x[:, hook], linear[:, hook]), abs=1e-4
        )
        assert figures.mse == pytest.approx(error, rel=1e-4)
        assert figures.mse_normalised == pytest.approx(error * scale[hook, 0] ** 2, rel=1e-4)
        assert figures.cosine == pytest.approx(cosine(x[:, hook], x_hat[:, hook]), rel=1e-4)
        for degree, term in terms.items():
            share = (term * whole)[:, hook].sum() / (whole[:, hook] ** 2).sum()
            assert figures.degree_shares[degree] == pytest.approx(share, abs=1e-4)
    pooled = evaluation.pooled
    x, x_hat, linear, whole = (at * scale for at in (x, x_hat, linear, whole))
    assert pooled.explained_variance == pytest.approx(explained(x, x_hat), abs=1e-4)
    assert pooled.explained_variance_linear == pytest.approx(explained(x, linear), abs=1e-4)
    assert pooled.explained_variance_linear != pytest.approx(pooled.explained_variance, abs=1e-3)
    error = ((x - x_hat) ** 2).sum((1, 2)).mean()
    assert pooled.mse == pooled.mse_normalised == pytest.approx(error, rel=1e-4)
    assert pooled.cosine == pytest.approx(
        cosine(x.reshape(len(x), -1), x_hat.reshape(len(x), -1)), rel=1e-4
    )
    for degree, term in terms.items():
        share = (term * scale * whole).sum() / (whole**2).sum()
        assert pooled.degree_shares[degree] == pytest.approx(share, abs=1e-4)


@torch.no_grad()
def test_latents(evaluation, sae, data, x):
    active = (sae.encode(x) != 0).numpy()
    assert not active[:, 5].any()
    assert active[:, 9].all()
    for figures in (*evaluation.per_hook.values(), evaluation.pooled):
        assert figures.l0 == pytest.approx(active.sum(1).mean())
        assert figures.n_dead == (active.sum(0) == 0).sum()
        assert figures.n_dense == (active.mean(0) > 0.1).sum()
        assert figures.n_latents == 48
    assert (evaluation.l0, evaluation.n_dead) == (evaluation.pooled.l0, evaluation.pooled.n_dead)
    assert (evaluation.d_sae, evaluation.n_tokens) == (48, 3 * 4 * 20)
    live = torch.tensor(active.any(0))
    norms = sae.W_dec.view(48, 2, 128).norm(dim=-1)[live]
    if (scales := sae.cfg.metadata.hook_scales) is not None:
        norms = norms * torch.tensor(scales)
    spread = (norms / norms.amax(dim=1, keepdim=True)).sum(dim=1).mean()
    assert evaluation.coherence["decoder"] == pytest.approx(spread.item(), rel=1e-4)
    for suffix, raw in (("", False), ("_raw", True)):
        coherence = FunctionalCoherence(sae, raw=raw)
        coherence.update(x[:70])
        expected = coherence.compute().mean()
        found = [evaluation.coherence[f"{of}{suffix}"] for of in ("selected", "pre_activation")]
        assert found == pytest.approx(expected, rel=1e-4)
    first, second = sae.W_dec.view(48, 2, 128)[live].unbind(dim=1)
    turned = torch.cosine_similarity(first, second, dim=-1).mean()
    assert evaluation.direction_cosine == pytest.approx(turned.item(), rel=1e-4)
    counter = CoOccurrence(random_pairs(48, 60, 0))
    counter.update(sae.encode(x))
    for name, expected in interaction_correlations(sae, counter).items():
        assert evaluation.interactions[name] == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_splices(evaluation, sae, data):
    """Cross-entropies, by TransformerLens' hooks, of predictions from tokens that count."""

    def cross_entropy(hooks):
        total, n = 0.0, 0
        for tokens in data.batches[:2]:
            logits = data.model.model.run_with_hooks(tokens, fwd_hooks=hooks(tokens))[:, :-1]
            nats = -logits.double().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
            counts = tokens[:, :-1] != SPECIAL
            total, n = total + nats[counts].sum().item(), n + int(counts.sum())
        return total / n, n

    def replaced(name, parts):
        def hooks(tokens):
            counts = (tokens != SPECIAL)[..., None]
            new = sae(data.model.gather(tokens))[..., parts]
            return [(name, lambda a, hook: torch.where(counts, new, a))]

        return hooks

    clean, n = cross_entropy(lambda tokens: [])
    assert evaluation.n_tokens_spliced == n
    assert evaluation.ce_clean == pytest.approx(clean, rel=1e-4)
    for hook, name in enumerate(NAMES):
        parts = slice(128 * hook, 128 * (hook + 1))
        ours, _ = cross_entropy(replaced(name, parts))
        # SAELens zeroes special tokens as well.
        zero, _ = cross_entropy(lambda t, name=name: [(name, lambda a, hook: torch.zeros_like(a))])
        figures = evaluation.per_hook[name]
        assert figures.ce_spliced == pytest.approx(ours, rel=1e-4)
        assert figures.ce_recovered == pytest.approx((zero - ours) / (zero - clean), abs=1e-3)


def test_the_table_shows_the_figures(evaluation, capsys):
    print_evaluation(evaluation, "a title")
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    for name, figures in (
        *evaluation.per_hook.items(),
        ("pooled / all spliced", evaluation.pooled),
    ):
        row, of_latents = (row for row in rows if row[0] == name)
        assert row[1] == f"{figures.explained_variance:.4f}"
        assert row[2] == f"{figures.explained_variance_linear:.4f}"
        assert row[4:7] == [
            f"{figures.mse_normalised:.3f}",
            f"{figures.cosine:.4f}",
            f"{figures.ce_recovered:.4f}",
        ]
        shares = [f"{figures.degree_shares[degree]:+.3f}" for degree in (1, 2, 3)]
        assert of_latents[1:4] == shares
        assert of_latents[4:] == [f"{figures.l0:.2f}", f"{figures.n_dead}/48", f"{figures.n_dense}"]


def test_the_picture_draws_the_figures(evaluation, sae, drawn, tmp_path):
    save_picture(sae, evaluation, tmp_path / "picture.png")
    (figure,) = drawn
    profiles, cosines, bars, shares = figure.axes[:4]
    profile = decoder_profile(sae)
    image = profiles.images[0].get_array()
    np.testing.assert_allclose(image, profile.profile[profile.centre.argsort()].nan_to_num())
    np.testing.assert_allclose(cosines.images[0].get_array(), direction_cosines(sae).mean)
    per_hook = list(evaluation.per_hook.values())
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx(
        [f.explained_variance for f in per_hook] + [f.ce_recovered for f in per_hook]
    )
    lines = {line.get_label(): line.get_ydata() for line in shares.lines}
    for degree in (2, 3):
        percent = [100 * f.degree_shares[degree] for f in per_hook]
        assert list(lines[f"degree {degree}"]) == percent
    assert "degree 1" not in lines, "beside it the others are a line at zero"
    for axes in (profiles, cosines, bars):
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            "1 resid_post",
            "4 resid_post",
        ]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
