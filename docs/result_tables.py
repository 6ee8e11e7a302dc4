"""Sphinx extension: tables and figures of committed results, so that none is typed by hand.

A table has a row for each arm and a column for each line: a heading and, if they differ, the figure
that it shows and its format::

    ```{results} stdlib-crosscoder
    explained variance
    dead | dead | %
    F1 tokens, K=1 | tokens > F1, K=1
    ```

A single figure within a sentence: {figure}`stdlib-crosscoder | crosscoder | cosine | 2`. In front
of ``>`` stands a part of the title of the table that is meant. A format is a number of digits (3 by
default) or ``%``.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from statistics import mean, stdev

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

Values = list[float]
Tables = dict[str, dict[str, dict[str, Values]]]


@cache
def read_results(name: str) -> Tables:
    """Table to arm to figure to its values over seeds.

    Args:
        name: Folder of a comparison, or a JSON file of a benchmark; behind a colon the part of it.
    """
    if (RESULTS / name / "table.json").is_file():
        content = json.loads((RESULTS / name / "table.json").read_text())
        return {
            title: {
                arm: {heading: cell["values"] for heading, cell in cells.items()}
                for arm, cells in arms.items()
            }
            for title, arms in content["tables"].items()
        }
    file, _, part = name.partition(":")
    arms = json.loads((RESULTS / f"{file}.json").read_text())
    by_arm = {}
    for arm, runs in (arms[part] if part else arms).items():
        figures = {k: [run[k] for run in runs] for k in runs[0]}
        by_arm[arm] = figures
    return {file: by_arm}


def select(name: str, figure: str) -> dict[str, Values | None]:
    """Arm to the values of a figure; None where an arm has no such figure.

    Raises:
        KeyError: If no table, or more than one, has the figure.
    """
    title, _, heading = (word.strip() for word in figure.rpartition(">"))
    found = [
        {arm: figures.get(heading) for arm, figures in arms.items()}
        for table, arms in read_results(name).items()
        if title in table and any(heading in figures for figures in arms.values())
    ]
    if len(found) != 1:
        raise KeyError(f"{len(found)} tables of {name} have {figure!r}")
    return found[0]


def shown(values: Values | None, form: str) -> str:
    """Mean and standard error over seeds; the empty text where there is no value."""
    if not values:
        return ""
    if form == "%":
        return f"{mean(values):.0%}"
    digits = int(form)
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return f"{mean(values):.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def words(line: str) -> list[str]:
    """What stands between the bars of a line."""
    return [word.strip() for word in line.split("|")]


class Results(SphinxDirective):
    """The table."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the table, and let Sphinx rebuild the page when the results change."""
        name = self.arguments[0]
        lines = [words(line) for line in self.content if line.strip()]
        columns = [
            (heading, select(name, *(rest[:1] or [heading])), rest[1] if rest[1:] else "3")
            for heading, *rest in lines
        ]
        rows = [["", *(heading for heading, _, _ in columns)]]
        rows += [
            [arm, *(shown(values[arm], form) for _, values, form in columns)]
            for arm in columns[0][1]
        ]
        group = nodes.tgroup(cols=len(rows[0]))
        group += [nodes.colspec(colwidth=1) for _ in rows[0]]
        head, body = nodes.thead(), nodes.tbody()
        for number, row in enumerate(rows):
            cells = [nodes.entry("", nodes.paragraph(text=text)) for text in row]
            (body if number else head).append(nodes.row("", *cells))
        group += [head, body]
        return [nodes.table("", group)]


class Figure(SphinxRole):
    """A single figure."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return its text."""
        name, arm, figure, form = [*words(self.text), "3"][:4]
        return [nodes.Text(shown(select(name, figure)[arm], form))], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_directive("results", Results)
    app.add_role("figure", Figure())
    return {"parallel_read_safe": True}
