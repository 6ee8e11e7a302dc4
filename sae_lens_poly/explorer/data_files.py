"""Tokens as text, and numbers as JSON holds them."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lens_poly.whole_files import whole_file


class TokenTexts:
    """The text of single tokens, each looked up once.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        if token not in self.known:
            (piece,) = self.tokenizer.convert_ids_to_tokens([token])
            # SentencePiece's tokenizers leave out the leading space of a text, and so of a token.
            is_sentence_piece = isinstance(piece, str) and piece.startswith("▁")
            self.known[token] = (
                piece.replace("▁", " ") if is_sentence_piece else self.tokenizer.decode([token])
            )
        return self.known[token]


class StringTable:
    """Strings by number, so that a file holds each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, string: str) -> int:
        """The number of a string, new or not."""
        return self.numbers.setdefault(string, len(self.numbers))

    def to_list(self) -> list[str]:
        """The strings in order."""
        return list(self.numbers)


def plain(values: Any, digits: int = 4) -> Any:
    """Tensors, arrays and numbers as JSON holds them: significant digits, and None for NaN."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().tolist()
    elif isinstance(values, np.ndarray | np.generic):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [plain(value, digits) for value in values]
    if isinstance(values, float):
        return float(f"{values:.{digits}g}") if math.isfinite(values) else None
    return values


def write_data(path: Path, value: Any) -> None:
    """Write JSON, compressed, whole.

    Raises:
        InputError: If it cannot be written.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    with whole_file(path) as unfinished:
        # No time in the file: the same data are the same bytes.
        unfinished.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_data(path: Path) -> Any:
    """Read what :func:`write_data` wrote."""
    return json.loads(gzip.decompress(path.read_bytes()))
