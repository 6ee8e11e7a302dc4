"""Small dictionaries of every architecture, and what loaded ones have to give."""

import torch
from sae_lens import SAE

from sae_lens_poly.registration import TRAINING
from tests.architectures import dictionaries as crosscoders
from tests.architectures import poly_saes

NAMES = list(TRAINING)


def training_dictionary(architecture):
    if architecture.startswith("polysae_"):
        return poly_saes.poly_sae(architecture.replace("polysae_", "poly_"), "shared_u")
    if architecture in poly_saes.ARCHITECTURES:
        return poly_saes.poly_sae(architecture)
    variant = "linear" if architecture == "crosscoder" else "interactions"
    return crosscoders.randomise(crosscoders.training_dictionary(variant))


def saved(folder, architecture="poly_crosscoder"):
    """Save an inference dictionary whose weights are not where they start."""
    sae = training_dictionary(architecture)
    sae.cfg.metadata.model_name = "gpt2"
    sae.cfg.metadata.hook_name = "blocks.{0..2}.hook_resid_post"
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder)


@torch.no_grad()
def assert_same(loaded, expected):
    x = torch.randn(32, expected.cfg.d_in, generator=torch.Generator().manual_seed(3))
    codes = expected.encode(x)
    assert (codes != 0).any()
    assert type(loaded) is type(expected)
    assert loaded.cfg.architecture() == expected.cfg.architecture()
    torch.testing.assert_close(loaded.encode(x), codes, rtol=0, atol=0)
    torch.testing.assert_close(loaded.decode(codes), expected.decode(codes), rtol=0, atol=0)
