"""What an evaluation is measured on."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from sae_lens_poly.constraints import COUNT, Constraint, ListOf, Number, Text, check_fields
from sae_lens_poly.embedded import EMBEDDED_MODEL_NAMES
from sae_lens_poly.errors import InputError
from sae_lens_poly.paths import check_text

#: Labelled sets that come with the package; see the modules of these names.
TOKEN_TASKS, STDLIB_PACKAGES = "tokens", "stdlib-packages"


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of :func:`~sae_lens_poly.evaluation.saved.evaluate_saved`.

    They are saved with the figures, so that evaluating the same dictionary again gives the same.

    Args:
        n_batches: Number of batches of tokens for reconstruction, latents and interactions.
        batch_size_prompts: Contexts in a batch.
        n_splice_batches: How many of them splices are measured on, the first ones. A splice is a
            run of the whole model, and there are dozens of them.
        n_coherence_tokens: Tokens that functional coherence is measured on, the first ones.
        dataset_path: Other text than that of training; None: what training left out.
        skip_rows: Rows of the text that are left out at its front; None: those that training read
            (none of another data set).
        probing: Labelled sets for sparse probing: ``tokens`` (syntax of Python, on the embedded
            model), ``stdlib-packages``, or paths and names of data sets with a text and a label.
        text_column: Column of the texts in labelled sets.
        label_column: Column of their labels.
        test_share: Share of the texts of a class that probes are tested on.
        max_texts_per_class: Texts of a class at most, train and test together; None: all.
        probe_ks: Numbers of latents that a probe may use.
        n_probe_train: Examples that a probe is trained on at most, half of them positive.
        n_probe_test: Examples that it is tested on at most.
        n_headroom_tokens: Tokens after those of the batches that decoders of the same codes are
            fitted on, to see what any could add; 0: none. The ``evaluate`` command takes 20,000
            where none are given. A text that ends earlier gives fewer.
        n_pairs: Random pairs of latents that interactions are correlated with co-occurrence over.
        seed: Of all draws.

    Raises:
        InputError: If a setting is out of its range.
    """

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "n_batches": COUNT,
        "batch_size_prompts": COUNT,
        "n_splice_batches": COUNT,
        "n_coherence_tokens": COUNT,
        "dataset_path": Text(optional=True),
        "skip_rows": Number(at_least=0, at_most=2**31 - 1, whole=True, optional=True),
        "probing": ListOf(Text()),
        "text_column": Text(),
        "label_column": Text(),
        "test_share": Number(above=0, below=1),
        "max_texts_per_class": Number(at_least=2, at_most=2**31 - 1, whole=True, optional=True),
        "probe_ks": ListOf(COUNT),
        "n_probe_train": COUNT,
        "n_probe_test": COUNT,
        "n_headroom_tokens": Number(at_least=0, at_most=2**31 - 1, whole=True),
        "n_pairs": COUNT,
        "seed": Number(at_least=0, at_most=2**32 - 1, whole=True),
    }

    n_batches: int = 8
    batch_size_prompts: int = 8
    n_splice_batches: int = 2
    n_coherence_tokens: int = 4096
    dataset_path: str | None = None
    skip_rows: int | None = None
    probing: tuple[str, ...] = ()
    text_column: str = "text"
    label_column: str = "label"
    test_share: float = 0.2
    max_texts_per_class: int | None = 250
    probe_ks: tuple[int, ...] = (1, 2, 5)
    n_probe_train: int = 4000
    n_probe_test: int = 1000
    n_headroom_tokens: int = 0
    n_pairs: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)

    @classmethod
    def for_model(cls, model_name: str, **fields: Any) -> EvaluationSettings:
        """The settings for a model, with some fields given.

        Raises:
            InputError: If there is no field of a name.
        """
        if model_name in EMBEDDED_MODEL_NAMES:
            fields = {"probing": (TOKEN_TASKS, STDLIB_PACKAGES), **fields}
        return cls.from_dict(fields)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> EvaluationSettings:
        """Settings from plain values, as JSON and YAML have them.

        Raises:
            InputError: If there is no field of a name, or a value is out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                raise InputError(f"evaluation: unknown field {key!r}; there are {', '.join(known)}")
        for key in ("probing", "probe_ks"):
            if isinstance(fields.get(key, []), str | int):
                raise InputError(f"evaluation: {key}={fields[key]!r} is not a list: write [...]")
        lists = {k: tuple(v) for k, v in fields.items() if isinstance(v, list | tuple)}
        return cls(**{**fields, **lists})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


#: Settings that the command line has flags for.
_FLAGS: dict[str, type] = {
    "n_batches": int,
    "batch_size_prompts": int,
    "n_splice_batches": int,
    "n_coherence_tokens": int,
    "n_headroom_tokens": int,
    "dataset_path": str,
    "skip_rows": int,
    "text_column": str,
    "label_column": str,
    "test_share": float,
    "max_texts_per_class": int,
}


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """Give a command the flags of an evaluation."""
    for name, kind in _FLAGS.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--probing", nargs="*", help="labelled sets: names, or files of them")


def given_evaluation_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, checked.

    Raises:
        InputError: If one is out of its range, or names a file that is not there.
    """
    values = {name: getattr(options, name) for name in (*_FLAGS, "probing")}
    given = {name: value for name, value in values.items() if value is not None}
    check_evaluation_text(EvaluationSettings.from_dict(given))
    return given


def check_evaluation_text(settings: EvaluationSettings) -> None:
    """Refuse settings that name a file that is not there.

    Raises:
        InputError: Naming it.
    """
    if settings.dataset_path is not None:
        check_text("dataset_path", settings.dataset_path)
    for name in {*settings.probing} - {TOKEN_TASKS, STDLIB_PACKAGES}:
        check_text("probing", name)
