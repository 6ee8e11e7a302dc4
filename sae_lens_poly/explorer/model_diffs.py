"""Latents of two models beside each other, for the page of model diffing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from sae_lens_poly.analysis.model_diffing import LatentScaling, latent_table
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.explorer.data_files import plain
from sae_lens_poly.models.stacked_models import StackedModels

_COLUMNS = ("relative_norm", "cosine", "kind", "nu_error", "nu_reconstruction")


def model_diffs(
    sae: Crosscoder, model: StackedModels, activations: Iterable[torch.Tensor]
) -> dict[str, Any]:
    """The table of latents of each two models, by column.

    Args:
        sae: A crosscoder over the models.
        model: The models.
        activations: What latent scaling is measured on, (n, d_in) each.
    """
    names = model.model_names
    scaling = LatentScaling(sae, [model.hooks_of_model(k) for k in range(len(names))])
    for x in activations:
        scaling.update(x)
    comparisons = []
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            table = latent_table(sae, a, b, scaling=scaling)
            columns = {name: plain(table[name].to_numpy()) for name in _COLUMNS}
            comparisons.append({"a": names[a], "b": names[b], "columns": columns})
    return {"comparisons": comparisons}
