"""Evaluate a dictionary from its folder: loads the model and the text that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids

from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.architectures.hook_scales import saved_scales
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.evaluate import Evaluation, evaluate_dictionary
from sae_lens_poly.evaluation.metrics import ExplainedVariance
from sae_lens_poly.evaluation.report import print_table, save_picture
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.data import EMBEDDED_DATASET_NAME, load_text

EVALUATION_FILENAME = "evaluation.json"
PICTURE_FILENAME = "evaluation.png"


def load_dictionary(folder: str | Path, device: str = "cpu") -> SAE[Any]:
    """Load a saved inference dictionary.

    Raises:
        InputError: If the folder holds none, or a damaged one.
    """
    folder = Path(folder)
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(
                f"{str(folder)!r} has no {name}: give the folder that a training run saved its "
                "dictionary to (its output_path)"
            )
    try:
        return SAE.load_from_disk(folder, device=device)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the dictionary in {str(folder)!r} cannot be loaded ({first[:200]}): its files are "
            "damaged or do not belong together; save or download it again"
        ) from error


def held_out_batches(
    sae: SAE[Any], model: StackedHooks, settings: EvaluationSettings, n_skipped: int = 0
) -> list[torch.Tensor]:
    """Batches of tokens (batch, pos) of the text that training left out.

    Args:
        sae: A dictionary with metadata.
        model: Its model.
        settings: Which text, and how much.
        n_skipped: Batches left out at the front.

    Raises:
        InputError: If the text cannot be loaded, or training has read some of it.
    """
    metadata = sae.cfg.metadata
    read = 0 if settings.dataset_path else metadata.n_dataset_rows_read or 0
    skip_rows = settings.skip_rows
    path = settings.dataset_path or metadata.dataset_path or EMBEDDED_DATASET_NAME
    if skip_rows is not None and skip_rows < read and path != EMBEDDED_DATASET_NAME:
        raise InputError(
            f"skip_rows={skip_rows}, and training read {read} rows of {path!r}: skip as many at "
            "least, or name another text"
        )
    text = load_text(path, "held_out", skip_rows=read if skip_rows is None else skip_rows)
    store = ActivationsStore.from_sae(
        model, sae, text, store_batch_size_prompts=settings.batch_size_prompts
    )
    batches = [store.get_batch_tokens() for _ in range(n_skipped + settings.n_batches)]
    return batches[n_skipped:]


def held_out_explained_variance(
    folder: str | Path, model: StackedHooks, settings: EvaluationSettings
) -> float:
    """Pooled explained variance of a saved dictionary, to choose between settings by.

    On the batches after those that :func:`evaluate_saved` reports on.
    """
    sae = load_dictionary(folder)
    variance = ExplainedVariance(saved_scales(sae, model.n_hooks))
    special = torch.tensor(get_special_token_ids(model.tokenizer))
    with torch.no_grad():
        for tokens in held_out_batches(sae, model, settings, settings.n_batches):
            x = model.gather(tokens)[~torch.isin(tokens, special)].to(sae.dtype)
            x_hat = sae.decode(sae.encode(x))
            stacked = (-1, model.n_hooks, model.d_model)
            variance.update(x.view(stacked), x_hat.view(stacked))
    return variance.compute()[1]


def evaluate_saved(
    folder: str | Path,
    n_batches: int = 8,
    batch_size_prompts: int = 8,
    n_splice_batches: int = 2,
    dataset_path: str | None = None,
    device: str = "cpu",
    model: StackedHooks | None = None,
) -> Evaluation:
    """Evaluate the dictionary in ``folder``, print its table, save its figures and its picture.

    The text is what training left out (held-out modules, or the rows after those that were
    read); ``evaluation.json`` and ``evaluation.png`` are written beside the weights.

    Args:
        folder: As written by a training run.
        n_batches: Number of token batches.
        batch_size_prompts: Contexts in a batch.
        n_splice_batches: How many of the batches the splices are measured on.
        dataset_path: Other text than the one of training.
        device: Where to run the model and the dictionary.
        model: The model, if it is at hand already.

    Raises:
        InputError: If the dictionary, its model or the text cannot be loaded.
    """
    sae = load_dictionary(folder, device)
    metadata = sae.cfg.metadata
    if metadata.hook_name is None or metadata.model_name is None:
        raise InputError(
            f"the cfg.json in {str(folder)!r} does not say which model and hook points it belongs "
            "to (metadata.model_name, metadata.hook_name): it cannot be evaluated on a model"
        )
    model = model or load_stacked_model(
        metadata.model_name,
        metadata.hook_name,
        metadata.model_class_name,
        device,
        metadata.model_from_pretrained_kwargs,
    )
    text = load_text(
        dataset_path or metadata.dataset_path or "",
        "held_out",
        skip_rows=0 if dataset_path else metadata.n_dataset_rows_read or 0,
    )
    store = ActivationsStore.from_sae(
        model, sae, text, store_batch_size_prompts=batch_size_prompts, device=device
    )
    evaluation = evaluate_dictionary(
        sae,
        model,
        [store.get_batch_tokens() for _ in range(n_batches)],
        get_special_token_ids(model.tokenizer),
        n_splice_batches,
    )
    print_table(evaluation, f"{sae.cfg.architecture()} in {folder}")
    (Path(folder) / EVALUATION_FILENAME).write_text(json.dumps(evaluation.to_dict(), indent=2))
    if isinstance(sae, Crosscoder):
        save_picture(sae, evaluation, Path(folder) / PICTURE_FILENAME)
    return evaluation
