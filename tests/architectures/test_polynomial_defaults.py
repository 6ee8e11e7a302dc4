"""What a polynomial decoder is where its fields are not given."""

import pytest
from sae_lens.saes.sae import SAEConfig, TrainingSAEConfig

from sae_lens_poly.architectures.crosscoders.config import (
    PolyCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
)
from sae_lens_poly.errors import InputError
from tests.architectures.dictionaries import training_dictionary

CROSSCODER = {"architecture": "poly_crosscoder", "n_hooks": 2, "k": 4}
TOP_K = {"architecture": "poly_topk", "k": 4}


def config(fields, of=TrainingSAEConfig):
    return of.from_dict({"d_in": 96, "d_sae": 512, **fields})


@pytest.mark.parametrize(
    ("fields", "ranks", "lr_scale"),
    [
        (CROSSCODER, {2: 256}, 16.0),
        ({**CROSSCODER, "rank_3": 8}, {2: 256, 3: 8}, 1.0),
        ({**CROSSCODER, "degree": 3}, {2: 256, 3: 64}, 1.0),
        ({**CROSSCODER, "decoder": "powers"}, {2: 96}, 1.0),
        ({**CROSSCODER, "d_sae": 40, "terms_lr_scale": 2.0}, {2: 40}, 2.0),
        (TOP_K, {2: 32, 3: 32}, 1.0),
        ({**TOP_K, "degree": 2, "rank_2": 8}, {2: 8}, 1.0),
        ({**TOP_K, "degree": 1}, {}, 1.0),
    ],
)
def test_what_is_not_given(fields, ranks, lr_scale):
    cfg = config(fields)
    assert cfg.ranks() == ranks
    assert cfg.terms_lr_scale == lr_scale
    again = TrainingSAEConfig.from_dict(cfg.to_dict())
    assert again.to_dict() == cfg.to_dict()
    inference = SAEConfig.from_dict(cfg.get_inference_sae_cfg_dict())
    assert inference.ranks() == ranks
    assert inference.terms_lr_scale == lr_scale


@pytest.mark.parametrize(("degree", "rank"), [(1, "rank_2"), (1, "rank_3"), (2, "rank_3")])
def test_a_rank_of_a_term_that_is_not_there(degree, rank):
    with pytest.raises(InputError, match=f"{rank}=8 .* degree={degree}: give .* leave {rank} out"):
        config({**TOP_K, "degree": degree, rank: 8})


def test_configs_that_were_saved_before():
    """They had no rate of their own, and ranks of all degrees, whatever the degree was."""
    new = training_dictionary("degree 2", terms_lr_scale=1.0).cfg
    for saved, kind in (
        (new.to_dict(), TrainingPolyCrosscoderConfig),
        (new.get_inference_sae_cfg_dict(), PolyCrosscoderConfig),
    ):
        old = {**saved, "rank_3": 64}
        del old["terms_lr_scale"]
        cfg = kind.from_dict(old)
        assert cfg.ranks() == new.ranks()
        assert cfg.terms_lr_scale == 1.0
