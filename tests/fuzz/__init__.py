"""Damaged files and wrong command lines by the hundred: ``python -m tests.fuzz --seed 0``."""

# No hub has to be known before huggingface_hub is imported.
import tests.conftest  # noqa: F401
