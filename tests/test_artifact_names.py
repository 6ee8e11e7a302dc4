"""Names that wandb takes."""

import re

import pytest

from sae_lens_poly import InputError
from sae_lens_poly.artifact_names import artifact_name, check_artifact_name

NAMES = [
    "sae_gpt2_blocks.0.hook_resid_post_64",
    "sae_user/model_" + ",".join(f"blocks.{i}.hook_mlp_out" for i in range(9)) + "_64",
    "sae_user/model_" + ",".join(f"blocks.{i}.hook_mlp_out" for i in range(8)) + "_64",
    "sae_modèle_blocks.{0..5}.hook_resid_post_64",
    "sae_modele_blocks.{0..5}.hook_resid_post_64",
    "sae_модель_x_1",
    "sae_中文_x_1",
    "/" * 60,
    "/" * 61,
]


def test_names_are_taken_by_wandb_and_stay_distinct():
    found = [artifact_name(name) for name in NAMES]
    assert len(set(found)) == len(NAMES)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", f"{n}_log_feature_sparsity") for n in found)
    assert [artifact_name(name) for name in found] == found
    assert found[0] == NAMES[0]


@pytest.mark.parametrize("name", NAMES[1:4])
def test_others_are_refused(name):
    with pytest.raises(InputError, match="log_to_wandb=True: wandb takes names"):
        check_artifact_name(name)
    check_artifact_name(artifact_name(name))
