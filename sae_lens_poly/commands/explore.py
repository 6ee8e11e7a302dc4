"""``explore``: collects what latents are active on, and shows it in a browser."""

from __future__ import annotations

from collections.abc import Sequence


def explore(flags: Sequence[str]) -> int:
    """Run :func:`sae_lens_poly.explorer.command.explore`.

    Returns:
        The exit status; 130 if it was stopped.
    """
    from sae_lens_poly.explorer import command
    from sae_lens_poly.training.runner import StoppedRun

    try:
        command.explore(flags)
    except StoppedRun:
        return 130
    return 0
