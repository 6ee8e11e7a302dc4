"""Properties that hold for every choice of sparsifier, weights, structure, decoder and masking."""

from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sae_lens import SAE, TrainingSAE, TrainingSAEConfig

from tests.architectures.crosscoder_reference import Reference
from tests.architectures.dictionaries import randomise, step_input

L, D, F, N = 3, 5, 12, 16
WEIGHTS = {"dense": [], "cp": [4], "tensor_ring": [2, 3, 2]}
DECODERS = {
    "linear": {"architecture": "crosscoder"},
    "interactions": {"architecture": "poly_crosscoder", "rank_2": 4, "rank_3": 3},
    "through the reconstruction": {
        "architecture": "poly_crosscoder",
        "projection": "reconstruction",
        "rank_2": 4,
        "rank_3": 3,
    },
    "no self-terms": {
        "architecture": "poly_crosscoder",
        "self_terms": False,
        "rank_2": 4,
        "rank_3": 3,
    },
    "powers": {
        "architecture": "poly_crosscoder",
        "decoder": "powers",
        "rank_2": 4,
        "rank_3": 3,
    },
}
DECODERS |= {
    f"{name}, homogeneous": {**DECODERS[name], "homogeneous": True}
    for name in ("interactions", "no self-terms", "powers")
}
DECODERS |= {
    f"{name}, faster": {**DECODERS[name], "terms_lr_scale": 16.0}
    for name in ("interactions", "powers")
}
STRUCTURES = {
    "acausal": {},
    "weakly_causal": {},
    "strictly_causal": {},
    "free": {"reads": "0", "writes": f"1..{L - 1}"},
}
SPARSIFIERS = {
    "batchtopk": {"k": 2.5},
    "topk": {"k": 3},
    "relu": {"l1_coefficient": 0.3},
    "relu, L2 of norms": {"sparsity_penalty": "l2_of_norms"},
    "jumprelu": {"jumprelu_init_threshold": 0.3, "jumprelu_bandwidth": 2.0},
    "jumprelu, tanh": {"jumprelu_sparsity_loss_mode": "tanh", "pre_act_loss_coefficient": 0.1},
    "jumprelu, January 2025": {
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_bandwidth": 2.0,
        "jumprelu_ste_to_input": True,
        "sparsity_penalty": "l2_of_norms",
        "pre_act_loss_coefficient": 0.1,
        "pre_act_loss_on": "all",
    },
    "jumprelu, to the input": {"jumprelu_bandwidth": 2.0, "jumprelu_ste_to_input": True},
    "matryoshka": {"k": 3.0, "matryoshka_widths": [3, 7]},
}


@st.composite
def options(draw):
    """Fields of a training config: any choice with any other."""
    pick = {name: draw(st.sampled_from(sorted(choices))) for name, choices in ALL.items()}
    encoder, decoder, structure = pick["encoder"], pick["decoder"], pick["structure"]
    if pick["sparsifier"] == "matryoshka":
        structure = "acausal"
    name = pick["sparsifier"].split(",")[0]
    return {
        "d_in": L * D,
        "n_hooks": L,
        "d_sae": F,
        "dtype": "float64",
        "sparsifier": "batchtopk" if name == "matryoshka" else name,
        **SPARSIFIERS[pick["sparsifier"]],
        "structure": structure,
        **STRUCTURES[structure],
        "encoder_weights": encoder,
        "encoder_ranks": WEIGHTS[encoder],
        "decoder_weights": decoder,
        "decoder_ranks": WEIGHTS[decoder],
        **DECODERS[pick["terms"]],
        "encoder_init": "independent",
        "encoder_score": pick["score"],
        "score_by_decoder_norm": draw(st.booleans()),
        "apply_b_dec_to_input": draw(st.booleans()),
        "use_sparse_activations": draw(st.booleans()),
        "mask_p": draw(st.sampled_from([0.0, 0.3])),
        "mask_mode": draw(st.sampled_from(["bernoulli", "one"])),
        "mask_seed": draw(st.integers(0, 3)),
        "aux_loss_coefficient": draw(st.sampled_from([None, 0.5])),
        "k_aux": 2,
    }


ALL = {
    "score": ["inner_product", "cosine", "cosine_per_latent", "input_power"],
    "encoder": WEIGHTS,
    "decoder": WEIGHTS,
    "structure": STRUCTURES,
    "terms": DECODERS,
    "sparsifier": SPARSIFIERS,
}

every_choice = given(fields=options(), seed=st.integers(0, 100))
thorough = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make(fields, seed=0):
    torch.manual_seed(seed)
    sae = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    x = activations(seed)
    sae.initialise_from_batch_(x)
    return randomise(sae), x


def activations(seed, n=N):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, L, D, generator=generator, dtype=torch.float64)
    return ((x + 0.5) * torch.tensor([1.0, 5.0, 20.0]).double()[:, None]).flatten(1)


def step_of(sae, x, step=1):
    dead = torch.zeros(F, dtype=torch.bool)
    dead[[2, 5, 9, 11]] = True
    given_step = step_input(x, step=step, dead=dead)
    given_step.coefficients = {
        name: c if isinstance(c, float) else c.value for name, c in sae.get_coefficients().items()
    }
    return given_step, dead


@every_choice
@thorough
def test_codes_reconstructions_and_metrics_are_the_references(fields, seed):
    sae, x = make(fields, seed)
    reference = Reference(sae)
    with torch.no_grad():
        pre = reference.pre_activations(x)
        z = reference.codes(pre)
        got_z, got_pre = sae.encode_with_hidden_pre(x)
        torch.testing.assert_close(got_pre, pre)
        torch.testing.assert_close(got_z, z)
        raw = reference.reconstruct(z) / reference.scale[:, None]
        torch.testing.assert_close(sae.decode(z), raw.flatten(1))
        torch.testing.assert_close(sae.decoder_norms(), reference.W_dec.pow(2).sum(1).sqrt().T)
        torch.testing.assert_close(sae.W_enc_per_hook, reference.W_enc)
        torch.testing.assert_close(sae.W_dec_per_hook, reference.W_dec.permute(2, 0, 1))


@every_choice
@thorough
def test_losses_and_gradients_are_the_dense_references(fields, seed):
    sae, x = make(fields, seed)
    seen = sae.masking.draw(N, 1, like=x)
    reference = Reference(sae)
    pre = reference.pre_activations(x, seen)
    assume(len(pre.unique()) == pre.numel())  # else several selections are right
    given_step, dead = step_of(sae, x)
    output = sae.training_forward_pass(given_step)
    output.loss.backward()
    got = {name: p.grad for name, p in sae.named_parameters()}
    sae.zero_grad()

    losses = reference.losses(x, seen, dead, given_step.coefficients)
    for name, loss in losses.items():
        torch.testing.assert_close(output.losses[name], loss, check_dtype=False)
    sum(losses.values()).backward()
    for name, parameter in sae.named_parameters():
        want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        have = torch.zeros_like(parameter) if got[name] is None else got[name]
        torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: n + m)


@every_choice
@thorough
def test_exported_and_reloaded_it_is_what_was_trained(fields, seed, tmp_path_factory):
    sae, x = make(fields, seed)
    with torch.enable_grad():
        optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3)
        for step in range(3):
            sae.training_forward_pass(step_of(sae, x, step)[0]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    sae.eval()
    with torch.no_grad():
        reference = Reference(sae)
        pre = reference.pre_activations(x)
        z = reference.codes(pre)
        if sae.cfg.sparsifier == "batchtopk":
            z = pre.relu() * (pre * reference.norms() > sae.sparsifier.threshold)
        raw = (reference.reconstruct(z) / reference.scale[:, None]).flatten(1)
        for dense in (False, True):
            sae.cfg.export_dense = dense
            folder = tmp_path_factory.mktemp("exported")
            sae.save_inference_model(folder)
            loaded = SAE.load_from_disk(folder)
            torch.testing.assert_close(loaded.encode(x), z)
            torch.testing.assert_close(loaded.decode(z), raw)
            assert loaded.cfg.encoder_weights == ("dense" if dense else fields["encoder_weights"])
            folded = deepcopy(loaded)
            folded.fold_W_dec_norm()
            torch.testing.assert_close(folded.get_W_dec_norm(), torch.ones(F).double())
            torch.testing.assert_close(folded(x), loaded(x), rtol=1e-6, atol=1e-7)
            folded.fold_activation_norm_scaling_factor(2.0)
            torch.testing.assert_close(folded(x / 2) * 2, loaded(x), rtol=1e-6, atol=1e-7)
        sae.save_model(folder)
        again = TrainingSAE.load_from_disk(folder)
        torch.testing.assert_close(again(x), sae(x))


@every_choice
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_masking_is_masking_with_p_0(fields, seed):
    without = {k: v for k, v in fields.items() if not k.startswith("mask")}
    results = []
    for chosen in ({**fields, "mask_p": 0.0}, without):
        sae, x = make(chosen, seed)
        output = sae.training_forward_pass(step_of(sae, x)[0])
        output.loss.backward()
        results.append([output.loss, *(p.grad for p in sae.parameters())])
    for a, b in zip(*results, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("structure", ["weakly_causal", "strictly_causal"])
@pytest.mark.parametrize("terms", sorted(DECODERS))
@pytest.mark.parametrize("weights", sorted(WEIGHTS))
@pytest.mark.parametrize("trained", [False, True])
def test_a_causal_dictionary_never_uses_a_later_hook_point(structure, terms, weights, trained):
    fields = {
        "d_in": L * D,
        "n_hooks": L,
        "d_sae": F,
        "dtype": "float64",
        "structure": structure,
        "sparsifier": "jumprelu",  # BatchTopK lets tokens and latents compete
        **{f"{part}_weights": weights for part in ("encoder", "decoder")},
        **{f"{part}_ranks": WEIGHTS[weights] for part in ("encoder", "decoder")},
        **DECODERS[terms],
    }
    sae, x = make(fields)
    if trained:
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        for step in range(5):
            sae.training_forward_pass(step_of(sae, x, step)[0]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for dictionary in (sae, sae.to_inference()):
        with torch.no_grad():
            before = dictionary(x).view(N, L, D)
            for later in range(L):
                changed = x.clone().view(N, L, D)
                changed[:, later] += 10 * torch.randn(N, D).double()
                after = dictionary(changed.flatten(1)).view(N, L, D)
                until = later + 1 if structure == "strictly_causal" else later
                assert torch.equal(before[:, :until], after[:, :until])
                if until < L:
                    assert not torch.equal(before[:, until:], after[:, until:])
