"""Files that are not what their names say, each in one sentence."""

import gzip
import json

import pytest

from sae_lens_poly import InputError
from sae_lens_poly.read_files import MOST_TEXT, read_json, read_object, read_yaml, require_json_rows


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
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("a: &a [*a]", "more than 10,000 values"),
        ("- x\n" * 20_000, "more than 65,536 bytes"),
        ("[" * 2_000, "cannot be read as YAML"),
        ("a: " + "[" * 2_000 + "]" * 2_000, "cannot be read as YAML"),
        (f"a: &a [{'x,' * 150}]\nb: &b [{'*a,' * 150}]\nc: [*b]", "more than 10,000 values"),
    ],
)
def test_yaml(tmp_path, content, words):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_yaml(path)


def test_json_rows(tmp_path):
    """On the word null alone pyarrow crashes, and Python with it."""
    for start in ("null", "\n null\n{}", "5", "", '"x"'):
        (tmp_path / "x.jsonl").write_text(start)
        with pytest.raises(InputError, match="which is no row"):
            require_json_rows(tmp_path / "x.jsonl", "dataset_path")
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "a"}))
    require_json_rows(tmp_path / "x.jsonl.gz", "dataset_path")
