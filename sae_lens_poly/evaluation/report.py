"""An evaluation as tables in the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.evaluation.evaluate import Evaluation
from sae_lens_poly.evaluation.headroom import Headroom
from sae_lens_poly.evaluation.probing_sets import Summary
from sae_lens_poly.evaluation.splicing import ABLATIONS
from sae_lens_poly.hook_names import short_hook_name

#: Okabe and Ito's: told apart with any colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73")

#: Columns of the terminal that tables take at most; wider ones are divided.
WIDTH = 100

# Of the first column; longer names are folded.
_LONGEST_NAME = 36


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """Print all figures, in tables that fit the terminal or 100 columns."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    width = min(console.width, WIDTH)
    for table in _all_tables(evaluation, title, width):
        console.print(table)
    for line in _lines(evaluation):
        console.print(line, markup=False, highlight=False)


def _all_tables(evaluation: Evaluation, title: str, width: int) -> Iterator[Table]:
    yield from _reconstruction(evaluation, title, width)
    yield from _splicing(evaluation, width)
    for name in evaluation.probing:
        yield from _probing(name, evaluation, width)
    if evaluation.headroom is not None:
        yield from _headroom(evaluation.headroom, width)


def _tables(
    title: str, first: str, names: Sequence[str], columns: dict[str, list[str]], width: int
) -> Iterator[Table]:
    """One table, or several one after the other so that each fits.

    Args:
        title: Of each.
        first: Heading of the names.
        names: Of the rows.
        columns: Heading to one text for each row. A heading may have several lines.
        width: Of the terminal.
    """
    of_names = min(max(len(name) for name in (first, *names)), _LONGEST_NAME)
    wide = {
        heading: max(map(len, (*heading.split("\n"), *cells))) for heading, cells in columns.items()
    }
    left = list(columns)
    while left:
        taken = [left.pop(0)]
        # A line and a space on each side of a column, and the line that ends the table.
        while left and of_names + 4 + sum(wide[h] + 3 for h in (*taken, left[0])) <= width:
            taken.append(left.pop(0))
        table = Table(title=Text(title), title_justify="left")
        table.add_column(Text(first), overflow="fold")
        for heading in taken:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for row, name in enumerate(names):
            table.add_row(Text(name), *(Text(columns[heading][row]) for heading in taken))
        yield table


def _reconstruction(evaluation: Evaluation, title: str, width: int) -> Iterator[Table]:
    names = [*evaluation.per_hook, "pooled / all spliced"]
    rows = [*evaluation.per_hook.values(), evaluation.pooled]
    quality = {
        "explained\nvariance": [f"{row.explained_variance:.4f}" for row in rows],
        "linear\nonly": [f"{row.explained_variance_linear:.4f}" for row in rows],
        "MSE": [f"{row.mse:.4g}" for row in rows[:-1]] + [""],
        "MSE,\nnormalised": [f"{row.mse_normalised:.3f}" for row in rows],
        "cosine": [f"{row.cosine:.4f}" for row in rows],
        "CE\nrecovered": [f"{row.ce_recovered:.4f}" for row in rows],
    }
    latents = {
        f"degree {d}": [f"{row.degree_shares[d]:+.3f}" for row in rows]
        for d in sorted(evaluation.pooled.degree_shares)
    } | {
        "L0": [f"{row.l0:.2f}" for row in rows],
        "dead": [f"{row.n_dead}/{row.n_latents}" for row in rows],
        "dense": [f"{row.n_dense}" for row in rows],
    }
    yield from _tables(title, "hook point", names, quality, width)
    yield from _tables(
        "shares of the reconstruction, and latents", "hook point", names, latents, width
    )


def _splicing(evaluation: Evaluation, width: int) -> Iterator[Table]:
    """CE and KL of every kind of replacement, by site."""
    splices = evaluation.splicing
    names = list(splices.alone)
    sites = {f"{name} alone": splices.alone[name] for name in names}
    if len(names) > 1:
        for m, by_kind in enumerate(splices.cumulative[1:-1], start=2):
            sites[f"the first {m}"] = by_kind
        sites["all"] = splices.together
    kinds = list(splices.together)
    for title, shown, figure in (
        (
            "splicing: CE recovered, against zero ablation",
            [kind for kind in kinds if kind not in ABLATIONS],
            "{0.ce_recovered:.4f}",
        ),
        (f"splicing: CE in nats (the model alone: {splices.ce_clean:.4f})", kinds, "{0.ce:.3f}"),
        ("splicing: KL from the model alone, in nats", kinds, "{0.kl:.4f}"),
    ):
        columns = {
            kind: [figure.format(by_kind[kind]) for by_kind in sites.values()] for kind in shown
        }
        yield from _tables(title, "replaced", list(sites), columns, width)


def _probing(name: str, evaluation: Evaluation, width: int) -> Iterator[Table]:
    """F1 and accuracy, with standard errors over tasks, by features and number of latents."""
    by_features = evaluation.probing[name]
    ks = list(dict.fromkeys(k for summary in by_features.values() for k in summary))
    n_tasks = next(iter(next(iter(by_features.values())).values()))["n_tasks"]

    def cell(summary: Summary, k: str, figure: str) -> str:
        if k not in summary:
            return ""
        error = summary[k][f"{figure}_error"]
        return f"{summary[k][figure]:.3f}" + ("" if error is None else f" ± {error:.3f}")

    for figure, called in (("f1", "F1"), ("accuracy", "accuracy")):
        title = f"sparse probing: {name}, {called}, mean of {n_tasks} tasks and its standard error"
        columns = {
            f"K={k}": [cell(summary, k, figure) for summary in by_features.values()] for k in ks
        }
        yield from _tables(title, "features", list(by_features), columns, width)


#: What the rungs of the ladder are called.
_RUNGS = {
    "linear": "linear decoder, refitted",
    "ours": "  with the terms of this dictionary",
    "curves": "  with a curve for each latent",
    "pairs": "  with the most frequent pairs",
    "quadratic": "  with a low-rank quadratic",
    "mlp": "  with a small MLP",
}


def _headroom(headroom: Headroom, width: int) -> Iterator[Table]:
    """The ladder: explained variance of decoders of the same codes."""
    linear = headroom.rungs["linear"]
    evs = [headroom.as_trained, *headroom.rungs.values()]
    columns = {
        "explained variance": [f"{ev:.4f}" for ev in evs],
        "over linear": ["", *(f"{ev - linear:+.4f}" for ev in headroom.rungs.values())],
    }
    title = (
        f"headroom: decoders of the same codes, fitted on {headroom.n_fitted:,} other tokens, "
        f"scored on {headroom.n_scored:,}"
    )
    names = ["as trained", *(_RUNGS[name] for name in headroom.rungs)]
    yield from _tables(title, "decoder", names, columns, width)


def _lines(evaluation: Evaluation) -> list[str]:
    """What needs no table."""
    lines = [
        f"{evaluation.n_tokens:,} tokens of the kinds that training counts; cross-entropies on "
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
    if (headroom := evaluation.headroom) is not None:
        ours, gain = headroom.gain_of_ours, headroom.gain
        lines.append(
            f"headroom: the best of these decoders explains {gain:.4f} more than the linear one"
            + ("" if ours is None else f"; the terms of this dictionary {ours:+.4f}")
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


def _legend_above(axes: Axes) -> None:
    """A legend beside the title's height, off the data."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.08), ncols=2, frameon=False, fontsize=9)


def save_picture(sae: Crosscoder, evaluation: Evaluation, path: Path) -> None:
    """Draw where the latents live, how their directions turn, and what each degree carries.

    Args:
        sae: The inference dictionary.
        evaluation: Its figures.
        path: Where to write the PNG.
    """
    names = list(evaluation.per_hook)
    short = [short_hook_name(name) for name in names]
    n_rows = 2 if len(names) > 1 else 1
    figure = Canvas(figsize=(12, 4 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 2, squeeze=False)
    if len(names) > 1:  # of one, either would be of one colour
        profile = decoder_profile(sae)
        image = axes[0, 0].imshow(
            profile.profile[profile.centre.argsort()].nan_to_num().numpy(),
            aspect="auto",
            cmap="cividis",
            vmin=0,
            interpolation="nearest",
        )
        axes[0, 0].set(
            title="where latents live: decoder norm, maximum 1",
            ylabel="latent, sorted by centre of mass",
        )
        figure.colorbar(image, ax=axes[0, 0])

        cosine = direction_cosines(sae).mean
        image = axes[0, 1].imshow(
            cosine.numpy(), vmin=0, vmax=1, cmap="cividis", aspect="auto", interpolation="nearest"
        )
        axes[0, 1].set_title("mean cosine of directions between hook points")
        axes[0, 1].set_yticks(range(len(names)), short, parse_math=False)
        figure.colorbar(image, ax=axes[0, 1])

    reached, shares = axes[-1]
    positions = torch.arange(len(names))
    figures = list(evaluation.per_hook.values())
    bars = {
        "explained variance": [f.explained_variance for f in figures],
        "CE recovered": [f.ce_recovered for f in figures],
    }
    for number, (label, values) in enumerate(bars.items()):
        reached.bar(
            positions + 0.4 * number - 0.2, values, 0.4, label=label, color=_COLOURS[number]
        )
    lowest = min(0, *(value for values in bars.values() for value in values))
    reached.set(title="reconstruction, one hook point spliced at a time", ylim=(max(lowest, -1), 1))
    _legend_above(reached)

    # Degree 1 is all but the whole: on a common scale the others are a line at zero.
    above = [degree for degree in evaluation.pooled.degree_shares if degree != 1]
    for number, degree in enumerate(above):
        per_cent = [100 * f.degree_shares[degree] for f in figures]
        shares.plot(
            positions,
            per_cent,
            marker="os"[number % 2],
            color=_COLOURS[number],
            label=f"degree {degree}",
        )
    shares.axhline(0, color="grey", linewidth=0.8)
    shares.set(title="share of the reconstruction above degree 1", ylabel="per cent")
    if above:
        _legend_above(shares)
    else:
        shares.set_axis_off()
        shares.text(0.5, 0.5, "the decoder is linear", transform=shares.transAxes, ha="center")
    for place in axes[-1]:
        place.set_xlim(-0.75, len(names) - 0.25)
    for place in axes.flat:
        if not place.axison:
            continue
        place.set_xticks(
            range(len(names)),
            short,
            rotation=45,
            ha="right",
            rotation_mode="anchor",
            parse_math=False,
        )

    figure.suptitle(
        f"{sae.cfg.architecture()} on {sae.cfg.metadata.model_name}: {sae.cfg.d_sae} latents, "
        f"L0 {evaluation.l0:.1f}, pooled explained variance "
        f"{evaluation.pooled.explained_variance:.3f}",
        parse_math=False,
    )
    figure.savefig(path, dpi=120)
