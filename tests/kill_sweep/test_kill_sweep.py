"""A part of the sweep, and that the sweep finds what it looks for."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kill_sweep.scenarios import SCENARIOS, Materials
from tests.kill_sweep.trials import WRONG, small_disk, sweep


@pytest.fixture(scope="module")
def materials():
    return Materials()


@pytest.mark.parametrize("name", SCENARIOS)
def test_old_or_new_and_whole(materials, tmp_path, name):
    every = 6 if name != "an evaluation over an old one" else 12
    scenario = SCENARIOS[name](materials, tmp_path / "run")
    wrong = [why for _, why in sweep(scenario, every, sizes=(500, 60_000)) if why]
    assert not wrong


def test_on_a_small_disk(materials, tmp_path):
    with small_disk(tmp_path / "disk", 8) as mounted:
        if not mounted:
            pytest.skip("no disk can be mounted here")
        scenario = SCENARIOS["a save over an old dictionary"](materials, tmp_path / "disk" / "run")
        assert not [
            why for _, why in sweep(scenario, sizes=(0, 60_000), disk=tmp_path / "disk") if why
        ]


def test_files_written_one_after_the_other_are_found_out(materials, tmp_path, monkeypatch):
    @contextmanager
    def written_directly(folder, **_):
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)

    monkeypatch.setattr("sae_lens_poly.training.runner.whole_folder", written_directly)
    scenario = SCENARIOS["a save over an old dictionary"](materials, tmp_path / "run")
    headings = [heading for heading, _ in sweep(scenario, every=2, sizes=())]
    assert headings.count(WRONG) > 1
