"""The codes of contexts drawn from the text: which latents are active together, and where."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import nn

IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class SampledCodes(nn.Module):
    """Sparse codes of whole contexts, up to a number of codes.

    Args:
        capacity: Codes that there is room for.
        d_sae: Number of latents.
    """

    token: torch.Tensor
    """Number of the token in the text of each code, (capacity,)."""
    latent: torch.Tensor
    """Its latent, (capacity,)."""
    value: torch.Tensor
    """The activation, (capacity,)."""
    n_codes: torch.Tensor
    """How many there are, shape ()."""
    share: torch.Tensor
    """Share of contexts that is drawn, shape (); 0 until the first batch says how many codes a
    context has."""

    def __init__(self, capacity: int, d_sae: int) -> None:
        super().__init__()
        self.d_sae = d_sae
        self.register_buffer("token", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("latent", torch.zeros(capacity, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(capacity))
        self.register_buffer("n_codes", torch.zeros((), dtype=torch.long))
        self.register_buffer("share", torch.zeros(()))

    def plan(self, codes_per_context: float, n_contexts: int) -> None:
        """Choose the share of contexts so that theirs fit, with a tenth to spare."""
        wanted = 0.9 * len(self.token) / max(codes_per_context * n_contexts, 1.0)
        self.share.fill_(min(1.0, wanted))

    def update(self, token: torch.Tensor, latent: torch.Tensor, value: torch.Tensor) -> None:
        """Add codes, in the order of their tokens; what there is no room for is left out."""
        start = int(self.n_codes)
        n = min(len(token), len(self.token) - start)
        stop = start + n
        self.token[start:stop] = token[:n].cpu()
        self.latent[start:stop] = latent[:n].int().cpu()
        self.value[start:stop] = value[:n].float().cpu()
        self.n_codes.fill_(stop)

    @cached_property
    def codes(self) -> sparse.csc_array:
        """Activations by sampled token (with a code at all) and latent."""
        n = int(self.n_codes)
        tokens, rows = np.unique(self.token[:n].numpy(), return_inverse=True)
        shape = (len(tokens), self.d_sae)
        return sparse.csc_array((self.value[:n].numpy(), (rows, self.latent[:n].numpy())), shape)

    @cached_property
    def tokens(self) -> IntArray:
        """Number in the text of each row of :attr:`codes`."""
        return np.unique(self.token[: int(self.n_codes)].numpy())

    @cached_property
    def active(self) -> sparse.csc_array:
        """Whether, as 1 in float32."""
        codes = self.codes
        ones = np.ones_like(codes.data)
        return sparse.csc_array((ones, codes.indices, codes.indptr), codes.shape)

    @cached_property
    def counts(self) -> IntArray:
        """Sampled tokens on which each latent is active, (d_sae,)."""
        return np.diff(self.codes.indptr).astype(np.int64)

    @cached_property
    def _active_by_token(self) -> sparse.csr_array:
        return self.active.tocsr()

    def together(self, latents: slice) -> IntArray:
        """Sampled tokens on which both are active, (number of latents, d_sae)."""
        both = self.active[:, latents].T @ self._active_by_token
        return both.toarray().astype(np.int64)

    def both(self, i: int, j: int) -> tuple[IntArray, np.ndarray, np.ndarray]:
        """The rows on which both are active, and the activations of i and j there."""
        codes = self.codes
        rows_i, rows_j = (codes.indices[codes.indptr[k] : codes.indptr[k + 1]] for k in (i, j))
        rows, at_i, at_j = np.intersect1d(rows_i, rows_j, assume_unique=True, return_indices=True)
        values_i, values_j = (codes.data[codes.indptr[k] : codes.indptr[k + 1]] for k in (i, j))
        return rows.astype(np.int64), values_i[at_i], values_j[at_j]

    def around(self, latent: int, tokens: IntArray) -> np.ndarray:
        """Activations (n,) of a latent at tokens of the text; 0 where it has none."""
        codes = self.codes
        own = slice(codes.indptr[latent], codes.indptr[latent + 1])
        active_at, values = self.tokens[codes.indices[own]], codes.data[own]
        if not len(active_at):
            return np.zeros(len(tokens), np.float32)
        place = np.searchsorted(active_at, tokens).clip(max=len(active_at) - 1)
        return np.where(active_at[place] == tokens, values[place], 0).astype(np.float32)
