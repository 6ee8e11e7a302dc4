"""Explaining and scoring against a stub, and what the examples are."""

import json

import numpy as np
import pytest

pytest.importorskip("openai")

from sae_lens_poly import InputError
from sae_lens_poly.cli import main
from sae_lens_poly.explanations.explain import draw_latents, estimate, explain
from sae_lens_poly.explanations.judge import Judge
from sae_lens_poly.explanations.material import LEFT, RIGHT, Materials
from sae_lens_poly.explanations.settings import ExplanationSettings
from sae_lens_poly.explorer.command import prepare
from tests.explanations.stub import Stub, judge_by
from tests.explorer.conftest import SETTINGS as COLLECTION
from tests.explorer.dictionaries import crosscoder, save

SETTINGS = ExplanationSettings(n_shown=6, n_test=5)
LATENTS = [5, 9, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(crosscoder(), tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def materials(folder):
    writer = prepare(folder, folder / "explorer", COLLECTION)
    return Materials(writer.collected, writer.texts, SETTINGS)


def run(materials, answer, path, faults=(), latents=LATENTS, jobs=1, **options):
    stub = Stub(answer, faults)
    with stub.running() as endpoint:
        judge = Judge(endpoint, "stub", **options)
        return explain(materials, latents, judge, path, SETTINGS, "hash", jobs), stub


def test_no_context_is_shown_and_tested_and_the_negatives_are_inactive(materials):
    collected = materials.collected
    size = collected.tokens.shape[1]
    for latent in LATENTS:
        material = materials.of(latent)
        assert material.active
        shown = {tuple(p.tokens) for p in material.shown}
        assert not shown & {tuple(p.tokens) for p in material.active}
        assert len(material.inactive) == len(material.active)
        flat = [materials.texts[t] for t in collected.flat_tokens().tolist()]
        active_at = set(collected.sample.tokens[collected.sample.both(latent, 0)[0]].tolist())
        for passage, like in zip(material.inactive, material.active, strict=True):
            assert passage.marked == like.marked
            n = len(passage.tokens)
            starts = [k for k in range(len(flat) - n + 1) if flat[k : k + n] == passage.tokens]
            inside = [k for k in starts if k // size == (k + n - 1) // size]
            # Where it comes from at least, the latent (active with latent 0, which always is)
            # is not.
            assert any(not active_at & set(range(k, k + n)) for k in inside)


def test_a_judge_that_knows_scores_one_and_is_asked_once(materials, tmp_path):
    active = {p.plain() for latent in LATENTS for p in materials.of(latent).active}
    truth = judge_by(lambda text: text.replace(LEFT, "").replace(RIGHT, "") in active)
    found, stub = run(materials, truth, tmp_path / "e.json")
    assert found["summary"]["coherent"]["share"] == 1.0
    assert found["summary"]["detection"]["mean"] == 1.0
    assert json.loads(json.dumps(found)) == json.loads((tmp_path / "e.json").read_text())
    expected = estimate(materials, LATENTS, SETTINGS)
    assert stub.n_requests == expected.n_requests
    assert expected.price(1e6, 0) == expected.n_input


@pytest.mark.parametrize("always", [True, False])
def test_a_judge_that_always_says_the_same_scores_at_chance(materials, tmp_path, always):
    found, _ = run(materials, judge_by(lambda _: always), tmp_path / "e.json")
    for kind in ("detection", "fuzzing"):
        assert found["summary"][kind]["mean"] == 0.5
    assert found["summary"]["coherent"]["share"] == 0.0


def test_a_judge_that_guesses_scores_about_chance(materials, tmp_path):
    random = np.random.default_rng(0)
    latents = list(range(2, 22))
    answer = judge_by(lambda _: random.random() < 0.8)
    found, _ = run(materials, answer, tmp_path / "e.json", latents=latents)
    low, high = found["summary"]["detection"]["interval"]
    assert low < 0.55
    assert high > 0.45


def test_a_judge_that_counts_marks_learns_nothing(materials, tmp_path):
    answer = judge_by(lambda text: text.count(LEFT) > 1)
    found, _ = run(materials, answer, tmp_path / "e.json")
    assert found["summary"]["fuzzing"]["mean"] == pytest.approx(0.5, abs=0.01)


def test_latents_whose_answers_cannot_be_read_are_not_scored(materials, tmp_path):
    found, _ = run(materials, judge_by(lambda _: True), tmp_path / "e.json", ["nonsense"] * 3)
    assert "could be read" in found["latents"]["5"]["error"]
    assert found["summary"]["n_not_scored"] == 1


def test_stopped_by_a_server_that_fails_it_goes_on_where_it_was(materials, tmp_path):
    path = tmp_path / "e.json"
    answer = judge_by(lambda _: True)
    n_of_first = estimate(materials, LATENTS[:1], SETTINGS).n_requests
    faults = [None] * n_of_first + [401]
    with pytest.raises(InputError, match="fault 401"):
        run(materials, answer, path, faults)
    assert list(json.loads(path.read_text())["latents"]) == ["5"]
    found, stub = run(materials, answer, path)
    assert list(found["latents"]) == ["5", "9", "12"]
    assert stub.n_requests == estimate(materials, LATENTS[1:], SETTINGS).n_requests


def test_two_judges_are_not_mixed_in_one_file(materials, tmp_path):
    path = tmp_path / "e.json"
    run(materials, judge_by(lambda _: True), path, latents=[9])
    stub = Stub(judge_by(lambda _: True))
    with stub.running() as endpoint, pytest.raises(InputError, match=r"model='stub'.*'other'"):
        explain(materials, [5], Judge(endpoint, "other"), path, SETTINGS, "hash")


def test_latents_that_do_not_fire_are_said_to(materials, tmp_path):
    found, stub = run(materials, judge_by(lambda _: True), tmp_path / "e.json", latents=[1])
    assert "no token" in found["latents"]["1"]["error"]
    assert stub.n_requests == 0


def test_latents_are_drawn_evenly_and_the_same_again():
    live = np.arange(5, 1000)
    drawn = draw_latents(live, ExplanationSettings(n_latents=200))
    assert drawn == draw_latents(live, ExplanationSettings(n_latents=200))
    assert len(set(drawn)) == 200
    assert abs(np.mean(drawn) - live.mean()) < 60


@pytest.mark.parametrize(("name", "value"), [("n_test", 1), ("coherent_from", 0.5)])
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}="):
        ExplanationSettings(**{name: value})


def test_the_command(materials, folder, tmp_path, capsys):
    stub = Stub(judge_by(lambda _: True))
    with stub.running() as endpoint:
        command = ["explain", str(folder), "--endpoint", endpoint, "--model", "stub"]
        command += ["--latents", "9", "12", "--output", str(tmp_path / "e.json")]
        prices = ["--price_input", "2", "--price_output", "8"]
        assert main([*command, *prices, "--estimate"]) == 0
        assert stub.n_requests == 0
        assert "at these prices" in capsys.readouterr().out
        assert main(command) == 0
    printed = capsys.readouterr().out
    assert "detection: balanced accuracy 0.500 (0.500 to 0.500); chance is 0.5" in printed
    assert "semantically coherent (at least 0.7 in both): 0.0%" in printed
    assert set(json.loads((tmp_path / "e.json").read_text())["latents"]) == {"9", "12"}
    assert main([*command, "--latents", "64"]) == 2
    assert "64 must be from 0 to 63" in capsys.readouterr().err
