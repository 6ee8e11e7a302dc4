"""Polynomial SAEs of every sparsifier: formulas, gradients, folds, exports."""

import shutil

import pytest
import torch
from sae_lens import SAE, TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import SAE as BaseSAE

from sae_lens_poly import InputError
from tests.architectures.poly_saes import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    FORMS,
    activations,
    orthonormality_error,
    poly_sae,
    randomise,
    step_input,
    train,
)

TOPK_KINDS = ["poly_topk", "poly_batchtopk", "poly_matryoshka_batchtopk"]


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request):
    return request.param


@pytest.fixture(params=list(FORMS))
def form(request):
    return request.param


def reference_terms(sae, z):
    """Every degree's contribution by sums over tuples of latents, in float64."""
    norms = sae.W_dec.norm(dim=-1) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 1
    linear_code = z / norms
    terms = {1: linear_code @ sae.W_dec}
    p = sae.polynomial
    if p is None or not p.ranks:
        return terms
    limit = float("inf") if p.code_limit is None else p.code_limit
    if sae.cfg.decoder == "powers":
        for degree, rank in p.ranks.items():
            gain = (rank * {2: 3, 3: 15}[degree]) ** -0.5 / 4**degree
            raised = (z * p.code_scale).clamp(max=limit) ** degree
            terms[degree] = gain * raised @ p.A[str(degree)] @ p.B[str(degree)]
        return terms
    V, c = p.projection.V, p.code_scale
    published = hasattr(p, "lambdas")
    if sae.cfg.projection == "codes" and not published:
        summands = (z * c)[:, :, None] * V[None]
    elif sae.cfg.projection == "reconstruction":
        summands = linear_code[:, :, None] * (c * sae.W_dec @ V)[None]
    else:
        summands = (c * linear_code)[:, :, None] * V[None]
    rank = max(p.ranks.values())
    norms = summands.sum(dim=1)[:, :rank].norm(dim=-1)
    summands = summands * (limit * rank**0.5 / norms).clamp(max=1.0)[:, None, None]
    for degree, rank in p.ranks.items():
        s = summands[..., :rank]
        if sae.cfg.self_terms:
            product = s.sum(dim=1) ** degree
        else:  # all tuples of different latents, by a loop over ordered ones
            product = torch.zeros_like(s[:, 0])
            for i in range(D_SAE):
                for j in range(i):
                    if degree == 2:
                        product = product + 2 * s[:, i] * s[:, j]
                    else:
                        product = product + 6 * s[:, i] * s[:, j] * s[:, :j].sum(dim=1)
        scale = p.lambdas[str(degree)] if hasattr(p, "lambdas") else 1
        if not getattr(p, "official_init", False):
            scale = scale / (rank * {2: 3, 3: 15}[degree]) ** 0.5 / 4**degree
        terms[degree] = scale * product @ p.C[str(degree)]
    return terms


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("massive", [False, True])
@torch.no_grad()
def test_decoder_is_the_papers(form, rescale, massive):
    sae = poly_sae(form=form, dtype="float64", rescale_acts_by_decoder_norm=rescale)
    x = activations(8, dtype=torch.float64)
    sae.scale_codes_from_(x)
    randomise(sae)
    z = sae.encode(x) * (50 if massive else 1)
    wanted = reference_terms(sae, z)
    got = sae.degree_terms(z)
    assert got.keys() == wanted.keys()
    for degree, term in wanted.items():
        torch.testing.assert_close(got[degree], term)
    torch.testing.assert_close(sae.decode(z), sum(wanted.values()) + sae.b_dec)
    torch.testing.assert_close(sae.decode(z.to_sparse()), sae.decode(z))


@torch.no_grad()
def test_starts_at_the_linear_sae(architecture):
    for name in FORMS:
        if name == "official":
            continue
        sae = poly_sae(architecture, name)
        x = activations()
        sae.scale_codes_from_(x)
        z = sae.encode(x)
        linear = sae.linear_decoder.write(z) + sae.b_dec
        torch.testing.assert_close(sae.decode(z), linear)
        torch.testing.assert_close(sae.W_enc, sae.W_dec.T)


@torch.no_grad()
def test_linear_term_is_stock_sae_lens(architecture):
    """With the terms above degree 1 at zero, codes and losses are those of SAELens' own class."""
    sae = poly_sae(architecture, dtype="float64")
    stock_name = architecture.removeprefix("poly_")
    fields = {**sae.cfg.to_dict(), "architecture": stock_name, "use_sparse_activations": False}
    stock = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    randomise(sae)
    for C in sae.polynomial.C.values():
        C.zero_()
    ours_alone = ("polynomial", "topk_threshold_batches")
    shared = {k: v for k, v in sae.state_dict().items() if not k.startswith(ours_alone)}
    stock.load_state_dict(shared)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[::4] = True
    x = activations(dtype=torch.float64)
    ours = sae.training_forward_pass(step_input(x, step=1, dead=dead))
    theirs = stock.training_forward_pass(step_input(x, step=1, dead=dead))
    torch.testing.assert_close(ours.sae_out, theirs.sae_out)
    assert ours.losses.keys() == theirs.losses.keys()
    for name, loss in theirs.losses.items():
        torch.testing.assert_close(ours.losses[name], loss, check_dtype=False)


@pytest.mark.parametrize("kind", [*TOPK_KINDS, "AuxK per level"])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("subtract", [True, False])
def test_sparse_steps_have_the_numbers_of_dense_ones(kind, form, rescale, subtract):
    options = {}
    if kind == "AuxK per level":
        kind, options = "poly_matryoshka_batchtopk", {"use_matryoshka_aux_loss": True}
    outputs = []
    x = activations(dtype=torch.float64)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[::4] = True
    for sparse in (True, False):
        sae = poly_sae(
            kind,
            form,
            dtype="float64",
            rescale_acts_by_decoder_norm=rescale,
            apply_b_dec_to_input=subtract,
            use_sparse_activations=sparse,
            **options,
        )
        sae.scale_codes_from_(x)
        randomise(sae)
        output = sae.training_forward_pass(step_input(x, step=1, dead=dead))
        assert output.feature_acts.is_sparse == sparse
        output.loss.backward()
        outputs.append((sae, output))
    (sparse_sae, ours), (dense_sae, theirs) = outputs
    torch.testing.assert_close(ours.feature_acts.to_dense(), theirs.feature_acts)
    torch.testing.assert_close(ours.loss, theirs.loss)
    for (name, p), q in zip(sparse_sae.named_parameters(), dense_sae.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("form", ["reconstruction", "shared_u"])
def test_aux_k_of_levels_reaches_dead_latents_alone(form):
    sae = poly_sae("poly_matryoshka_batchtopk", form, use_matryoshka_aux_loss=True)
    for dead in (torch.zeros(D_SAE, dtype=torch.bool), torch.arange(D_SAE) >= 30):
        output = sae.training_forward_pass(step_input(activations(), step=1, dead=dead))
        assert output.feature_acts.is_sparse
        auxiliary = output.losses["auxiliary_reconstruction_loss"]
        if not dead.any():
            assert auxiliary == 0
            continue
        (grad,) = torch.autograd.grad(auxiliary, sae.b_enc)
        assert (grad[dead] != 0).any()
        assert not grad[~dead].any()


def test_hooks_turn_a_sparse_step_dense_and_reach_it():
    sae = poly_sae()
    seen = []
    sae.hook_sae_acts_pre.add_hook(lambda pre, hook: pre * 0 + 1)
    sae.hook_sae_acts_post.add_hook(lambda z, hook: seen.append(z.is_sparse))
    output = sae.training_forward_pass(step_input(activations(), step=1))
    assert seen == [False]
    assert (output.feature_acts > 0).sum() == 5 * 64
    assert output.feature_acts.detach().max() == pytest.approx(0.7)  # the decoder norm


@torch.no_grad()
def test_matryoshka_levels_are_polynomials_of_the_first_latents(form):
    for rescale in (True, False):
        sae = poly_sae(
            "poly_matryoshka_batchtopk", form, dtype="float64", rescale_acts_by_decoder_norm=rescale
        )
        x = activations(dtype=torch.float64)
        sae.scale_codes_from_(x)
        randomise(sae)
        z = sae.encode(x)
        for code in (z, z.to_sparse()):
            levels = dict(sae._iterable_decode(code, include_outer_loss=True))
            assert list(levels) == [10, 20, D_SAE]
            for width, level in levels.items():
                first = z.clone()
                first[:, width:] = 0
                torch.testing.assert_close(level, sae.decode(first))


def inference_of(sae, folder):
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder)


def training_codes(sae, x):
    """Codes as the exported dictionary should have them: thresholded where it has a threshold."""
    z, pre = sae.encode_with_hidden_pre(x)
    if hasattr(sae, "topk_threshold"):
        return pre * (pre > sae.topk_threshold)
    return z


@pytest.mark.parametrize("rescale", [True, False])
@torch.no_grad()
def test_export_keeps_codes_and_reconstructions(architecture, form, rescale, tmp_path):
    changes = {"rescale_acts_by_decoder_norm": rescale} if architecture in TOPK_KINDS else {}
    sae = poly_sae(architecture, form, dtype="float64", **changes)
    with torch.enable_grad():
        train(sae)
    loaded = inference_of(sae, tmp_path)
    x = activations(seed=7, dtype=torch.float64)
    codes = training_codes(sae, x)
    assert (codes > 0).any()
    torch.testing.assert_close(loaded.encode(x), codes)
    torch.testing.assert_close(loaded(x), sae.decode(codes))
    assert isinstance(loaded, BaseSAE)
    assert not isinstance(loaded, TrainingSAE)

    if architecture == "poly_topk" and not rescale:
        with pytest.raises(NotImplementedError):
            loaded.fold_W_dec_norm()
        return
    before = loaded(x)
    loaded.fold_W_dec_norm()
    torch.testing.assert_close(loaded.W_dec.norm(dim=-1), torch.ones(D_SAE).double())
    torch.testing.assert_close(loaded(x), before)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening"])
@torch.no_grad()
def test_normalisation_folds_exactly(architecture, form, rescale, kind, tmp_path):
    """Trained on normalised activations, saved after the fold: raw in, the same out."""
    changes = {"rescale_acts_by_decoder_norm": rescale} if architecture in TOPK_KINDS else {}
    sae = poly_sae(architecture, form, dtype="float64", normalize_activations=kind, **changes)
    with torch.enable_grad():
        train(sae, steps=8)
    sae.eval()
    x = activations(seed=7, dtype=torch.float64)
    reference = training_codes(sae, x)
    wanted = sae.decode(reference)
    generator = torch.Generator().manual_seed(5)
    if kind == "covariance_whitening":
        M = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator).double())[0]
        M = M * torch.linspace(0.5, 2, D_IN).double()
        mean = torch.randn(D_IN, generator=generator).double()
        sae.fold_activation_whitening(mean, M, torch.linalg.inv(M))
        raw, wanted = x @ torch.linalg.inv(M) + mean, wanted @ torch.linalg.inv(M) + mean
    else:
        sae.fold_activation_norm_scaling_factor(0.3)
        raw, wanted = x / 0.3, wanted / 0.3
    torch.testing.assert_close(sae.decode(training_codes(sae, raw)), wanted)
    loaded = inference_of(sae, tmp_path)
    assert torch.equal(loaded.encode(raw) > 0, reference > 0)
    torch.testing.assert_close(loaded(raw), wanted)


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
@torch.no_grad()
def test_runtime_normalisation_is_exported(architecture, kind, tmp_path):
    changes = {"aux_loss_coefficient": 0.0} if architecture in TOPK_KINDS else {}
    if architecture == "poly_matryoshka_batchtopk":
        with pytest.raises(InputError, match="normalize_activations="):
            poly_sae(architecture, normalize_activations=kind, **changes)
        return
    sae = poly_sae(architecture, dtype="float64", normalize_activations=kind, **changes)
    with torch.enable_grad():
        train(sae, steps=5)
    loaded = inference_of(sae, tmp_path)
    x = activations(seed=7, dtype=torch.float64) * torch.rand(64, 1).double()
    codes = training_codes(sae, x)
    torch.testing.assert_close(loaded(x), sae.decode(codes))
    if architecture in TOPK_KINDS:
        with pytest.raises(InputError, match="aux_loss_coefficient=0"):
            poly_sae(architecture, normalize_activations=kind)


@torch.no_grad()
def test_checkpoints_round_trip(architecture, form, tmp_path):
    sae = poly_sae(architecture, form)
    with torch.enable_grad():
        train(sae, steps=5)
    sae.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    x = activations(seed=3)
    torch.testing.assert_close(loaded(x), sae(x), rtol=0, atol=0)
    assert loaded.cfg.to_dict() == sae.cfg.to_dict()
    assert list(loaded.state_dict()) == list(sae.state_dict())


def test_hook_points_read_and_patch_the_terms():
    sae = randomise(poly_sae(dtype="float64"))
    x = activations(dtype=torch.float64)
    _, cache = sae.run_with_cache(x)
    terms = sae.degree_terms(sae.encode(x))
    for degree, name in {1: "hook_sae_y1", 2: "hook_sae_y2", 3: "hook_sae_y3"}.items():
        torch.testing.assert_close(cache[name], terms[degree])
    assert cache["hook_sae_a"].shape == (64, 6)
    without = sae.run_with_hooks(x, fwd_hooks=[("hook_sae_y3", lambda y, hook: y * 0)])
    torch.testing.assert_close(without, sae(x) - terms[3])
    patched = sae.run_with_hooks(x, fwd_hooks=[("hook_sae_a", lambda a, hook: a * 0)])
    torch.testing.assert_close(patched, terms[1] + sae.b_dec)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degree": 4}, "degree=4"),
        ({"projection": "U"}, "projection='U'"),
        ({"projection": "separate_u"}, "separate_u"),
        ({"rank_2": 13, "projection": "reconstruction"}, "rank_2=13 .* d_in=12"),
        ({"rank_2": 41}, "rank_2=41 .* d_sae=40"),
        ({"form": "shared_u", "rank_1": 3}, "rank_1=3 must be at least"),
        ({"form": "shared_u", "rank_1": 13}, "rank_1=13 must be at most"),
        ({"form": "shared_u", "retraction": "none"}, "retraction='none'"),
        ({"form": "shared_u", "init": "random"}, "init='random'"),
        ({"code_limit": float("nan")}, "code_limit=nan"),
        ({"dtype": "float16"}, "float16"),
        ({"decoder": "powers", "self_terms": False}, "self_terms=False"),
        ({"code_limit": 0.0}, "code_limit=0.0"),
    ],
)
def test_refused_configs(changes, words):
    with pytest.raises(InputError, match=words):
        poly_sae(**changes)


@pytest.mark.parametrize("widths", [[], [0, 40], [20, 10, 40], [50]])
@pytest.mark.parametrize("form", ["reconstruction", "shared_u"])
def test_refused_matryoshka_widths(widths, form):
    with pytest.raises(InputError, match="matryoshka_widths="):
        poly_sae("poly_matryoshka_batchtopk", form, matryoshka_widths=widths)


@pytest.mark.parametrize("form", ["reconstruction", "shared_u"])
@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("poly_topk", {"k": 41}, "k=41 .* 40"),
        ("poly_topk", {"k": 2.5}, "k=2.5"),
        ("poly_batchtopk", {"k": 0}, "k=0"),
        ("poly_batchtopk", {"topk_threshold_lr": 2.0}, "topk_threshold_lr=2.0"),
        ("poly_matryoshka_batchtopk", {"aux_loss_coefficient": -1.0}, "aux_loss_coefficient=-1.0"),
        (
            "poly_matryoshka_batchtopk",
            {"normalize_activations": "layer_norm", "aux_loss_coefficient": 0.0},
            "normalize_activations='layer_norm' .* Matryoshka",
        ),
    ],
)
def test_refused_sparsifiers(form, kind, changes, words):
    with pytest.raises(InputError, match=words):
        poly_sae(kind, form, **changes)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(0, D_IN), "no tokens"),
        (torch.full((3, D_IN), float("nan")), "3 of 3 tokens"),
        (torch.tensor([[1.0] * D_IN, [float("inf")] + [0.0] * (D_IN - 1)]), "1 of 2 tokens"),
    ],
)
def test_refused_batches(architecture, x, words):
    with pytest.raises(InputError, match=words):
        poly_sae(architecture).training_forward_pass(step_input(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_steps_in_other_dtypes(architecture, form, dtype):
    sae = poly_sae(architecture, form, dtype=dtype)
    before = sae.W_enc.detach().clone()
    train(sae, steps=3)
    assert not torch.equal(sae.W_enc, before)
    assert all(p.isfinite().all() for p in sae.parameters())
    assert sae.W_dec.dtype == getattr(torch, dtype)
    if hasattr(sae.polynomial, "projection"):
        assert sae.polynomial.projection.V.dtype == (
            torch.float64 if dtype == "float64" else torch.float32
        )


def test_autocast(architecture, form):
    sae = poly_sae(architecture, form)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            output = sae.training_forward_pass(step_input(activations(seed=step), step))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(p.isfinite().all() for p in sae.parameters())
    sae.eval()
    if hasattr(sae.polynomial, "projection"):
        assert orthonormality_error(sae.polynomial.projection) < 1e-5


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_have_the_numbers_of_others():
    """As SAELens' runner compiles with ``compile_sae=True``."""
    losses = []
    for compiled in (False, True):
        sae = poly_sae("poly_topk")
        if compiled:
            sae.training_forward_pass = torch.compile(sae.training_forward_pass)
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for step in range(3):
            output = sae.training_forward_pass(step_input(activations(seed=step), step))
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
