"""Dictionaries of other packages: each format is one class in one file that enters itself."""

from sae_lens_poly.formats.base import FORMATS, Format, ReadingOptions
from sae_lens_poly.formats.circuit_tracer_clt import CircuitTracerCLT
from sae_lens_poly.formats.ckkissane import Ckkissane
from sae_lens_poly.formats.gemma_scope_2 import GemmaScope2CLT, GemmaScope2Crosscoder

__all__ = [
    "FORMATS",
    "CircuitTracerCLT",
    "Ckkissane",
    "Format",
    "GemmaScope2CLT",
    "GemmaScope2Crosscoder",
    "ReadingOptions",
]
