"""What a setting may be, as data beside the setting, and the one place that checks it.

A config declares ``CONSTRAINTS = {"k": Number(above=0), "decoder": Choice("powers", ...)}``;
:func:`check_fields` refuses the first value that breaks its constraint, in a sentence that names
the field, the value and the remedy. NaN and infinity are refused for every number. (The idea is
scikit-learn's parameter constraints.) The same constraints read the words of a command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin

from sae_lens_poly.errors import InputError

# What is wrong may be long.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 3


class Constraint(Protocol):
    """What a value may be."""

    def describe(self) -> str:
        """In words, as the end of the sentence "field=value must be ..."."""

    def wrong_with(self, value: Any) -> str | None:
        """What the value must be, or None where it is that."""

    def read(self, words: Sequence[str]) -> Any:
        """The value that words of a command line stand for, in its range or not.

        Raises:
            ValueError: If they stand for no value of this kind.
        """


@dataclass(frozen=True)
class Number:
    """A finite number in a range; ``optional`` allows None.

    Args:
        at_least: Lower bound that is allowed itself.
        above: Lower bound that is not.
        at_most: Upper bound that is allowed itself.
        below: Upper bound that is not.
        whole: Whether only whole numbers are allowed.
        optional: Whether None is allowed.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    whole: bool = False
    optional: bool = False

    def wrong_with(self, value: Any) -> str | None:
        if value is None and self.optional:
            return None
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        fits = (
            is_number
            and (isinstance(value, Integral) or math.isfinite(value))
            and (not self.whole or isinstance(value, Integral))
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )
        return None if fits else self.describe()

    def describe(self) -> str:
        """In words: "a whole number, at least 1"."""
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        limits = " and ".join(f"{word} {n}" for word, n in bounds.items() if n is not None)
        kind = "a whole number" if self.whole else "a finite number"
        return ", ".join(filter(None, [kind, limits])) + (", or None" if self.optional else "")

    def read(self, words: Sequence[str]) -> Any:
        (word,) = words
        if self.optional and _is_none(word):
            return None
        return int(word) if self.whole else float(word)


#: Numbers of things, as many as torch can count in 32 bits.
COUNT = Number(at_least=1, at_most=2**31 - 1, whole=True)
COUNT_OR_0 = Number(at_least=0, at_most=2**31 - 1, whole=True)


@dataclass(frozen=True, init=False)
class Choice:
    """One of several names."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        object.__setattr__(self, "choices", choices)

    def wrong_with(self, value: Any) -> str | None:
        known = any(type(value) is type(choice) and value == choice for choice in self.choices)
        return None if known else self.describe()

    def describe(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def read(self, words: Sequence[str]) -> Any:
        (word,) = words
        return None if None in self.choices and _is_none(word) else word


@dataclass(frozen=True)
class Registered:
    """The name of something that has entered itself, as the parts of a dictionary do.

    Args:
        names: Gives the names that are known now.
    """

    names: Callable[[], Iterable[str]]

    def now(self) -> Choice:
        """The names that are known now."""
        return Choice(*self.names())

    def wrong_with(self, value: Any) -> str | None:
        return self.now().wrong_with(value)

    def describe(self) -> str:
        return self.now().describe()

    def read(self, words: Sequence[str]) -> Any:
        return self.now().read(words)


@dataclass(frozen=True)
class Flag:
    """True or False; ``optional`` allows None."""

    optional: bool = False

    def wrong_with(self, value: Any) -> str | None:
        fits = isinstance(value, bool) or (value is None and self.optional)
        return None if fits else self.describe()

    def describe(self) -> str:
        return "True, False or None" if self.optional else "True or False"

    def read(self, words: Sequence[str]) -> Any:
        if not words:
            return True
        (word,) = words
        if self.optional and _is_none(word):
            return None
        known = dict.fromkeys(("true", "yes", "t", "y", "1"), True)
        known |= dict.fromkeys(("false", "no", "f", "n", "0"), False)
        if word.lower() not in known:
            raise ValueError(word)
        return known[word.lower()]


@dataclass(frozen=True)
class Text:
    """Text; ``optional`` allows None, ``may_be_empty`` none at all."""

    optional: bool = False
    may_be_empty: bool = False

    def wrong_with(self, value: Any) -> str | None:
        fits = isinstance(value, str) and "\0" not in value and bool(value or self.may_be_empty)
        return None if fits or (value is None and self.optional) else self.describe()

    def describe(self) -> str:
        kind = "text" if self.may_be_empty else "text that is not empty"
        return kind + (", or None" if self.optional else "")

    def read(self, words: Sequence[str]) -> Any:
        (word,) = words
        return None if self.optional and _is_none(word) else word


@dataclass(frozen=True)
class ListOf:
    """A list (or tuple) of values that are each what ``of`` allows."""

    of: Constraint
    as_tuple: bool = False

    def wrong_with(self, value: Any) -> str | None:
        fits = isinstance(value, list | tuple) and not any(map(self.of.wrong_with, value))
        return None if fits else self.describe()

    def describe(self) -> str:
        return f"a list whose items are each {self.of.describe()}"

    def read(self, words: Sequence[str]) -> Any:
        values = [self.of.read([word]) for word in words]
        return tuple(values) if self.as_tuple else values


@dataclass(frozen=True)
class JsonObject:
    """A mapping, on the command line as a JSON object; ``optional`` allows None."""

    optional: bool = False

    def wrong_with(self, value: Any) -> str | None:
        fits = isinstance(value, dict) or (value is None and self.optional)
        return None if fits else self.describe()

    def describe(self) -> str:
        kind = 'a JSON object like {"dtype": "bfloat16"}'
        return kind + (", or None" if self.optional else "")

    def read(self, words: Sequence[str]) -> Any:
        (word,) = words
        return None if self.optional and _is_none(word) else json.loads(word)


@dataclass(frozen=True, init=False)
class AnyOf:
    """What one of several constraints allows; the first that can reads the words."""

    parts: tuple[Constraint, ...]

    def __init__(self, *parts: Constraint) -> None:
        object.__setattr__(self, "parts", parts)

    def wrong_with(self, value: Any) -> str | None:
        fits = any(part.wrong_with(value) is None for part in self.parts)
        return None if fits else self.describe()

    def describe(self) -> str:
        return "; or ".join(part.describe() for part in self.parts)

    def read(self, words: Sequence[str]) -> Any:
        for part in self.parts:
            try:
                value = part.read(words)
            except ValueError:
                continue
            if part.wrong_with(value) is None:
                return value
        raise ValueError(words)


def constraint_of(hint: Any) -> Constraint | None:
    """The constraint that a type hint states; None for types that no flag can have."""
    kinds: dict[Any, Constraint] = {
        bool: Flag(),
        int: Number(whole=True),
        float: Number(),
        str: Text(),
        dict: JsonObject(),
    }
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Choice(*inside)
    if origin in (list, tuple):
        item = constraint_of(inside[0])
        return item and ListOf(item, as_tuple=origin is tuple)
    if origin not in (Union, UnionType):
        return kinds.get(origin or hint)
    parts = [part for kind in inside if kind is not NoneType and (part := constraint_of(kind))]
    optional = NoneType in inside
    if len(parts) == 1 and isinstance(parts[0], Number | Flag | Text | JsonObject):
        return dataclasses.replace(parts[0], optional=optional)
    return AnyOf(*parts, *([Choice(None)] if optional else []))


def read_value(field: str, words: Sequence[str], constraint: Constraint) -> Any:
    """The value of a field from the words of a command line, in its range.

    Raises:
        InputError: Naming the field, what was given and what it must be.
    """
    try:
        value = constraint.read(words)
    except (ValueError, RecursionError):
        said = f"={' '.join(words)[:200]!r} must be" if words else " needs a value:"
        raise InputError(f"{field}{said} {constraint.describe()}") from None
    check_value(field, value, constraint)
    return value


def check_fields(config: Any, constraints: Mapping[str, Constraint]) -> None:
    """Refuse a config with a field that breaks its constraint.

    Args:
        config: Anything with the fields as attributes.
        constraints: Field to what it may be.

    Raises:
        InputError: Naming the first such field, its value and what it must be.
    """
    for field, constraint in constraints.items():
        check_value(field, getattr(config, field), constraint)


def check_value(field: str, value: Any, constraint: Constraint) -> None:
    """Refuse a value that breaks a constraint.

    Raises:
        InputError: Naming the field, its value and what it must be.
    """
    wanted = constraint.wrong_with(value)
    if wanted is not None:
        raise InputError(f"{field}={_SHORT.repr(value)} must be {wanted}")


def _is_none(word: str) -> bool:
    return word in ("None", "none")
