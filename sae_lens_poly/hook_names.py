"""Patterns that name several hook points: ``blocks.{2..9}.hook_resid_post``."""

from __future__ import annotations

import itertools
import re

from sae_lens_poly.errors import InputError

_BRACES = re.compile(r"\{([^{}]*)\}")


def expand_hook_names(pattern: str | list[str]) -> list[str]:
    """Expand a pattern (or a list of patterns) into the names of hook points, in order.

    ``{2..9}`` counts up (or down), ``{2,4,8}`` lists, and a comma outside braces separates
    patterns: ``blocks.{0..2}.hook_resid_post, blocks.5.hook_mlp_out``. A name without braces
    stands for itself.

    Raises:
        InputError: If a hook point is named twice, or the pattern names none or is malformed.
    """
    text = ",".join(pattern) if isinstance(pattern, list) else pattern
    names = [
        name for part in _split_outside_braces(text) if part for name in _expand_one(part, text)
    ]
    if not names:
        raise InputError(f"hook_name={text!r} names no hook point")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"hook_name={text!r} names {repeated[0]!r} more than once: name it once")
    return names


def _split_outside_braces(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^{]*\})", text)]


def _expand_one(part: str, text: str) -> list[str]:
    literals = _BRACES.split(part)
    if any(c in "{}" for literal in literals[::2] for c in literal):
        raise InputError(f"hook_name={text!r} has a brace without its partner")
    choices = [
        [piece] if i % 2 == 0 else _expand_braces(piece, text) for i, piece in enumerate(literals)
    ]
    return ["".join(combination) for combination in itertools.product(*choices)]


def _expand_braces(inside: str, text: str) -> list[str]:
    if match := re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", inside):
        first, last = int(match[1]), int(match[2])
        step = 1 if last >= first else -1
        return [str(i) for i in range(first, last + step, step)]
    items = [item.strip() for item in inside.split(",")]
    if len(items) < 2 or not all(items):
        raise InputError(
            f"hook_name={text!r}: {{{inside}}} is neither a range like {{2..9}} nor a list like "
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
