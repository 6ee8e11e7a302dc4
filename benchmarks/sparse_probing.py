"""Sparse probing of saved dictionaries on the embedded model: tokens of Python, and packages.

    python benchmarks/sparse_probing.py FOLDER [FOLDER ...]

Prints mean F1 and accuracy over tasks, with their standard error, for K latents of each
dictionary, and of raw activations: of the whole stack and of each hook point, K neurons and all.
All folders must hold dictionaries of the embedded model at the same hook points.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sae_lens_poly.evaluation.feature_cache import cached_features, dictionary_hash, text_hash
from sae_lens_poly.evaluation.labelled_text import STDLIB_PACKAGES, load_labelled
from sae_lens_poly.evaluation.pooled_features import (
    hook_columns,
    pooled_activations,
    pooled_codes,
)
from sae_lens_poly.evaluation.probing import (
    Features,
    Task,
    class_tasks,
    probe_tasks,
    summarise,
)
from sae_lens_poly.evaluation.saved import load_dictionary
from sae_lens_poly.evaluation.token_tasks import (
    TokenContexts,
    token_activations,
    token_features,
    token_tasks,
)
from sae_lens_poly.models.loading import load_stacked_model

DATA_SETS = ("tokens", STDLIB_PACKAGES)


def main() -> None:
    """Print the table, and save it where ``--output`` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="saved dictionaries")
    parser.add_argument("--max_per_class", type=int, default=150, help="snippets of a package")
    parser.add_argument("--per_task", action="store_true", help="print each task too")
    parser.add_argument(
        "--no_ceiling", action="store_true", help="leave out probes of all features"
    )
    parser.add_argument("--cache", help="folder to keep the dictionaries' features in")
    parser.add_argument("--output", help="a .json file for all figures")
    options = parser.parse_args()

    dictionaries = {folder: load_dictionary(folder) for folder in options.folders}
    metadata = next(iter(dictionaries.values())).cfg.metadata
    model = load_stacked_model(metadata.model_name, metadata.hook_name)

    started = time.perf_counter()
    drawn = token_tasks(model)
    texts = load_labelled(STDLIB_PACKAGES, max_per_class=options.max_per_class)
    tasks = {
        "tokens": drawn.tasks,
        STDLIB_PACKAGES: class_tasks(texts.train_labels, texts.test_labels),
    }
    parts: dict[str, tuple[Any, Any]] = {
        "tokens": (drawn.train, drawn.test),
        STDLIB_PACKAGES: (texts.train_texts, texts.test_texts),
    }
    print(
        f"{len(drawn.tasks)} tasks on {len(drawn.train.rows):,} and {len(drawn.test.rows):,} "
        f"tokens; {len(tasks[STDLIB_PACKAGES])} on {len(texts.train_texts):,} and "
        f"{len(texts.test_texts):,} texts; drawn in {time.perf_counter() - started:.1f} s"
    )
    results: dict[str, Any] = {}

    def score(name: str, data_set: str, features: tuple[Features, Features], ks: Any) -> None:
        summary = summarise(probe_tasks(*features, tasks[data_set], ks))
        results.setdefault(name, {})[data_set] = summary
        for k, figures in summary.items():
            print(
                f"{name:45} {data_set:16} K {k:>3}: F1 {figures['f1']:.3f} "
                f"+- {figures['f1_error']:.3f}, accuracy {figures['accuracy']:.3f}",
                flush=True,
            )

    for folder, sae in dictionaries.items():
        started = time.perf_counter()
        for data_set in DATA_SETS:
            compute = (
                (lambda part, sae=sae: token_features(sae, model, part))
                if data_set == "tokens"
                else (lambda part, sae=sae: pooled_codes(sae, model, part))
            )
            train, test = (
                maybe_cached(options.cache, folder, part, compute) for part in parts[data_set]
            )
            score(folder, data_set, (train, test), (1, 2, 5))
        print(f"{folder}: {time.perf_counter() - started:.1f} s in all")

    started = time.perf_counter()
    ks = (1, 2, 5) if options.no_ceiling else (1, 2, 5, None)
    for data_set in DATA_SETS:
        read = token_activations if data_set == "tokens" else pooled_activations
        raw = tuple(read(model, part) for part in parts[data_set])
        score("raw stack", data_set, raw, ks)
        for hook, name in enumerate(model.hook_names):
            score(f"raw {name}", data_set, tuple(hook_columns(x, model, hook) for x in raw), ks)
    print(f"raw activations: {time.perf_counter() - started:.1f} s in all")

    if options.per_task:
        print_tasks(tasks, results, options.folders)
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=2))


def maybe_cached(
    cache: str | None, folder: str, part: TokenContexts | list[str], compute: Callable[[Any], Any]
) -> Features:
    """Features of one part of the data, from the cache where there is one."""
    if cache is None:
        return compute(part)
    if isinstance(part, TokenContexts):
        data: Any = [part.tokens.tolist(), part.rows.tolist()]
    else:
        data = text_hash(part)
    key = {"dictionary": dictionary_hash(folder), "data": data}
    return cached_features(cache, key, lambda: compute(part))


def print_tasks(tasks: dict[str, list[Task]], results: dict[str, Any], folders: list[str]) -> None:
    """F1 of each task: K 1 and 5 of the dictionaries, and all features of the raw stack."""
    for data_set in DATA_SETS:
        for task in tasks[data_set]:
            figures = [
                results[folder][data_set][k]["tasks"][task.name]["f1"]
                for folder in folders
                for k in ("1", "5")
            ]
            figures += [
                summary["tasks"][task.name]["f1"]
                for k, summary in results["raw stack"][data_set].items()
                if k == "all"
            ]
            print(
                f"{data_set:16} {task.name:20} {len(task.train):5} {len(task.test):5} "
                + " ".join(f"{f1:.3f}" for f1 in figures)
            )


if __name__ == "__main__":
    main()
