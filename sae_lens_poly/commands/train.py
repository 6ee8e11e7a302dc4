"""``train``: trains a dictionary, saves it, and prints the table of what was saved."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_poly.commands.parser import PROGRAM
from sae_lens_poly.errors import InputError
from sae_lens_poly.training.flags import config_of, fit_to_model, print_help, read_run

if TYPE_CHECKING:
    from sae_lens_poly.distributed.process_mesh import ProcessMesh


def train(flags: Sequence[str]) -> int:
    """Train a dictionary, save it, and print the table of what was saved.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, before training; or if what was saved cannot be evaluated.
    """
    if {"-h", "--help"} & set(flags):
        print_help(flags)
        return 0
    settings = read_run(flags)
    print(f"loading {settings['model_name']} ...", file=sys.stderr)

    from sae_lens_poly.distributed.start import one_message, own_device, processes_of_torchrun

    for name in ("device", "llm_device", "act_store_device"):
        if settings.get(name) is not None:
            settings[name] = own_device(settings[name])
    n_shards = settings.get("latent_shards", 1)
    with (
        processes_of_torchrun(settings.get("device", "cpu"), n_shards) as mesh,
        one_message(mesh),
    ):
        return _train(settings, mesh)


def _train(settings: dict[str, Any], mesh: ProcessMesh | None) -> int:
    import torch

    from sae_lens_poly.architectures.crosscoders.describe_weights import describe_weights
    from sae_lens_poly.architectures.crosscoders.stack import is_factored
    from sae_lens_poly.evaluation.report import print_evaluation
    from sae_lens_poly.evaluation.saved import evaluate_saved
    from sae_lens_poly.evaluation.settings import EvaluationSettings
    from sae_lens_poly.models.loading import load_model_of
    from sae_lens_poly.training.runner import StoppedRun, TrainingRunner

    cfg = config_of(settings)
    model = load_model_of(cfg)
    cfg = fit_to_model(cfg, model.d_in, model.state_shape)
    torch.manual_seed(cfg.seed)
    runner = TrainingRunner(cfg, override_model=model, mesh=mesh)
    print(
        f"training {cfg.sae.architecture()}: {model.n_hooks} hook points of {cfg.model_name}, "
        f"width {model.d_model}, {cfg.sae.d_sae} latents, {cfg.training_tokens:,} tokens",
        flush=True,
    )
    if is_factored(cfg.sae):
        print(describe_weights(cfg.sae))
    started = time.perf_counter()
    try:
        runner.run()
    except StoppedRun as stopped:
        if stopped.checkpoint is not None:
            print(
                f"{stopped}\nto go on, give the same flags and "
                f"--resume_from_checkpoint {stopped.checkpoint}",
                file=sys.stderr,
            )
        return 130
    seconds = time.perf_counter() - started
    print(
        f"trained {cfg.training_tokens:,} tokens in {seconds:.0f} s "
        f"({cfg.training_tokens / seconds:,.0f} tokens/s)",
        flush=True,
    )
    if cfg.output_path is None or (mesh is not None and not mesh.is_first):
        return 0
    # Probing takes as long as this training; "evaluate" has it.
    probing = EvaluationSettings(probing=())
    try:
        evaluation = evaluate_saved(cfg.output_path, probing, cfg.device, model)
    except InputError as error:
        if cfg.use_cached_activations:  # of text that the cache does not tell
            print(f"saved to {cfg.output_path}, and not evaluated: {error}")
            return 0
        raise InputError(
            f"the dictionary is saved in {cfg.output_path}, and cannot be evaluated as it was "
            f"trained: {error}"
        ) from error
    print_evaluation(evaluation, f"{cfg.sae.architecture()} in {cfg.output_path}")
    saved = sorted(path.name for path in Path(cfg.output_path).iterdir() if path.is_file())
    print(f"saved to {cfg.output_path}: {', '.join(saved)}")
    print(f"next, the same with sparse probing: {PROGRAM} evaluate {cfg.output_path}")
    return 0
