"""How codes are made of activations: the encoder, its scores, and AuxK.

An encoder score is one class in one file that enters itself into :data:`SCORES`.
"""

from sae_lens_poly.architectures.encoders.cosine import Cosine, CosinePerLatent, ReadByCosine
from sae_lens_poly.architectures.encoders.encoder import SCORES, Encoder, EncoderScore, hide
from sae_lens_poly.architectures.encoders.input_power import InputPower

__all__ = [
    "SCORES",
    "Cosine",
    "CosinePerLatent",
    "Encoder",
    "EncoderScore",
    "InputPower",
    "ReadByCosine",
    "hide",
]
