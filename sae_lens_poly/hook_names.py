"""Patterns that name several hook points: ``blocks.{2..9}.hook_resid_post``."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

from sae_lens_poly.errors import InputError

#: Hook points that a pattern may name at most. (A model of 100 layers has some 2,000.)
MOST_HOOK_NAMES = 4096

_MOST_LETTERS = 2**16
_BRACES = re.compile(r"\{([^{}]*)\}")
_PART = re.compile(r"(?:\{[^{}]*\}|[^,])+")  # up to a comma outside braces


def expand_hook_names(pattern: str | list[str]) -> list[str]:
    """Expand a pattern (or a list of patterns) into the names of hook points, in order.

    ``{2..9}`` counts up (or down), ``{2,4,8}`` lists, and a comma outside braces separates
    patterns: ``blocks.{0..2}.hook_resid_post, blocks.5.hook_mlp_out``. A name without braces
    stands for itself.

    Raises:
        InputError: If a hook point is named twice, or the pattern names none, or more than
            :data:`MOST_HOOK_NAMES`, or is malformed or no text.
    """
    patterns: list[object] = [*pattern] if isinstance(pattern, list) else [pattern]
    if wrong := [one for one in patterns if not isinstance(one, str)]:
        raise InputError(f"hook_name={wrong[0]!r:.200} is no text: give the name of a hook point")
    text = ",".join(map(str, patterns))
    shown = repr(text if len(text) <= 200 else f"{text[:200]}...")
    if len(text) > _MOST_LETTERS:
        raise InputError(f"hook_name={shown} is {len(text):,} letters long: name fewer hook points")
    parts = [_choices(part.strip(), shown) for part in _PART.findall(text) if part.strip()]
    n_names = sum(math.prod(map(len, choices)) for choices in parts)
    if n_names == 0:
        raise InputError(f"hook_name={shown} names no hook point")
    if n_names > MOST_HOOK_NAMES:
        raise InputError(f"hook_name={shown} names more than {MOST_HOOK_NAMES:,} hook points")
    names = ["".join(map(str, n)) for choices in parts for n in itertools.product(*choices)]
    for name, times in Counter(names).items():
        if times > 1:
            raise InputError(f"hook_name={shown} names {name!r} more than once: name it once")
    return names


def _choices(part: str, shown: str) -> list[Sequence[object]]:
    """What may stand in each place of a pattern without commas outside braces."""
    literals = _BRACES.split(part)
    if any(c in "{}" for literal in literals[::2] for c in literal):
        raise InputError(f"hook_name={shown} has a brace without its partner")
    return [
        [piece] if i % 2 == 0 else _inside_braces(piece, shown) for i, piece in enumerate(literals)
    ]


def _inside_braces(inside: str, shown: str) -> Sequence[object]:
    if match := re.fullmatch(r"\s*(\d{1,9})\s*\.\.\s*(\d{1,9})\s*", inside):
        first, last = int(match[1]), int(match[2])
        step = 1 if last >= first else -1
        return range(first, last + step, step)
    items = [item.strip() for item in inside.split(",")]
    if len(items) < 2 or not all(items):
        raise InputError(
            f"hook_name={shown}: {{{inside}}} is neither a range like {{2..9}} nor a list like "
            "{2,4,8}"
        )
    return items


def hook_number(hook: int | str, hook_names: list[str]) -> int:
    """Number in the stack of a hook point that is given by number or by name.

    Raises:
        InputError: If the stack has no such hook point.
    """
    if isinstance(hook, str):
        if hook not in hook_names:
            raise InputError(f"hook={hook!r} is not in the stack: it has {hook_names}")
        return hook_names.index(hook)
    if not 0 <= hook < len(hook_names):
        raise InputError(f"hook={hook}: the stack has hook points 0 to {len(hook_names) - 1}")
    return hook


def short_hook_name(name: str) -> str:
    """A hook point's name where there is little room: ``3 resid_post``, ``base 3 resid_post``."""
    *model, hook_name = name.split("/")
    parts = hook_name.split(".")
    number = next((part for part in parts if part.isdigit()), "")
    short = f"{number} {parts[-1].removeprefix('hook_')}" if number != parts[-1] else number
    return " ".join([*model, short])
