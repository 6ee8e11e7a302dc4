"""WriteSAE: latents that are matrices of low rank, for recurrent states; its files."""

from sae_lens_poly.architectures.write_saes.config import TrainingWriteSAEConfig, WriteSAEConfig
from sae_lens_poly.architectures.write_saes.reader import load_write_sae

__all__ = ["TrainingWriteSAEConfig", "WriteSAEConfig", "load_write_sae"]
