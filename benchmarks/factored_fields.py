"""The fields of a training config that make a crosscoder's weights factored."""

from __future__ import annotations

from typing import Any


def factored(form: str, ranks: list[int]) -> dict[str, Any]:
    """The fields of an encoder and a decoder of one form."""
    return {
        "encoder_weights": form,
        "decoder_weights": form,
        "encoder_ranks": ranks,
        "decoder_ranks": ranks,
    }
