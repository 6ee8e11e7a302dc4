"""Dictionaries of other packages: each format is one class in one file that enters itself."""

from sae_lens_poly.formats.base import FORMATS, Format, ReadingOptions
from sae_lens_poly.formats.circuit_tracer_clt import CircuitTracerCLT
from sae_lens_poly.formats.circuit_tracer_set import CircuitTracerSet
from sae_lens_poly.formats.ckkissane import Ckkissane
from sae_lens_poly.formats.clt_training import CltTraining
from sae_lens_poly.formats.convert import PublicFormat
from sae_lens_poly.formats.crosscode import Crosscode
from sae_lens_poly.formats.dictionary_learning import DictionaryLearning
from sae_lens_poly.formats.gemma_scope_2 import GemmaScope2CLT, GemmaScope2Crosscoder
from sae_lens_poly.formats.llamascopium import Llamascopium
from sae_lens_poly.formats.sparsify import Sparsify

__all__ = [
    "FORMATS",
    "CircuitTracerCLT",
    "CircuitTracerSet",
    "Ckkissane",
    "CltTraining",
    "Crosscode",
    "DictionaryLearning",
    "Format",
    "GemmaScope2CLT",
    "GemmaScope2Crosscoder",
    "Llamascopium",
    "PublicFormat",
    "ReadingOptions",
    "Sparsify",
]
