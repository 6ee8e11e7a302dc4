"""The table of a comparison: means over seeds and their standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

Evaluation = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure of an evaluation, as it is saved."""

    heading: str
    value: Callable[[Evaluation], float | None]
    """None where the dictionary has no such figure."""
    digits: int = 3


@dataclass(frozen=True)
class Cell:
    """A figure of an arm over its seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return mean(self.values)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over seeds; None for a single one."""
        return stdev(self.values) / len(self.values) ** 0.5 if len(self.values) > 1 else None

    def text(self, digits: int) -> str:
        """``0.831 ± 0.002``."""
        error = self.standard_error
        return f"{self.mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def columns(evaluation: Evaluation) -> list[Column]:
    """The columns that a table of evaluations like this one has."""
    several_hooks = len(evaluation["per_hook"]) > 1
    together = "all, " if several_hooks else ""
    found = [
        Column("explained variance", lambda e: e["pooled"]["explained_variance"], 4),
        Column("linear only", lambda e: e["pooled"]["explained_variance_linear"], 4),
        Column("MSE", lambda e: e["pooled"]["mse"], 1),
        Column("cosine", lambda e: e["pooled"]["cosine"], 4),
        Column("L0 per hook point", lambda e: mean(h["l0"] for h in e["per_hook"].values()), 1),
        Column("dead", lambda e: e["n_dead"] / e["d_sae"], 3),
        Column("dense", lambda e: e["n_dense"] / e["d_sae"], 3),
        Column(f"CE recovered, {together}clean", _splice("clean", "ce_recovered")),
    ]
    if several_hooks:
        found.append(Column("CE recovered, all, causal", _splice("causal", "ce_recovered")))
    found.append(Column(f"KL, {together}clean", _splice("clean", "kl")))
    if several_hooks:
        found += [
            Column("KL, one at a time, clean", _mean_alone("clean", "kl")),
            Column("KL, one at a time, causal", _mean_alone("causal", "kl")),
            Column("coherence", lambda e: _in(e, "coherence", "selected"), 2),
            Column("before selection", lambda e: _in(e, "coherence", "pre_activation"), 2),
            Column("coherence, raw zero", lambda e: _in(e, "coherence", "selected_raw"), 2),
            Column("of the decoder", lambda e: _in(e, "coherence", "decoder"), 2),
        ]
    for name in evaluation["probing"]:
        for k in evaluation["settings"]["probe_ks"]:
            found.append(Column(f"F1 {name}, K={k}", _probe(name, "codes", str(k), "f1")))
    for name in evaluation["class_separation"]:
        found += [
            Column(f"W1 {name}, as published", _separation(name, "as_published"), 4),
            Column("by decoder norm", _separation(name, "by_decoder_norm"), 4),
            Column("by deviation", _separation(name, "by_standard_deviation")),
        ]
    found.append(Column("r of B_ij", lambda e: _in(e, "interactions", "B", "pearson")))
    return found


def _in(evaluation: Any, *keys: str) -> Any:
    """What lies under the keys; None where one of them has nothing."""
    for key in keys:
        if evaluation is None:
            return None
        evaluation = evaluation.get(key)
    return evaluation


def _splice(kind: str, figure: str) -> Callable[[Evaluation], float | None]:
    return lambda e: _in(e, "splicing", "all", kind, figure)


def _mean_alone(kind: str, figure: str) -> Callable[[Evaluation], float | None]:
    return lambda e: mean(e["splicing"][name][kind][figure] for name in e["per_hook"])


def _probe(name: str, features: str, k: str, figure: str) -> Callable[[Evaluation], float | None]:
    return lambda e: _in(e, "probing", name, features, k, figure)


def _separation(name: str, figure: str) -> Callable[[Evaluation], float | None]:
    return lambda e: _in(e, "class_separation", name, figure)
