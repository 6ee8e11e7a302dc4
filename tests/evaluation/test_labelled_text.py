"""Labelled texts from files and folders, and the snippets of the standard library."""

import gzip
import json
from collections import Counter

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from sae_lens_poly.embedded.corpus import is_held_out, stdlib_modules
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.labelled_text import (
    PACKAGES,
    load_labelled,
    snippets,
    stdlib_packages,
)

ROWS = [{"text": f"text {i} of {'xyz'[i % 3]}", "label": "xyz"[i % 3]} for i in range(60)]


def write(folder, form, rows):
    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "jsonl.gz":
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    elif form == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif form == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet", "folder"])
def test_every_form_is_divided_class_by_class(tmp_path, form):
    data = load_labelled(write(tmp_path, form, ROWS))
    assert Counter(data.train_labels) == {"x": 16, "y": 16, "z": 16}
    assert Counter(data.test_labels) == {"x": 4, "y": 4, "z": 4}
    texts = [*data.train_texts, *data.test_texts]
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    assert all(
        text.endswith(label)
        for text, label in zip(texts, data.train_labels + data.test_labels, strict=True)
    )


def test_other_columns_fewer_texts_and_class_names(tmp_path):
    features = Features({"body": Value("string"), "kind": ClassLabel(names=["no", "yes"])})
    columns = {"body": [f"t{i}" for i in range(40)], "kind": [i % 2 for i in range(40)]}
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    arguments = (str(tmp_path / "saved"), "body", "kind", 10, 0.3)
    data = load_labelled(*arguments)
    assert Counter(data.train_labels) == {"no": 7, "yes": 7}
    assert Counter(data.test_labels) == {"no": 3, "yes": 3}
    assert data == load_labelled(*arguments)
    assert data != load_labelled(*arguments, seed=1)


def test_no_text_is_in_both_parts(tmp_path):
    data = load_labelled(write(tmp_path, "jsonl", ROWS * 3))
    assert not set(data.train_texts) & set(data.test_texts)
    assert len(data.train_texts) + len(data.test_texts) == len(ROWS)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"text_column": "body"}, r"text_column='body'.* 'text', 'label'"),
        (ROWS, {"label_column": "kind"}, r"label_column='kind'.* 'text', 'label'"),
        (ROWS[::3], {}, r"holds 1 class\(es\) \(x\)"),
        ([*ROWS, {"text": " ", "label": "x"}], {}, "row 60 .* has no text"),
        ([*ROWS, {"text": None, "label": "x"}], {}, "row 60 .* has no text"),
        ([*ROWS, {"text": "t", "label": None}], {}, "row 60 .* has no label"),
        (ROWS, {"test_share": 1.0}, "test_share=1.0"),
        (ROWS, {"max_per_class": 1}, "max_per_class=1"),
    ],
)
def test_wrong_input_is_refused(tmp_path, rows, options, message):
    with pytest.raises(InputError, match=message):
        load_labelled(write(tmp_path, "jsonl", rows), **options)


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded"):
        load_labelled(str(tmp_path / "missing.csv"))


def test_snippets_are_whole_lines_in_order():
    text = "".join(f"line {i}\n" for i in range(100))
    cut = list(snippets(text, 50))
    assert text.startswith("".join(cut))
    assert all(50 <= len(snippet) < 60 and snippet.endswith("\n") for snippet in cut)


def test_packages_share_no_module_between_train_and_test():
    data = load_labelled("stdlib-packages", max_per_class=20)
    assert set(data.train_labels) == set(data.test_labels) == set(PACKAGES)
    assert max(Counter(data.train_labels).values()) == 16
    assert max(Counter(data.test_labels).values()) == 4
    every = [*stdlib_modules("train"), *stdlib_modules("held_out")]
    modules = [m for m in every if m.name.split(".")[0] in PACKAGES]
    for texts, in_test in ((data.train_texts, False), (data.test_texts, True)):
        for text in texts:
            # Where a snippet is in several modules, a licence for example, one is of the part.
            sources = [m.name for m in modules if text in m.text]
            assert any(is_held_out(name, 4) == in_test for name in sources)
    assert all(is_held_out(m.name, 4) for m in modules if is_held_out(m.name))


def test_all_snippets_are_those_of_the_modules():
    data = stdlib_packages()
    n = Counter(data.train_labels + data.test_labels)
    assert min(n.values()) > 300
    assert min(Counter(data.test_labels).values()) > 30
