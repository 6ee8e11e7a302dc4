"""Sparse probing against planted classes, chance, and references in numpy and scikit-learn."""

import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.probing import (
    Task,
    class_tasks,
    largest_mean_differences,
    probe_tasks,
    sparse_probe,
    summarise,
)

N_LATENTS = 60


def data(n=900, seed=0, strength=3.0):
    """Sparse features; latents 7, 20 and 33 tell the classes a, b and c."""
    rng = np.random.default_rng(seed)
    features = rng.exponential(size=(n, N_LATENTS)) * (rng.random((n, N_LATENTS)) < 0.1)
    labels = rng.choice(["a", "b", "c"], n)
    for label, latent in (("a", 7), ("b", 20), ("c", 33)):
        features[:, latent] = strength * (labels == label) + 0.1 * rng.random(n)
    return features.astype(np.float32), labels


def test_tasks_are_balanced_distinct_and_of_their_class():
    _, train = data()
    _, test = data(300, seed=1)
    tasks = class_tasks(train, test, n_train=200, n_test=5000)
    assert [task.name for task in tasks] == ["a", "b", "c"]
    for task in tasks:
        assert len(task.train) == 200
        n_positive = (test == task.name).sum()
        assert len(task.test) == 2 * min(n_positive, 300 - n_positive)
        parts = ((task.train, task.train_positive, train), (task.test, task.test_positive, test))
        for rows, positive, labels in parts:
            assert len(np.unique(rows)) == len(rows)
            assert positive.sum() * 2 == len(rows)
            np.testing.assert_array_equal(labels[rows] == task.name, positive)


def test_a_seed_draws_the_same_tasks():
    _, labels = data()
    one, same, other = (class_tasks(labels, labels, 100, 100, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train, same.train)
    assert not np.array_equal(one.train, other.train)


def test_planted_latents_are_found_and_score_near_1():
    (train, train_labels), (test, test_labels) = data(), data(400, seed=1)
    scores = probe_tasks(train, test, class_tasks(train_labels, test_labels))
    assert [(s.task, s.latents[0]) for s in scores if s.k == 1] == [("a", 7), ("b", 20), ("c", 33)]
    assert all(len(s.latents) == s.k and s.f1 > 0.98 and s.accuracy > 0.98 for s in scores)


def test_random_labels_score_at_chance():
    features = np.random.default_rng(0).normal(size=(4000, N_LATENTS))
    labels = np.random.default_rng(1).choice(["a", "b"], 4000)
    tasks = class_tasks(labels[:2000], labels[2000:])
    for score in probe_tasks(features[:2000], features[2000:], tasks, (1, 5, None)):
        assert abs(score.accuracy - 0.5) < 0.06
        assert abs(score.f1 - 0.5) < 0.12


@pytest.mark.parametrize("factor", [1e-3, 37.0, 1e4])
def test_the_scale_of_features_changes_nothing(factor):
    (train, train_labels), (test, test_labels) = data(strength=0.3), data(400, 1, 0.3)
    tasks = class_tasks(train_labels, test_labels)
    one = probe_tasks(train, test, tasks, (1, 5, None))
    other = probe_tasks(train * np.float32(factor), test * np.float32(factor), tasks, (1, 5, None))
    for a, b in zip(one, other, strict=True):
        assert a.latents == b.latents
        assert (a.f1, a.accuracy) == pytest.approx((b.f1, b.accuracy), abs=0.006)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_features_score_as_dense_ones(form):
    (train, train_labels), (test, test_labels) = data(strength=0.3), data(400, 1, 0.3)
    tasks = class_tasks(train_labels, test_labels)
    ks = (1, 2, 5, None)
    assert probe_tasks(form(train), form(test), tasks, ks) == probe_tasks(train, test, tasks, ks)


def test_is_scikit_learns_regression_on_standardised_columns_of_largest_difference():
    (train, train_labels), (test, test_labels) = data(strength=0.2), data(400, 1, 0.2)
    y, y_test = train_labels == "a", test_labels == "a"
    x, x_test = train.astype(np.float64), test.astype(np.float64)
    difference = [abs(x[y, j].mean() - x[~y, j].mean()) for j in range(N_LATENTS)]
    latents = sorted(range(N_LATENTS), key=lambda j: -difference[j])[:5]
    mean, deviation = x[:, latents].mean(axis=0), x[:, latents].std(axis=0)
    regression = LogisticRegression(max_iter=1000).fit((x[:, latents] - mean) / deviation, y)
    predicted = regression.predict((x_test[:, latents] - mean) / deviation)
    hits, wrong = (predicted & y_test).sum(), (predicted != y_test).sum()

    probe = sparse_probe(train, y, test, y_test, 5)
    assert list(probe.latents) == latents
    assert probe.f1 == pytest.approx(2 * hits / (2 * hits + wrong))
    assert probe.accuracy == pytest.approx((predicted == y_test).mean())


def test_all_latents_are_the_dense_probe():
    (train, train_labels), (test, test_labels) = data(strength=0.2), data(400, 1, 0.2)
    arguments = (train, train_labels == "a", test, test_labels == "a")
    every = sparse_probe(*arguments, N_LATENTS)
    task = Task("a", np.arange(len(train_labels)), arguments[1], np.arange(400), arguments[3])
    (dense,) = probe_tasks(train, test, [task], (None,))
    assert (every.f1, every.accuracy) == pytest.approx((dense.f1, dense.accuracy), abs=0.01)


def test_dead_latents_are_chosen_last_and_do_no_harm():
    features = np.zeros((40, 4))
    positive = np.arange(40) < 20
    features[positive, 2] = 1
    assert largest_mean_differences(features, positive, 4)[0] == 2
    assert sparse_probe(features, positive, features, positive, 4).f1 == 1


def test_the_summary_has_means_errors_and_every_task():
    (train, train_labels), (test, test_labels) = data(strength=0.2), data(400, 1, 0.2)
    scores = probe_tasks(train, test, class_tasks(train_labels, test_labels), (1, None))
    summary = json.loads(json.dumps(summarise(scores)))
    assert list(summary) == ["1", "all"]
    f1 = [score.f1 for score in scores if score.k == 1]
    assert summary["1"]["f1"] == pytest.approx(np.mean(f1))
    assert summary["1"]["f1_error"] == pytest.approx(np.std(f1, ddof=1) / 3**0.5)
    assert summary["1"]["n_tasks"] == 3
    assert [task["f1"] for task in summary["1"]["tasks"].values()] == f1
    assert summarise(scores[:1])["1"]["f1_error"] is None


def test_classes_with_too_few_examples_are_left_out():
    labels = ["a"] * 50 + ["b"] * 50 + ["rare"] * 3
    assert [task.name for task in class_tasks(labels, labels)] == ["a", "b"]
    with pytest.raises(InputError, match="none of the 2 classes has 10 examples"):
        class_tasks(labels[98:], labels[98:])


def test_wrong_input_is_refused():
    features, labels = data()
    tasks = class_tasks(labels, labels)
    for k in (0, N_LATENTS + 1):
        with pytest.raises(InputError, match=f"k={k}"):
            probe_tasks(features, features, tasks, (1, k))
    with pytest.raises(InputError, match="test_features has 5 rows"):
        probe_tasks(features, features[:5], tasks)
    with pytest.raises(InputError, match="1 class"):
        class_tasks(["a"] * 50, ["a"] * 50)
    with pytest.raises(InputError, match="n_test=3"):
        class_tasks(labels, labels, n_test=3)
