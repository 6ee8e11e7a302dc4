"""What latents and pairs write, against the decoder and against B_ij."""

import itertools

import pytest
import torch

from sae_lens_poly.analysis.interactions import pair_terms
from sae_lens_poly.circuits.parts import parts_of_code
from tests.circuits.crosscoders import DECODERS, cross_layer

HOOKS = (3, 4, 5)


def a_code(sae, n=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    code = torch.zeros(sae.cfg.d_sae, dtype=sae.dtype)
    active = torch.randperm(sae.cfg.d_sae, generator=generator)[:n]
    code[active] = torch.rand(n, generator=generator, dtype=sae.dtype) + 0.2
    return code


def written(sae, code):
    return sae.per_hook(sae.decode(code) - sae.b_dec)[HOOKS, :]


@pytest.mark.parametrize("code_limit", [None, 0.05])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_add_up_to_the_reconstruction(decoder, dtype, code_limit, seed):
    fields = {} if decoder == "linear" else {"code_limit": code_limit}
    sae = cross_layer(decoder, dtype=dtype, **fields)
    code = a_code(sae, seed=seed)
    if decoder not in ("linear", "powers"):
        free = cross_layer(decoder, dtype=dtype, code_limit=None)
        is_held = not torch.allclose(written(sae, code), written(free, code), rtol=1e-3)
        assert is_held == (code_limit is not None)
    parts = parts_of_code(sae, code, HOOKS)
    has_pairs = decoder not in ("linear", "powers")
    assert len(parts.pairs) == (36 if has_pairs else 0)
    expected, tolerance = written(sae, code), 1e-10 if dtype == "float64" else 1e-5
    whole = parts.alone.sum(dim=0) + parts.together.sum(dim=0)
    assert (whole - expected).abs().max() < tolerance * expected.abs().max()
    if has_pairs:
        assert parts.together.abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_latent_alone_writes_what_it_is_decoded_to(decoder):
    sae = cross_layer(decoder, **({} if decoder == "linear" else {"code_limit": None}))
    code = a_code(sae)
    parts = parts_of_code(sae, code, HOOKS)
    for latent, alone in zip(parts.latents, parts.alone, strict=True):
        only = torch.zeros_like(code)
        only[latent] = code[latent]
        torch.testing.assert_close(alone, written(sae, only))


@pytest.mark.parametrize("decoder", ["degree 2", "degree 3", "no self-terms"])
def test_two_latents_together_write_the_rest(decoder):
    """Of two active latents nothing is left for others; in degree 2 that is z_i z_j B_ij."""
    sae = cross_layer(decoder, code_limit=None)
    code = a_code(sae, n=2)
    parts = parts_of_code(sae, code, HOOKS)
    rest = written(sae, code) - parts.alone.sum(dim=0)
    torch.testing.assert_close(parts.together[0], rest)
    if decoder == "degree 2":
        B = sae.per_hook(pair_terms(sae, parts.latents[None]))[0, HOOKS, :]
        expected = code[parts.latents].prod() * B
        torch.testing.assert_close(parts.together[0].float(), expected.float())


def test_pairs_of_a_cubic_decoder_by_its_definition():
    """Moebius terms over all subsets, those of three given to their pairs by thirds."""
    sae = cross_layer("degree 3", code_limit=None)
    code = a_code(sae, n=5)
    parts = parts_of_code(sae, code, HOOKS)

    def decoded(subset):
        some = torch.zeros_like(code)
        some[parts.latents[list(subset)]] = code[parts.latents[list(subset)]]
        return written(sae, some)

    def moebius(subset):
        smaller = (s for n in range(len(subset)) for s in itertools.combinations(subset, n))
        return decoded(subset) - sum(moebius(s) for s in smaller if s)

    for pair, together in zip(parts.pairs.tolist(), parts.together, strict=True):
        expected = moebius(tuple(pair))
        for other in set(range(5)) - set(pair):
            expected = expected + moebius(tuple(sorted([*pair, other]))) / 3
        torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_codes_without_pairs(n):
    sae = cross_layer("degree 3")
    parts = parts_of_code(sae, a_code(sae, n=n), HOOKS)
    assert parts.alone.shape == (n, 3, 16)
    assert parts.pairs.shape == (0, 2)
    assert parts.together.shape == (0, 3, 16)


def test_pairs_are_decoded_a_few_at_a_time(monkeypatch):
    sae = cross_layer("degree 3")
    expected = parts_of_code(sae, a_code(sae), HOOKS)
    monkeypatch.setattr("sae_lens_poly.circuits.parts._WORKING_SET", 3 * sae.cfg.d_sae)
    torch.testing.assert_close(parts_of_code(sae, a_code(sae), HOOKS).together, expected.together)
