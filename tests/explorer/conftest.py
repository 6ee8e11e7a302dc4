"""One small dictionary, collected and written once."""

import pytest

from sae_lens_poly.explorer.command import prepare
from sae_lens_poly.explorer.settings import CollectionSettings
from tests.explorer.dictionaries import crosscoder, save

SETTINGS = CollectionSettings(
    n_tokens=6000, n_top=6, n_drawn=10, before=8, after=4, n_coherence_tokens=256
)


@pytest.fixture(scope="session")
def explored(tmp_path_factory):
    """Folder of the dictionary, and the writer of its data files."""
    folder = save(crosscoder(), tmp_path_factory.mktemp("dictionary"))
    return folder, prepare(folder, folder / "explorer", SETTINGS)
