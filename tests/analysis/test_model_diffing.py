"""What belongs to one model and what to both."""

import codecs
import copy

import numpy as np
import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_poly import InputError
from sae_lens_poly.analysis.model_diffing import (
    LatentScaling,
    latent_table,
    relative_decoder_norm,
)
from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.models.stacked_models import StackedModels
from tests.architectures.dictionaries import activations, randomise, training_dictionary

TUNED_ON = ("encodings.", "idlelib.")


def test_relative_decoder_norm():
    a = torch.tensor([1.0, 0.0, 2.0, 3.0])
    b = torch.tensor([0.0, 1.0, 2.0, 1.0])
    expected = torch.tensor([0.0, 1.0, 0.5, 1 / 6])
    torch.testing.assert_close(relative_decoder_norm(a, b), expected)


def test_kinds_have_their_cuts():
    """Latent j writes a length of 1 at the one model, and of 1 - d or so at the other."""
    expected = {0.09: "a only", 0.11: "between", 0.39: "between", 0.41: "shared"}
    expected |= {0.59: "shared", 0.61: "between", 0.89: "between", 0.91: "b only"}
    sae = training_dictionary("linear", d_sae=len(expected) + 1, k=1).to_inference()
    with torch.no_grad():
        sae.W_dec.zero_()
        for j, relative in enumerate(expected):
            shorter = 1 - abs(2 * relative - 1)
            lengths = (1.0, shorter) if relative < 0.5 else (shorter, 1.0)
            for hook, length in enumerate(lengths):
                sae.per_hook(sae.W_dec)[j, hook, j % 8] = length
    table = latent_table(sae)
    assert list(table["kind"]) == [*expected.values(), "unused"]
    np.testing.assert_allclose(table["relative_norm"][:-1], list(expected), atol=1e-6)
    np.testing.assert_allclose(table["cosine"][:-1], 1.0, rtol=1e-6)
    assert list(table.columns) == ["norm_a", "norm_b", "relative_norm", "cosine", "kind"]


@torch.no_grad()
def least_squares(sae, x, source, reference):
    """beta of every latent at one hook point, by numpy's solver, token by token."""
    z, x_hat = sae.encode(x), sae.decode(sae.encode(x))
    scale = saved_scales(sae, sae.n_hooks)
    directions = sae.per_hook(sae.latent_directions()) * scale[:, None]
    error = (sae.per_hook(x - x_hat) * scale[:, None])[:, source]
    reconstruction = (sae.per_hook(x_hat - sae.b_dec) * scale[:, None])[:, source]
    betas = []
    for j in range(z.shape[1]):
        at = directions[j].norm(dim=-1).argmax() if reference is None else reference
        design = torch.outer(z[:, j], directions[j, at]).flatten()[:, None].double().numpy()
        own = torch.outer(z[:, j], directions[j, source])
        pair = []
        for y in (error + own, reconstruction):
            solved = np.linalg.lstsq(design, y.flatten().double().numpy(), rcond=None)[0]
            pair.append(solved[0] if (z[:, j] > 0).any() else np.nan)
        betas.append(pair)
    return np.array(betas).T


@pytest.mark.parametrize("variant", ["linear", "interactions"])
@pytest.mark.parametrize("weights", ["dense", "cp"])
@pytest.mark.parametrize("reference", [None, 1])
@torch.no_grad()
def test_latent_scaling_is_the_least_squares_fit(variant, weights, reference):
    fields = {}
    if weights == "cp":
        fields = {f"{p}_weights": "cp" for p in ("encoder", "decoder")}
        fields |= {f"{p}_ranks": [6] for p in ("encoder", "decoder")}
    trained = training_dictionary(variant, dtype="float64", **fields)
    x = activations(60, dtype=torch.float64)
    trained.initialise_from_batch_(x)
    randomise(trained).sparsifier.threshold.fill_(2.0)
    trained.cfg.metadata.hook_scales = trained.hook_scales.scale.tolist()
    sae = trained.to_inference()
    scaling = LatentScaling(sae, reference=reference)
    for batch in x.split(25):
        scaling.update(batch)
    got = scaling.compute()
    for source in range(3):
        error, reconstruction = least_squares(sae, x, source, reference)
        np.testing.assert_allclose(got["error"][:, source], error, rtol=1e-6)
        np.testing.assert_allclose(got["reconstruction"][:, source], reconstruction, rtol=1e-6)


def test_planted_latents_of_one_source_and_of_both():
    """Latents that a source has nothing of are exclusive, and explain nothing of the other."""
    sae = training_dictionary("linear", d_sae=6, k=2, dtype="float64").to_inference()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        directions = torch.linalg.qr(torch.randn(8, 8, generator=generator).double())[0][:6]
        sae.W_enc.zero_()
        sae.W_dec.zero_()
        for j, hooks in enumerate([(0,), (0,), (1,), (0, 1), (0, 1), (0, 1)]):
            for hook in hooks:
                sae.per_hook(sae.W_dec)[j, hook] = directions[j]
                sae.W_enc.view(3, 8, 6)[hook, :, j] = directions[j] / len(hooks)
        z = torch.rand(500, 6, generator=generator).double()
        z *= torch.rand(500, 6, generator=generator) < 0.3
        x = z @ sae.W_dec
    scaling = LatentScaling(sae, sources=[[0], [1]])
    scaling.update(x)
    table = latent_table(sae, scaling=scaling)
    assert list(table["kind"]) == ["a only"] * 2 + ["b only"] + ["shared"] * 3
    beta = scaling.compute()
    for column, source in (("a", 0), ("b", 1)):
        expected = [1, 1, 0, 1, 1, 1] if column == "a" else [0, 0, 1, 1, 1, 1]
        np.testing.assert_allclose(table[f"beta_error_{column}"], expected, atol=1e-6)
        for name in ("error", "reconstruction"):
            np.testing.assert_allclose(table[f"beta_{name}_{column}"], beta[name][:, source])
    for name in ("error", "reconstruction"):
        ratio = table[f"beta_{name}_a"] / table[f"beta_{name}_b"]
        np.testing.assert_allclose(table[f"nu_{name}"], ratio)
    assert table["active"].all()
    np.testing.assert_allclose(table["cosine"][3:], [1, 1, 1], rtol=1e-6)


@torch.no_grad()
def test_latent_scaling_does_not_move_with_the_length_of_the_stream():
    trained = training_dictionary("linear")
    x = activations(512)
    trained.initialise_from_batch_(x)
    trained.sparsifier.threshold.fill_(1.0)
    sae = trained.to_inference().to(torch.bfloat16)
    betas = []
    for times in (1, 300):
        scaling = LatentScaling(sae)
        for _ in range(times):
            scaling.update(x)
        betas.append(scaling.compute()["reconstruction"])
    torch.testing.assert_close(betas[0], betas[1], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_wrong_sources_are_refused():
    sae = training_dictionary("linear").to_inference()
    for sources in ([[0]], [[0], [1, 2]], [[0], [3]]):
        with pytest.raises(InputError, match="sources"):
            LatentScaling(sae, sources)
    with pytest.raises(InputError, match="reference=3"):
        LatentScaling(sae, reference=3)


@pytest.fixture(scope="module")
def tuned(embedded_model):
    """A copy, and what it was tuned on: a subset of the modules, in ROT13, which is new to it."""
    tuned = copy.deepcopy(embedded_model).requires_grad_(True)
    tokens = windows(tuned, [m for m in stdlib_modules("train") if m.name.startswith(TUNED_ON)])
    optimizer = torch.optim.Adam(tuned.parameters(), lr=3e-3)
    for batch in tokens[:800].split(16):
        tuned(batch, return_type="loss").backward()
        optimizer.step()
        optimizer.zero_grad()
    return tuned.requires_grad_(False), tokens[800:]


def windows(model, modules, encoding="rot13", n=1000, length=128):
    """Windows (n, length) of tokens of these modules."""
    texts = [m.text[:20_000] for m in modules]
    texts = [codecs.encode(text, encoding) for text in texts] if encoding else texts
    tokens = torch.cat(
        [model.to_tokens(text, prepend_bos=False, truncate=False)[0] for text in texts]
    )
    starts = torch.randint(len(tokens) - length, (n,), generator=torch.Generator().manual_seed(0))
    return torch.stack([tokens[start : start + length] for start in starts.tolist()])


@pytest.mark.slow
def test_the_embedded_model_against_a_fine_tuned_copy(embedded_model, tuned, capsys):
    tuned_model, new_text = tuned
    stack = StackedModels([embedded_model, tuned_model], "blocks.4.hook_resid_post")
    others = [m for m in stdlib_modules("train") if not m.name.startswith(TUNED_ON)]
    old_text = windows(embedded_model, others[::30], encoding=None, n=len(new_text))
    tokens = torch.cat([new_text, old_text])
    x = torch.cat([stack.gather(batch).flatten(0, 1) for batch in tokens.split(16)])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))]

    torch.manual_seed(0)
    cfg = TrainingSAEConfig.from_dict(
        {
            "architecture": "crosscoder",
            "d_in": stack.d_in,
            "n_hooks": 2,
            "d_sae": 512,
            "sparsifier": "relu",
            "l1_coefficient": 3.0,
            "l1_warm_up_steps": 50,
            "decoder_init_norm": 0.5,
        }
    )
    sae = TrainingSAE.from_dict(cfg.to_dict())
    batches = (x[torch.randint(len(x), (1024,))] for _ in range(1000))
    trainer_cfg = SAETrainerConfig(
        total_training_samples=400 * 1024, lr=3e-3, lr_end=3e-3, train_batch_size_samples=1024
    )
    SAETrainer(trainer_cfg, sae, batches).fit()
    sae.cfg.metadata.hook_scales = sae.hook_scales.scale.tolist()
    crosscoder = sae.to_inference()

    scaling = LatentScaling(crosscoder)
    for batch in x[:20_000].split(2048):
        scaling.update(batch)
    table = latent_table(crosscoder, scaling=scaling)
    live = table[table["active"]]
    counts = live["kind"].value_counts()
    with capsys.disabled():
        print(f"\nbase (a) against fine-tuned (b): {counts.to_dict()}")
        figures = ["relative_norm", "nu_error", "nu_reconstruction", "cosine"]
        print(live.groupby("kind")[figures].median().round(3).to_string())
    assert counts["shared"] > 100
    assert counts.get("a only", 0) + counts.get("b only", 0) >= 1
    # What only one model writes explains that model better.
    nu = live.groupby("kind")["nu_error"].median()
    if "a only" in nu:
        assert nu["a only"] > nu["shared"]
    if "b only" in nu:
        assert nu["b only"] < nu["shared"]

    some = torch.randperm(20_000)[:400]
    scaling = LatentScaling(crosscoder)
    scaling.update(x[some])
    for source in range(2):
        error, reconstruction = least_squares(crosscoder, x[some], source, None)
        got = scaling.compute()
        np.testing.assert_allclose(got["error"][:, source], error, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(
            got["reconstruction"][:, source], reconstruction, rtol=1e-2, atol=1e-3
        )
