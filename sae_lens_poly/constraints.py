"""What a setting may be, as data beside the setting, and the one place that checks it.

A config declares ``CONSTRAINTS = {"k": Number(above=0), "decoder": Choice("powers", ...)}``;
:func:`check_fields` refuses the first value that breaks its constraint, in a sentence that names
the field, the value and the remedy. NaN and infinity are refused for every number. (The idea is
scikit-learn's parameter constraints.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from sae_lens_poly.errors import InputError


class Constraint(Protocol):
    """Says what is wrong with a value, as the end of the sentence "field=value must be ..."."""

    def wrong_with(self, value: Any) -> str | None:
        """What the value must be, or None where it is that."""


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
            and math.isfinite(value)
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


@dataclass(frozen=True, init=False)
class Choice:
    """One of several names."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        object.__setattr__(self, "choices", choices)

    def wrong_with(self, value: Any) -> str | None:
        known = any(type(value) is type(choice) and value == choice for choice in self.choices)
        return None if known else f"one of {', '.join(map(repr, self.choices))}"


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def wrong_with(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "True or False"


def check_fields(config: Any, constraints: Mapping[str, Constraint]) -> None:
    """Refuse a config with a field that breaks its constraint.

    Args:
        config: Anything with the fields as attributes.
        constraints: Field to what it may be.

    Raises:
        InputError: Naming the first such field, its value and what it must be.
    """
    for field, constraint in constraints.items():
        value = getattr(config, field)
        wanted = constraint.wrong_with(value)
        if wanted is not None:
            raise InputError(f"{field}={value!r} must be {wanted}")
