"""The figures of an evaluation in their file, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from sae_lens_poly.evaluation.evaluate import Evaluation
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.read_files import check_json, read_json, read_text

_REMEDY = "delete it: the next evaluation writes it again"


class _WithSettings(TypedDict, total=False):
    settings: EvaluationSettings


def read_evaluation(path: Path) -> dict[str, Any]:
    """The figures, as :meth:`Evaluation.to_dict` gives them, and what else the file has.

    Raises:
        InputError: If the file is damaged, or of a version with other figures.
    """
    text = read_text(path, _REMEDY)
    check_json(text, Evaluation, path, _REMEDY)
    return json.loads(text)


def read_settings(path: Path) -> EvaluationSettings | None:
    """What the figures were measured on; None in a file of an older version.

    Raises:
        InputError: If the file is damaged.
    """
    return read_json(path, _WithSettings, _REMEDY).get("settings")
