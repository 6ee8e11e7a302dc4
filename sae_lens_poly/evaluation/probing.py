"""Sparse probing: how well a few latents tell a class from the rest.

The protocol is SAEBench's: one class against balanced negatives, the K latents of largest
difference between the class means, logistic regression on them, F1 on held-out examples.
Features come in as a matrix, one row an example; nothing here knows a model.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sae_lens import logger
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_lens_poly.errors import InputError

#: A matrix (n, n_features): numpy, or scipy's CSR or CSC.
Features = Any

POSITIVE, NEGATIVE, NEITHER = 1, 0, -1

#: A task with fewer positives, or fewer negatives, than this in train or test is left out.
MIN_EXAMPLES = 10


@dataclass(frozen=True, eq=False)
class Task:
    """A binary task: rows of the features of a data set, and which of them are positive.

    Drawn once for a data set, so that every dictionary is scored on the same examples.
    """

    name: str
    train: NDArray[np.int64]
    """Row numbers in the features of the training examples, (n_train,)."""
    train_positive: NDArray[np.bool_]
    test: NDArray[np.int64]
    """Row numbers in the features of the test examples, (n_test,)."""
    test_positive: NDArray[np.bool_]


@dataclass(frozen=True)
class Probe:
    """What a probe scored on the test examples."""

    f1: float
    """Of the positive class."""
    accuracy: float
    latents: tuple[int, ...]
    """What it looked at, the largest difference between class means first; empty: at all."""


@dataclass(frozen=True)
class ProbeScore:
    """The score of one task with one number of latents."""

    task: str
    k: int | None
    """Number of latents; None: all features."""
    f1: float
    accuracy: float
    latents: tuple[int, ...]
    """The latents of the probe; empty where it read all features."""


def balanced_task(
    name: str,
    train_values: NDArray[np.int8],
    test_values: NDArray[np.int8],
    n_train: int,
    n_test: int,
    rng: np.random.Generator,
) -> Task | None:
    """Draw as many negatives as positives for train and for test.

    Args:
        name: Name of the task.
        train_values: ``POSITIVE``, ``NEGATIVE`` or ``NEITHER`` (never drawn) for each row of the
            training features.
        test_values: The same for the test features.
        n_train: Training examples at most, positives and negatives together.
        n_test: Test examples at most.
        rng: What is drawn with.

    Returns:
        The task; None, and a line in the log, where train or test has fewer than
        ``MIN_EXAMPLES`` positives or negatives.
    """
    drawn = []
    for part, values, n in (("train", train_values, n_train), ("test", test_values, n_test)):
        positives, negatives = (np.flatnonzero(values == sign) for sign in (POSITIVE, NEGATIVE))
        each = min(n // 2, len(positives), len(negatives))
        if each < MIN_EXAMPLES:
            logger.warning(
                f"task {name!r} is left out: {len(positives)} positives and {len(negatives)} "
                f"negatives in {part}, {MIN_EXAMPLES} of each are needed"
            )
            return None
        rows = np.concatenate(
            [rng.choice(of, each, replace=False) for of in (positives, negatives)]
        )
        order = rows.argsort()
        drawn += [rows[order], (np.arange(2 * each) < each)[order]]
    return Task(name, *drawn)


def class_tasks(
    train_labels: Sequence[Any],
    test_labels: Sequence[Any],
    n_train: int = 4000,
    n_test: int = 1000,
    seed: int = 0,
) -> list[Task]:
    """One task for each class: the class against equally many examples of all others.

    Sizes are SAEBench's; where the data has fewer examples, a task has fewer. A class with fewer
    than ``MIN_EXAMPLES`` in train or test is left out, and the log says so.

    Args:
        train_labels: Label of each row of the training features.
        test_labels: Label of each row of the test features.
        n_train: Training examples of a task at most, positives and negatives together.
        n_test: Test examples of a task at most.
        seed: Of what is drawn.

    Raises:
        InputError: If there is one class only, if no class has enough examples, or if ``n_train``
            or ``n_test`` is below twice ``MIN_EXAMPLES``.
    """
    check_sizes(n_train, n_test)
    train, test = np.asarray(train_labels), np.asarray(test_labels)
    classes = np.unique(train)
    if len(classes) < 2:
        raise InputError(
            f"train_labels holds {len(classes)} class(es) ({', '.join(map(str, classes))}): a "
            "task tells one class from the others, give labels of two or more"
        )
    drawn = (
        balanced_task(
            str(label),
            (train == label).astype(np.int8),
            (test == label).astype(np.int8),
            n_train,
            n_test,
            np.random.default_rng((seed, number)),
        )
        for number, label in enumerate(classes)
    )
    tasks = [task for task in drawn if task is not None]
    if not tasks:
        raise InputError(
            f"train_labels, test_labels: none of the {len(classes)} classes has {MIN_EXAMPLES} "
            f"examples in train ({len(train)} labels) and in test ({len(test)}): give more"
        )
    return tasks


def check_sizes(n_train: int, n_test: int) -> None:
    """Refuse tasks that would be too small to draw.

    Raises:
        InputError: If ``n_train`` or ``n_test`` is below twice ``MIN_EXAMPLES``.
    """
    for field, value in (("n_train", n_train), ("n_test", n_test)):
        if value < 2 * MIN_EXAMPLES:
            raise InputError(
                f"{field}={value} leaves fewer than {MIN_EXAMPLES} positives: give "
                f"{2 * MIN_EXAMPLES} or more"
            )


def sparse_probe(
    train: Features,
    train_positive: NDArray[np.bool_],
    test: Features,
    test_positive: NDArray[np.bool_],
    k: int,
) -> Probe:
    """Probe the K latents whose class means differ most on the training examples.

    Latents are ranked by ``|mean over positives - mean over negatives|``, so that features should
    be in units in which they compare (:mod:`sae_lens_poly.evaluation.pooled_features`). Those
    chosen are standardised on the training examples: a penalty of C = 1 on raw features would
    depend on their scale.

    Args:
        train: Features (n_train, n_features), numpy, CSR or CSC.
        train_positive: Which of the rows are positive, (n_train,).
        test: Features (n_test, n_features).
        test_positive: Which of the rows are positive, (n_test,).
        k: Number of latents.

    Raises:
        InputError: If ``k`` is not between 1 and the number of features.
    """
    latents = largest_mean_differences(train, train_positive, k)
    return _probe(train, train_positive, test, test_positive, latents)


def largest_mean_differences(
    features: Features, positive: NDArray[np.bool_], k: int
) -> NDArray[np.int64]:
    """The ``k`` features of largest ``|mean over positives - mean over negatives|``, in order.

    Args:
        features: Shape (n, n_features).
        positive: Which rows are positive, (n,).
        k: How many; of equal ones the first.

    Raises:
        InputError: If ``k`` is not between 1 and n_features.
    """
    n_features = features.shape[1]
    if not 1 <= k <= n_features:
        raise InputError(
            f"k={k}: a probe reads between 1 and all {n_features} features; give another k"
        )
    weights = np.where(positive, 1 / positive.sum(), -1 / (~positive).sum())
    difference = np.abs(np.asarray(features.T @ weights)).ravel()
    return np.argsort(-difference, kind="stable")[:k]


def probe_tasks(
    train_features: Features,
    test_features: Features,
    tasks: Sequence[Task],
    ks: Sequence[int | None] = (1, 2, 5),
) -> list[ProbeScore]:
    """Score a dictionary on every task with every number of latents.

    Args:
        train_features: Shape (n, n_features), numpy, CSR or CSC; ``Task.train`` are its rows.
        test_features: The same for ``Task.test``.
        tasks: As :func:`class_tasks` draws them.
        ks: Numbers of latents; None: all features, the ceiling when given raw activations.

    Raises:
        InputError: If a ``k`` exceeds the number of features, or a task names a row that the
            features do not have.
    """
    # Rows are what is taken out of the matrix first.
    train_features, test_features = (
        features.tocsr() if sparse.issparse(features) else features
        for features in (train_features, test_features)
    )
    scores = []
    for task in tasks:
        parts = ((task.train, train_features, "train"), (task.test, test_features, "test"))
        for rows, features, part in parts:
            if rows.max() >= features.shape[0]:
                raise InputError(
                    f"{part}_features has {features.shape[0]} rows and task {task.name!r} names "
                    f"row {rows.max()}: give the features of the data set that it was drawn for"
                )
        train, test = train_features[task.train], test_features[task.test]
        widest = max((k for k in ks if k is not None), default=1)
        ranked = largest_mean_differences(train, task.train_positive, widest)
        for k in ks:
            latents = None if k is None else ranked[: _positive(k)]
            probe = _probe(train, task.train_positive, test, task.test_positive, latents)
            scores.append(ProbeScore(task.name, k, probe.f1, probe.accuracy, probe.latents))
    return scores


def summarise(scores: Sequence[ProbeScore]) -> dict[str, dict[str, Any]]:
    """Means over tasks, for each number of latents; plain numbers, for JSON.

    Returns:
        Number of latents, as text (``"all"`` where the probe read every feature), to ``f1``,
        ``accuracy``, their standard errors over tasks ``f1_error`` and ``accuracy_error`` (None
        with one task), ``n_tasks``, and ``tasks``: name to ``f1``, ``accuracy``, ``latents``.
    """
    summary: dict[str, dict[str, Any]] = {}
    for k in dict.fromkeys(score.k for score in scores):
        own = [score for score in scores if score.k == k]
        figures: dict[str, Any] = {"n_tasks": len(own)}
        for name in ("f1", "accuracy"):
            values = [getattr(score, name) for score in own]
            figures[name] = statistics.fmean(values)
            figures[f"{name}_error"] = (
                statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            )
        figures["tasks"] = {
            s.task: {"f1": s.f1, "accuracy": s.accuracy, "latents": list(s.latents)} for s in own
        }
        summary["all" if k is None else str(k)] = figures
    return summary


def _positive(k: int) -> int:
    if k < 1:
        raise InputError(f"k={k}: a probe reads one latent or more; give another k")
    return k


def _dense(features: Features, latents: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    chosen = features if latents is None else features[:, latents]
    return np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen, dtype=np.float64)


def _probe(
    train: Features,
    train_positive: NDArray[np.bool_],
    test: Features,
    test_positive: NDArray[np.bool_],
    latents: NDArray[np.int64] | None,
) -> Probe:
    """A probe of these latents; None: of all, none of which it names."""
    x, x_test = _dense(train, latents), _dense(test, latents)
    # The solver finds the same optimum as others, fast where examples outnumber features.
    solver = "newton-cholesky" if x.shape[1] < len(x) else "lbfgs"
    regression = LogisticRegression(C=1.0, max_iter=1000, solver=solver)
    fitted = make_pipeline(StandardScaler(), regression).fit(x, train_positive)
    predicted = fitted.predict(x_test)
    return Probe(
        float(f1_score(test_positive, predicted, zero_division=0.0)),
        float(accuracy_score(test_positive, predicted)),
        () if latents is None else tuple(latents.tolist()),
    )
