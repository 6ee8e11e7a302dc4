import pytest
import torch

from sae_lens_poly.activations.storage import bytes_per_token, pack, unpack


def activations(n=40, n_hooks=3, d_model=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n_hooks, d_model, generator=generator, dtype=torch.float64)
    return x * torch.tensor([0.01, 1.0, 300.0], dtype=torch.float64)[:, None]


def test_8_bits_are_off_by_half_a_step_of_each_token_and_hook_point():
    x = activations()
    x[3] = 0
    stored = pack(x, "int8")
    assert stored["x"].dtype == torch.int8
    got = unpack(stored).double()
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    assert ((got - x).abs() <= 0.5001 * step + 1e-30).all()
    assert (got[3] == 0).all()


def test_bfloat16_is_rounded_once():
    x = activations().float()
    got = unpack(pack(x, "bfloat16"))
    assert torch.equal(got, x.bfloat16().float())


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_the_size_that_is_told_is_the_size_of_what_is_stored(storage):
    stored = pack(activations(), storage)
    assert sum(t.nbytes for t in stored.values()) == 40 * bytes_per_token(storage, 3, 16)
