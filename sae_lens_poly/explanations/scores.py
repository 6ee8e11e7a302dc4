"""How well explanations tell where latents are active, with confidence intervals.

What to mind when reading the scores (others have measured or named all of it):

- Chance is 0.5 whatever a judge's leaning: balanced accuracy is the mean of the shares of active
  and of inactive passages that are told right. Plain accuracy would reward the answer that is more
  frequent.
- Random negatives are easy: an explanation that is far too broad ("Python code") passes against
  prose. The score says that an explanation separates the latent from the text at large, not from
  its neighbours.
- Fuzzing against random negatives can be solved by the passage alone, without looking at the marks.
- Tests on the most active contexts alone flatter; here they are drawn evenly.
- The judge's ability is part of every figure: compare dictionaries under one judge, on one text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap


@dataclass(frozen=True)
class Score:
    """Of one latent, by one kind of test."""

    balanced_accuracy: float
    interval: tuple[float, float]
    """95%."""
    n_active: int
    n_inactive: int
    recall: float
    """Share of active passages that were told."""
    specificity: float
    """Share of inactive ones."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def score(truth: Sequence[bool], answers: Sequence[bool]) -> Score | None:
    """Balanced accuracy; None where either kind of passage is missing.

    The interval adds Wilson's intervals of the two shares in quadrature (Zou and Donner's MOVER).
    """
    right = {
        kind: [a == t for t, a in zip(truth, answers, strict=True) if t == kind]
        for kind in (True, False)
    }
    if not right[True] or not right[False]:
        return None
    shares, below, above = [], [], []
    for of_kind in right.values():
        share = sum(of_kind) / len(of_kind)
        interval = wilson(sum(of_kind), len(of_kind))
        shares.append(share)
        below.append(share - interval[0])
        above.append(interval[1] - share)
    mean = sum(shares) / 2
    interval = (mean - math.hypot(*below) / 2, mean + math.hypot(*above) / 2)
    return Score(mean, interval, len(right[True]), len(right[False]), *shares)


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def summary(latents: Mapping[str, Mapping[str, Any]], coherent_from: float) -> dict[str, Any]:
    """Figures over latents: mean scores, and the share that is semantically coherent.

    A latent counts as coherent if its balanced accuracy is at least ``coherent_from`` in detection
    and in fuzzing. Intervals are over latents: the bootstrap's for means, Wilson's for the share.

    Args:
        latents: Number to what was found; those without scores are left out, and counted.
        coherent_from: From 0.5, chance, to 1.
    """
    scored = [entry for entry in latents.values() if entry["detection"] and entry["fuzzing"]]
    found: dict[str, Any] = {"n_scored": len(scored), "n_not_scored": len(latents) - len(scored)}
    if not scored:
        return found
    accuracies = {
        kind: np.array([entry[kind]["balanced_accuracy"] for entry in scored])
        for kind in ("detection", "fuzzing")
    }
    for kind, values in accuracies.items():
        found[kind] = {"mean": float(values.mean()), "interval": _interval_of_mean(values)}
    n_coherent = int((np.minimum(*accuracies.values()) >= coherent_from).sum())
    found["coherent"] = {
        "share": n_coherent / len(scored),
        "interval": wilson(n_coherent, len(scored)),
        "from": coherent_from,
    }
    return found


def _interval_of_mean(values: np.ndarray) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return float(interval.low), float(interval.high)
