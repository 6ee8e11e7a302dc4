"""``explain``: has a language model explain latents, and scores what it says."""

from __future__ import annotations

from collections.abc import Sequence


def explain(flags: Sequence[str]) -> int:
    """Run :func:`sae_lens_poly.explanations.command.explain`.

    Returns:
        The exit status; 130 if it was stopped.
    """
    from sae_lens_poly.explanations import command
    from sae_lens_poly.training.runner import StoppedRun

    try:
        command.explain(flags)
    except StoppedRun:
        return 130
    return 0
