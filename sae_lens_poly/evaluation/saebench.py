"""SAEBench's evaluations of our dictionaries, with our models and local data.

SAEBench 0.6 is not a dependency: it pins numpy<2 and datasets<4, which SAELens does not need and
the two evaluations here do not either. Into an environment with this package (``make saebench``):

    pip install --no-deps sae-bench==0.6.0 tabulate

Its command lines load a model and data sets from a hub. Its functions take objects, and these are
called here: ``sparse_probing``'s with activations in the file that it looks for before it collects
any, ``core``'s with token batches in place of a store.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from sae_lens.util import get_special_token_ids

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.linear_decoder import is_linear
from sae_lens_poly.models.one_hook_point import OneHookPoint
from sae_lens_poly.models.stacked_hooks import StackedHooks

#: SAEBench's evaluations that only encode, or only encode and decode.
DECODER_FREE = (
    "core",
    "sparse_probing",
    "sparse_probing_sae_probes",
    "autointerp",
    "ravel",
    "unlearning",
)
#: Those that read ``W_dec``, and what for.
READ_W_DEC = {
    "absorption": "it compares probes with the rows of W_dec, and takes a latent's contribution "
    "to be its activation times its row",
    "scr": "it chooses the latents to ablate by W_dec times a probe",
    "tpp": "it chooses the latents to ablate by W_dec times a probe",
    "meta_structure": "it trains a dictionary on the rows of W_dec",
}
#: Those that can run on one hook point of a crosscoder, through the functions of this module.
_OF_A_VIEW = ("core", "sparse_probing")


def check_saebench_eval(sae: SAE[Any], evaluation: str) -> None:
    """Refuse an evaluation of SAEBench whose figures would not describe the dictionary.

    Fine for polynomial decoders are those that use ``encode`` and ``decode`` only: ``core`` (but
    for its weight-based figures of latents), ``sparse_probing``, ``sparse_probing_sae_probes``,
    ``autointerp``, ``ravel`` and ``unlearning``. Refused are those that read ``W_dec``, the linear
    term: ``absorption``, ``scr``, ``tpp``, ``meta_structure``. Of a crosscoder at one hook point,
    ``core`` and ``sparse_probing`` run.

    Args:
        sae: What is to be evaluated.
        evaluation: SAEBench's name of the evaluation.

    Raises:
        InputError: With the reason.
    """
    if evaluation not in DECODER_FREE and evaluation not in READ_W_DEC:
        raise InputError(
            f"evaluation={evaluation!r} is not one whose use of the decoder is known here: "
            f"{sorted([*DECODER_FREE, *READ_W_DEC])}"
        )
    if evaluation in READ_W_DEC and not is_linear(sae):
        raise InputError(
            f"evaluation={evaluation!r} reads W_dec, which is the linear term alone of this "
            f"polynomial decoder: {READ_W_DEC[evaluation]}. Its figures would not describe the "
            "dictionary: take one of degree 1, or one of "
            f"{', '.join(DECODER_FREE)}, which only encode and decode"
        )
    if isinstance(sae, HookPointView) and evaluation not in _OF_A_VIEW:
        raise InputError(
            f"evaluation={evaluation!r} encodes activations of one hook point that it collects "
            "itself, but the code of a crosscoder depends on the whole stack: of a view, "
            f"{' and '.join(_OF_A_VIEW)} can be run"
        )
    if getattr(sae, "n_hooks", 1) > 1:
        raise InputError(
            f"evaluation={evaluation!r} is of one hook point, and this crosscoder has "
            f"{sae.n_hooks}: give HookPointView(crosscoder, hook) for one of them"
        )


@dataclass(frozen=True)
class SparseProbing:
    """What SAEBench's sparse probing gave: test accuracies by SAEBench's names.

    ``sae_top_{K}_test_accuracy`` is of K latents, ``sae_test_accuracy`` of all, and ``llm_...`` the
    same of the activations themselves (for a view: of the whole stack).
    """

    mean: dict[str, float]
    """Over classes."""
    per_class: dict[str, dict[str, float]]
    """Figure to class to accuracy."""


def run_sparse_probing(
    sae: SAE[Any],
    model: StackedHooks,
    train_texts: Mapping[str, Sequence[str]],
    test_texts: Mapping[str, Sequence[str]],
    k_values: Sequence[int] = (1, 2, 5),
    context_length: int = 128,
    llm_batch_size: int = 32,
    sae_batch_size: int = 32,
    random_seed: int = 42,
    artifacts_folder: str | Path | None = None,
) -> SparseProbing:
    """SAEBench's sparse probing on your labelled texts.

    Codes are averaged over the tokens of a text that are not BOS, EOS or padding; for each class,
    against as many texts of the others, a logistic regression is fitted to the K latents whose
    means differ most (Karvonen et al. 2025, SAEBench).

    Both the choice of latents and the regression's penalty see raw codes, so that figures depend
    on the scale of latents: for comparisons with other dictionaries give all of them decoders of
    norm 1 (``fold_W_dec_norm``); SAEBench warns where they are not.

    Args:
        sae: A dictionary over ``model``'s hook points: an SAE, or a view of a crosscoder (whose
            hook point does not matter here: the code is that of the whole stack).
        model: The model with its hook points stacked.
        train_texts: Class to texts, as many for every class.
        test_texts: The same for the test; the classes must be those of ``train_texts``.
        k_values: How many latents probes see.
        context_length: Tokens that texts are cut or padded to.
        llm_batch_size: Texts in a run of the model.
        sae_batch_size: Texts that are encoded at once.
        random_seed: Of the draws of negatives.
        artifacts_folder: Where the activations are kept for further runs **on the same model and
            texts**, float32 of (texts, context_length, d_in); None: a temporary folder.

    Raises:
        InputError: If SAEBench is not installed, or the texts or widths do not fit.
    """
    check_saebench_eval(sae, "sparse_probing")
    _check_width(sae, model)
    _check_texts(train_texts, test_texts)
    main = _import("sae_bench.evals.sparse_probing.main")
    config = _import("sae_bench.evals.sparse_probing.eval_config").SparseProbingEvalConfig(
        random_seed=random_seed,
        dataset_names=["local"],
        probe_train_set_size=2 * len(next(iter(train_texts.values()))),
        probe_test_set_size=2 * len(next(iter(test_texts.values()))),
        context_length=context_length,
        sae_batch_size=sae_batch_size,
        llm_batch_size=llm_batch_size,
        llm_dtype="float32",
        k_values=list(k_values),
    )
    formatted = _formatted(sae, model.hook_name)
    device = str(sae.device)
    with tempfile.TemporaryDirectory() as temporary, _saebench_globals():
        folder = Path(artifacts_folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "local_activations.pt"
        if not path.exists():
            torch.save(_activations(model, train_texts, test_texts, config), path)
        mean, per_class = main.run_eval_single_sae(config, formatted, model, device, str(folder))
    return SparseProbing(
        mean=_floats({name: value for name, value in mean.items() if not isinstance(value, dict)}),
        per_class={name: _floats(own) for name, own in per_class["local_results"].items()},
    )


def run_core(
    sae: SAE[Any],
    model: StackedHooks,
    batches: Sequence[torch.Tensor],
    n_reconstruction_batches: int | None = None,
) -> dict[str, dict[str, float]]:
    """SAEBench's core evaluation on given tokens: splices, reconstruction, sparsity.

    Special tokens are neither counted nor replaced. Of a view only its hook point is replaced.
    SAEBench's weight-based figures of latents, which read ``W_dec``, are not computed. Mind that
    0.6.0's ``explained_variance`` squares the mean *square* of the activations where it should
    square their mean per dimension, so that it depends on their scale.

    Args:
        sae: An SAE over the one hook point of ``model``, or a view of a crosscoder over all.
        model: The model with its hook points stacked.
        batches: Tokens (batch, pos), all of one shape.
        n_reconstruction_batches: On how many of them, the first ones, splices are measured; None:
            all.

    Returns:
        SAEBench's groups, for example ``["model_performance_preservation"]["ce_loss_score"]``.

    Raises:
        InputError: If SAEBench is not installed, or widths do not fit.
    """
    check_saebench_eval(sae, "core")
    _check_width(sae, model)
    if not batches:
        raise InputError("batches: there are none: give at least one of shape (batch, pos)")
    core = _import("sae_bench.evals.core.main")
    config = _import("sae_bench.evals.core.eval_config").CoreEvalConfig(
        batch_size_prompts=len(batches[0]),
        n_eval_reconstruction_batches=n_reconstruction_batches or len(batches),
        n_eval_sparsity_variance_batches=len(batches),
        context_size=batches[0].shape[1],
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        exclude_special_tokens_from_reconstruction=True,
    )
    at = OneHookPoint(model, sae.hook if isinstance(sae, HookPointView) else 0)
    if isinstance(sae, HookPointView):
        sae = sae.attached_to(at)
    metrics, _ = core.run_evals(
        _formatted(sae, at.hook_name),
        TokenBatches(batches),
        at,
        config,
        ignore_tokens=set(get_special_token_ids(model.tokenizer)),
    )
    return {group: dict(figures) for group, figures in metrics.items()}


class TokenBatches:
    """Token batches where SAEBench's core evaluation expects an ``ActivationsStore``."""

    def __init__(self, batches: Iterable[torch.Tensor]) -> None:
        self.batches = list(batches)
        self.store_batch_size_prompts, self.context_size = self.batches[0].shape
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        """Begin with the first batch again."""
        self._remaining = iter(self.batches)

    def get_batch_tokens(self, batch_size: int | None = None) -> torch.Tensor:
        """The next batch (batch, pos), whatever ``batch_size``."""
        return next(self._remaining)


def _import(name: str) -> ModuleType:
    try:
        return __import__(name, fromlist=["_"])
    except ModuleNotFoundError as error:
        raise InputError(
            f"SAEBench cannot be imported ({error}): install it with 'pip install --no-deps "
            "sae-bench==0.6.0 tabulate'"
        ) from error


def _formatted(sae: SAE[Any], hook_name: str) -> SAE[Any]:
    # SAEBench writes fields into cfg; a shallow copy shares the weights and keeps ours clean.
    formatted = copy.copy(sae)
    formatted.cfg = copy.deepcopy(sae.cfg)
    formatted.cfg.metadata.hook_name = hook_name
    formatted.cfg.metadata.hook_layer = formatted.cfg.metadata.hook_layer or 0
    formatted.cfg.metadata.model_name = formatted.cfg.metadata.model_name or "local"
    general_utils = _import("sae_bench.sae_bench_utils.general_utils")
    return general_utils.load_and_format_sae("local", formatted, str(sae.device))[1]


def _activations(
    model: StackedHooks,
    train_texts: Mapping[str, Sequence[str]],
    test_texts: Mapping[str, Sequence[str]],
    config: Any,
) -> dict[str, Any]:
    """What SAEBench keeps in its file: activations (texts, pos, d_in), and probes of them."""
    collection = _import("sae_bench.sae_bench_utils.activation_collection")
    dataset_utils = _import("sae_bench.sae_bench_utils.dataset_utils")
    probe_training = _import("sae_bench.evals.sparse_probing.probe_training")
    device = next(model.parameters()).device

    def collect(texts: Mapping[str, Sequence[str]]) -> dict[str, torch.Tensor]:
        data = {name: list(rows) for name, rows in texts.items()}
        tokenized = dataset_utils.tokenize_data_dictionary(
            data, model.tokenizer, config.context_length, device
        )
        return collection.get_all_llm_activations(
            tokenized,
            model,
            config.llm_batch_size,
            layer=0,  # how far a run continues after the stack was gathered
            hook_name=model.hook_name,
            mask_bos_pad_eos_tokens=True,
        )

    train, test = collect(train_texts), collect(test_texts)
    means = [collection.create_meaned_model_activations(acts) for acts in (train, test)]
    # All dimensions as SAEBench probes them: with its optimiser.
    options: dict[str, dict[str, Any]] = {
        "llm_test_accuracy": {"use_sklearn": False, "batch_size": 250, "epochs": 100, "lr": 1e-2},
        **{f"llm_top_{k}_test_accuracy": {"select_top_k": k} for k in config.k_values},
    }
    llm_results = {
        name: _floats(probe_training.train_probe_on_activations(*means, **chosen)[1])
        for name, chosen in options.items()
    }
    return {"train": train, "test": test, "llm_results": llm_results}


def _floats(accuracies: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(accuracy) for name, accuracy in accuracies.items()}


@contextmanager
def _saebench_globals() -> Iterator[None]:
    """What SAEBench's probing needs and changes of global state, put back afterwards."""
    import jaxtyping  # SAEBench's and TransformerLens' dependency

    # With a beartype that looks into dicts, SAEBench's annotations contradict each other: one name
    # stands for the size of a class and for that of a training set.
    disabled, python_state = jaxtyping.config.jaxtyping_disable, random.getstate()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", disabled)
        random.setstate(python_state)


def _check_width(sae: SAE[Any], model: StackedHooks) -> None:
    if sae.cfg.d_in != model.d_in:
        raise InputError(
            f"model: its {model.n_hooks} hook points are {model.d_in} wide together, but the "
            f"dictionary takes {sae.cfg.d_in}: stack the hook points that it was trained on"
        )


def _check_texts(
    train_texts: Mapping[str, Sequence[str]], test_texts: Mapping[str, Sequence[str]]
) -> None:
    if len(train_texts) < 2 or set(train_texts) != set(test_texts):
        raise InputError(
            f"train_texts has the classes {sorted(train_texts)} and test_texts "
            f"{sorted(test_texts)}: give the same two or more in both"
        )
    for field, texts in {"train_texts": train_texts, "test_texts": test_texts}.items():
        sizes = {name: len(rows) for name, rows in texts.items()}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            raise InputError(
                f"{field} has {sizes} texts: every class needs the same number, at least one, for "
                "balanced negatives"
            )
