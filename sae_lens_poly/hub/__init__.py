"""Dictionaries from the Hugging Face hub and to it."""

from sae_lens_poly.hub.download import HubError, HubLoader, fetch_dictionary
from sae_lens_poly.hub.upload import upload_dictionary

__all__ = ["HubError", "HubLoader", "fetch_dictionary", "upload_dictionary"]
