"""Keeps to itself what libraries say about choices that the user did not make."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# SAELens says so of a model and a text that it is handed, which is how a stack is trained.
_UNSAID = "will not be reproducible via configuration alone"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it, warnings that are about this package's doing are not shown."""
    logger = logging.getLogger("sae_lens")

    def is_said(record: logging.LogRecord) -> bool:
        return _UNSAID not in record.getMessage()

    logger.addFilter(is_said)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            for message in (
                "Dataset is not tokenized",
                "The training dataset contains fewer samples",
                r"\s*This SAE has non-empty model_from_pretrained_kwargs",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.removeFilter(is_said)
