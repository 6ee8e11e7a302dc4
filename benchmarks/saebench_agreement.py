"""SAEBench's sparse probing and core evaluation beside our own figures, on local data.

    make saebench

A poly_topk SAE and a poly_crosscoder of the embedded model, trained here or loaded (--sae,
--crosscoder); texts are snippets of the Python standard library, labelled by package, train and
test from different modules. Both probes draw negatives of their own, and ours standardises.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids

from sae_lens_poly import StackedHooks
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.labelled_text import stdlib_packages
from sae_lens_poly.evaluation.pooled_features import pooled_codes
from sae_lens_poly.evaluation.probing import class_tasks, probe_tasks
from sae_lens_poly.evaluation.saebench import run_core, run_sparse_probing
from sae_lens_poly.evaluation.scaled_codes import latent_norms
from sae_lens_poly.evaluation.settings import EvaluationSettings

Texts = dict[str, list[str]]
_CONTEXT = 128


def labelled(options: argparse.Namespace) -> tuple[Texts, Texts]:
    """Snippets by package; train and test share no module.

    SAEBench wants equally many of each class: packages with too few are left out.
    """
    text = stdlib_packages()
    parts = []
    for texts, labels, n in (
        (text.train_texts, text.train_labels, options.train),
        (text.test_texts, text.test_labels, options.test),
    ):
        found: Texts = {label: [] for label in sorted(set(labels))}
        for snippet, label in zip(texts, labels, strict=True):
            found[label].append(snippet)
        parts.append({label: own[:n] for label, own in found.items() if len(own) >= n})
    train, test = ({k: part[k] for k in parts[0] if k in parts[1]} for part in parts)
    return train, test


def our_accuracies(
    sae: SAE[Any], model: StackedHooks, train: Texts, test: Texts, options: argparse.Namespace
) -> dict[int, list[float]]:
    """Mean test accuracy over classes by K, for every draw of negatives.

    Codes are taken without the decoder norms that they are multiplied with elsewhere: SAEBench has
    them as they are.
    """
    norms = latent_norms(sae).clamp_min(1e-12).numpy()
    x, x_test = (
        pooled_codes(sae, model, [text for own in part.values() for text in own], _CONTEXT) / norms
        for part in (train, test)
    )
    y, y_test = ([name for name, own in part.items() for _ in own] for part in (train, test))
    found: dict[int, list[float]] = {k: [] for k in options.k_values}
    for seed in range(options.draws):
        scores = probe_tasks(x, x_test, class_tasks(y, y_test, seed=seed), options.k_values)
        for k in options.k_values:
            found[k].append(float(np.mean([s.accuracy for s in scores if s.k == k])))
    return found


def trained(architecture: str, options: argparse.Namespace, folder: str) -> SAE[Any]:
    """Train by the command line, with its defaults for everything else."""
    command = [sys.executable, "-m", "sae_lens_poly", "train", "--architecture", architecture]
    for flag, value in {
        "training_tokens": options.training_tokens,
        "d_sae": options.d_sae,
        "k": options.k,
        "output_path": folder,
    }.items():
        command += [f"--{flag}", str(value)]
    print("$", "python", *command[1:-1], "...", flush=True)
    subprocess.run(command, check=True, capture_output=True)
    return load_dictionary(folder)


def compare_probing(
    title: str, sae: SAE[Any], encoder: SAE[Any], model: StackedHooks, options: argparse.Namespace
) -> None:
    """Print both accuracies for each K."""
    train, test = labelled(options)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        tempfile.TemporaryDirectory() as folder,
    ):
        theirs = [
            run_sparse_probing(
                sae,
                model,
                train,
                test,
                options.k_values,
                _CONTEXT,
                random_seed=42 + seed,
                artifacts_folder=folder,
            ).mean
            for seed in range(options.draws)
        ]
    ours = our_accuracies(encoder, model, train, test, options)
    n = 2 * options.test * len(train)
    print(f"\nsparse probing, {title}: test accuracy over {len(train)} classes")
    print(
        f"  (SAEBench: all latents {theirs[0]['sae_test_accuracy']:.4f}, all dimensions of the "
        f"activations {theirs[0]['llm_test_accuracy']:.4f})"
    )
    print("    K              draws of negatives      mean  difference  standard error")
    for k in options.k_values:
        bench = [run[f"sae_top_{k}_test_accuracy"] for run in theirs]
        mean, difference = float(np.mean(ours[k])), float(np.mean(bench) - np.mean(ours[k]))
        # Binomial, of one draw's accuracy over all classes.
        error = math.sqrt(mean * (1 - mean) / n)
        for name, runs in (("SAEBench", bench), ("ours", ours[k])):
            shown = " ".join(f"{accuracy:.3f}" for accuracy in runs)
            last = "" if name == "SAEBench" else f"  {difference:+10.4f}  {error:14.4f}"
            print(f"  {k:>3}  {name:8}  {shown}  {np.mean(runs):8.4f}{last}", flush=True)


def compare_core(
    title: str,
    sae: SAE[Any],
    views: Mapping[str, SAE[Any]],
    model: StackedHooks,
    n_batches: int,
) -> None:
    """Print the figures that both have."""
    store = ActivationsStore.from_sae(
        model, sae, stdlib_dataset("held_out"), store_batch_size_prompts=4, context_size=_CONTEXT
    )
    batches = [store.get_batch_tokens() for _ in range(n_batches)]
    special = get_special_token_ids(model.tokenizer)
    settings = EvaluationSettings(n_splice_batches=n_batches)
    ours = evaluate_dictionary(sae, EvaluationData(model, batches, special, settings))
    print(f"\ncore, {title}: SAEBench / ours")
    print(
        f"  {'hook point':26}  {'CE loss score':>19}  {'CE spliced':>19}  {'L0':>17}  "
        f"{'explained variance':>20}  SAEBench's legacy one, cosine"
    )
    for name, view in views.items():
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = run_core(view, model, batches)
        own = ours.per_hook[name]
        ce = theirs["model_performance_preservation"]
        quality = theirs["reconstruction_quality"]
        print(
            f"  {name:26}  {ce['ce_loss_score']:.5f} / {own.ce_recovered:.5f}    "
            f"{ce['ce_loss_with_sae']:.5f} / {own.ce_spliced:.5f}    "
            f"{theirs['sparsity']['l0']:.3f} / {ours.l0:.3f}   "
            f"{quality['explained_variance']:8.4f} / {own.explained_variance:.4f}   "
            f"{quality['explained_variance_legacy']:10.4f}, {quality['cossim']:.4f}",
            flush=True,
        )


def main() -> None:
    """Train or load both, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sae", help="folder of a PolySAE of one hook point; default: train one")
    parser.add_argument("--crosscoder", help="folder of a crosscoder; default: train one")
    parser.add_argument("--training_tokens", type=int, default=100_000)
    parser.add_argument("--d_sae", type=int, default=512)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--train", type=int, default=160, help="texts of each class")
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument("--k_values", type=int, nargs="*", default=[1, 2, 5])
    parser.add_argument("--draws", type=int, default=5, help="of negatives, for both")
    parser.add_argument("--core_batches", type=int, default=6, help="of 4 contexts of 128 tokens")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    versions = " ".join(
        f"{name} {version(name)}"
        for name in ("sae-bench", "sae-lens", "torch", "scikit-learn", "jaxtyping", "beartype")
    )
    print(f"$ python benchmarks/saebench_agreement.py {' '.join(sys.argv[1:])}")
    print(
        f"{date.today()}; {os.cpu_count()}-core CPU; Python {platform.python_version()}; {versions}"
    )
    print(vars(options))
    with tempfile.TemporaryDirectory() as folder:
        loaded = {
            name: load_dictionary(given)
            if (given := getattr(options, name))
            else trained(architecture, options, str(Path(folder) / name))
            for name, architecture in (("sae", "poly_topk"), ("crosscoder", "poly_crosscoder"))
        }
    print("classes:", ", ".join(labelled(options)[0]))
    language_model = load_embedded_model()
    sae, crosscoder = loaded["sae"], loaded["crosscoder"]

    model = StackedHooks(language_model, sae.cfg.metadata.hook_name)
    compare_probing(f"poly_topk at {model.hook_name}", sae, sae, model, options)
    compare_core("poly_topk", sae, {model.hook_name: sae}, model, options.core_batches)

    model = StackedHooks(language_model, crosscoder.cfg.metadata.hook_name)
    view = HookPointView(crosscoder, model.n_hooks // 2)
    title = "view of the poly_crosscoder (its codes are the same at all hook points)"
    compare_probing(title, view, crosscoder, model, options)
    views = {name: HookPointView(crosscoder, name) for name in model.hook_names}
    compare_core("views of the poly_crosscoder", crosscoder, views, model, options.core_batches)


if __name__ == "__main__":
    main()
