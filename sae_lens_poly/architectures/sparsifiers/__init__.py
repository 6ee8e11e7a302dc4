"""Sparsifiers: which latents stay active in a batch, and by which rule at inference.

Each is one class in one file that enters itself into :data:`SPARSIFIERS`.
"""

from sae_lens_poly.architectures.sparsifiers.base import SPARSIFIERS, Sparsifier
from sae_lens_poly.architectures.sparsifiers.batch_topk import BatchTopK
from sae_lens_poly.architectures.sparsifiers.jump_relu import JumpReLU
from sae_lens_poly.architectures.sparsifiers.relu import ReLU
from sae_lens_poly.architectures.sparsifiers.top_k import SignedTopK, TopK

__all__ = ["SPARSIFIERS", "BatchTopK", "JumpReLU", "ReLU", "SignedTopK", "Sparsifier", "TopK"]
