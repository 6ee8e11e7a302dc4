"""SAEBench's sparse probing and core evaluation beside our own figures, on local data.

    make saebench

A poly_topk SAE and a poly_crosscoder of the embedded model, trained here or loaded (--sae,
--crosscoder); texts are snippets of the Python standard library, labelled by top-level package,
train and test from different modules. The plain probe has SAEBench's protocol in scikit-learn,
with negatives of its own draw.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import math
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids
from sklearn.linear_model import LogisticRegression

from sae_lens_poly import StackedHooks
from sae_lens_poly.embedded.corpus import stdlib_dataset, stdlib_modules
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.evaluation.evaluate import evaluate_dictionary
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.saebench import run_core, run_sparse_probing
from sae_lens_poly.evaluation.saved import load_dictionary

Texts = dict[str, list[str]]
_CONTEXT = 128


def labelled_snippets(
    n_classes: int, n_train: int, n_test: int, n_chars: int
) -> tuple[Texts, Texts]:
    """Snippets by top-level package, the same number of each; the test has modules of its own.

    Packages are those with the most source, the tests of the library left out. Every third module
    is the test's, in the order of a hash of its name, and snippets are spread over the modules.
    """
    packages: dict[str, dict[str, str]] = defaultdict(dict)
    for module in (*stdlib_modules("train"), *stdlib_modules("held_out")):
        package = module.name.split(".")[0]
        if "." in module.name and package != "test":
            packages[package][module.name] = module.text
    largest = sorted(packages, key=lambda p: -sum(map(len, packages[p].values())))
    train, test = Texts(), Texts()
    for package in largest:
        names = sorted(packages[package], key=lambda n: hashlib.sha256(n.encode()).digest())
        parts = ([n for i, n in enumerate(names) if i % 3], names[::3])
        snippets = [
            _round_robin([_cut(packages[package][name], n_chars) for name in part])
            for part in parts
        ]
        if len(snippets[0]) >= n_train and len(snippets[1]) >= n_test:
            train[package], test[package] = snippets[0][:n_train], snippets[1][:n_test]
        if len(train) == n_classes:
            return train, test
    raise SystemExit(f"only {len(train)} packages have {n_train} + {n_test} snippets")


def _cut(text: str, n_chars: int) -> list[str]:
    return [text[i : i + n_chars] for i in range(0, len(text) - n_chars + 1, n_chars)]


def _round_robin(lists: list[list[str]]) -> list[str]:
    longest = max(map(len, lists), default=0)
    return [own[i] for i in range(longest) for own in lists if i < len(own)]


@torch.no_grad()
def mean_codes(sae: SAE[Any], model: StackedHooks, texts: Mapping[str, Sequence[str]]) -> Any:
    """Codes averaged over the tokens of each text, class to (n_texts, d_sae)."""
    special = torch.tensor(sorted(get_special_token_ids(model.tokenizer)))
    means: dict[str, np.ndarray] = {}
    for name, rows in texts.items():
        own = []
        for start in range(0, len(rows), 32):
            tokens = model.tokenizer(
                list(rows[start : start + 32]),
                padding="max_length",
                truncation=True,
                max_length=_CONTEXT,
                return_tensors="pt",
            )["input_ids"]
            keep = ~torch.isin(tokens, special)[..., None]
            codes = sae.encode(model.gather(tokens)) * keep
            own.append((codes.sum(1) / keep.sum(1)).double().numpy())
        means[name] = np.concatenate(own)
    return means


def plain_probe(train: Any, test: Any, k: int, seed: int) -> dict[str, float]:
    """Test accuracy by class: logistic regression on the K latents whose means differ most."""
    rng = np.random.default_rng(seed)
    accuracies = {}
    for name in train:
        sets = []
        for part in (train, test):
            others = [own for other, own in part.items() if other != name]
            each = math.ceil(len(part[name]) / len(others))
            negatives = np.concatenate([rng.permutation(own)[:each] for own in others])
            negatives = rng.permutation(negatives)[: len(part[name])]
            sets.append((part[name], negatives))
        difference = np.abs(sets[0][0].mean(0) - sets[0][1].mean(0))
        top = np.argsort(-difference)[:k]
        x, x_test = (np.concatenate(pair)[:, top] for pair in sets)
        y, y_test = (np.repeat([1, 0], [len(pair[0]), len(pair[1])]) for pair in sets)
        accuracies[name] = LogisticRegression(max_iter=1000).fit(x, y).score(x_test, y_test)
    return accuracies


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
    train, test = labelled_snippets(options.classes, options.train, options.test, options.chars)
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
    codes = [mean_codes(encoder, model, texts) for texts in (train, test)]
    n = 2 * options.test * options.classes
    print(f"\nsparse probing, {title}: test accuracy over {len(train)} classes")
    print(
        f"  (SAEBench: all latents {theirs[0]['sae_test_accuracy']:.4f}, all dimensions of the "
        f"activations {theirs[0]['llm_test_accuracy']:.4f})"
    )
    print("    K              draws of negatives      mean  difference  standard error")
    for k in options.k_values:
        bench = [run[f"sae_top_{k}_test_accuracy"] for run in theirs]
        draws = range(options.draws)
        plain = [float(np.mean(list(plain_probe(*codes, k, seed).values()))) for seed in draws]
        mean, difference = float(np.mean(plain)), float(np.mean(bench) - np.mean(plain))
        # Binomial, of one draw's accuracy over all classes.
        error = math.sqrt(mean * (1 - mean) / n)
        for name, runs in (("SAEBench", bench), ("plain", plain)):
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
    ours = evaluate_dictionary(sae, model, batches, get_special_token_ids(model.tokenizer))
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
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--train", type=int, default=160, help="texts of each class")
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument("--chars", type=int, default=400, help="in a text")
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
    train, _ = labelled_snippets(options.classes, options.train, options.test, options.chars)
    print("classes:", ", ".join(train))
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
