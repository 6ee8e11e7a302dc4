"""Polynomial SAEs through SAELens' own runner, on the embedded model."""

import json

import pytest
import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.registry import get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from safetensors.torch import load_file

from sae_lens_poly.cli import main
from sae_lens_poly.embedded.corpus import stdlib_dataset
from tests.architectures.poly_saes import ARCHITECTURES

HOOK = "blocks.3.hook_resid_post"
FIELDS = {
    **ARCHITECTURES,
    # SAELens' threshold starts at 0 and needs far more steps than these at its default rate
    "poly_batchtopk": {"k": 8, "topk_threshold_lr": 0.3},
    "poly_matryoshka_batchtopk": {
        "k": 8,
        "matryoshka_widths": [64, 256],
        "topk_threshold_lr": 0.3,
    },
}


def runner_config(architecture, folder, sae_fields=None, **changes):
    config_class = get_sae_training_class(architecture)[1]
    fields = {"d_in": 128, "d_sae": 256, "rank_2": 8, "rank_3": 8, **FIELDS[architecture]}
    settings = {
        "model_name": "embedded",
        "hook_name": HOOK,
        "dataset_path": "stdlib",
        "is_dataset_tokenized": False,
        "exclude_special_tokens": True,
        "training_tokens": 8192,
        "train_batch_size_tokens": 256,
        "context_size": 64,
        "n_batches_in_buffer": 8,
        "store_batch_size_prompts": 4,
        "lr": 3e-3,
        "n_checkpoints": 2,
        "n_batches_for_norm_estimate": 20,
        "checkpoint_path": str(folder / "checkpoints"),
        "output_path": str(folder / "output"),
        "logger": LoggingConfig(log_to_wandb=False),
        "verbose": False,
        **changes,
    }
    sae = config_class(**{**fields, **(sae_fields or {})})
    return LanguageModelSAERunnerConfig(sae=sae, **settings)


def run(config, model):
    return LanguageModelSAETrainingRunner(
        config, override_dataset=stdlib_dataset("train"), override_model=model
    ).run()


def orthonormality_error(weights):
    weight = weights["polynomial.projection.weight"].double()
    V = weight * 4 / len(weight) ** 0.5
    return (V.T @ V - torch.eye(V.shape[1])).abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_trains_checkpoints_and_loads(architecture, embedded_model, tmp_path):
    config = runner_config(architecture, tmp_path)
    run(config, embedded_model)
    saved = sorted((tmp_path / "checkpoints").glob("*/*/sae_weights.safetensors"))
    saved += sorted((tmp_path / "checkpoints").glob("*/sae_weights.safetensors"))
    assert saved
    for path in [*saved, tmp_path / "output" / "sae_weights.safetensors"]:
        assert orthonormality_error(load_file(path)) < 1e-5
    sae = SAE.load_from_disk(tmp_path / "output")
    assert sae.cfg.metadata.hook_name == HOOK
    store = ActivationsStore.from_sae(
        embedded_model, sae, stdlib_dataset("held_out"), store_batch_size_prompts=2
    )
    metrics, _ = run_evals(
        sae,
        store,
        embedded_model,
        ActivationScaler(),
        EvalConfig(
            n_eval_reconstruction_batches=1,
            compute_ce_loss=True,
            n_eval_sparsity_variance_batches=1,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
        ),
    )
    assert metrics["reconstruction_quality"]["explained_variance"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["poly_topk", "poly_batchtopk"])
def test_resumed_by_the_stock_runner(architecture, embedded_model, tmp_path):
    config = runner_config(architecture, tmp_path / "first")
    run(config, embedded_model)
    checkpoint = min(
        (p.parent for p in (tmp_path / "first").rglob("trainer_state.pt")),
        key=lambda p: int(p.name.removeprefix("final_")),
    )
    again = runner_config(architecture, tmp_path / "again", resume_from_checkpoint=str(checkpoint))
    sae = run(again, embedded_model)
    assert orthonormality_error(load_file(tmp_path / "again/output/sae_weights.safetensors")) < 1e-5
    assert sae.polynomial.scaled


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["expected_average_only_in", "covariance_whitening"])
def test_normalised_runs_are_saved_for_raw_activations(kind, embedded_model, tmp_path):
    config = runner_config("poly_topk", tmp_path, {"normalize_activations": kind})
    trained = run(config, embedded_model)
    sae = SAE.load_from_disk(tmp_path / "output")
    assert sae.cfg.normalize_activations == "none"
    tokens = embedded_model.to_tokens("def f(x):\n    return x + 1\n")
    _, cache = embedded_model.run_with_cache(tokens, names_filter=HOOK)
    x = cache[HOOK][0, 1:]
    torch.testing.assert_close(sae(x), trained(x), rtol=1e-4, atol=1e-3)
    assert 0.2 < sae(x).norm() / x.norm() < 2


@pytest.mark.slow
def test_autocast_through_the_runner(embedded_model, tmp_path):
    run(runner_config("poly_topk", tmp_path, autocast=True), embedded_model)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["poly_topk", "topk"])
def test_command_line_trains_a_sae_on_one_hook_point(architecture, tmp_path, capsys):
    flags = "--d_sae 128 --k 8 --training_tokens 2048 --train_batch_size_tokens 256"
    flags += " --context_size 64 --n_batches_in_buffer 8 --store_batch_size_prompts 4"
    arguments = ["train", "--architecture", architecture, *flags.split()]
    assert main([*arguments, "--output_path", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())["per_hook"]
    assert list(figures) == [HOOK]
    printed = capsys.readouterr().out
    assert f"{figures[HOOK]['explained_variance']:.4f}" in printed
    assert f"{figures[HOOK]['ce_recovered']:.4f}" in printed
