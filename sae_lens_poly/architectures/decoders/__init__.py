"""How activations are made of codes: the decoder and its terms above degree 1.

A kind of term is one class in one file that enters itself into :data:`TERMS`.
"""

from sae_lens_poly.architectures.decoders.decoder import Decoder, DenseRows, PairBlock
from sae_lens_poly.architectures.decoders.interactions import (
    CodeInteractions,
    Interactions,
    ReconstructionInteractions,
)
from sae_lens_poly.architectures.decoders.powers import Powers
from sae_lens_poly.architectures.decoders.term import CODE_LIMIT, TERMS, Term

__all__ = [
    "CODE_LIMIT",
    "TERMS",
    "CodeInteractions",
    "Decoder",
    "DenseRows",
    "Interactions",
    "PairBlock",
    "Powers",
    "ReconstructionInteractions",
    "Term",
]
