"""Folders and files that are replaced whole."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from sae_lens_poly import InputError, whole_files
from sae_lens_poly.manifest import MANIFEST_FILENAME, check_manifest
from sae_lens_poly.whole_files import (
    finish_interrupted,
    remove_unfinished,
    sole_user,
    whole_file,
    whole_folder,
    write_json,
)


@pytest.fixture(params=["exchanged", "file by file"])
def old(request, tmp_path, monkeypatch):
    """A saved dictionary, as far as names go, with files of the user's in its folder."""
    if request.param == "file by file":
        monkeypatch.setattr(whole_files, "exchange", lambda *_: False)
    folder = tmp_path / "out"
    save(folder, "old")
    (folder / "evaluation.json").write_text("of the old one")
    (folder / "features").mkdir()
    (folder / "features" / "codes.npz").write_text("of the old one")
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("kept")
    (folder / "link").symlink_to("mine/notes.txt")
    return folder


def save(folder, content, n_bytes=0):
    with whole_folder(folder, manifest=True, n_bytes=n_bytes) as unfinished:
        (unfinished / "cfg.json").write_text(content)
        (unfinished / "sae_weights.safetensors").write_text(content)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_belonged_to_the_old_one_goes_and_the_rest_stays(old, tmp_path):
    inode = (old / "mine" / "notes.txt").stat().st_ino
    save(old, "new")
    kept = ["link", "mine", "mine/notes.txt"]
    written = ["cfg.json", MANIFEST_FILENAME, "sae_weights.safetensors"]
    assert names(old) == sorted([*kept, *written])
    assert (old / "cfg.json").read_text() == "new"
    assert (old / "link").read_text() == "kept"
    assert (old / "mine" / "notes.txt").stat().st_ino == inode
    check_manifest(old)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_manifest_only_what_is_written_is_replaced(old):
    before = set(names(old))
    with whole_folder(old) as unfinished:
        (unfinished / "evaluation.json").write_text("new")
    assert set(names(old)) == before
    assert (old / "evaluation.json").read_text() == "new"
    check_manifest(old)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("of torch")])
def test_an_error_of_the_disk_is_one_sentence_and_the_old_one_stays(old, tmp_path, error):
    before = {name: (old / name).stat() for name in names(old)}
    words = r"out' cannot be written \((No space left|of torch)\)"

    def half_written():
        with whole_folder(old, manifest=True) as unfinished:
            (unfinished / "cfg.json").write_text("new")
            raise error

    with pytest.raises(InputError, match=words):
        half_written()
    assert {name: (old / name).stat() for name in names(old)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_of_ours_is_not_the_disks(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "out"):
        raise KeyError("a bug")
    assert not list(tmp_path.iterdir())


def test_the_working_directory_stays_the_working_directory(tmp_path, monkeypatch):
    save(tmp_path / "out", "old")
    (tmp_path / "out" / "within").mkdir()
    monkeypatch.chdir(tmp_path / "out" / "within")
    save("..", "new")
    assert Path("../cfg.json").read_text() == "new"
    assert os.getcwd() == str(tmp_path / "out" / "within")
    check_manifest(tmp_path / "out")


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    save(tmp_path / "out", "old")
    (tmp_path / "link").symlink_to("out")
    save(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out" / "cfg.json").read_text() == "new"


def test_moves_that_were_interrupted_are_finished(tmp_path):
    save(tmp_path / "out", "old")
    save(tmp_path / "new", "new")
    ready = tmp_path / ".ready-out"
    (tmp_path / "new").rename(ready)
    (ready / MANIFEST_FILENAME).replace(tmp_path / "out" / MANIFEST_FILENAME)
    with pytest.raises(InputError, match=r"cfg.json is not what was saved"):
        check_manifest(tmp_path / "out")
    finish_interrupted(tmp_path / "out")
    check_manifest(tmp_path / "out")
    assert (tmp_path / "out" / "cfg.json").read_text() == "new"
    assert not ready.exists()


@pytest.fixture
def holding(tmp_path):
    """Another program that writes to a folder, or uses it alone, until it is killed."""
    started = []

    def start(function):
        ours, theirs = os.pipe()
        program = os.fork()
        if program == 0:
            with function(tmp_path / "out"):
                os.write(theirs, b"in")
                time.sleep(60)
            os._exit(0)
        started.append(program)
        assert os.read(ours, 2) == b"in"
        return partial(end, program)

    def end(program):
        os.kill(program, signal.SIGKILL)
        os.waitpid(started.pop(started.index(program)), 0)

    yield start
    for program in list(started):
        end(program)


def test_what_a_killed_program_left_is_removed_and_a_living_one_is_left_alone(
    holding, tmp_path, monkeypatch
):
    monkeypatch.setattr(whole_files, "_SECONDS_FOR_LOCK", 0.1)
    kill = holding(whole_folder)
    unfinished = tmp_path / ".unfinished-out"
    remove_unfinished(tmp_path)
    assert unfinished.is_dir()
    kill()
    write_json(tmp_path / "other.json", {})
    assert not unfinished.exists()


def test_two_users_of_one_folder(holding, tmp_path):
    kill = holding(sole_user)
    with pytest.raises(InputError, match="is writing to"), sole_user(tmp_path / "out"):
        pass
    kill()
    with sole_user(tmp_path / "out"):
        pass


def test_no_room(old):
    before = names(old)
    with pytest.raises(InputError, match=r"MB are needed and .* MB are free"):
        save(old, "new", n_bytes=2**60)
    assert names(old) == before


def test_a_file_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    remedy = "there is something in the way"
    with pytest.raises(InputError, match=remedy), whole_file(tmp_path / "file" / "x", remedy):
        pass
