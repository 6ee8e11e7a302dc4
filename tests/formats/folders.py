"""Folders that official code of each format wrote, with what it computes for an input."""

from dataclasses import dataclass
from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_poly.formats.base import ReadingOptions
from sae_lens_poly.formats.convert import PublicFormat

DATA = Path(__file__).parents[1] / "data" / "formats"
# Those beside the repository have more cases; they are left out where they are not.
SHARED = Path(__file__).parents[3] / "shared" / "fixtures"


@dataclass(frozen=True)
class Case:
    """A folder, and how its reference lies."""

    path: str
    layers_first: bool = False
    """Whether the reference is (L, tokens, ...) instead of (tokens, L, ...)."""
    apart: bool = False
    """Whether what is read and what is written are different hook points."""
    scales: tuple[float, ...] = ()
    tolerance: float = 1e-5

    @property
    def folder(self):
        folders = [root / self.path for root in (DATA, SHARED)]
        return next((folder for folder in folders if folder.is_dir()), None)

    @property
    def options(self):
        return ReadingOptions(scales=self.scales)

    def load(self, folder=None):
        sae = SAE.load_from_disk(folder or self.folder, converter=PublicFormat(self.options))
        return sae.requires_grad_(False)

    def reference(self):
        """Input (n, d_in), codes (n, d_sae), and the reconstruction of written hook points."""
        found = load_file(self.folder / "reference.safetensors")
        x, codes, x_hat = found["input"], found["codes"], found["reconstruction"]
        if self.layers_first:
            x, codes, x_hat = (t.transpose(0, 1) for t in (x, codes, x_hat))
        x, codes, x_hat = (t.flatten(1) for t in (x, codes, x_hat))
        if self.apart:
            x = torch.cat([x, torch.zeros_like(x_hat)], dim=1)
        return x, codes, x_hat


CASES = [
    Case("gemma_scope_2/crosscoder"),
    Case("gemma_scope_2/crosscoder_dense_decoder"),
    Case("gemma_scope_2/clt_affine", apart=True),
    Case("ckkissane/fp32", scales=(1, 1)),
    Case("ckkissane/bf16", scales=(1, 1), tolerance=2e-2),
    Case("circuit_tracer_clt/relu", layers_first=True, apart=True),
    Case("circuit_tracer_clt/jumprelu", layers_first=True, apart=True),
]
