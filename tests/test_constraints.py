"""Constraints from types, of values and of words."""

from typing import Any, Literal

import pytest

from sae_lens_poly import InputError
from sae_lens_poly.constraints import (
    AnyOf,
    Choice,
    Flag,
    JsonObject,
    ListOf,
    Number,
    Text,
    check_value,
    constraint_of,
    read_value,
)


@pytest.mark.parametrize(
    ("hint", "constraint"),
    [
        (int, Number(whole=True)),
        (float | None, Number(optional=True)),
        (bool | None, Flag(optional=True)),
        (str, Text()),
        (Literal["a", "b"], Choice("a", "b")),
        (Literal["a"] | None, AnyOf(Choice("a"), Choice(None))),
        (list[int], ListOf(Number(whole=True))),
        (tuple[int | None, ...], ListOf(Number(whole=True, optional=True), as_tuple=True)),
        (bool | int, AnyOf(Flag(), Number(whole=True))),
        (dict[str, Any], JsonObject()),
        (Any, None),
    ],
)
def test_types_say_what_a_value_may_be(hint, constraint):
    assert constraint_of(hint) == constraint


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        (Number(above=0, at_most=2), [1e-9, 2, 1], [0, 2.1, float("nan"), "1", None, True]),
        (Number(at_least=0, below=1, whole=True), [0], [0.0, 1, -1, 10**400]),
        (Number(optional=True), [None, -5], [float("inf"), [1]]),
        (Flag(), [True, False], [None, 1, "True"]),
        (Text(), ["a"], ["", None, 1, "a\0"]),
        (Text(may_be_empty=True), [""], [b""]),
        (Choice("a", None), ["a", None], ["A", "", 1]),
        (Choice(1, 2), [1], [True, 1.0]),
        (ListOf(Text()), [[], ["a"], ("a",)], ["a", [1], [[]]]),
        (JsonObject(), [{}], [[], None, "{}"]),
        (AnyOf(Flag(), Number()), [True, 3], [None, "a"]),
    ],
)
def test_values(constraint, right, wrong):
    for value in right:
        check_value("field", value, constraint)
    for value in wrong:
        with pytest.raises(InputError, match="field="):
            check_value("field", value, constraint)


@pytest.mark.parametrize(
    ("constraint", "words", "value"),
    [
        (Number(whole=True), ["5"], 5),
        (Number(), ["5"], 5.0),
        (Number(optional=True), ["None"], None),
        (Flag(), [], True),
        (Flag(), ["No"], False),
        (Flag(optional=True), ["none"], None),
        (Text(optional=True), ["None"], None),
        (Text(), ["None"], "None"),
        (Choice("a", None), ["None"], None),
        (ListOf(Number(whole=True)), ["1", "2"], [1, 2]),
        (ListOf(Number(whole=True), as_tuple=True), [], ()),
        (JsonObject(), ['{"a": [1]}'], {"a": [1]}),
        (AnyOf(Flag(), ListOf(Number())), ["2", "3"], [2.0, 3.0]),
    ],
)
def test_words(constraint, words, value):
    assert read_value("field", words, constraint) == value


def test_long_values_are_shortened():
    with pytest.raises(InputError) as error:
        check_value("field", "a" * 10_000, Choice("a"))
    assert len(str(error.value)) < 300
    nested = [[[[["deep"] * 100] * 100] * 100] * 100] * 100
    with pytest.raises(InputError) as error:
        check_value("field", nested, ListOf(Text()))
    assert len(str(error.value)) < 5000
