"""Evaluate a dictionary from its folder: loads the model and the text that it belongs to."""

from __future__ import annotations

import contextlib
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
from sae_lens_poly.evaluation.evaluate import Evaluation, EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.metrics import ExplainedVariance
from sae_lens_poly.evaluation.report import save_picture
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


def load_evaluation_data(
    sae: SAE[Any], model: StackedHooks, settings: EvaluationSettings
) -> EvaluationData:
    """The text that training left out, in batches, and the labelled sets.

    Raises:
        InputError: If the text cannot be loaded, or training has read some of it.
    """
    special = get_special_token_ids(model.tokenizer)
    return EvaluationData(model, _held_out_batches(sae, model, settings), special, settings)


def _held_out_batches(
    sae: SAE[Any], model: StackedHooks, settings: EvaluationSettings, n_skipped: int = 0
) -> list[torch.Tensor]:
    """Batches of tokens (batch, pos), after the first ``n_skipped``."""
    check_unread(sae, settings)
    metadata = sae.cfg.metadata
    read = 0 if settings.dataset_path else metadata.n_dataset_rows_read or 0
    skip_rows = read if settings.skip_rows is None else settings.skip_rows
    text = load_text(_text_of(sae, settings), "held_out", skip_rows=skip_rows)
    store = ActivationsStore.from_sae(
        model, sae, text, store_batch_size_prompts=settings.batch_size_prompts
    )
    batches = [store.get_batch_tokens() for _ in range(n_skipped + settings.n_batches)]
    return batches[n_skipped:]


def _text_of(sae: SAE[Any], settings: EvaluationSettings) -> str:
    return settings.dataset_path or sae.cfg.metadata.dataset_path or EMBEDDED_DATASET_NAME


def check_unread(sae: SAE[Any], settings: EvaluationSettings) -> None:
    """Refuse text that the dictionary was trained on.

    Raises:
        InputError: If ``skip_rows`` is less than training read.
    """
    read, skip_rows = sae.cfg.metadata.n_dataset_rows_read or 0, settings.skip_rows
    path = _text_of(sae, settings)
    # The standard library has held-out modules of its own.
    own_text = path == sae.cfg.metadata.dataset_path and path != EMBEDDED_DATASET_NAME
    if own_text and skip_rows is not None and skip_rows < read:
        raise InputError(
            f"skip_rows={skip_rows}, and training read {read} rows of {path!r}: skip as many at "
            "least, or name another text"
        )


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
        for tokens in _held_out_batches(sae, model, settings, settings.n_batches):
            x = model.gather(tokens)[~torch.isin(tokens, special)].to(sae.dtype)
            x_hat = sae.decode(sae.encode(x))
            stacked = (-1, model.n_hooks, model.d_model)
            variance.update(x.view(stacked), x_hat.view(stacked))
    return variance.compute()[1]


def evaluate_saved(
    folder: str | Path,
    settings: EvaluationSettings | None = None,
    device: str = "cpu",
    model: StackedHooks | None = None,
    data: EvaluationData | None = None,
) -> Evaluation:
    """Evaluate the dictionary in ``folder``, save its figures and its picture beside the weights.

    The text is what training left out (held-out modules, or the rows after those that were
    read).

    Args:
        folder: As written by a training run.
        settings: What to measure on; None: as :func:`settings_for` says.
        device: Where to run the model and the dictionary.
        model: The model, if it is at hand already.
        data: Text and labelled sets, if they are at hand already; ``settings`` are then theirs.

    Raises:
        InputError: If the dictionary, its model or the text cannot be loaded.
    """
    sae = load_dictionary(folder, device)
    if data is None:
        data = load_evaluation_data(
            sae, model or _model_of(sae, folder, device), settings or settings_for(folder)
        )
    check_unread(sae, data.settings)
    evaluation = evaluate_dictionary(sae, data, folder)
    if isinstance(sae, Crosscoder):
        save_picture(sae, evaluation, Path(folder) / PICTURE_FILENAME)
    path = Path(folder) / EVALUATION_FILENAME
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(evaluation.to_dict(), indent=1))
    unfinished.replace(path)
    return evaluation


def settings_for(folder: str | Path, **fields: Any) -> EvaluationSettings:
    """Settings of the last evaluation of a dictionary, or the defaults for its model.

    An evaluation at the end of training leaves the probing out; here it is put in again.

    Args:
        folder: A saved dictionary.
        fields: Settings to replace.

    Raises:
        InputError: If the folder holds no dictionary, or there is no setting of a name.
    """
    metadata = load_dictionary(folder).cfg.metadata
    path = Path(folder) / EVALUATION_FILENAME
    if path.is_file():
        with contextlib.suppress(json.JSONDecodeError, KeyError):  # of an older version
            saved = json.loads(path.read_text())["settings"]
            fields = {k: v for k, v in saved.items() if k != "probing" or v} | fields
    return EvaluationSettings.for_model(metadata.model_name or "", **fields)


def _model_of(sae: SAE[Any], folder: str | Path, device: str) -> StackedHooks:
    metadata = sae.cfg.metadata
    if metadata.hook_name is None or metadata.model_name is None:
        raise InputError(
            f"the cfg.json in {str(folder)!r} does not say which model and hook points it belongs "
            "to (metadata.model_name, metadata.hook_name): it cannot be evaluated on a model"
        )
    return load_stacked_model(
        metadata.model_name,
        metadata.hook_name,
        metadata.model_class_name,
        device,
        metadata.model_from_pretrained_kwargs,
    )
