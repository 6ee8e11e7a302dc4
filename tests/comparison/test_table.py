"""Tables and figure of evaluations that are written down by hand."""

import pytest

from sae_lens_poly.comparison.figure import save_figure
from sae_lens_poly.comparison.table import markdown, plain

HOOKS = ("first", "second")
RECONSTRUCTION = "Reconstruction and latents, pooled over hook points"
PROBING = "Sparse probing: words"
PAIRS = "Pearson's r of pairs of latents with their co-occurrence"


def scores(f1):
    return {
        k: {"f1": f1 + step, "accuracy": f1 + step + 0.1, "f1_error": 0.03, "n_tasks": 4}
        for k, step in (("1", 0.0), ("2", 0.05))
    }


def splice(ce_recovered):
    return {"ce_recovered": ce_recovered, "kl": 1 - ce_recovered, "ce_recovered_vs_mean": 0.0}


def evaluation(ev, *, codes, causal=True, interactions=None):
    """What evaluation.json has of a dictionary over two hook points."""
    kinds = {"clean": ev - 0.1} | ({"causal": ev - 0.3} if causal else {})
    return {
        "per_hook": {
            hook: {"explained_variance": ev + 0.01 * i, "l0": 3.0 + 2 * i, "mse": ev + i}
            for i, hook in enumerate(HOOKS)
        },
        "pooled": {
            "explained_variance": ev,
            "explained_variance_linear": ev - 0.2,
            "mse_normalised": 100 * (1 - ev),
            "cosine": ev**0.5,
        },
        "d_sae": 50,
        "n_dead": 5,
        "n_dense": 10,
        "n_tokens": 1000,
        "n_tokens_spliced": 100,
        "splicing": {
            "alone": {
                hook: {kind: splice(value - 0.04 * i) for kind, value in kinds.items()}
                for i, hook in enumerate(HOOKS)
            },
            "together": {kind: splice(value) for kind, value in kinds.items()},
        },
        "coherence": {
            "selected": 1.5,
            "pre_activation": 1.4,
            "selected_raw": 1.3,
            "pre_activation_raw": 1.2,
            "decoder": 1.1,
        },
        "direction_cosine": None,
        "interactions": interactions,
        "probing": {"words": {**codes, "raw": scores(0.6) | {"all": scores(0.9)["1"]}}},
        "class_separation": {},
        "settings": {"probe_ks": [1, 2]},
    }


@pytest.fixture
def evaluations():
    whole = [evaluation(ev, codes={"codes": scores(ev - 0.1)}) for ev in (0.7, 0.8, 0.9)]
    apart = [
        evaluation(
            ev,
            codes={
                "codes": scores(0.99),  # from all latents: not of equal width
                "codes at first": scores(ev - 0.2),
                "codes at second": scores(ev),
            },
            causal=False,
            interactions={"B": {"pearson": ev - 0.5, "spearman": 0.0}},
        )
        for ev in (0.5, 0.6, 0.8)
    ]
    return {
        "whole": {str(seed): e for seed, e in enumerate(whole)},
        "apart": {str(seed): e for seed, e in enumerate(apart)},
    }


def test_numbers(evaluations):
    tables = plain(evaluations)
    reconstruction = tables[RECONSTRUCTION]
    ev = reconstruction["whole"]["explained variance"]
    assert ev["values"] == [0.7, 0.8, 0.9]
    assert ev["mean"] == pytest.approx(0.8)
    assert ev["standard_error"] == pytest.approx(0.1 / 3**0.5)
    means = {heading: cell["mean"] for heading, cell in reconstruction["apart"].items()}
    assert means["linear only"] == pytest.approx(1.9 / 3 - 0.2)
    assert means["MSE, normalised"] == pytest.approx(100 * (1 - 1.9 / 3))
    assert means["MSE, raw"] == pytest.approx(2 * 1.9 / 3 + 1)
    assert means["L0 at a hook point"] == 4.0
    assert (means["latents"], means["dead"], means["dense"]) == (50, 0.1, 0.2)
    second = tables["Explained variance at each hook point"]["whole"]["second"]
    assert second["values"] == pytest.approx([0.71, 0.81, 0.91])


def test_splices_and_what_an_arm_lacks(evaluations):
    running = plain(evaluations)["In the running model"]
    one = "CE recovered, one at a time, "
    assert running["whole"][one + "clean"]["values"] == pytest.approx([0.58, 0.68, 0.78])
    assert running["whole"][one + "causal"]["values"] == pytest.approx([0.38, 0.48, 0.58])
    assert running["whole"]["CE recovered, all, causal"]["mean"] == pytest.approx(0.5)
    assert running["whole"]["KL, one at a time, clean"]["mean"] == pytest.approx(0.32)
    assert not [heading for heading in running["apart"] if "causal" in heading]
    coherence = plain(evaluations)["Over how many hook points latents live"]["whole"]
    assert [cell["mean"] for cell in coherence.values()] == [1.5, 1.4, 1.3, 1.2, 1.1]
    correlations = plain(evaluations)[PAIRS]
    assert correlations["whole"] == {}
    assert correlations["apart"]["B"]["values"] == pytest.approx([0.0, 0.1, 0.3])
    # Two seeds of three make no mean.
    evaluations["apart"]["1"]["interactions"] = None
    assert plain(evaluations)[PAIRS]["apart"] == {}


def test_probes_of_several_dictionaries_are_those_of_one_of_equal_width(evaluations):
    probed = plain(evaluations)[PROBING]
    assert probed["whole"]["F1, K=2"]["values"] == pytest.approx([0.65, 0.75, 0.85])
    assert probed["apart"]["F1, K=1"]["values"] == pytest.approx([0.4, 0.5, 0.7])
    assert probed["apart"]["accuracy, K=2"]["values"] == pytest.approx([0.55, 0.65, 0.85])


def test_markdown(evaluations):
    lines = markdown(evaluations).splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:2] == [f"## {RECONSTRUCTION}", "## Explained variance at each hook point"]
    assert "| whole | 0.800 ± 0.058 | 0.810 ± 0.058 |" in lines
    assert "| apart | 0.133 ± 0.088 |  |  |  |" in lines
    first = lines.index(f"## {PROBING}") + 4
    rows = [line.strip("| ").split(" | ") for line in lines[first : first + 6]]
    of = {row[0]: row[1:] for row in rows}
    assert list(of)[:2] == ["whole", "apart"]
    assert of["whole"][:2] == ["0.700 ± 0.058", "0.750 ± 0.058"]
    assert of["apart"][0] == "0.533 ± 0.088"
    assert of["*apart, chosen from all latents*"][0] == "0.990 ± 0.000"
    assert of["*apart, codes at first*"][:2] == ["0.433 ± 0.088", "0.483 ± 0.088"]
    assert of["*raw*"] == ["0.600", "0.650", "0.700", "0.750"]
    text = "\n".join(lines)
    assert "Standard errors over tasks (not seeds) of F1, K=1: 0.030 at most." in text
    assert "raw activations: F1 0.900, accuracy 1.000, over 4 tasks" in text


def test_figure(evaluations, drawn, tmp_path):
    save_figure(evaluations, tmp_path / "figure.png")
    (figure,) = drawn
    by_title = {axes.get_title().split(":\n")[1]: axes for axes in figure.axes if axes.get_title()}
    # One arm has no causal codes: what not all arms have is not drawn.
    assert list(by_title) == [
        "explained variance",
        "dead",
        "CE recovered, all, clean",
        "functional coherence",
        "F1, K=1",
    ]
    for title, part, heading in (
        ("explained variance", RECONSTRUCTION, "explained variance"),
        ("F1, K=1", PROBING, "F1, K=1"),
    ):
        axes = by_title[title]
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        bars = axes.containers[0]
        assert list(bars[0].get_ydata()) == [0, 1]
        for height, arm in enumerate(("whole", "apart")):
            cell = plain(evaluations)[part][arm][heading]
            assert list(dots[height].get_xdata()) == cell["values"]
            assert list(dots[height].get_ydata()) == [height] * 3
            assert bars[0].get_xdata()[height] == pytest.approx(cell["mean"])
            (low, _), (high, _) = bars[2][0].get_segments()[height]
            assert (high - low) / 2 == pytest.approx(cell["standard_error"])
    for row in (0, 3):  # the arms are named once a row of panels
        names = [label.get_text() for label in figure.axes[row].get_yticklabels()]
        assert names == ["whole", "apart"]
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
