"""Features that are kept on disk."""

import numpy as np
import pytest
from scipy import sparse

from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.feature_cache import cached_features, dictionary_hash, text_hash


class Counted:
    def __init__(self, features):
        self.features, self.n = features, 0

    def __call__(self):
        self.n += 1
        return self.features


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_features_are_computed_once_for_a_key(tmp_path, form):
    dense = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    compute = Counted(form(dense))
    keys = [{"data": "a", "context_size": 128}, {"context_size": 128, "data": "a"}]
    for key in keys:
        features = cached_features(tmp_path / "cache", key, compute)
        assert type(features) is type(compute.features)
        assert features.dtype == np.float32
        found = features.toarray() if sparse.issparse(features) else features
        np.testing.assert_array_equal(found, dense)
    assert compute.n == 1
    cached_features(tmp_path / "cache", {"data": "b", "context_size": 128}, compute)
    assert compute.n == 2
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_file_is_computed_again(tmp_path):
    compute = Counted(np.ones((2, 2), dtype=np.float32))
    cached_features(tmp_path, {"a": 1}, compute)
    (path,) = tmp_path.iterdir()
    for damaged in (path.read_bytes()[:-40], b"", b"text"):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(cached_features(tmp_path, {"a": 1}, compute), np.ones((2, 2)))
    assert compute.n == 4


def test_what_fails_leaves_no_file(tmp_path):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_features(tmp_path, {"a": 1}, fail)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="key"):
        cached_features(tmp_path, {"a": np.ones(2)}, fail)


def test_hashes_follow_weights_and_texts(tmp_path):
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"one")
    one = dictionary_hash(tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    assert dictionary_hash(tmp_path) == one
    (tmp_path / "sae_weights.safetensors").write_bytes(b"two")
    assert dictionary_hash(tmp_path) != one
    assert text_hash(["ab", "c"]) != text_hash(["a", "bc"])
    (tmp_path / "sae_weights.safetensors").unlink()
    with pytest.raises(InputError, match="sae_weights"):
        dictionary_hash(tmp_path)
