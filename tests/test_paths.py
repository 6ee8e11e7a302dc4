"""Places that cannot be written to, and folders that would be searched."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sae_lens_poly import InputError, paths
from sae_lens_poly.paths import check_can_write, check_text


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "x" / "y"):
        with pytest.raises(InputError, match=r"output=.* cannot be written"):
            check_can_write("output", folder)
    with pytest.raises(InputError, match=r"MB are needed and .* MB are free"):
        check_can_write("output", tmp_path / "out", n_bytes=2**60)
    check_can_write("output", tmp_path / "a" / "b", n_bytes=10)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_processes_try_the_same_place_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        tries = [
            pool.submit(check_can_write, "output", tmp_path / "a" / "b" / "c") for _ in range(400)
        ]
    for each in tries:
        each.result()
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_folders_that_would_be_searched(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (inside / "0.txt").touch()
    (tmp_path / "a" / "0.txt").touch()
    (tmp_path / "0.txt").touch()
    monkeypatch.chdir(tmp_path / "a")
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(InputError, match=r"dataset_path=.* is not a folder of text"):
            check_text("dataset_path", str(folder))
    check_text("dataset_path", str(inside))
    monkeypatch.setattr(paths, "MOST_ENTRIES", 2)
    for number in range(3):
        (inside / f"{number}.txt").touch()
    with pytest.raises(InputError, match=r"more than 2 files"):
        check_text("dataset_path", str(inside))
