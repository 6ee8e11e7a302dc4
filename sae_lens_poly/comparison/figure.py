"""The figure of a comparison."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure

from sae_lens_poly.comparison.table import Cell, Column, Evaluations, cells, first_of, parts

# Headings of the columns that are drawn, of each table the first that it has.
_DRAWN = (
    "explained variance",
    "dead",
    "CE recovered",
    "CE recovered, all, clean",
    "CE recovered, all, causal",
    "functional coherence",
    "F1, K=1",
    "F1, K=5",
    "by deviation",
)


def save_figure(evaluations: Evaluations, path: Path) -> None:
    """Draw the main figures: a dot for each seed, their mean, and a line for its standard error.

    Args:
        evaluations: Arm to seed to evaluation.
        path: Where to write the PNG.
    """
    first = first_of(evaluations)
    drawn: list[tuple[str, Column, list[Cell]]] = []
    for part in parts(first):
        rows = cells(evaluations, part)
        for number, column in enumerate(part.columns):
            own = [row[number] for row in rows.values()]
            known = [c for c in own if c is not None and all(map(math.isfinite, c.values))]
            if column.heading in _DRAWN and len(known) == len(own):
                drawn.append((part.title, column, known))
    n_columns = 3
    n_rows = -(-len(drawn) // n_columns)
    figure = Figure(figsize=(14, n_rows * (1.2 + 0.25 * len(evaluations))), layout="constrained")
    # One set of names for each row of panels: the arms are the same in all.
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    axes[0, 0].set_ylim(len(evaluations) - 0.5, -0.5)
    names = list(evaluations)
    for place, (title, column, known) in zip(axes.flat, drawn, strict=False):
        means = [cell.mean for cell in known]
        errors = [cell.standard_error or 0.0 for cell in known]
        heights = range(len(names))
        for height, cell in zip(heights, known, strict=True):
            place.plot(cell.values, [height] * len(cell.values), "o", color="#56b4e9", markersize=4)
        place.errorbar(means, heights, xerr=errors, fmt="|", color="#d55e00", markersize=12)
        place.set_yticks(heights, names)
        place.grid(axis="x", alpha=0.3)
        place.set_title(f"{title.split(',')[0]}:\n{column.heading}", fontsize=9)
        place.tick_params(labelsize=8)
    for place in axes.flat[len(drawn) :]:
        place.set_visible(False)
    figure.supxlabel("a dot: a seed; a line: mean and standard error", fontsize=8)
    figure.savefig(path, dpi=110)
