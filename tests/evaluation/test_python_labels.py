"""Labels of characters of Python source, on sources whose answers are written down here."""

import itertools
import sys

import pytest

from sae_lens_poly.evaluation.python_labels import LABELS, character_labels

SOURCE = '''\
"""Über: the module's
docstring"""
import os, sys  # größer
from a.b import (
    c,  # inner
    d,
)

LIMIT: int = 10

@decorate("é", n=3)
@plain
async def fetch(first, *rest, key="λ: x", **others: dict[str, int]) -> None:
    "Docstring."
    async for item in first.items():  # loop
        await send(item, flag=True)
    async with opened(key) as file:
        return None

class Thing(Base, metaclass=Meta):
    """A
    thing."""

    def method(self, n=0x1F):
        """Method's."""
        def inner(x: float = 1.5) -> "str":
            "日本" "語"
            return "日本" + self.名前.strip(x)[n + 1]
        while n > 0 and not None:
            @wraps(n)
            def late(): pass
            n -= 1
        try:
            value = [i * 2 for i in range(n)]
        except (KeyError, ValueError) as error:
            raise RuntimeError(f"was {n!r:>{n}} {inner(1)}") from error
        if n == 3:
            pass
        elif (m := n):
            pass
        return lambda y=2: y
'''

EXPECTED = {
    "comment": ["# größer", "# inner", "# loop"],
    "docstring": [
        '"""Über: the module\'s\ndocstring"""',
        '"Docstring."',
        '"""A\n    thing."""',
        '"""Method\'s."""',
        '"日本" "語"',
    ],
    "string": ['"é"', '"λ: x"', '"str"', '"日本"', 'f"was {n!r:>{n}} {inner(1)}"'],
    "number": ["10", "3", "0x1F", "1.5", "1", "0", "1", "2", "3", "2"],
    "keyword": [
        *("import", "from", "import"),
        *("async", "def", "async", "for", "in", "await", "async", "with", "as", "return"),
        *("class", "def", "def", "return", "while", "and", "not", "def", "pass"),
        *("try", "for", "in", "except", "as", "raise", "from"),
        *("if", "pass", "elif", "pass", "return", "lambda"),
    ],
    "constant": ["None", "True", "None", "None"],
    "function header": [
        'async def fetch(first, *rest, key="λ: x", **others: dict[str, int]) -> None:',
        "def method(self, n=0x1F):",
        'def inner(x: float = 1.5) -> "str":',
        "def late():",
    ],
    "class header": ["class Thing(Base, metaclass=Meta):"],
    "decorator": ['@decorate("é", n=3)', "@plain", "@wraps(n)"],
    "import": ["import os, sys", "from a.b import (\n    c,  ", "\n    d,\n)"],
    "called name": [
        *("decorate", "items", "send", "opened", "strip", "wraps", "range", "RuntimeError"),
    ],
    "attribute": ["名前"],
    "parameter": ["first", "rest", "key", "others", "self", "n", "x", "y"],
    "annotation": ["int", "dict[str, int]", "None", "float", '"str"'],
    "default value": ['"λ: x"', "0x1F", "1.5", "2"],
    "keyword argument": ["n", "flag", "metaclass"],
    "assignment target": ["LIMIT", "n", "value", "m"],
    "condition": ["n > 0 and not None", "n == 3", "m := n"],
    "subscript": ["str, int", "n + 1"],
    "comprehension": ["[i * 2 for i in range(n)]"],
    "return": [
        "return None",
        'return "日本" + self.名前.strip(x)[n + 1]',
        "return lambda y=2: y",
    ],
    "raise": ['raise RuntimeError(f"was {n!r:>{n}} {inner(1)}") from error'],
    "loop body": [
        "await send(item, flag=True)",
        "            @wraps(n)\n            def late(): pass\n            n -= 1",
    ],
    "try body": ["value = [i * 2 for i in range(n)]"],
    "except block": ['raise RuntimeError(f"was {n!r:>{n}} {inner(1)}") from error'],
    "exception type": ["(KeyError, ValueError)"],
    "with body": ["return None"],
}


def runs(source, mask):
    """The texts of what is labelled, in their order."""
    groups = itertools.groupby(zip(source, mask.tolist(), strict=True), key=lambda pair: pair[1])
    return ["".join(char for char, _ in group) for labelled, group in groups if labelled]


@pytest.mark.parametrize("label", LABELS)
def test_every_label(label):
    assert runs(SOURCE, character_labels(SOURCE)[label]) == EXPECTED[label]


def test_line_ends_of_windows_change_nothing():
    source = SOURCE.replace("\n", "\r\n")
    labels = character_labels(source)
    for label, expected in EXPECTED.items():
        found = [run.replace("\r\n", "\n").strip() for run in runs(source, labels[label])]
        assert found == [run.strip() for run in expected]


def test_what_only_looks_like_something():
    source = 's = "# no comment, def f(): 1"\nb = b"\\x00" rb"x"\nx = {"def": 1, 2: a @ b}\n'
    source += 'def f(g=lambda: 0, h={1: 2}): "doc"; return (\n    # in brackets\n    g)\n'
    source += "'not a docstring'\n"
    labels = character_labels(source)
    assert runs(source, labels["comment"]) == ["# in brackets"]
    assert runs(source, labels["decorator"]) == []
    assert runs(source, labels["function header"]) == ["def f(g=lambda: 0, h={1: 2}):"]
    assert runs(source, labels["docstring"]) == ['"doc"']
    assert runs(source, labels["string"])[-1] == "'not a docstring'"
    assert runs(source, labels["return"]) == ["return (\n    ", "\n    g)"]


def test_form_feeds_and_other_line_separators_move_nothing():
    source = "\x0cx = 'a\u2028b\x0c'  # one\n\x0cy = 22  # two\n"
    labels = character_labels(source)
    assert runs(source, labels["comment"]) == ["# one", "# two"]
    assert runs(source, labels["number"]) == ["22"]
    assert runs(source, labels["assignment target"]) == ["x", "y"]


def test_nested_f_strings_are_one_string():
    source = 'x = f"""a {f\'{1}\' + g(2)}\n{h:{3}} b""" \'c\' + d(4)\n'
    labels = character_labels(source)
    strings = ['f"""a {f\'{1}\' + g(2)}\n{h:{3}} b"""', "'c'"]
    assert runs(source, labels["string"]) == strings
    assert runs(source, labels["number"]) == ["4"]
    assert runs(source, labels["called name"]) == ["d"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="except* is of Python 3.11")
def test_exception_groups():
    source = "try:\n    a\nexcept* E:\n    b\n"
    labels = character_labels(source)
    assert runs(source, labels["try body"]) == ["a"]
    assert runs(source, labels["except block"]) == ["b"]
    assert runs(source, labels["exception type"]) == ["E"]


@pytest.mark.parametrize(
    "source", ["def f(:\n", "x = 'open\n", "if x:\ny\n", "a\rb = 1\n", "x = '\0'\n", "  x\n y\n"]
)
def test_what_does_not_parse_has_no_labels(source):
    assert character_labels(source) is None


def test_an_empty_file_has_empty_labels():
    assert all(len(mask) == 0 for mask in character_labels("").values())
