"""Labelled sets of one model: features of a dictionary on them, and how well classes are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.crosscoders.stacked_dictionary import StackedDictionary
from sae_lens_poly.evaluation.feature_cache import (
    cached_features,
    dictionary_hash,
    text_hash,
)
from sae_lens_poly.evaluation.labelled_text import LabelledText, load_labelled
from sae_lens_poly.evaluation.pooled_features import (
    hook_columns,
    pooled_activations,
    pooled_codes,
)
from sae_lens_poly.evaluation.probing import Features, Task, class_tasks, probe_tasks, summarise
from sae_lens_poly.evaluation.scaled_codes import latent_norms, sparse_codes
from sae_lens_poly.evaluation.settings import TOKEN_TASKS, EvaluationSettings
from sae_lens_poly.evaluation.token_tasks import (
    TokenContexts,
    TokenTasks,
    token_activations,
    token_tasks,
)
from sae_lens_poly.evaluation.wasserstein import ClassSeparation, class_separation
from sae_lens_poly.manifest import FEATURES_FOLDER
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.text_reading import TextReading

#: Number of latents, as text, to figures; see :func:`summarise`.
Summary = dict[str, dict[str, Any]]


#: To be raised when codes of the same examples become other ones.
FEATURES_VERSION = "2"

#: Tokens of an example at most, as in SAEBench.
LONGEST_CONTEXT = 128


class ProbingSet(ABC):
    """Examples with labels, and binary tasks on them that are the same for every dictionary.

    Args:
        name: As the settings have it.
        model: The model with its hook points stacked.
        settings: Sizes of the tasks, numbers of latents, and the seed.
        reading: How text was read in training; None: as by default. Contexts are no longer here.
    """

    def __init__(
        self,
        name: str,
        model: StackedHooks,
        settings: EvaluationSettings,
        reading: TextReading | None = None,
    ) -> None:
        self.name, self.model, self.settings = name, model, settings
        self.reading = reading or TextReading()
        self.context_size = min(LONGEST_CONTEXT, self.reading.context_size)

    @property
    @abstractmethod
    def tasks(self) -> list[Task]:
        """The tasks; their rows are those of the features."""

    @abstractmethod
    def codes(self, sae: SAE[Any], folder: Path | None = None) -> tuple[Features, Features]:
        """Feature activations times decoder norm of train and test examples, (n, d_sae) each.

        Args:
            sae: An inference dictionary.
            folder: Where it is saved, if so: codes are kept there, and read when asked for again.
        """

    @abstractmethod
    def activations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Raw activations of train and test examples, (n, d_in) each."""

    def score(self, train: Features, test: Features, with_all: bool = False) -> Summary:
        """Probes on features: with each number of latents, and with all if asked for."""
        ks = [*self.settings.probe_ks, *([None] if with_all else [])]
        return summarise(probe_tasks(train, test, self.tasks, ks))

    @cached_property
    def ceiling(self) -> dict[str, Summary]:
        """Probes on raw activations: of the stack, also on all dimensions; of each hook point."""
        train, test = self.activations()
        found = {"raw": self.score(train, test, with_all=True)}
        for hook, name in enumerate(self.model.hook_names if self.model.n_hooks > 1 else []):
            own_train, own_test = (hook_columns(x, self.model, hook) for x in (train, test))
            found[f"raw at {name}"] = self.score(own_train, own_test)
        return found

    def probe(self, sae: SAE[Any], codes: tuple[Features, Features]) -> dict[str, Summary]:
        """Probes on the codes of a dictionary; where latents read single hook points, by these."""
        train, test = codes
        found = {"codes": self.score(train, test)}
        if isinstance(sae, StackedDictionary) and not sae.structure.is_full:
            groups = sae.structure.groups
            for hook, name in enumerate(self.model.hook_names):
                readers = [np.arange(g.start, g.stop) for g in groups if hook in g.reads]
                own = np.concatenate([np.empty(0, dtype=int), *readers])
                if len(own) >= max(self.settings.probe_ks):
                    found[f"codes at {name}"] = self.score(train[:, own], test[:, own])
        return found


class TextSet(ProbingSet):
    """Texts of several classes; an example is a text, its features means over tokens."""

    def __init__(
        self,
        name: str,
        model: StackedHooks,
        settings: EvaluationSettings,
        reading: TextReading | None = None,
    ) -> None:
        super().__init__(name, model, settings, reading)
        self.text: LabelledText = load_labelled(
            name,
            settings.text_column,
            settings.label_column,
            settings.max_texts_per_class,
            settings.test_share,
            settings.seed,
        )

    @property
    def _options(self) -> dict[str, Any]:
        return {"context_size": self.context_size, "prepend_bos": self.reading.prepend_bos}

    @cached_property
    def tasks(self) -> list[Task]:
        s = self.settings
        labels = self.text.train_labels, self.text.test_labels
        return class_tasks(*labels, s.n_probe_train, s.n_probe_test, s.seed)

    def codes(self, sae: SAE[Any], folder: Path | None = None) -> tuple[Features, Features]:
        def own(texts: list[str]) -> Features:
            key = {"texts": text_hash(texts)}
            return _kept(folder, key, lambda: pooled_codes(sae, self.model, texts, **self._options))

        return own(self.text.train_texts), own(self.text.test_texts)

    def activations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        train, test = (
            pooled_activations(self.model, texts, **self._options)
            for texts in (self.text.train_texts, self.text.test_texts)
        )
        return train, test

    def separation(self, sae: SAE[Any], codes: tuple[Features, Features]) -> dict[str, float]:
        """Wasserstein-1 between a class and as many other texts, means over classes.

        PolySAE's figure (Koromilas et al. 2026) and its scale-free forms; see
        :class:`~sae_lens_poly.evaluation.wasserstein.ClassSeparation`.
        """
        norms = latent_norms(sae).float().cpu()
        z = torch.from_numpy(codes[0]) / norms.clamp_min(1e-12)
        found: list[ClassSeparation] = []
        for task in self.tasks:
            positive = torch.from_numpy(task.train_positive)
            own = z[torch.from_numpy(task.train)]
            found.append(class_separation(own[positive], own[~positive], norms))
        fields = ("as_published", "by_decoder_norm", "by_standard_deviation")
        return {field: float(np.mean([getattr(f, field) for f in found])) for field in fields}


class TokenSet(ProbingSet):
    """Tokens of Python source; an example is a token, with gold labels from Python itself."""

    @cached_property
    def drawn(self) -> TokenTasks:
        """Contexts and tasks."""
        s = self.settings
        return token_tasks(
            self.model,
            context_size=self.context_size,
            n_train=s.n_probe_train,
            n_test=s.n_probe_test,
            seed=s.seed,
        )

    @property
    def tasks(self) -> list[Task]:
        return self.drawn.tasks

    def codes(self, sae: SAE[Any], folder: Path | None = None) -> tuple[Features, Features]:
        def own(part: TokenContexts, x: NDArray[np.float32]) -> Features:
            key = {"tokens": text_hash([str(part.tokens.tolist()), str(part.rows.tolist())])}
            return _kept(folder, key, lambda: sparse_codes(sae, torch.from_numpy(x)))

        train, test = self.activations()
        return own(self.drawn.train, train), own(self.drawn.test, test)

    @cached_property
    def _activations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        train, test = (
            token_activations(self.model, part) for part in (self.drawn.train, self.drawn.test)
        )
        return train, test

    def activations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._activations


def _kept(folder: Path | None, key: dict[str, str], compute: Callable[[], Any]) -> Any:
    """What is computed; from the dictionary's folder if it is there."""
    if folder is None:
        return compute()
    key = {**key, "dictionary": dictionary_hash(folder), "version": FEATURES_VERSION}
    return cached_features(folder / FEATURES_FOLDER, key, compute)


def load_probing_sets(
    model: StackedHooks, settings: EvaluationSettings, reading: TextReading | None = None
) -> list[ProbingSet]:
    """The sets that the settings name.

    Raises:
        InputError: If one cannot be loaded.
    """
    return [
        (TokenSet if name == TOKEN_TASKS else TextSet)(name, model, settings, reading)
        for name in settings.probing
    ]
