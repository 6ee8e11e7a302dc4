"""Dictionaries side by side are what they were apart."""

import pytest
import torch

from sae_lens_poly import InputError
from sae_lens_poly.architectures.crosscoders.side_by_side import side_by_side
from sae_lens_poly.dictionary_folder import load_dictionary
from tests.architectures.dictionaries import randomise, training_dictionary


def parts(n=3, **fields):
    made = []
    for hook in range(n):
        torch.manual_seed(hook)
        own = training_dictionary(
            "linear", **{"d_in": 8, "n_hooks": 1, "d_sae": 12, "k": 3, **fields}
        )
        sae = randomise(own).to_inference()
        sae.cfg.metadata.hook_name = f"blocks.{hook}.hook_resid_post"
        made.append(sae)
    return made


@pytest.mark.parametrize("n", [1, 3])
@torch.no_grad()
def test_codes_and_reconstructions_are_end_to_end(n, tmp_path):
    apart = parts(n)
    whole = side_by_side(apart)
    x = torch.randn(20, n, 8)
    z = torch.cat([sae.encode(x[:, i]) for i, sae in enumerate(apart)], dim=1)
    x_hat = torch.cat([sae(x[:, i]) for i, sae in enumerate(apart)], dim=1)
    whole.save_model(tmp_path)
    for sae in (whole, load_dictionary(tmp_path)):
        torch.testing.assert_close(sae.encode(x.flatten(1)), z)
        torch.testing.assert_close(sae(x.flatten(1)), x_hat)
        assert sae.cfg.metadata.hook_names == [f"blocks.{i}.hook_resid_post" for i in range(n)]
        assert len(sae.cfg.metadata.hook_scales) == n


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsifier": "topk"}, "select_k=3"),
        ({"d_sae": 16}, "d_sae=16 next to 12"),
        ({"d_in": 16, "n_hooks": 2}, "n_hooks=2"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        side_by_side([*parts(1), *parts(1, **fields)])
