"""Reads the files that PolySAE's own code wrote (Koromilas et al. 2026, its fork of SAELens).

Their decoder, with a = z U:  ``x_hat = b_dec + a C1^T + lambda2 a^2 C2^T + lambda3 a^3 C3^T``; or
with a projection for each factor (U1, U2, U3). ``W_dec`` in those files takes no part in it. The
shared-U form becomes ``W_dec = U C1^T`` and :class:`CodeInteractions`, which is exact; the
separate-U form is kept, as :class:`SeparateU`.
"""

from __future__ import annotations

from typing import Any

import torch

from sae_lens_poly.architectures.decoders.interactions import trained_size
from sae_lens_poly.architectures.decoders.term import gain
from sae_lens_poly.architectures.official import separate_u  # noqa: F401 (enters itself)
from sae_lens_poly.errors import InputError

#: What only files of PolySAE's code hold.
OFFICIAL_KEYS = {"U1", "C1", "C2", "C3", "lambda2", "lambda3"}


@torch.no_grad()
def read_official(sae: Any, state_dict: dict[str, Any]) -> None:
    """Fit ``sae`` and ``state_dict`` to each other if the latter is a file of PolySAE's code.

    Args:
        sae: An inference dictionary that is being loaded.
        state_dict: What the file holds; changed in place.

    Raises:
        InputError: If the file is of a kind that PolySAE's code saves wrongly, or a training
            checkpoint of ours.
    """
    if state_dict.keys() >= OFFICIAL_KEYS:
        _convert_(sae, state_dict)
    elif "topk_threshold" in state_dict:
        raise InputError(
            "this is a training checkpoint, whose threshold has not been exported: load it "
            "with TrainingSAE.load_from_disk and call save_inference_model(path)"
        )


def refuse_official(state_dict: dict[str, Any]) -> None:
    """Refuse to train on from a file of PolySAE's code.

    Raises:
        InputError: If it is one.
    """
    if state_dict.keys() >= OFFICIAL_KEYS:
        raise InputError(
            "this file was written by PolySAE's code, which this class does not train on from: "
            "load it for use with SAE.load_from_disk"
        )


def _convert_(sae: Any, state_dict: dict[str, Any]) -> None:
    official = _Official(state_dict)
    cfg = sae.cfg
    is_topk = "threshold" not in state_dict and "topk_threshold" not in state_dict
    is_thresholded_export = "threshold" in state_dict
    rescales = not is_thresholded_export and cfg.rescale_acts_by_decoder_norm
    if is_thresholded_export:
        official.refuse_rescaled_export(state_dict)
    elif is_topk and rescales and official.W_dec_is_normed():
        raise InputError(
            "this file is a TopK dictionary that PolySAE's code exported with "
            "rescale_acts_by_decoder_norm=True: that export divides the encoder by the norms of "
            "an untrained W_dec, and the trained encoder cannot be told from it. Load the "
            "training checkpoint of the run instead"
        )
    D = official.full_decoder_norms() if rescales else torch.ones(len(official.U1)).double()

    cfg.decoder, cfg.self_terms, cfg.code_limit = "interactions", True, None
    cfg.degree = official.degree
    cfg.rank_2, cfg.rank_3 = official.C[2].shape[1], official.C[3].shape[1]
    cfg.projection = "codes" if official.shared or official.degree == 1 else "separate_u"
    # Training ranks by D and decodes without it: D is folded into the code.
    cfg.rescale_acts_by_decoder_norm = False
    sae.set_term_(cfg.make_term(sae.W_dec.dtype, sae.W_dec.device))

    dtype = state_dict["W_enc"].dtype
    new = {
        "W_enc": state_dict["W_enc"].double() * D,
        "b_enc": state_dict["b_enc"].double() * D,
        "b_dec": state_dict["b_dec"].double(),
        "W_dec": official.linear_decoder() / D[:, None],
    }
    if "topk_threshold" in state_dict:
        new["threshold"] = state_dict["topk_threshold"].double().expand(len(D))
    elif "threshold" in state_dict:
        new["threshold"] = state_dict["threshold"].double()
    if official.degree > 1:
        new |= {f"polynomial.{name}": w for name, w in official.terms(D).items()}
    state_dict.clear()
    state_dict.update({name: w.to(dtype).contiguous() for name, w in new.items()})
    if sae.polynomial is not None:
        for name, buffer in sae.polynomial.named_buffers():
            if buffer.dtype == torch.bool:  # nothing is left to be set or to be held orthonormal
                state_dict[f"polynomial.{name}"] = torch.tensor(name == "scaled")


class _Official:
    """The decoder of a file, in float64."""

    def __init__(self, state_dict: dict[str, torch.Tensor]) -> None:
        wide = {name: w.double() for name, w in state_dict.items()}
        self.shared = "U_shared" in wide
        self.U1 = wide["U_shared"] if self.shared else wide["U1"]
        self.U2, self.U3 = wide["U2"], wide["U3"]
        self.C1, self.C = wide["C1"], {2: wide["C2"], 3: wide["C3"]}
        self.lambdas = {2: wide["lambda2"], 3: wide["lambda3"]}
        self.W_dec = wide["W_dec"]
        self.degree = max((d for d in (2, 3) if self.C[d].any()), default=1)

    def linear_decoder(self) -> torch.Tensor:
        """``U C1^T``, (d_sae, d_in)."""
        return self.U1 @ self.C1.T

    def per_latent(self, degree: int) -> torch.Tensor:
        """What latents are multiplied into for a degree, each on its own, (d_sae, R)."""
        rank = self.C[degree].shape[1]
        U1 = self.U1[:, :rank]
        if self.shared:
            return U1**degree
        return U1 * self.U2[:, :rank] if degree == 2 else U1 * self.U2[:, :rank] * self.U3

    def full_decoder_norms(self) -> torch.Tensor:
        """What their training multiplies pre-activations by under decoder-norm rescaling."""
        full = self.linear_decoder()
        for degree in range(2, self.degree + 1):
            full = full + self.lambdas[degree] * self.per_latent(degree) @ self.C[degree].T
        return full.norm(dim=-1)

    def terms(self, D: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weights of the terms above degree 1, by our names."""
        degrees = range(2, self.degree + 1)
        width = max(self.C[d].shape[1] for d in degrees)
        new = {f"C.{d}": self.lambdas[d] * self.C[d].T for d in degrees}
        if self.shared:
            new = {f"C.{d}": new[f"C.{d}"] / gain(d, self.C[d].shape[1]) for d in degrees}
            weight = trained_size(len(D)) * self.U1[:, :width]
            return {**new, "projection.weight": weight, "code_scale": 1 / D}
        U = torch.zeros(3, len(D), width, dtype=torch.float64)
        for k, matrix in enumerate([self.U1, self.U2, self.U3]):
            columns = min(width, matrix.shape[1])
            U[k, :, :columns] = matrix[:, :columns]
        return {**new, "U": U, "code_scale": 1 / D}

    def W_dec_is_normed(self) -> bool:
        """Whether rows of the file's W_dec have norm 1."""
        return torch.allclose(self.W_dec.norm(dim=-1), torch.ones(()).double(), atol=1e-3)

    def refuse_rescaled_export(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Refuse thresholded exports that were rescaled by decoder norms.

        Raises:
            InputError: Naming the kind of file.
        """
        remedy = (
            "as PolySAE's code saves it with rescale_acts_by_decoder_norm=True, its codes are not "
            "those of training. Load the training checkpoint of the run instead"
        )
        gram = self.U1.T @ self.U1
        if not torch.allclose(gram, torch.eye(len(gram)).double(), atol=1e-2):
            raise InputError(f"this file is a BatchTopK dictionary exported wrongly: {remedy}")
        directions = self.linear_decoder()
        directions = directions / directions.norm(dim=-1, keepdim=True)
        threshold = state_dict["threshold"]
        if (
            self.W_dec_is_normed()
            and not torch.allclose(directions, self.W_dec, atol=1e-3)
            and torch.allclose(threshold, threshold[0])
        ):
            raise InputError(f"this file is a Matryoshka dictionary exported wrongly: {remedy}")
