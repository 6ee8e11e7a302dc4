"""The forms of a weight matrix between latents and hook points.

Each form is one class in one file that enters itself into :data:`WEIGHTS` under the name that
``encoder_weights`` and ``decoder_weights`` of a config give it.
"""

from sae_lens_poly.architectures.weights.base import WEIGHTS, Dense, Weights
from sae_lens_poly.architectures.weights.cp import CP
from sae_lens_poly.architectures.weights.factored import Factored, rank_limits
from sae_lens_poly.architectures.weights.grouped import Grouped
from sae_lens_poly.architectures.weights.matrix_atoms import MatrixAtoms
from sae_lens_poly.architectures.weights.tensor_ring import TensorRing

__all__ = [
    "CP",
    "WEIGHTS",
    "Dense",
    "Factored",
    "Grouped",
    "MatrixAtoms",
    "TensorRing",
    "Weights",
    "rank_limits",
]
