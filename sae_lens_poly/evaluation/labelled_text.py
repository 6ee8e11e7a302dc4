"""Texts with labels: from files, from the hub, or snippets of the standard library by package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel

from sae_lens_poly.embedded.corpus import is_held_out, stdlib_modules
from sae_lens_poly.errors import InputError
from sae_lens_poly.training.data import load_rows

#: What to write for ``path`` to get snippets of the standard library, labelled by package.
STDLIB_PACKAGES = "stdlib-packages"

#: The largest packages of every Python from 3.10 on, their tests not counted. ``encodings`` is
#: left out: most of it are tables.
PACKAGES = (
    "asyncio",
    "email",
    "idlelib",
    "importlib",
    "multiprocessing",
    "tkinter",
    "unittest",
    "xml",
)

# Where tests of packages lie differs between versions of Python.
_TEST_FOLDERS = {"test", "tests", "idle_test"}

# A divisor of HELD_OUT_MODULUS: what the embedded model was not trained on is in the test part.
_TEST_MODULUS = 4


@dataclass(frozen=True)
class LabelledText:
    """Texts of two parts, each text with the name of its class."""

    name: str
    train_texts: list[str]
    train_labels: list[str]
    test_texts: list[str]
    test_labels: list[str]


def load_labelled(
    path: str,
    text_column: str = "text",
    label_column: str = "label",
    max_per_class: int | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> LabelledText:
    """Load labelled texts and divide them into train and test, class by class.

    A text that occurs more than once is kept once, so that none is in both parts. Labels become
    text; those of a ``datasets`` data set with class names are these names.

    Args:
        path: ``stdlib-packages`` (:func:`stdlib_packages`); a file ``.json``, ``.jsonl``, ``.csv``
            or ``.parquet`` (also ``.gz``); a folder written by ``datasets.save_to_disk``; or a hub
            data set, of which the train split is read.
        text_column: Which column holds the texts.
        label_column: Which column holds the labels.
        max_per_class: Texts of a class at most, train and test together; None: all.
        test_share: Share of each class that goes to test, above 0 and below 1.
        seed: Of what is drawn for whom.

    Raises:
        InputError: If the data cannot be loaded, has no such column, fewer than two classes, a row
            without text or label, or if an argument is out of range.
    """
    if not 0 < test_share < 1:
        raise InputError(f"test_share={test_share} must lie between 0 and 1, for example 0.2")
    if max_per_class is not None and max_per_class < 2:
        raise InputError(f"max_per_class={max_per_class} must be 2 or more, or None for all")
    if path == STDLIB_PACKAGES:
        return stdlib_packages(max_per_class, test_share, seed)
    label_of: dict[str, str] = {}
    for text, label in _rows(path, text_column, label_column):
        label_of.setdefault(text, label)
    by_class = _by_class(label_of.items())
    if len(by_class) < 2:
        raise InputError(
            f"label_column={label_column!r} of {path!r} holds {len(by_class)} class(es) "
            f"({', '.join(by_class)}): probing needs two or more"
        )
    rng = np.random.default_rng(seed)
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []
    for label, texts in sorted(by_class.items()):
        chosen = [(texts[i], label) for i in rng.permutation(len(texts))[:max_per_class]]
        n_test = round(test_share * len(chosen))
        test += chosen[:n_test]
        train += chosen[n_test:]
    return _labelled(path, train, test)


def stdlib_packages(
    max_per_class: int | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    n_characters: int = 400,
) -> LabelledText:
    """Snippets of the Python standard library, labelled by the package that they are from.

    Train and test share no module: a quarter of the modules, by a hash of their names, is for test,
    among them all that the embedded model was not trained on. (Those alone would be too few of most
    packages.) The classes are :data:`PACKAGES`.

    Args:
        max_per_class: Snippets of a package at most, train and test together; None: all.
        test_share: With ``max_per_class``, the share of these that is for test; a package whose
            test modules are small has fewer.
        seed: Of what is drawn.
        n_characters: Length of a snippet: whole lines, until they reach this many characters.

    Raises:
        InputError: If ``n_characters`` is not positive.
        FileNotFoundError: If this Python has no standard library in source form.
    """
    if n_characters < 1:
        raise InputError(f"n_characters={n_characters} must be positive, for example 400")
    parts: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for module in (*stdlib_modules("train"), *stdlib_modules("held_out")):
        package, *inner = module.name.split(".")
        if not inner or package not in PACKAGES or _TEST_FOLDERS.intersection(inner):
            continue
        part = parts[is_held_out(module.name, _TEST_MODULUS)]
        part += [(snippet, package) for snippet in snippets(module.text, n_characters)]
    if max_per_class is not None:
        n_test = round(test_share * max_per_class)
        rng = np.random.default_rng(seed)
        for is_test, n in ((False, max_per_class - n_test), (True, n_test)):
            parts[is_test] = [
                (texts[i], label)
                for label, texts in sorted(_by_class(parts[is_test]).items())
                for i in rng.permutation(len(texts))[:n]
            ]
    return _labelled(STDLIB_PACKAGES, parts[False], parts[True])


def snippets(text: str, n_characters: int) -> Iterator[str]:
    """Whole lines of ``text``, each time until they reach ``n_characters``; no shorter rest."""
    snippet = ""
    for line in text.splitlines(keepends=True):
        snippet += line
        if len(snippet) >= n_characters:
            yield snippet
            snippet = ""


def _rows(path: str, text_column: str, label_column: str) -> Iterator[tuple[str, str]]:
    dataset = load_rows(path, streaming=False)
    for field, column in (("text_column", text_column), ("label_column", label_column)):
        if column not in dataset.column_names:
            raise InputError(
                f"{field}={column!r}: {path!r} has no such column, but "
                f"{', '.join(map(repr, dataset.column_names))}: name one of these"
            )
    feature = dataset.features[label_column]
    names = feature.names if isinstance(feature, ClassLabel) else None
    columns = zip(dataset[text_column], dataset[label_column], strict=True)
    for number, (text, label) in enumerate(columns):
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"text_column={text_column!r}: row {number} of {path!r} has no text: take such "
                "rows out, or name the column that holds the texts"
            )
        if label is None:
            raise InputError(
                f"label_column={label_column!r}: row {number} of {path!r} has no label: take such "
                "rows out, or name the column that holds the labels"
            )
        yield text, str(label if names is None or label < 0 else names[label])


def _by_class(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    by_class: dict[str, list[str]] = {}
    for text, label in rows:
        by_class.setdefault(label, []).append(text)
    return by_class


def _labelled(name: str, train: list[tuple[str, str]], test: list[tuple[str, str]]) -> LabelledText:
    return LabelledText(
        name,
        [text for text, _ in train],
        [label for _, label in train],
        [text for text, _ in test],
        [label for _, label in test],
    )
