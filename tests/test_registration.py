"""Importing registers; importing again is harmless."""

import importlib
import subprocess
import sys

import pytest
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

import sae_lens_poly
from sae_lens_poly.registration import INFERENCE, register


def test_registered_for_training_and_inference():
    for name in ("crosscoder", "poly_crosscoder"):
        assert name in SAE_CLASS_REGISTRY
        assert name in SAE_TRAINING_CLASS_REGISTRY


def test_a_second_registration_and_a_reload_are_harmless():
    register()
    importlib.reload(sae_lens_poly)
    assert SAE_CLASS_REGISTRY["crosscoder"][0].__name__ == "Crosscoder"


@pytest.mark.slow
def test_a_whole_new_import_is_harmless():
    code = (
        "import sys, sae_lens_poly\n"
        "for name in [n for n in sys.modules if n.startswith('sae_lens_poly')]:\n"
        "    del sys.modules[name]\n"
        "import sae_lens_poly\n"
        "from sae_lens import TrainingSAEConfig\n"
        "cfg = TrainingSAEConfig.from_dict("
        "dict(architecture='crosscoder', d_in=8, d_sae=16, n_hooks=2, k=2))\n"
        "assert isinstance(cfg, sae_lens_poly.TrainingCrosscoderConfig)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_name_taken_by_another_package_is_an_error(monkeypatch):
    monkeypatch.setitem(SAE_CLASS_REGISTRY, next(iter(INFERENCE)), (int, int))
    with pytest.raises(ValueError, match="already registered"):
        register()


def test_sae_lens_own_flags():
    flags = "--architecture poly_crosscoder --d_in 8 --n_hooks 2 --d_sae 16 --k 2 --rank_2 4"
    cfg = _parse_cfg_args([*flags.split(), "--rank_3", "2", "--verbose", "False"])
    assert cfg.sae.rank_2 == 4
    assert cfg.sae.n_hooks == 2
