"""Evaluate a dictionary from its folder: loads the model and the text that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
from sae_lens.saes.sae import SAE
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids

from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.dictionary_folder import check_dictionary, load_dictionary
from sae_lens_poly.embedded.model import EMBEDDED_MODEL_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.evaluate import Evaluation, EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.feature_cache import dictionary_hash
from sae_lens_poly.evaluation.metrics import ExplainedVariance
from sae_lens_poly.evaluation.report import save_picture
from sae_lens_poly.evaluation.saved_figures import read_settings
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.manifest import EVALUATION_FILENAME, PICTURE_FILENAME
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.data import EMBEDDED_DATASET_NAME, load_text
from sae_lens_poly.whole_files import require_writable, whole_folder, write_json

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
    metadata, path = sae.cfg.metadata, _text_of(sae, settings)
    skip_rows = _rows_read(sae, path) if settings.skip_rows is None else settings.skip_rows
    check_unread(sae, settings)
    for field, default in (("context_size", 128), ("prepend_bos", True)):
        if metadata.get(field) is None:  # a dictionary of another library
            setattr(metadata, field, default)
    n_wanted = n_skipped + settings.n_batches
    try:
        store = ActivationsStore.from_sae(
            model,
            sae,
            load_text(path, "held_out", skip_rows=skip_rows),
            store_batch_size_prompts=settings.batch_size_prompts,
        )
        batches = [store.get_batch_tokens(raise_at_epoch_end=True) for _ in range(n_wanted)]
    except StopIteration as error:
        raise InputError(
            f"dataset_path={path!r} has fewer than {n_wanted} batches of "
            f"{settings.batch_size_prompts} contexts after its first {skip_rows} rows: lower "
            "n_batches or batch_size_prompts, or name a longer text"
        ) from error
    special = get_special_token_ids(model.tokenizer)
    return EvaluationData(model, batches[n_skipped:], special, settings)


def _text_of(sae: SAE[Any], settings: EvaluationSettings) -> str:
    path = settings.dataset_path or sae.cfg.metadata.dataset_path
    if path is None and sae.cfg.metadata.model_name != EMBEDDED_MODEL_NAME:
        raise InputError(
            "the dictionary does not say which text it was trained on (metadata.dataset_path): "
            "name one with --dataset_path"
        )
    return path or EMBEDDED_DATASET_NAME


def _rows_read(sae: SAE[Any], path: str) -> int:
    """How many rows of a text training has read; the standard library has held-out modules."""
    metadata = sae.cfg.metadata
    same = path == metadata.dataset_path or (
        Path(path).exists() and Path(path).resolve() == Path(metadata.dataset_path or "").resolve()
    )
    return (metadata.n_dataset_rows_read or 0) if same and path != EMBEDDED_DATASET_NAME else 0


def check_unread(sae: SAE[Any], settings: EvaluationSettings) -> None:
    """Refuse text that the dictionary was trained on.

    Raises:
        InputError: If ``skip_rows`` is less than training read.
    """
    path, skip_rows = _text_of(sae, settings), settings.skip_rows
    read = _rows_read(sae, path)
    if skip_rows is not None and skip_rows < read:
        raise InputError(
            f"skip_rows={skip_rows}, and training read {read} rows of {path!r}: skip as many at "
            "least, or name another text"
        )


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
        x = model.gather(tokens)[data.keep(tokens)].to(sae.device, sae.dtype)
        x_hat = sae.decode(sae.encode(x))
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
    require_writable(results, n_bytes=300_000, remedy=remedy)
    if data is None:
        data = load_evaluation_data(
            sae, model or _model_of(sae, folder, device), settings or settings_for(folder, output)
        )
    else:  # drawn for another dictionary
        check_unread(sae, data.settings)
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
