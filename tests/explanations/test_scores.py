"""Scores and their intervals."""

import numpy as np
import pytest

from sae_lens_poly.explanations.scores import score, summary, wilson

TRUTH = [True] * 10 + [False] * 10


@pytest.mark.parametrize("answer", [True, False])
def test_a_judge_that_always_says_the_same_scores_at_chance(answer):
    found = score(TRUTH, [answer] * 20)
    assert found.balanced_accuracy == 0.5
    assert found.interval[0] < 0.5 < found.interval[1]


def test_the_more_frequent_kind_does_not_count_for_more():
    truth = [True] * 2 + [False] * 18
    assert score(truth, [False] * 20).balanced_accuracy == 0.5
    assert score(truth, truth).balanced_accuracy == 1.0


def test_without_one_kind_there_is_no_score():
    assert score([True] * 5, [True] * 5) is None
    assert score([], []) is None


@pytest.mark.parametrize(("recall", "specificity"), [(0.5, 0.5), (0.9, 0.6), (0.8, 0.95)])
def test_intervals_cover_what_they_should(recall, specificity):
    random = np.random.default_rng(0)
    true, hits, n = (recall + specificity) / 2, 0, 400
    for _ in range(n):
        answers = np.concatenate([random.random(10) < recall, random.random(10) >= specificity])
        low, high = score(TRUTH, answers.tolist()).interval
        hits += low <= true <= high
    assert hits / n > 0.92


def entry(detection, fuzzing):
    return {
        name: None if value is None else {"balanced_accuracy": value}
        for name, value in (("detection", detection), ("fuzzing", fuzzing))
    }


def test_the_share_of_coherent_latents_counts_those_with_both_scores():
    found = summary(
        {"1": entry(0.9, 0.8), "2": entry(0.9, 0.6), "3": entry(0.5, 0.5), "4": entry(None, None)},
        0.7,
    )
    assert (found["n_scored"], found["n_not_scored"]) == (3, 1)
    assert found["coherent"]["share"] == pytest.approx(1 / 3)
    assert found["coherent"]["interval"] == wilson(1, 3)
    low, high = found["detection"]["interval"]
    assert low < found["detection"]["mean"] < high


def test_no_scores_give_no_figures():
    assert summary({"4": entry(None, None)}, 0.7) == {"n_scored": 0, "n_not_scored": 1}
