"""Evaluate a dictionary from its folder: loads the model and the text that it belongs to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import DTYPE_MAP
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.saes.sae import SAE
from sae_lens.training.activations_store import ActivationsStore

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.skips import decode_from
from sae_lens_poly.dictionary_folder import check_dictionary, load_dictionary
from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.evaluate import Evaluation, EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.feature_cache import dictionary_hash
from sae_lens_poly.evaluation.held_out import (
    HeldOutText,
    check_reading,
    check_skipped,
    held_out_text,
)
from sae_lens_poly.evaluation.metrics import ExplainedVariance
from sae_lens_poly.evaluation.report import save_picture
from sae_lens_poly.evaluation.saved_figures import read_settings
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.manifest import EVALUATION_FILENAME, PICTURE_FILENAME
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.paths import check_can_write
from sae_lens_poly.training.text_reading import TextReading
from sae_lens_poly.training.texts_read import require_known, texts_read
from sae_lens_poly.whole_files import whole_folder, write_json

#: Name of the field of the file that says which weights it is of.
DICTIONARY_HASH = "dictionary_hash"


def load_evaluation_data(
    sae: SAE[Any], model: StackedHooks, settings: EvaluationSettings, n_skipped: int = 0
) -> EvaluationData:
    """The text that training left out, in batches, and the labelled sets.

    Args:
        sae: A dictionary, whose metadata say how the model read its text.
        model: Its model.
        settings: Which text, and how much.
        n_skipped: Batches left out at the front of the text.

    Raises:
        InputError: If the text cannot be loaded or is too short, or training has read some of it.
    """
    n_wanted, size = n_skipped + settings.n_batches, settings.batch_size_prompts
    reading = TextReading.of_metadata(sae.cfg.metadata)
    model = reading.of_model(model)
    store, text = held_out_store(sae, model, settings)
    try:
        batches = [store.get_batch_tokens(raise_at_epoch_end=True) for _ in range(n_wanted)]
    except StopIteration as error:
        raise InputError(
            f"dataset_path={text.path!r} has fewer than {n_wanted} batches of {size} contexts "
            f"after its first {text.n_skipped} rows: lower n_batches or batch_size_prompts, or "
            "name a longer text"
        ) from error
    special = reading.excluded(model.tokenizer)
    further: list[torch.Tensor] = []
    n_further = 0 if n_skipped else settings.n_headroom_tokens
    with suppress(StopIteration):  # fewer will do
        while sum(tokens.numel() for tokens in further) < n_further:
            further.append(store.get_batch_tokens(raise_at_epoch_end=True))
    return EvaluationData(model, batches[n_skipped:], special, settings, reading, text, further)


def held_out_store(
    sae: SAE[Any], model: StackedHooks, settings: EvaluationSettings
) -> tuple[ActivationsStore, HeldOutText]:
    """A store over the text that training left out, read as training read it; and which text it is.

    Raises:
        InputError: If the text cannot be loaded or is empty, or training has read some of it.
    """
    metadata = sae.cfg.metadata
    if metadata.hook_head_index is not None:
        raise InputError(
            f"hook_head_index={metadata.hook_head_index}: the dictionary is of one head, and "
            "evaluation is on whole hook points"
        )
    _check_hook_points(metadata.hook_names, model)
    reading = TextReading.of_metadata(metadata)
    model = reading.of_model(model)
    text, rows = held_out_text(metadata, settings, reading, model)
    try:
        return reading.store(model, rows, settings.batch_size_prompts), text
    except StopIteration as error:
        raise InputError(
            f"dataset_path={text.path!r} has no rows after its first {text.n_skipped}: lower "
            "skip_rows, or name a longer text"
        ) from error


def _check_hook_points(names: list[str] | None, model: StackedHooks) -> None:
    """Refuse a model that is stacked at other hook points than those of training."""

    def without_models(names: list[str]) -> list[str]:  # which may have moved
        return [name.rsplit("/", 1)[-1] for name in names]

    if names is not None and without_models(names) != without_models(model.hook_names):
        raise InputError(
            f"model: it is stacked at {model.hook_names}, and the dictionary was trained at "
            f"{names}: stack it at these"
        )


def _check_data(sae: SAE[Any], data: EvaluationData) -> None:
    """Refuse text that was drawn for another dictionary, if it will not do for this one."""
    metadata = sae.cfg.metadata
    if data.reading is not None:
        check_reading(TextReading.of_metadata(metadata), data.reading)
    if data.text is not None:
        text, texts = data.text, texts_read(metadata)
        if data.settings.skip_rows is None and text.path != EMBEDDED_DATASET_NAME:
            require_known(texts, text.path, text.first_rows)
        check_skipped(text, texts)


@torch.no_grad()
def held_out_explained_variance(
    folder: str | Path, model: StackedHooks, settings: EvaluationSettings, device: str = "cpu"
) -> float:
    """Pooled explained variance of a saved dictionary, to choose between settings by.

    On the batches after those that :func:`evaluate_saved` reports on.
    """
    sae = load_dictionary(folder, device)
    data = load_evaluation_data(sae, model, settings, settings.n_batches)
    written = list(getattr(sae, "written_hooks", range(model.n_hooks)))
    variance = ExplainedVariance(data.hook_scales[written])
    stacked = (-1, model.n_hooks, model.d_model)
    for tokens in data.batches:
        x = data.model.gather(tokens)[data.keep(tokens)].to(sae.device, sae.dtype)
        x_hat = decode_from(sae, sae.encode(x), x)
        variance.update(x.view(stacked)[:, written], x_hat.view(stacked)[:, written])
    return variance.compute()[1]


def evaluate_saved(
    folder: str | Path,
    settings: EvaluationSettings | None = None,
    device: str = "cpu",
    model: StackedHooks | None = None,
    data: EvaluationData | None = None,
    output: str | Path | None = None,
) -> Evaluation:
    """Evaluate the dictionary in ``folder``, save its figures and its picture.

    The text is what training left out (held-out modules, or the rows after those that were
    read).

    Args:
        folder: As written by a training run.
        settings: What to measure on; None: as :func:`settings_for` says.
        device: Where to run the model and the dictionary.
        model: The model, if it is at hand already.
        data: Text and labelled sets, if they are at hand already; ``settings`` are then theirs.
        output: Where to save figures and picture; None: beside the weights, where also the codes of
            labelled examples are kept.

    Raises:
        InputError: If the dictionary, its model or the text cannot be loaded.
    """
    sae = load_dictionary(folder, device)
    results, remedy = Path(output or folder), "free some space, or name another folder (--output)"
    check_can_write("output", results, n_bytes=300_000)
    if data is None:
        data = load_evaluation_data(
            sae, model or model_of(sae, folder, device), settings or settings_for(folder, output)
        )
    else:  # drawn for another dictionary
        _check_data(sae, data)
    evaluation = evaluate_dictionary(sae, data, folder if output is None else None)
    figures = evaluation.to_dict() | {DICTIONARY_HASH: dictionary_hash(folder)}
    with whole_folder(results, remedy=remedy) as unfinished:
        if isinstance(sae, Crosscoder):
            save_picture(sae, evaluation, unfinished / PICTURE_FILENAME)
        write_json(unfinished / EVALUATION_FILENAME, figures)
    return evaluation


def settings_for(
    folder: str | Path, output: str | Path | None = None, **fields: Any
) -> EvaluationSettings:
    """Settings of the last evaluation of a dictionary, or the defaults for its model.

    An evaluation at the end of training leaves the probing out; here it is put in again.

    Args:
        folder: A saved dictionary.
        output: Where its figures are saved; None: in the same folder.
        fields: Settings to replace.

    Raises:
        InputError: If the folder holds no dictionary, or there is no setting of a name.
    """
    metadata = handle_config_defaulting(check_dictionary(folder)).get("metadata") or {}
    path = Path(output or folder) / EVALUATION_FILENAME
    if path.is_file() and (saved := read_settings(path)) is not None:
        fields = {k: v for k, v in saved.to_dict().items() if k != "probing" or v} | fields
    return EvaluationSettings.for_model(metadata.get("model_name") or "", **fields)


def model_of(sae: SAE[Any], folder: str | Path, device: str) -> StackedHooks:
    """The model that a dictionary belongs to, with its hook points stacked.

    Raises:
        InputError: If the dictionary does not say which, or it cannot be loaded.
    """
    metadata = sae.cfg.metadata
    if metadata.hook_name is None or metadata.model_name is None:
        raise InputError(
            f"the cfg.json in {str(folder)!r} does not say which model and hook points it belongs "
            "to (metadata.model_name, metadata.hook_name): its model cannot be loaded"
        )
    model = load_stacked_model(
        metadata.model_name,
        metadata.hook_name,
        metadata.model_class_name,
        device,
        metadata.model_from_pretrained_kwargs,
    )
    dtype = TextReading.of_metadata(metadata).model_dtype
    if dtype in DTYPE_MAP and dtype != model.dtype_name:
        model.to(DTYPE_MAP[dtype])
    return model
