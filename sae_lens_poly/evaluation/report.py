"""An evaluation as tables in the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure as Canvas
from rich.console import Console
from rich.table import Table

from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from sae_lens_poly.architectures.crosscoder import Crosscoder
from sae_lens_poly.evaluation.evaluate import Evaluation, Figures
from sae_lens_poly.evaluation.probing_sets import Summary
from sae_lens_poly.evaluation.splicing import ABLATIONS


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Print all figures, one table for each kind."""
    console = Console()
    if not console.is_terminal:  # piped: as wide as a table needs, not cut to 80 columns
        console = Console(width=200)
    tables = [_reconstruction(evaluation, title), _splicing(evaluation)]
    tables += [_probing(name, evaluation) for name in evaluation.probing]
    for table in tables:
        console.print(table)
    for line in _lines(evaluation):
        console.print(line, highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    return table


def _reconstruction(evaluation: Evaluation, title: str) -> Table:
    degrees = sorted(evaluation.pooled.degree_shares)
    table = _table(
        title,
        *("hook point", "explained variance", "linear only", "MSE", "MSE, normalised", "cosine"),
        *("CE recovered", *(f"degree {degree}" for degree in degrees), "L0", "dead", "dense"),
    )

    def row(name: str, figures: Figures, mse: str) -> list[str]:
        return [
            name,
            f"{figures.explained_variance:.4f}",
            f"{figures.explained_variance_linear:.4f}",
            mse,
            f"{figures.mse_normalised:.3f}",
            f"{figures.cosine:.4f}",
            f"{figures.ce_recovered:.4f}",
            *(f"{figures.degree_shares[d]:+.3f}" for d in degrees),
            f"{figures.l0:.2f}",
            f"{figures.n_dead}/{figures.n_latents}",
            f"{figures.n_dense}",
        ]

    for name, figures in evaluation.per_hook.items():
        table.add_row(*row(name, figures, f"{figures.mse:.4g}"))
    table.add_section()
    table.add_row(*row("pooled / all spliced", evaluation.pooled, ""))
    return table


def _splicing(evaluation: Evaluation) -> Table:
    """CE and KL of every kind of replacement, by site."""
    splices = evaluation.splicing
    names = list(splices.alone)
    sites = {f"{name} alone": splices.alone[name] for name in names}
    if len(names) > 1:
        for m, by_kind in enumerate(splices.cumulative[1:-1], start=2):
            sites[f"the first {m}"] = by_kind
        sites["all"] = splices.together
    kinds = list(splices.together)
    ours = [kind for kind in kinds if kind not in ABLATIONS]
    table = _table(
        f"splicing: CE recovered against zero ablation; CE and KL in nats (model alone: "
        f"{splices.ce_clean:.4f})",
        "replaced",
        *(f"recovered, {kind}" for kind in ours),
        *(f"CE, {kind}" for kind in kinds),
        *(f"KL, {kind}" for kind in kinds),
    )
    for site, by_kind in sites.items():
        table.add_row(
            site,
            *(f"{by_kind[kind].ce_recovered:.4f}" for kind in ours),
            *(f"{by_kind[kind].ce:.3f}" for kind in kinds),
            *(f"{by_kind[kind].kl:.4f}" for kind in kinds),
        )
    return table


def _probing(name: str, evaluation: Evaluation) -> Table:
    """F1 and accuracy, with standard errors over tasks, by features and number of latents."""
    by_features = evaluation.probing[name]
    ks = list(dict.fromkeys(k for summary in by_features.values() for k in summary))
    n_tasks = next(iter(next(iter(by_features.values())).values()))["n_tasks"]
    table = _table(
        f"sparse probing: {name}, mean of {n_tasks} tasks, standard error over tasks",
        "features",
        *(f"{figure}, K={k}" for figure in ("F1", "accuracy") for k in ks),
    )

    def cell(summary: Summary, k: str, figure: str) -> str:
        if k not in summary:
            return ""
        error = summary[k][f"{figure}_error"]
        return f"{summary[k][figure]:.3f}" + ("" if error is None else f" ± {error:.3f}")

    for features, summary in by_features.items():
        table.add_row(
            features, *(cell(summary, k, figure) for figure in ("f1", "accuracy") for k in ks)
        )
    return table


def _lines(evaluation: Evaluation) -> list[str]:
    """What needs no table."""
    lines = [
        f"{evaluation.n_tokens:,} tokens, special tokens excluded; cross-entropies on "
        f"{evaluation.n_tokens_spliced:,} of them, {evaluation.ce_clean:.4f} nats for the model "
        "alone."
    ]
    if (replaced := evaluation.replaced_model) is not None:
        found = ", ".join(
            f"{name} {figures.ce:.4f} (KL {figures.kl:.4f})"
            for name, figures in {
                "as the run goes": replaced.replaced,
                "with codes of the model alone": replaced.clean_codes,
                "with error nodes": replaced.with_errors,
            }.items()
        )
        lines.append(f"all MLPs replaced at once, cross-entropy: {found}")
    if (coherence := evaluation.coherence) is not None:
        lines.append(
            "coherence (hook points that drive a latent), mean over live latents: "
            f"{coherence['selected']:.3f} after the selection, "
            f"{coherence['pre_activation']:.3f} before; with raw activations zeroed "
            f"{coherence['selected_raw']:.3f} and {coherence['pre_activation_raw']:.3f}; of the "
            f"decoder {coherence['decoder']:.3f}"
        )
    if evaluation.direction_cosine is not None:
        lines.append(
            "cosine of a latent's directions at neighbouring hook points, mean: "
            f"{evaluation.direction_cosine:.3f}"
        )
    if evaluation.interactions is not None:
        found = ", ".join(
            f"{name} {values['pearson']:+.3f}" for name, values in evaluation.interactions.items()
        )
        lines.append(f"Pearson's r of pair strengths with co-occurrence: {found}")
    for name, separation in evaluation.class_separation.items():
        lines.append(
            f"Wasserstein-1 between classes of {name}: as published "
            f"{separation['as_published']:.5f}, by decoder norm "
            f"{separation['by_decoder_norm']:.5f}, by standard deviation "
            f"{separation['by_standard_deviation']:.4f}"
        )
    return lines


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
