"""The frontier: what arms that differ in k alone reach at which L0.

Such arms make a curve. Every other curve is read against the first: the L0 at which it reaches what
an arm of the first reaches, seed by seed, between neighbouring arms linear in the logarithm of L0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sae_lens_poly.comparison.arms import Arm, Comparison
from sae_lens_poly.comparison.table import Cell, Evaluations, plain

#: What is drawn against L0; of each line the first figure that there is.
_FIGURES = (
    ("explained variance",),
    ("CE recovered, all, clean", "CE recovered"),
)
_L0 = "L0 at a hook point"
#: Okabe and Ito's, with a marker each: told apart with any colour vision, and in print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "os^Dv"


@dataclass(frozen=True)
class Curve:
    """Arms that differ in k alone, by k."""

    name: str
    arms: tuple[str, ...]


def curves(comparison: Comparison) -> list[Curve]:
    """The curves of a comparison: three values of k make one.

    Its name is what stands in front of the last comma of its arms'.
    """
    groups: dict[str, list[Arm]] = {}
    for arm in comparison.arms:
        others = {name: value for name, value in arm.flags.items() if name != "k"}
        same = json.dumps([others, arm.separate], sort_keys=True, default=str)
        groups.setdefault(same, []).append(arm)
    return [
        Curve(
            arms[0].name.rpartition(",")[0] or arms[0].name,
            tuple(arm.name for arm in sorted(arms, key=lambda arm: float(arm.flags["k"]))),
        )
        for arms in groups.values()
        if len({arm.flags["k"] for arm in arms}) >= 3
    ]


def l0_for(l0: Sequence[float], reached: Sequence[float], wanted: float) -> float | None:
    """The lowest L0 at which a curve reaches what is wanted; None where it does not.

    Args:
        l0: Of the points of the curve, ascending.
        reached: What they reach.
        wanted: What is to be reached.
    """
    for (low, below), (high, above) in pairwise(zip(l0, reached, strict=True)):
        if min(below, above) <= wanted <= max(below, above):
            share = (wanted - below) / (above - below) if above != below else 0.0
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return None


def frontier(comparison: Comparison, evaluations: Evaluations) -> dict[str, Any]:
    """Points of every curve, and the L0 that others need for what the first reaches.

    Returns:
        ``points``: figure to curve to arm to L0 and figure over seeds; ``needed``: figure to curve
        to arm of the first curve to the L0 of each seed, in all and as a share of that arm's, None
        where the curve does not reach it. Empty where there are no curves.
    """
    found, tables = curves(comparison), plain(evaluations)
    if not found:
        return {}
    by_figure = _by_figure(tables)
    points: dict[str, Any] = {}
    needed: dict[str, Any] = {}
    for figure, values in by_figure.items():
        points[figure] = {
            curve.name: {arm: {"L0": _l0(tables, arm), figure: values[arm]} for arm in curve.arms}
            for curve in found
        }
        first, *others = (points[figure][curve.name] for curve in found)
        needed[figure] = {
            curve.name: {arm: _needed(own, point, figure) for arm, point in first.items()}
            for curve, own in zip(found[1:], others, strict=True)
        }
    return {"points": points, "needed": needed}


def _by_figure(tables: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Figure to arm to its values, of those figures that all arms have."""
    found = {}
    for choices in _FIGURES:
        for heading in choices:
            by_arm = {
                arm: cells[heading]["values"]
                for arms in tables.values()
                for arm, cells in arms.items()
                if heading in cells
            }
            if by_arm:
                found[heading] = by_arm
                break
    return found


def _l0(tables: dict[str, Any], arm: str) -> list[float]:
    (values,) = (arms[arm][_L0]["values"] for arms in tables.values() if _L0 in arms[arm])
    return list(values)


def _needed(
    curve: dict[str, dict[str, list[float]]], point: dict[str, list[float]], figure: str
) -> dict[str, Any]:
    l0, share = [], []
    for seed, (at, wanted) in enumerate(zip(point["L0"], point[figure], strict=True)):
        own = [(arm["L0"][seed], arm[figure][seed]) for arm in curve.values()]
        enough = l0_for([each for each, _ in own], [each for _, each in own], wanted)
        l0.append(enough)
        share.append(None if enough is None else enough / at)
    return {"L0": l0, "share": share}


def markdown(found: dict[str, Any]) -> str:
    """The L0 that every curve needs, in Markdown; the empty text where there are no curves."""
    blocks = []
    for figure, by_curve in found.get("needed", {}).items():
        first = next(iter(found["points"][figure].values()))
        head = ["", "L0", figure, *(f"L0 of {name} | share" for name in by_curve)]
        lines = [
            f"## L0 for equal {figure}",
            "",
            "| " + " | ".join(head) + " |",
            "|---" * (3 + 2 * len(by_curve)) + "|",
        ]
        for arm, point in first.items():
            texts = [_text(point["L0"], 1), _text(point[figure], 4)]
            for needed in by_curve.values():
                texts += [_text(needed[arm]["L0"], 1), _text(needed[arm]["share"], 3)]
            lines.append(f"| {arm} | " + " | ".join(texts) + " |")
        lines += [
            "",
            "By interpolation between neighbouring arms, linear in the logarithm of L0, seed by "
            "seed; empty where the curve does not reach it in every seed.",
        ]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _text(values: Sequence[float | None], digits: int) -> str:
    known = tuple(value for value in values if value is not None)
    return Cell(known).text(digits) if len(known) == len(values) else ""


def save_picture(found: dict[str, Any], path: Path) -> None:
    """Draw every figure against L0, a line for each curve, with standard errors over seeds.

    Args:
        found: As :func:`frontier` gives it, not empty.
        path: Where to write the PNG.
    """
    picture = Figure(figsize=(5.5 * len(found["points"]), 4.2), layout="constrained")
    panels = picture.subplots(1, len(found["points"]), squeeze=False)[0]
    for panel, (figure, by_curve) in zip(panels, found["points"].items(), strict=True):
        for number, (name, by_arm) in enumerate(by_curve.items()):
            l0 = [Cell(tuple(point["L0"])).mean for point in by_arm.values()]
            reached = [Cell(tuple(point[figure])) for point in by_arm.values()]
            panel.errorbar(
                l0,
                [cell.mean for cell in reached],
                yerr=[cell.standard_error or 0.0 for cell in reached],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
                capsize=3,
                color=_COLOURS[number % len(_COLOURS)],
                label=name,
            )
        panel.set_xscale("log", base=2)
        panel.set_xlabel("L0 at a hook point")
        panel.set_ylabel(figure)
        panel.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    # Above the panels, off the lines.
    picture.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    picture.savefig(path, dpi=110)
