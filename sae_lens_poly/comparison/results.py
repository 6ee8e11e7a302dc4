"""The files that a comparison writes: a table in Markdown and JSON, and a figure."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_lens_poly.comparison.arms import Comparison
from sae_lens_poly.comparison.figure import save_figure
from sae_lens_poly.comparison.frontier import frontier, save_picture
from sae_lens_poly.comparison.frontier import markdown as frontier_markdown
from sae_lens_poly.comparison.table import first_of, markdown, plain
from sae_lens_poly.training.flags import RUN_DEFAULTS
from sae_lens_poly.whole_files import whole_file, write_json, write_text

_PACKAGES = ("sae-lens-poly", "sae-lens", "transformer-lens", "torch", "scikit-learn")


def save_results(
    comparison: Comparison,
    found: dict[str, Any],
    output: Path,
    seeds: Sequence[int],
    command: str,
) -> str:
    """Write ``table.md``, ``table.json``, ``figure.png`` and, with arms over k, ``frontier.png``.

    Args:
        comparison: What was compared.
        found: As :func:`~sae_lens_poly.comparison.compare.run_comparison` returns it.
        output: Folder to write to.
        seeds: Of the runs.
        command: What was called, for the record.

    Returns:
        The text of ``table.md``.
    """
    evaluations, rates = found["evaluations"], found["learning_rates"]
    machine = (
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}"
    )
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    first = first_of(evaluations)
    header = [
        f"# {comparison.name}",
        "",
        comparison.description.strip(),
        "",
        f"`{command}`, {datetime.date.today().isoformat()}; {machine}; {versions}.",
        "",
        f"{comparison.training_tokens:,} training tokens in batches of {_batches(comparison)}, "
        f"{len(seeds)} seed(s); means over seeds ± "
        "their standard error. Reconstruction on "
        f"{first['n_tokens']:,} held-out tokens, splices on {first['n_tokens_spliced']:,} of them.",
        "",
        "Learning rates (where there was a choice: of those in table.json, by explained variance "
        "on other held-out text, mean of two other seeds): "
        + "; ".join(f"{arm}: {rate:g}" for arm, rate in rates.items())
        + ".",
        "",
        "",
    ]
    over_k = frontier(comparison, evaluations)
    text = "\n".join(header) + frontier_markdown(over_k) + ("\n" if over_k else "")
    text += markdown(evaluations)
    write_text(output / "table.md", text)
    content = {
        "comparison": comparison.name,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": {name: version(name) for name in _PACKAGES},
        "training_tokens": comparison.training_tokens,
        "seeds": list(seeds),
        "learning_rates": rates,
        "tuning": found["tuning"],
        "settings": found["settings"],
        "arms": {arm.name: {**arm.flags, "separate": arm.separate} for arm in comparison.arms},
        "tables": plain(evaluations),
        "frontier": over_k,
    }
    write_json(output / "table.json", content)
    with whole_file(output / "figure.png") as unfinished:
        save_figure(evaluations, unfinished)
    if over_k:
        with whole_file(output / "frontier.png") as unfinished:
            save_picture(over_k, unfinished)
    return text


def _batches(comparison: Comparison) -> str:
    sizes = {int(arm.flags.get("train_batch_size_tokens", 0)) for arm in comparison.arms}
    default = int(RUN_DEFAULTS["train_batch_size_tokens"])
    return " or ".join(f"{size or default:,}" for size in sorted(sizes))
