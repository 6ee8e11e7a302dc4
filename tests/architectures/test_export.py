"""Folds, exports and reloads keep codes and reconstructions."""

import pytest
import torch
from huggingface_hub import constants
from sae_lens import SAE, LanguageModelSAERunnerConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.config import LoggingConfig

from sae_lens_poly import Crosscoder, InputError
from tests.architectures.dictionaries import VARIANTS, activations, train, training_dictionary

OPTIONS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    return request.param


def thresholded(sae, x):
    """Codes of a training dictionary by its threshold on the score."""
    _, pre = sae.encode_with_hidden_pre(x)
    norms = sae.latent_norms()
    score = pre if norms is None else pre * norms
    return torch.where(score > sae.sparsifier.threshold, pre, 0.0)


@pytest.mark.parametrize(("by_norm", "subtract"), OPTIONS)
@torch.no_grad()
def test_export_takes_raw_activations(variant, by_norm, subtract, tmp_path):
    sae = training_dictionary(variant, score_by_decoder_norm=by_norm, apply_b_dec_to_input=subtract)
    sae.cfg.metadata.hook_name = "blocks.{0..2}.hook_resid_post"
    with torch.enable_grad():
        train(sae)
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    x = activations(seed=7)

    assert isinstance(loaded, Crosscoder)
    codes = thresholded(sae, x)
    assert (codes > 0).float().sum(-1).mean() > 1
    torch.testing.assert_close(loaded.encode(x), codes, rtol=1e-4, atol=1e-5)
    expected = sae.decode(codes)
    for i, got in enumerate(loaded.per_hook(loaded(x)).unbind(1)):
        want = sae.per_hook(expected)[:, i]
        assert (got - want).norm() / want.norm() < 1e-5
    torch.testing.assert_close(sae.to_inference()(x), loaded(x))
    assert loaded.cfg.metadata.hook_scales == sae.hook_scales.scale.tolist()
    assert loaded.cfg.metadata.hook_names == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    assert loaded.cfg.architecture() == VARIANTS[variant]["architecture"]

    before = loaded(x)
    loaded.fold_W_dec_norm()
    torch.testing.assert_close(loaded.W_dec.norm(dim=-1), torch.ones(len(loaded.W_dec)))
    torch.testing.assert_close(loaded(x), before, rtol=1e-3, atol=1e-3)
    before = loaded(x * 3.0) / 3.0
    loaded.fold_activation_norm_scaling_factor(3.0)
    torch.testing.assert_close(loaded(x), before, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_checkpoints_and_dicts_round_trip(variant, tmp_path):
    sae = training_dictionary(variant)
    with torch.enable_grad():
        train(sae)
    sae.save_model(tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path)
    x = activations(seed=3)
    torch.testing.assert_close(loaded.encode(x), sae.encode(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded(x), sae(x), rtol=0, atol=0)
    assert loaded.cfg.to_dict() == sae.cfg.to_dict()

    inference = sae.to_inference()
    again = SAE.from_dict(inference.cfg.to_dict())
    again.load_state_dict(inference.state_dict())
    torch.testing.assert_close(again(x), inference(x), rtol=0, atol=0)
    assert TrainingSAEConfig.from_dict(sae.cfg.to_dict()).to_dict() == sae.cfg.to_dict()


def test_runner_config_round_trips(variant):
    cfg = LanguageModelSAERunnerConfig(
        sae=training_dictionary(variant).cfg,
        hook_name="blocks.{0..2}.hook_resid_post",
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    again = LanguageModelSAERunnerConfig.from_dict(cfg.to_dict())
    assert type(again.sae) is type(cfg.sae)
    assert again.to_dict() == cfg.to_dict()


@torch.no_grad()
def test_from_pretrained_reads_the_hub_cache(tmp_path, monkeypatch):
    with torch.enable_grad():
        sae = train(training_dictionary())
    revision = "0" * 40
    repository = tmp_path / "models--someone--crosscoders"
    sae.save_inference_model(repository / "snapshots" / revision / "layers")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (repository / ".no_exist" / revision / "layers").mkdir(parents=True)
    (repository / ".no_exist" / revision / "layers" / "sparsity.safetensors").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = SAE.from_pretrained("someone/crosscoders", "layers")
    x = activations(seed=5)
    torch.testing.assert_close(loaded(x), sae.to_inference()(x), rtol=0, atol=0)


def test_a_training_checkpoint_is_not_taken_for_an_inference_dictionary(tmp_path):
    training_dictionary("linear").save_model(tmp_path)
    with pytest.raises(InputError, match=r"training checkpoint.*export"):
        SAE.load_from_disk(tmp_path)
