"""Examples as the pages read them: tokens by number in a string table, shades by hundredths."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sae_lens_poly.explorer.collect import Collected
from sae_lens_poly.explorer.data_files import StringTable, TokenTexts, plain
from sae_lens_poly.explorer.kept_contexts import KeptContexts

N_QUANTILES = 5


def shades(activations: np.ndarray, peak: float) -> list[int]:
    """Activations in hundredths of the peak; what is above 0 stays so."""
    if peak <= 0:
        return [0] * len(activations)
    return np.ceil(np.clip(activations / peak, 0, 1) * 100).astype(int).tolist()


class ExampleWriter:
    """Cuts examples from the collected contexts.

    Args:
        collected: A finished pass.
        texts: Of its tokens.
        strings: Of the file that is written.
    """

    def __init__(self, collected: Collected, texts: TokenTexts, strings: StringTable) -> None:
        self.collected, self.texts, self.strings = collected, texts, strings
        self._numbers = _NumberOfToken(texts, strings)

    def top(self, latent: int) -> list[dict[str, Any]]:
        """The contexts in which a latent is most active, the most active first."""
        return self._kept(self.collected.top, latent)

    def quantiles(self, latent: int) -> list[list[dict[str, Any]]]:
        """Contexts drawn evenly, in groups of as many from high to low activation."""
        drawn = self._kept(self.collected.drawn, latent)
        return [list(part) for part in np.array_split(np.array(drawn, dtype=object), N_QUANTILES)]

    def _kept(self, kept: KeptContexts, latent: int) -> list[dict[str, Any]]:
        n = int((kept.priority[latent] > 0).sum())
        return [
            self._example(
                int(kept.context[latent, k]),
                int(kept.position[latent, k]),
                kept.activations[latent, k].float(),
                kept.peak[latent, k].item(),
            )
            for k in range(n)
        ]

    def _example(
        self, context: int, position: int, activations: torch.Tensor, peak: float
    ) -> dict[str, Any]:
        start, stop = self.window(position)
        offset = self.collected.settings.before - position
        own = activations[start + offset : stop + offset].numpy()
        return {
            "c": context,
            "p": position - start,
            "v": plain(peak),
            "t": self.tokens(context, start, stop),
            "a": shades(own, peak),
        }

    def both(self, i: int, j: int, n: int) -> list[dict[str, Any]]:
        """Contexts in which both latents are active on a token, largest product first."""
        sample = self.collected.sample
        rows, values_i, values_j = sample.both(i, j)
        size = self.collected.tokens.shape[1]
        examples: list[dict[str, Any]] = []
        seen = set()
        for at in np.argsort(-(values_i * values_j), kind="stable"):
            context, position = divmod(int(sample.tokens[rows[at]]), size)
            if context in seen:
                continue
            seen.add(context)
            start, stop = self.window(position)
            where = np.arange(start, stop) + context * size
            around_i, around_j = sample.around(i, where), sample.around(j, where)
            examples.append(
                {
                    "c": context,
                    "p": position - start,
                    "v": plain(float(values_i[at])),
                    "w": plain(float(values_j[at])),
                    "t": self.tokens(context, start, stop),
                    "a": shades(around_i, around_i.max()),
                    "b": shades(around_j, around_j.max()),
                }
            )
            if len(examples) == n:
                break
        return examples

    def window(self, position: int) -> tuple[int, int]:
        """The range of positions shown around one."""
        settings = self.collected.settings
        size = self.collected.tokens.shape[1]
        return max(0, position - settings.before), min(size, position + settings.after + 1)

    def tokens(self, context: int, start: int, stop: int) -> list[int]:
        """Numbers of the strings of a range of tokens."""
        ids = self.collected.tokens[context, start:stop].tolist()
        return [self._numbers[token] for token in ids]


class _NumberOfToken(dict[int, int]):
    """Token to the number of its string, each looked up once."""

    def __init__(self, texts: TokenTexts, strings: StringTable) -> None:
        self.texts, self.strings = texts, strings

    def __missing__(self, token: int) -> int:
        self[token] = self.strings.number(self.texts[token])
        return self[token]
