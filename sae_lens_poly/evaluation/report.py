"""An evaluation as a table in the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure as Canvas
from rich.console import Console
from rich.table import Table

from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.evaluation.evaluate import Evaluation, Figures


def print_table(evaluation: Evaluation, title: str) -> None:
    """Print the figures per hook point and pooled."""
    degrees = sorted(evaluation.pooled.degree_shares)
    table = Table(title=title, title_justify="left")
    table.add_column("hook point")
    for heading in ("explained variance", "linear only", "CE recovered", "CE (nats)"):
        table.add_column(heading, justify="right")
    for degree in degrees:
        table.add_column(f"degree {degree}", justify="right")
    table.add_column("L0", justify="right")
    table.add_column("dead", justify="right")

    def row(name: str, figures: Figures) -> list[str]:
        return [
            name,
            f"{figures.explained_variance:.4f}",
            f"{figures.explained_variance_linear:.4f}",
            f"{figures.ce_recovered:.4f}",
            f"{figures.ce_spliced:.4f}",
            *(f"{figures.degree_shares[d]:+.3f}" for d in degrees),
            f"{evaluation.l0:.2f}",
            f"{evaluation.n_dead}/{evaluation.d_sae}",
        ]

    for name, figures in evaluation.per_hook.items():
        table.add_row(*row(name, figures))
    table.add_section()
    table.add_row(*row("pooled / all spliced", evaluation.pooled))
    console = Console()
    if not console.is_terminal:  # piped: as wide as the table needs, not cut to 80 columns
        console = Console(width=160)
    console.print(table)
    console.print(
        f"{evaluation.n_tokens:,} tokens, special tokens excluded; cross-entropies on "
        f"{evaluation.n_tokens_spliced:,} of them, {evaluation.ce_clean:.4f} nats for the model "
        "alone. One code serves all hook points, so L0 and dead are the same in every row.",
        highlight=False,
    )


def save_picture(sae: Crosscoder, evaluation: Evaluation, path: Path) -> None:
    """Draw where the latents live, how their directions turn, and what each degree carries.

    Args:
        sae: The inference dictionary.
        evaluation: Its figures.
        path: Where to write the PNG.
    """
    names = list(evaluation.per_hook)
    short = [_short(name) for name in names]
    profile = decoder_profile(sae)
    figure = Canvas(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)

    image = axes[0, 0].imshow(
        profile.profile[profile.centre.argsort()].nan_to_num().numpy(),
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
    )
    axes[0, 0].set(
        title="where latents live: decoder norm, maximum 1",
        ylabel="latent, sorted by centre of mass",
    )
    axes[0, 0].set_xticks(range(len(names)), short, rotation=45, ha="right")
    figure.colorbar(image, ax=axes[0, 0])

    cosine = direction_cosines(sae).mean
    image = axes[0, 1].imshow(cosine.numpy(), vmin=0, vmax=1, cmap="viridis")
    axes[0, 1].set(title="mean cosine of directions between hook points")
    axes[0, 1].set_xticks(range(len(names)), short, rotation=45, ha="right")
    axes[0, 1].set_yticks(range(len(names)), short)
    figure.colorbar(image, ax=axes[0, 1])

    positions = torch.arange(len(names))
    figures = list(evaluation.per_hook.values())
    axes[1, 0].bar(
        positions - 0.2, [f.explained_variance for f in figures], 0.4, label="explained variance"
    )
    axes[1, 0].bar(positions + 0.2, [f.ce_recovered for f in figures], 0.4, label="CE recovered")
    axes[1, 0].set(title="reconstruction, one hook point spliced at a time", ylim=(0, 1))
    axes[1, 0].set_xticks(range(len(names)), short, rotation=45, ha="right")
    axes[1, 0].legend(loc="lower right")

    for degree in evaluation.pooled.degree_shares:
        shares = [f.degree_shares[degree] for f in figures]
        axes[1, 1].plot(short, shares, marker="o", label=f"degree {degree}")
    axes[1, 1].axhline(0, color="grey", linewidth=0.5)
    axes[1, 1].set(title="share of the reconstruction by degree")
    axes[1, 1].tick_params(axis="x", rotation=45)
    axes[1, 1].legend()

    figure.suptitle(
        f"{sae.cfg.architecture()} on {sae.cfg.metadata.model_name}: {sae.cfg.d_sae} latents, "
        f"L0 {evaluation.l0:.1f}, pooled explained variance "
        f"{evaluation.pooled.explained_variance:.3f}"
    )
    figure.savefig(path, dpi=120)


def _short(name: str) -> str:
    *model, hook_name = name.split("/")
    parts = hook_name.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    short = f"{number} {parts[-1].removeprefix('hook_')}" if number != parts[-1] else number
    return " ".join([*model, short])
