"""Fields that saved crosscoders have under other names."""

from __future__ import annotations

from typing import Any

#: Name in a saved config to the name today.
NEW_NAMES = {"threshold_lr": "topk_threshold_lr"}


def with_new_names(config: dict[str, Any]) -> dict[str, Any]:
    """A saved config by the names of today."""
    return {NEW_NAMES.get(name, name): value for name, value in config.items()}
