"""Programs killed, or out of disk, at any file operation: ``python -m tests.kill_sweep``."""

# The hub of the tests has to be named before huggingface_hub is imported.
import tests.conftest  # noqa: F401
