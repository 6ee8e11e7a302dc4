"""Every formula against float64 loops written from its definition."""

import pytest
import torch

from sae_lens_poly import InputError, TrainingCrosscoderConfig
from sae_lens_poly.architectures.crosscoders.hook_scales import HookScales
from sae_lens_poly.architectures.decoders.interactions import (
    CodeInteractions,
    ReconstructionInteractions,
)
from sae_lens_poly.architectures.decoders.powers import Powers
from sae_lens_poly.architectures.decoders.term import CODE_LIMIT
from sae_lens_poly.architectures.sparsifiers.batch_topk import BatchTopK, follow_scores_
from tests.architectures.dictionaries import (
    D_MODEL,
    D_SAE,
    N_HOOKS,
    K,
    activations,
    randomise,
    step_input,
    training_dictionary,
)


def hooks_of(flat):
    """(..., L * d) to a list of L tensors (..., d)."""
    return [flat[..., i * D_MODEL : (i + 1) * D_MODEL] for i in range(N_HOOKS)]


def reference_pre_activations(sae, x):
    """sum_l (s_l x^l - b_dec^l) W_enc^l + b_enc, or without b_dec."""
    pre = torch.zeros(len(x), D_SAE, dtype=torch.float64) + sae.b_enc
    for i, x_l in enumerate(hooks_of(x)):
        rows = slice(i * D_MODEL, (i + 1) * D_MODEL)
        x_l = x_l * sae.hook_scales.scale[i]
        if sae.cfg.apply_b_dec_to_input:
            x_l = x_l - sae.b_dec[rows]
        pre = pre + x_l @ sae.W_enc[rows]
    return pre


def reference_codes(sae, pre):
    """Keep the k n largest of pre times sum_l ||W_dec^l||, unscaled, over the batch."""
    norms = torch.ones(D_SAE, dtype=torch.float64)
    if sae.cfg.score_by_decoder_norm:
        norms = sum(w.pow(2).sum(-1).sqrt() for w in hooks_of(sae.W_dec))
    scored = [
        (float(pre[t, j] * norms[j]), t, j) for t in range(len(pre)) for j in range(pre.shape[1])
    ]
    codes = torch.zeros_like(pre)
    for value, t, j in sorted(scored, reverse=True)[: int(sae.cfg.k * len(pre))]:
        if value > 0:
            codes[t, j] = pre[t, j]
    return codes


def reference_polynomial(sae, z):
    """The terms of degree 2 and 3, token by token."""
    out = torch.zeros(len(z), N_HOOKS * D_MODEL, dtype=torch.float64)
    terms = sae.polynomial
    if terms is None:
        return out
    for t in range(len(z)):
        u = z[t] * terms.code_scale
        if isinstance(terms, CodeInteractions):
            norm = (u @ terms.projection.V).norm()
            u = u * min(1.0, CODE_LIMIT * max(terms.ranks.values()) ** 0.5 / norm)
        for degree, rank in terms.ranks.items():
            norm = (rank * {2: 3, 3: 15}[degree]) ** 0.5 * 4**degree / sae.cfg.terms_lr_scale
            if isinstance(terms, CodeInteractions):
                for r in range(rank):
                    a_r = sum(u[j] * terms.projection.V[j, r] for j in u.nonzero().flatten())
                    out[t] += a_r**degree / norm * terms.C[str(degree)][r]
            else:
                for j in u.nonzero().flatten():
                    weight = terms.A[str(degree)][j] @ terms.B[str(degree)]  # row j of W_i
                    out[t] += min(u[j], CODE_LIMIT) ** degree / norm * weight
    return out


@pytest.mark.parametrize("variant", ["linear", "interactions", "powers", "degree 2"])
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("subtract", [True, False])
@torch.no_grad()
def test_encode_and_decode_are_the_papers(variant, by_norm, subtract):
    sae = training_dictionary(
        variant, dtype="float64", score_by_decoder_norm=by_norm, apply_b_dec_to_input=subtract
    )
    x = activations(16, dtype=torch.float64)
    sae.initialise_from_batch_(x)
    randomise(sae)

    pre = reference_pre_activations(sae, x)
    z = reference_codes(sae, pre)
    recon = z @ sae.W_dec + sae.b_dec + reference_polynomial(sae, z)
    raw = torch.cat(
        [y / s for y, s in zip(hooks_of(recon), sae.hook_scales.scale, strict=True)], dim=-1
    )

    codes, hidden_pre = sae.encode_with_hidden_pre(x)
    torch.testing.assert_close(hidden_pre, pre)
    torch.testing.assert_close(codes, z)
    assert (codes > 0).sum() == K * len(x)
    torch.testing.assert_close(sae.decode(codes), raw)
    torch.testing.assert_close(
        sum(sae.degree_terms(codes).values()) + sae.b_dec, sae.reconstruct(codes)
    )


@torch.no_grad()
def test_loss_is_the_error_summed_over_hook_points_plus_auxk():
    sae = training_dictionary(dtype="float64", aux_loss_coefficient=0.5, k_aux=3)
    x = activations(16, dtype=torch.float64)
    sae.initialise_from_batch_(x)
    randomise(sae)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = True
    output = sae.training_forward_pass(step_input(x, step=1, dead=dead))

    pre = reference_pre_activations(sae, x)
    z = reference_codes(sae, pre)
    recon = z @ sae.W_dec + sae.b_dec + reference_polynomial(sae, z)
    target = torch.cat(
        [y * s for y, s in zip(hooks_of(x), sae.hook_scales.scale, strict=True)], dim=-1
    )
    mse = sum(
        ((a - b) ** 2).sum() / len(x)
        for a, b in zip(hooks_of(target), hooks_of(recon), strict=True)
    )
    aux = torch.zeros(())
    norms = sum(w.pow(2).sum(-1).sqrt() for w in hooks_of(sae.W_dec))
    for t in range(len(x)):
        best = sorted(range(5), key=lambda j: float(-pre[t, j] * norms[j]))[:3]
        guess = sum(pre[t, j] * sae.W_dec[j] for j in best)
        aux = aux + ((guess - (target[t] - recon[t])) ** 2).sum() / len(x)
    torch.testing.assert_close(output.losses["mse_loss"], mse)
    torch.testing.assert_close(
        output.losses["auxiliary_reconstruction_loss"], 0.5 * aux, check_dtype=False
    )
    torch.testing.assert_close(output.loss, mse + 0.5 * aux, check_dtype=False)


def test_fewer_dead_latents_than_k_aux_weaken_the_loss():
    sae = training_dictionary(dtype="float64", k_aux=10)
    x = activations(16, dtype=torch.float64)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = True
    pre = sae.encode_with_hidden_pre(x)[1]
    zero = torch.zeros_like(x)
    loss = sae.calculate_aux_loss(step_input(x, dead=dead), zero, pre, zero)
    target = sae.hook_scales.normalise(x)
    expected = 0.5 * (pre[:, :5] @ sae.W_dec[:5] - target).pow(2).sum(-1).mean()
    torch.testing.assert_close(loss["auxiliary_reconstruction_loss"], expected)


def test_auxk_moves_dead_latents_only():
    sae = training_dictionary()
    x = activations(64)
    sae.initialise_from_batch_(x)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = True
    codes, pre = sae.encode_with_hidden_pre(x)
    sae.calculate_aux_loss(step_input(x, dead=dead), codes, pre, sae.reconstruct(codes))[
        "auxiliary_reconstruction_loss"
    ].backward()
    assert sae.W_dec.grad[:5].abs().sum() > 0
    assert sae.W_dec.grad[5:].abs().sum() == 0
    assert sae.encoder_weights.W.grad[5:].abs().sum() == 0


def test_scales_bring_every_hook_point_to_mean_norm_sqrt_d():
    x = activations()
    scales = HookScales(N_HOOKS, D_MODEL)
    scales.estimate_(x)
    for i, x_l in enumerate(hooks_of(x.double())):
        mean_norm = torch.stack([row.norm() for row in x_l]).mean()
        assert scales.scale[i].item() == pytest.approx((D_MODEL**0.5 / mean_norm).item(), rel=1e-5)
    torch.testing.assert_close(scales.denormalise(scales.normalise(x)), x)


@pytest.mark.parametrize("n_batches", [1, 2, 30, 300, 3000])
def test_threshold_is_that_of_the_last_batches_however_short_the_run(n_batches):
    threshold, seen = torch.zeros(()), torch.zeros((), dtype=torch.long)
    for batch in range(1, n_batches + 1):  # scores of a dictionary that is still growing
        follow_scores_(threshold, seen, torch.tensor([float(batch), 2.0 * batch]), lr=0.01)
    assert 0.89 * n_batches < threshold <= n_batches


def test_threshold_is_a_moving_average():
    sparsifier = BatchTopK(
        TrainingCrosscoderConfig(d_in=2, d_sae=2, k=1, topk_threshold_lr=0.75), 2
    )
    expected = 0.0
    for n, lowest in enumerate([5.0, 1.0, 3.0, 2.0, 8.0, 4.0], start=1):
        codes = torch.tensor([[lowest, 0.0], [lowest + 1, 0.0]])
        sparsifier.update_(codes)
        weight = max(10 / (n + 9), 0.75)
        expected = (1 - weight) * expected + weight * lowest
        assert sparsifier.threshold.item() == pytest.approx(expected)
    sparsifier.update_(torch.zeros(2, 2))  # nothing active: nothing learned
    assert sparsifier.threshold.item() == pytest.approx(expected)
    norms = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(sparsifier.latent_thresholds(2, norms), sparsifier.threshold / norms)


@pytest.mark.parametrize("terms", [CodeInteractions, ReconstructionInteractions, Powers])
def test_terms_start_at_zero_and_scale_codes_to_one(terms):
    module = terms(12, D_SAE, {2: 8, 3: 5})
    z = torch.rand(32, D_SAE) * (torch.rand(32, D_SAE) < 0.1) * 50
    W_dec = torch.randn(D_SAE, 12)
    assert all(y.abs().max() == 0 for y in module.terms(module.sums(z, z @ W_dec, None)).values())
    module.scale_codes_from_(z, z @ W_dec, None)
    raised = (z * module.code_scale)[z > 0]
    scaled = raised if terms is Powers else module.sums(z, z @ W_dec, None)
    assert scaled.pow(2).mean().sqrt().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("variant", ["interactions", "powers"])
@torch.no_grad()
def test_homogeneous_terms_grow_in_proportion_to_the_code(variant):
    sae = training_dictionary(variant, dtype="float64", homogeneous=True)
    x = activations(16, dtype=torch.float64)
    sae.initialise_from_batch_(x)
    randomise(sae)
    z = sae.encode(x)
    z[0] = 0  # a token without a latent has no terms either
    once, as_large = sae.degree_terms(z), sae.degree_terms(1000 * z)
    for degree, term in once.items():
        assert not term[0].any()
        assert term[1:].any()
        torch.testing.assert_close(as_large[degree], 1000 * term)
    with pytest.raises(InputError, match="homogeneous=False"):
        sae.pair_factors()


@pytest.mark.parametrize("variant", ["interactions", "powers"])
def test_output_factors_learn_at_a_rate_of_their_own(variant):
    x = activations(64, dtype=torch.float64)
    moved = []
    for faster in (1.0, 16.0):
        torch.manual_seed(0)
        sae = training_dictionary(variant, dtype="float64", terms_lr_scale=faster)
        sae.training_forward_pass(step_input(x)).loss.backward()
        z = sae.encode(x)
        torch.optim.Adam(sae.polynomial.output_factors().values(), lr=1e-3, eps=0).step()
        moved.append(sae.degree_terms(z))
    for degree in (2, 3):
        assert moved[0][degree].any()
        torch.testing.assert_close(moved[1][degree], 16 * moved[0][degree])


@pytest.mark.parametrize("variant", ["interactions", "powers"])
@torch.no_grad()
def test_a_massive_activation_does_not_end_at_its_cube(variant):
    sae = training_dictionary(variant)
    x = activations(64)
    sae.initialise_from_batch_(x)
    randomise(sae)
    z = sae.encode(x)
    usual, massive = (sae.degree_terms(code)[3].norm(dim=-1).max() for code in (z, z * 1e4))
    assert massive < 1e5 * usual
