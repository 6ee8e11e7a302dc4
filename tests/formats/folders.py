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
    one_code_per_hook: bool = False
    """Whether the reference repeats the code for each hook point."""
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

    def reference(self, sae):
        """Input (n, d_in), codes (n, d_sae), and the reconstruction of written hook points."""
        found = load_file(self.folder / "reference.safetensors")
        codes, x_hat = found["codes"], found["reconstruction"]
        if "input" not in found:  # a tensor for each hook point, as the dictionary names them
            names = sae.cfg.metadata.hook_names
            x = torch.stack([found[f"input.{name}"] for name in names], dim=1)
        else:
            x = found["input"]
        if self.one_code_per_hook:
            torch.testing.assert_close(codes, codes[:, :1].expand_as(codes))
            codes = codes[:, 0]
        if self.layers_first:
            x, codes, x_hat = (t.transpose(0, 1) for t in (x, codes, x_hat))
        x, codes, x_hat = (t.flatten(1) for t in (x, codes, x_hat))
        if self.apart and "input" in found:
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
    Case("circuit_tracer_transcoder_set/relu", layers_first=True, apart=True),
    Case("circuit_tracer_transcoder_set/topk", layers_first=True, apart=True),
    Case("circuit_tracer_transcoder_set/jumprelu_skip", layers_first=True, apart=True),
    Case("clt_training/clt_topk", layers_first=True, apart=True),
    Case("sparsify/sae_topk"),
    Case("sparsify/skip_transcoder_topk", apart=True),
    Case("sparsify/sae_groupmax"),
    Case("dictionary_learning_crosscoder/l1_hub"),
    Case("dictionary_learning_crosscoder/batchtopk_pt"),
    Case("dictionary_learning_crosscoder/batchtopk_hub"),
    Case("dictionary_learning_crosscoder/batchtopk_pt_compiled_prefix"),
    Case("dictionary_learning_crosscoder/head_batchtopk_pt_normalised"),
    Case("dictionary_learning_crosscoder/head_batchtopk_pt_sae_norm"),
    Case("crosscode/acausal_relu", scales=(1,) * 6),
    Case("crosscode/acausal_jumprelu_folded"),
    Case("crosscode/clt_jumprelu", apart=True, scales=(1,) * 4),
    Case("crosscode/clt_topk_skip", apart=True, scales=(1,) * 3),
    Case("llamascopium/clt_jumprelu_datasetwise"),
    Case("llamascopium/clt_relu_inference"),
    Case("llamascopium/clt_jumprelu_no_decoder_norm"),
    Case("llamascopium/crosscoder_relu_datasetwise", one_code_per_hook=True),
]
