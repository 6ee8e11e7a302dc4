"""The tables of a comparison: means over seeds and their standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

#: As ``evaluation.json`` has it.
Evaluation = dict[str, Any]

#: Arm to seed to evaluation.
Evaluations = dict[str, dict[str, Evaluation]]


@dataclass(frozen=True)
class Column:
    """A figure of an evaluation."""

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


@dataclass(frozen=True)
class Part:
    """Columns that are read together."""

    title: str
    columns: list[Column]


def first_of(evaluations: Evaluations) -> Evaluation:
    """One evaluation, for everything that is the same in all."""
    return next(iter(next(iter(evaluations.values())).values()))


def parts(evaluation: Evaluation) -> list[Part]:
    """The tables that such evaluations fill."""
    several_hooks = len(evaluation["per_hook"]) > 1
    found = [Part("Reconstruction and latents, pooled over hook points", _reconstruction())]
    if several_hooks:
        own = _per_hook(evaluation, "explained_variance")
        found.append(Part("Explained variance at each hook point", own))
    found.append(Part("In the running model", _splicing(several_hooks)))
    if several_hooks:
        found.append(Part("Over how many hook points latents live", _coherence()))
    for name in evaluation["probing"]:
        found.append(Part(f"Sparse probing: {name}", _probing(name, evaluation)))
    for name in evaluation["class_separation"]:
        columns = [
            _column("as published", 5, "class_separation", name, "as_published"),
            _column("by decoder norm", 5, "class_separation", name, "by_decoder_norm"),
            _column("by deviation", 4, "class_separation", name, "by_standard_deviation"),
        ]
        found.append(Part(f"Wasserstein-1 between classes: {name}", columns))
    names = ("B", "decoder Gram", "random projection", "covariance of codes")
    columns = [_column(name, 3, "interactions", name, "pearson") for name in names]
    found.append(Part("Pearson's r of pairs of latents with their co-occurrence", columns))
    return found


def _column(heading: str, digits: int, *keys: str) -> Column:
    """The value under the keys; None where one of them is missing."""

    def value(evaluation: Any) -> float | None:
        for key in keys:
            evaluation = None if evaluation is None else evaluation.get(key)
        return evaluation

    return Column(heading, value, digits)


def _reconstruction() -> list[Column]:
    return [
        _column("explained variance", 4, "pooled", "explained_variance"),
        _column("linear only", 4, "pooled", "explained_variance_linear"),
        _column("MSE, normalised", 2, "pooled", "mse_normalised"),
        Column("MSE, raw", lambda e: sum(h["mse"] for h in e["per_hook"].values()), 2),
        _column("cosine", 4, "pooled", "cosine"),
        Column("L0 at a hook point", lambda e: mean(h["l0"] for h in e["per_hook"].values()), 1),
        Column("latents", lambda e: e["d_sae"], 0),
        Column("dead", lambda e: e["n_dead"] / e["d_sae"]),
        Column("dense", lambda e: e["n_dense"] / e["d_sae"]),
    ]


def _per_hook(evaluation: Evaluation, figure: str) -> list[Column]:
    return [_column(name, 3, "per_hook", name, figure) for name in evaluation["per_hook"]]


def _splicing(several_hooks: bool) -> list[Column]:
    def alone(kind: str, figure: str) -> Callable[[Evaluation], float | None]:
        def value(e: Evaluation) -> float | None:
            found = [by_kind.get(kind) for by_kind in e["splicing"]["alone"].values()]
            return None if None in found else mean(f[figure] for f in found if f is not None)

        return value

    if not several_hooks:
        return [
            _column("CE recovered", 4, "splicing", "together", "clean", "ce_recovered"),
            _column("against mean", 4, "splicing", "together", "clean", "ce_recovered_vs_mean"),
            _column("KL", 4, "splicing", "together", "clean", "kl"),
            _column("KL, interactions dropped", 4, "splicing", "together", "linear", "kl"),
        ]
    return [
        Column("CE recovered, one at a time, clean", alone("clean", "ce_recovered"), 4),
        Column("CE recovered, one at a time, causal", alone("causal", "ce_recovered"), 4),
        _column("CE recovered, all, clean", 4, "splicing", "together", "clean", "ce_recovered"),
        _column("CE recovered, all, causal", 4, "splicing", "together", "causal", "ce_recovered"),
        Column("KL, one at a time, clean", alone("clean", "kl"), 3),
        Column("KL, one at a time, causal", alone("causal", "kl"), 3),
        Column("KL, one at a time, interactions dropped", alone("linear", "kl"), 3),
    ]


def _coherence() -> list[Column]:
    return [
        _column("functional coherence", 2, "coherence", "selected"),
        _column("before selection", 2, "coherence", "pre_activation"),
        _column("raw zero", 2, "coherence", "selected_raw"),
        _column("raw zero, before selection", 2, "coherence", "pre_activation_raw"),
        _column("of the decoder", 2, "coherence", "decoder"),
        _column("cosine, neighbouring hook points", 3, "direction_cosine"),
    ]


def _probing(name: str, evaluation: Evaluation) -> list[Column]:
    def score(k: str, figure: str) -> Callable[[Evaluation], float | None]:
        return lambda e: mean(s[k][figure] for s in _of_equal_width(e["probing"][name]))

    return [
        Column(f"{heading}, K={k}", score(str(k), figure))
        for heading, figure in (("F1", "f1"), ("accuracy", "accuracy"))
        for k in evaluation["settings"]["probe_ks"]
    ]


def _of_equal_width(by_features: dict[str, Any]) -> list[Any]:
    """Scores of a dictionary's codes; of several side by side, those of each, which are as wide."""
    apart = [scores for features, scores in by_features.items() if features.startswith("codes at")]
    return apart or [by_features["codes"]]


def cells(evaluations: Evaluations, part: Part) -> dict[str, list[Cell | None]]:
    """Arm to its cells; None where the arm has no such figure."""
    return {
        arm: [_cell(column, by_seed) for column in part.columns]
        for arm, by_seed in evaluations.items()
    }


def _cell(column: Column, by_seed: dict[str, Evaluation]) -> Cell | None:
    values = [column.value(evaluation) for evaluation in by_seed.values()]
    kept = tuple(value for value in values if value is not None)
    return Cell(kept) if len(kept) == len(values) else None


def markdown(evaluations: Evaluations) -> str:
    """All tables, in Markdown."""
    first = first_of(evaluations)
    blocks = []
    for part in parts(first):
        rows = cells(evaluations, part)
        if all(cell is None for row in rows.values() for cell in row):
            continue
        lines = [
            f"## {part.title}",
            "",
            "| | " + " | ".join(column.heading for column in part.columns) + " |",
            "|---" * (len(part.columns) + 1) + "|",
        ]
        for arm, row in rows.items():
            if all(cell is None for cell in row):
                continue
            texts = [
                "" if cell is None else cell.text(column.digits)
                for cell, column in zip(row, part.columns, strict=True)
            ]
            lines.append(f"| {arm} | " + " | ".join(texts) + " |")
        lines += _references(part, evaluations)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _references(part: Part, evaluations: Evaluations) -> list[str]:
    """Further rows of a probing table: raw activations, and separate SAEs by hook point."""
    name = part.title.removeprefix("Sparse probing: ")
    if name == part.title:
        return []
    lines = []
    first = first_of(evaluations)
    ks = [str(k) for k in first["settings"]["probe_ks"]]
    rows: dict[str, list[Any]] = {}
    for arm, by_seed in evaluations.items():
        probed = [evaluation["probing"][name] for evaluation in by_seed.values()]
        apart = [features for features in probed[0] if features.startswith("codes at")]
        if apart:
            rows[f"{arm}, chosen from all latents"] = [own["codes"] for own in probed]
        for features in apart:
            rows[f"{arm}, {features}"] = [own[features] for own in probed]
    rows |= {f: [s] for f, s in first["probing"][name].items() if f.startswith("raw")}
    for heading, summaries in rows.items():
        texts = [
            Cell(tuple(summary[k][figure] for summary in summaries)).text(3)
            for figure in ("f1", "accuracy")
            for k in ks
        ]
        lines.append(f"| *{heading}* | " + " | ".join(texts) + " |")
    errors = [
        scores[ks[0]]["f1_error"] or 0.0
        for by_seed in evaluations.values()
        for evaluation in by_seed.values()
        for scores in _of_equal_width(evaluation["probing"][name])
    ]
    lines += [
        "",
        f"Standard errors over tasks (not seeds) of F1, K={ks[0]}: {max(errors):.3f} at most.",
    ]
    whole = first["probing"][name]["raw"].get("all")
    if whole is not None:
        lines.append(
            f"On all dimensions of the raw activations: F1 {whole['f1']:.3f}, accuracy "
            f"{whole['accuracy']:.3f}, over {whole['n_tasks']} tasks."
        )
    if any(heading.endswith("chosen from all latents") for heading in rows):
        lines.append("For separate dictionaries the first row is the mean over hook points.")
    return lines


def plain(evaluations: Evaluations) -> dict[str, Any]:
    """The same as numbers: table to arm to figure to mean, standard error and values."""
    first = first_of(evaluations)
    return {
        part.title: {
            arm: {
                column.heading: {
                    "mean": cell.mean,
                    "standard_error": cell.standard_error,
                    "values": list(cell.values),
                }
                for column, cell in zip(part.columns, row, strict=True)
                if cell is not None
            }
            for arm, row in cells(evaluations, part).items()
        }
        for part in parts(first)
    }
