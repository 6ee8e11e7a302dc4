"""Files that are not what their names say, each in one sentence."""

import gzip
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from sae_lens_poly import InputError
from sae_lens_poly.read_files import (
    MOST_TEXT,
    read_header,
    read_json,
    read_object,
    read_torch,
    read_yaml,
    require_json_rows,
    require_searchable,
    require_tensors,
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": 1', "not a JSON object"),
        (b'{"a": NaN}', "nan is no value"),
        (b'{"a": [{"b": 1e400}]}', "inf is no value"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"a":' * 100_000, "not a JSON object"),
        (b'{"a": "\xff"}', "not UTF-8: .* at byte 7"),
        (b" " * (MOST_TEXT + 1), "more than 16,777,216 bytes"),
    ],
)
def test_objects(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x.json' is damaged \({words}"):
        read_object(path)


def test_kinds_of_values(tmp_path):
    path = tmp_path / "x.json"
    for content in ('{"a": "1"}', '{"a": true}', '{"a": null}', '{"a": [1]}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"a: Input should be a valid"):
            read_json(path, dict[str, float])
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(path, dict[str, float]) == {"a": 1.0}
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_json(path, dict[str, float])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not YAML"),
        ("a: &a [*a]", "more than 20,000 values"),
        ("- x\n" * 20_000, "more than 65,536 bytes"),
        ("[" * 2_000, "not YAML"),
        ("a: " + "[" * 2_000 + "]" * 2_000, "not YAML"),
        (f"a: &a [{'x,' * 150}]\nb: &b [{'*a,' * 150}]\nc: [*b]", "more than 20,000 values"),
    ],
)
def test_yaml(tmp_path, content, words):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_yaml(path)


def test_headers_of_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"W": torch.zeros(2, 3), "n": torch.tensor(4)}, path)
    header = read_header(path)
    assert header["W"].is_floating
    assert header["W"].shape == (2, 3)
    assert not header["n"].is_floating
    require_tensors(path, {"W": ("floating", (2, 3)), "n": ("I64", ())})
    for wanted, words in (
        ({"W": ("floating", (2, 3))}, "'n', which does not belong"),
        ({"W": ("floating", (3, 2)), "n": ("I64", ())}, r"W is F32 \(2, 3\)"),
        ({"W": ("I64", (2, 3)), "n": ("I64", ())}, "W is F32"),
        ({"W": ("floating", (2, 3)), "n": ("I64", ()), "m": ("I64", ())}, "it has no m"),
    ):
        with pytest.raises(InputError, match=words):
            require_tensors(path, wanted)


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_pickles_are_not_run(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="is a pickle"):
        read_header(path)
    torch.save({"W": Payload()}, path)
    with pytest.raises(InputError, match="is a pickle"):
        read_header(path)
    with pytest.raises(InputError, match="is damaged"):
        read_torch(path)
    assert capsys.readouterr().out == ""


def test_what_unpacks_to_more_than_it_is(tmp_path):
    path = tmp_path / "state.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(InputError, match="compressed"):
        read_torch(path)
    path.write_bytes((2**50).to_bytes(8, "little"))
    with pytest.raises(InputError, match="header claims more"):
        read_header(path)


def test_folders_that_would_be_searched(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(InputError, match=r"dataset_path=.* this program runs in"):
            require_searchable(folder, "dataset_path")
    require_searchable(tmp_path / "a" / "b", "dataset_path")
    monkeypatch.setattr("sae_lens_poly.read_files.MOST_ENTRIES", 2)
    for number in range(3):
        (tmp_path / "a" / "b" / f"{number}.txt").touch()
    with pytest.raises(InputError, match="more than 2 files"):
        require_searchable(tmp_path / "a" / "b", "dataset_path")


def test_json_rows(tmp_path):
    """On the word null alone pyarrow crashes, and Python with it."""
    for start in ("null", "\n null\n{}", "5", "", '"x"'):
        (tmp_path / "x.jsonl").write_text(start)
        with pytest.raises(InputError, match="which is no row"):
            require_json_rows(tmp_path / "x.jsonl", "dataset_path")
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "a"}))
    require_json_rows(tmp_path / "x.jsonl.gz", "dataset_path")
