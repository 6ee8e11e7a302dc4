"""Whether ``W_dec`` is all of a decoder: what tools that read it alone take for granted."""

from typing import Any

from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.evaluation.hook_point_view import HookPointView


def is_linear(sae: SAE[Any]) -> bool:
    """Whether ``W_dec`` and ``b_dec`` are the whole decoder."""
    dictionary = sae.crosscoder if isinstance(sae, HookPointView) else sae
    if not isinstance(dictionary, PolynomialDictionary) or dictionary.polynomial is None:
        return True
    return set(dictionary.polynomial.ranks) <= {1}
