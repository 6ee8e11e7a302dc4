"""Configs that cannot work are refused with the field and its value."""

import pytest
import torch

from sae_lens_poly import InputError
from tests.architectures.dictionaries import train, training_dictionary


@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        ("linear", {"k": 65}, "k=65 .* d_sae=64"),
        ("linear", {"k": 0}, "k=0"),
        ("linear", {"n_hooks": 5}, "n_hooks=5 does not divide d_in=24"),
        ("linear", {"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ("linear", {"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ("interactions", {"rank_2": 65}, "rank_2=65 .* d_sae=64"),
        ("interactions", {"rank_3": 0}, "rank_3=0"),
        ("powers", {"rank_3": 25}, "rank_3=25 .*=24"),
        ("interactions", {"decoder": "splines"}, "decoder='splines'"),
        ("interactions", {"degree": 4}, "degree=4"),
        ("interactions", {"dtype": "float16"}, "dtype='float16'"),
    ],
)
def test_refused(variant, changes, words):
    with pytest.raises(InputError, match=words):
        training_dictionary(variant, **changes)


def test_whitening_is_refused():
    inference = train(training_dictionary(), steps=1).to_inference()
    with pytest.raises(InputError, match="covariance_whitening"):
        inference.fold_activation_whitening(torch.zeros(24), torch.eye(24), torch.eye(24))
