"""Dictionaries from the Hugging Face hub and to it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lens_poly.hub.download import HubError, HubLoader, fetch_dictionary
    from sae_lens_poly.hub.public import PublicHubFormat, public_files
    from sae_lens_poly.hub.upload import upload_dictionary

_MODULES = {
    "HubError": "download",
    "HubLoader": "download",
    "PublicHubFormat": "public",
    "fetch_dictionary": "download",
    "public_files": "public",
    "upload_dictionary": "upload",
}

__all__ = [
    "HubError",
    "HubLoader",
    "PublicHubFormat",
    "fetch_dictionary",
    "public_files",
    "upload_dictionary",
]


def __getattr__(name: str) -> Any:
    """What is offered, imported when it is used: the command line reads names without it."""
    if name not in __all__:
        raise AttributeError(f"{__name__} has no {name}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
