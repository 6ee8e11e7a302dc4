"""The L0 at which one curve reaches what another does, of figures that are written down by hand."""

import math

import pytest

from sae_lens_poly.comparison.arms import Arm, Comparison
from sae_lens_poly.comparison.frontier import curves, frontier, l0_for, markdown, save_picture
from tests.comparison.test_table import evaluation, scores

KS = (4, 8, 16)


def comparison(*more):
    arms = [
        Arm(f"{name}, k {k}", {"architecture": architecture, "k": k}, (0.1,))
        for name, architecture in (("linear", "crosscoder"), ("poly", "poly_crosscoder"))
        for k in reversed(KS)
    ]
    return Comparison("small", (*arms, *more), 100, "a")


def evaluated(ev, l0):
    figures = evaluation(ev, codes={"codes": scores(0.5)})
    for hook in figures["per_hook"].values():
        hook["l0"] = l0
    return figures


@pytest.fixture
def evaluations():
    """The polynomial reaches with k what the linear one reaches halfway, in log L0, to the next."""
    found = {}
    for number, k in enumerate(KS):
        for name, better in (("linear", 0.0), ("poly", 0.05)):
            found[f"{name}, k {k}"] = {
                str(seed): evaluated(0.5 + 0.1 * number + better + 0.01 * seed, k * (1 + seed / 10))
                for seed in range(2)
            }
    return found


def test_arms_that_differ_in_k_make_a_curve():
    alone = Arm("other", {"architecture": "crosscoder", "k": 4, "mask_p": 0.1}, (0.1,))
    assert [(c.name, c.arms) for c in curves(comparison(alone))] == [
        (name, tuple(f"{name}, k {k}" for k in KS)) for name in ("linear", "poly")
    ]


def test_interpolation():
    l0, reached = (4.0, 8.0, 16.0), (0.5, 0.6, 0.8)
    assert l0_for(l0, reached, 0.6) == pytest.approx(8)
    assert l0_for(l0, reached, 0.55) == pytest.approx(4 * 2**0.5)
    assert l0_for(l0, reached, 0.7) == pytest.approx(8 * 2**0.5)
    assert l0_for(l0, reached, 0.49) is None
    assert l0_for(l0, reached, 0.81) is None


def test_the_l0_that_is_needed(evaluations):
    found = frontier(comparison(), evaluations)
    assert set(found["needed"]) == {"explained variance", "CE recovered, all, clean"}
    for by_curve in found["needed"].values():
        needed = by_curve["poly"]
        assert needed["linear, k 4"]["L0"] == [None, None]
        for k in (8, 16):
            assert needed[f"linear, k {k}"]["share"] == pytest.approx([2**-0.5] * 2)
            expected = [k * 2**-0.5, 1.1 * k * 2**-0.5]
            assert needed[f"linear, k {k}"]["L0"] == pytest.approx(expected)
    lines = markdown(found).splitlines()
    assert "| linear, k 4 | 4.2 ± 0.2 | 0.5050 ± 0.0050 |  |  |" in lines
    assert "| linear, k 8 | 8.4 ± 0.4 | 0.6050 ± 0.0050 | 5.9 ± 0.3 | 0.707 ± 0.000 |" in lines


def test_without_curves_there_is_nothing(evaluations):
    few = comparison().only(["linear, k 4", "poly, k 4"])
    assert frontier(few, {arm.name: evaluations[arm.name] for arm in few.arms}) == {}
    assert markdown({}) == ""


def test_picture(evaluations, drawn, tmp_path):
    save_picture(frontier(comparison(), evaluations), tmp_path / "frontier.png")
    (picture,) = drawn
    labels = [panel.get_ylabel() for panel in picture.axes]
    assert labels == ["explained variance", "CE recovered, all, clean"]
    for panel in picture.axes:
        linear, poly = (bars[0] for bars in panel.containers)
        assert list(linear.get_xdata()) == pytest.approx([4.2, 8.4, 16.8])
        assert list(poly.get_ydata() - linear.get_ydata()) == pytest.approx([0.05] * 3)
    assert math.log2(picture.axes[0].get_xlim()[1]) > 4
