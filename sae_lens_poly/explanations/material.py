"""The examples of one latent: those that it is explained by, and those held out to score with.

The protocol is that of Delphi (Paulo et al. 2024, "Automatically Interpreting Millions of Features
in Large Language Models", arXiv 2410.13928).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sae_lens_poly.explanations.settings import ExplanationSettings
from sae_lens_poly.explorer.collect import Collected
from sae_lens_poly.explorer.data_files import TokenTexts
from sae_lens_poly.explorer.kept_contexts import KeptContexts

#: Around marked tokens.
LEFT, RIGHT = "<<", ">>"
#: A latent with fewer held-out examples is not scored.
LEAST_TEST = 3


@dataclass(frozen=True)
class Passage:
    """A stretch of text."""

    tokens: list[str]
    marked: list[bool]
    """Which tokens are marked where marks are shown."""
    active: bool
    """Whether the latent is active in it."""

    def plain(self) -> str:
        """The text."""
        return "".join(self.tokens)

    def with_marks(self) -> str:
        """The text with each run of marked tokens between guillemets."""
        pieces, inside = [], False
        for token, marked in zip(self.tokens, self.marked, strict=True):
            if marked != inside:
                pieces.append(LEFT if marked else RIGHT)
            pieces.append(token)
            inside = marked
        return "".join(pieces) + (RIGHT if inside else "")


@dataclass(frozen=True)
class Material:
    """What one latent is explained and scored with; no context is in both."""

    shown: list[Passage]
    active: list[Passage]
    """Held out, drawn evenly among all contexts in which it is active."""
    inactive: list[Passage]
    """As many, drawn evenly among contexts, in which it is active nowhere. Their marks are where
    some held-out active example has them, so that neither number nor place of marks tells."""


class Materials:
    """Cuts examples from the collected contexts.

    Args:
        collected: A finished pass.
        texts: Of its tokens.
        settings: How many, and what is marked.
    """

    def __init__(
        self, collected: Collected, texts: TokenTexts, settings: ExplanationSettings
    ) -> None:
        self.collected, self.texts, self.settings = collected, texts, settings
        size = collected.tokens.shape[1]
        self.sampled_contexts = np.unique(collected.sample.tokens // size)

    def of(self, latent: int) -> Material:
        """The material of a latent, the same for the same seed."""
        random = np.random.default_rng([self.settings.seed, latent])
        n_top = (self.settings.n_shown + 1) // 2
        top = self._kept(self.collected.top, latent)
        drawn = self._kept(self.collected.drawn, latent)
        order = random.permutation(len(drawn))
        # Half of the drawn ones at most are shown, so that as many are left.
        n_drawn = min(self.settings.n_shown - n_top, len(drawn) // 2)
        shown = top[:n_top] + [drawn[k] for k in order[:n_drawn]]
        contexts = {context for context, _ in shown}
        # Texts repeat themselves, so that another context may hold the same passage.
        passages = {passage.plain() for _, passage in shown}
        active = [
            passage
            for context, passage in (drawn[k] for k in order[n_drawn:])
            if context not in contexts and passage.plain() not in passages
        ][: self.settings.n_test]
        return Material(
            [passage for _, passage in shown], active, self._inactive(latent, active, random)
        )

    def _kept(self, kept: KeptContexts, latent: int) -> list[tuple[int, Passage]]:
        before = self.collected.settings.before
        found = []
        for k in range(int((kept.priority[latent] > 0).sum())):
            context, position = int(kept.context[latent, k]), int(kept.position[latent, k])
            start, stop = self._window(position)
            offset = before - position
            own = kept.activations[latent, k].float().numpy()[start + offset : stop + offset]
            least = self.settings.mark_above * own.max()
            marked = [bool(value > least) for value in own]
            found.append((context, Passage(self._tokens(context, start, stop), marked, True)))
        return found

    def _inactive(
        self, latent: int, like: list[Passage], random: np.random.Generator
    ) -> list[Passage]:
        size = self.collected.tokens.shape[1]
        found: list[Passage] = []
        if not len(self.sampled_contexts):
            return found
        for _ in range(50 * len(like)):
            if len(found) == len(like):
                break
            pattern = like[len(found)]
            n = len(pattern.tokens)
            context = int(random.choice(self.sampled_contexts))
            start = int(random.integers(0, size - n + 1))
            where = np.arange(start, start + n) + context * size
            if not self.collected.sample.around(latent, where).any():
                tokens = self._tokens(context, start, start + n)
                found.append(Passage(tokens, pattern.marked, False))
        return found

    def _window(self, position: int) -> tuple[int, int]:
        settings, size = self.collected.settings, self.collected.tokens.shape[1]
        return max(0, position - settings.before), min(size, position + settings.after + 1)

    def _tokens(self, context: int, start: int, stop: int) -> list[str]:
        return [self.texts[token] for token in self.collected.tokens[context, start:stop].tolist()]
