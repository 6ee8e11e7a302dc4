"""One row of features a text: the mean over its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens.saes.sae import SAE
from sae_lens.util import get_special_token_ids

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.scaled_codes import check_width, latent_norms, scaled_codes
from sae_lens_poly.models.stacked_hooks import StackedHooks


def pooled_codes(
    sae: SAE[Any],
    model: StackedHooks,
    texts: Sequence[str],
    context_size: int = 128,
    batch_size: int = 32,
    prepend_bos: bool = True,
) -> NDArray[np.float32]:
    """Mean feature activations of texts, each latent times the norm of its decoder.

    The norm takes the gauge freedom away: z to c z with the decoder divided by c changes nothing
    (:func:`sae_lens_poly.evaluation.scaled_codes.latent_norms`). Padding and special tokens are not
    counted; texts are cut after ``context_size`` tokens.

    Args:
        sae: An inference dictionary on the raw activations of ``model``'s virtual hook point.
        model: The model with its hook points stacked.
        texts: The texts.
        context_size: Tokens of a text that are read, BOS included; 128 in SAEBench.
        batch_size: Texts in a batch. Memory grows with ``batch_size * context_size * d_sae``.
        prepend_bos: Whether a text starts with BOS, as SAELens does where the tokenizer has one.

    Returns:
        Shape (n_texts, d_sae).

    Raises:
        InputError: If the dictionary has another width than the stack, a text has no token that
            counts, or an argument is out of range.
    """
    check_width(sae, model)
    norms = latent_norms(sae)
    return pooled(
        model,
        texts,
        lambda x: scaled_codes(sae, x, norms),
        context_size,
        batch_size,
        prepend_bos,
    )


def pooled_activations(
    model: StackedHooks,
    texts: Sequence[str],
    context_size: int = 128,
    batch_size: int = 32,
    prepend_bos: bool = True,
) -> NDArray[np.float32]:
    """Mean raw activations of texts, (n_texts, d_in), without a dictionary.

    Hook points are end to end; :func:`hook_columns` takes one out. Arguments and errors are those
    of :func:`pooled_codes`.
    """
    return pooled(model, texts, torch.Tensor.float, context_size, batch_size, prepend_bos)


def hook_columns(activations: NDArray[np.float32], model: StackedHooks, hook: int) -> NDArray[Any]:
    """The columns of hook point number ``hook``, (n, d_model), of activations (n, d_in)."""
    if not 0 <= hook < model.n_hooks:
        raise InputError(f"hook={hook}: {model.hook_name!r} has numbers 0 to {model.n_hooks - 1}")
    return activations[:, hook * model.d_model : (hook + 1) * model.d_model]


@torch.no_grad()
def pooled(
    model: StackedHooks,
    texts: Sequence[str],
    read: Callable[[torch.Tensor], torch.Tensor],
    context_size: int = 128,
    batch_size: int = 32,
    prepend_bos: bool = True,
) -> NDArray[np.float32]:
    """Mean over tokens of a function of the activations, (n_texts, n_features).

    Args:
        model: The model with its hook points stacked.
        texts: The texts.
        read: From raw activations (n, d_in) of tokens that count to features (n, n_features).
        context_size: Tokens of a text that are read, BOS included.
        batch_size: Texts in a batch.
        prepend_bos: Whether a text starts with BOS.

    Raises:
        InputError: If a text has no token that counts, or an argument is out of range.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be 1 or more")
    tokens, keep = tokenise(model, texts, context_size, prepend_bos)
    device = next(model.parameters()).device
    # Padding is on the right: where a row ends is its last position that was filled.
    lengths = (keep * torch.arange(1, tokens.shape[1] + 1)).amax(dim=1)
    means = None
    # Texts of like length together, each batch cut to its longest: less padding to compute.
    for rows in lengths.argsort(stable=True).split(batch_size):
        longest = int(lengths[rows].max())
        own_keep = keep[rows, :longest].to(device)
        x = model.gather(tokens[rows, :longest].to(device))[own_keep]
        features = read(x)
        text_of = own_keep.nonzero()[:, 0].to(features.device)
        sums = torch.zeros(len(rows), features.shape[1], device=features.device)
        sums.index_add_(0, text_of, features)
        counts = torch.bincount(text_of, minlength=len(rows))
        if means is None:
            means = np.empty((len(texts), features.shape[1]), dtype=np.float32)
        means[rows.numpy()] = (sums / counts[:, None]).cpu().numpy()
    assert means is not None
    return means


def tokenise(
    model: StackedHooks, texts: Sequence[str], context_size: int, prepend_bos: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of texts, padded on the right, and which of them count.

    Returns:
        Tokens (n_texts, context_size), and True for those that are neither padding nor special.

    Raises:
        InputError: If there is no text, one has no token that counts, or ``context_size`` does not
            fit the model.
    """
    check_context_size(model, context_size)
    if not texts:
        raise InputError("texts is empty: give at least one")
    tokenizer = model.tokenizer
    special = get_special_token_ids(tokenizer)
    bos = [tokenizer.bos_token_id] if prepend_bos and tokenizer.bos_token_id is not None else []
    encoded = tokenizer(
        list(texts), add_special_tokens=False, truncation=True, max_length=context_size
    )["input_ids"]
    padding = next(i for i in (tokenizer.pad_token_id, *special, 0) if i is not None)
    tokens = torch.full((len(texts), context_size), padding)
    filled = torch.zeros_like(tokens, dtype=torch.bool)
    for row, ids in enumerate(encoded):
        own = [*bos, *ids][:context_size]
        tokens[row, : len(own)] = torch.tensor(own, dtype=torch.long)
        filled[row, : len(own)] = True
    keep = filled & ~torch.isin(tokens, torch.tensor(special, dtype=torch.long))
    empty = (~keep.any(dim=1)).nonzero()[:, 0].tolist()
    if empty:
        raise InputError(
            f"texts: number {empty[0]} ({len(empty)} in all) has no token but special ones: take "
            "it out"
        )
    return tokens, keep


def check_context_size(model: StackedHooks, context_size: int) -> None:
    """Refuse contexts that the model cannot read.

    Raises:
        InputError: If ``context_size`` is below 2 or above the model's.
    """
    if context_size < 2:
        raise InputError(f"context_size={context_size} must be 2 or more")
    model.check_context_size(context_size)
