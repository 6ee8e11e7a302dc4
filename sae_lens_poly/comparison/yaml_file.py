"""Reading a YAML file that anybody may have written: UTF-8, of bounded size, each field once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sae_lens_poly.errors import InputError, first_line

_MOST_BYTES = 1_000_000
_MOST_VALUES = 10_000


class _EachOnce(yaml.SafeLoader):
    """Refuses a field that stands twice in a mapping; YAML's loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1 and name != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice")
        return super().construct_mapping(node, deep)


def read_yaml_mapping(path: Any) -> dict[str, Any]:
    """The fields of a YAML file.

    Args:
        path: A path, or a file of a package.

    Raises:
        InputError: If it cannot be read, is no mapping, or is too large.
    """
    if isinstance(path, Path) and path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{str(path)!r} has more than {_MOST_BYTES:,} bytes: it is no comparison")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _EachOnce)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} cannot be read as YAML ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} has no fields: see a preset for an example")
    if _n_values(content, _MOST_VALUES) > _MOST_VALUES:
        raise InputError(f"{str(path)!r} has more than {_MOST_VALUES:,} values: see a preset")
    return content


def _n_values(value: Any, most: int) -> int:
    """How many there are, up to ``most``: a few aliases can stand for billions."""
    waiting, n = [value], 0
    while waiting and n <= most:
        value = waiting.pop()
        n += 1
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return n
