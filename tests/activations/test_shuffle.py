import pytest
import torch

from sae_lens_poly.activations.shuffle import Shuffled


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 1000, 65_537])
def test_every_number_comes_once(n):
    order = Shuffled(n, key=3)(torch.arange(n))
    assert torch.equal(order.sort().values, torch.arange(n))


def test_a_place_has_its_number_wherever_one_starts():
    order = Shuffled(1000, key=1)
    whole = order(torch.arange(1000))
    assert torch.equal(order(torch.arange(300, 420)), whole[300:420])


def test_it_is_as_mixed_as_a_random_order():
    n = 20_000
    places = torch.arange(n)
    order = Shuffled(n, key=7)(places)
    r = torch.corrcoef(torch.stack([order.double(), places.double()]))[0, 1]
    assert abs(r) < 4 / n**0.5
    # Which tenth a number is of, over tenths of the places: chi-squared with 81 degrees of freedom.
    table = torch.zeros(10, 10).index_put_(
        (places * 10 // n, order * 10 // n), torch.ones(n), accumulate=True
    )
    assert ((table - n / 100).pow(2) / (n / 100)).sum() < 150
    neighbours = (order[1:] - order[:-1]).abs().double().mean()
    assert neighbours == pytest.approx(n / 3, rel=0.03)
    assert not torch.equal(order, Shuffled(n, key=8)(places))
