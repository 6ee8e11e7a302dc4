"""The command line: ``python -m sae_lens_poly train`` and its sisters."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from sae_lens_poly.architectures.crosscoder_config import StackConfig
from sae_lens_poly.architectures.describe_weights import describe_weights
from sae_lens_poly.circuits.command import trace
from sae_lens_poly.comparison.arms import presets, read_comparison
from sae_lens_poly.comparison.compare import run_comparison
from sae_lens_poly.comparison.results import save_results
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.report import print_evaluation
from sae_lens_poly.evaluation.saved import (
    EVALUATION_FILENAME,
    PICTURE_FILENAME,
    evaluate_saved,
    settings_for,
)
from sae_lens_poly.evaluation.settings import (
    EvaluationSettings,
    add_evaluation_flags,
    given_evaluation_flags,
)
from sae_lens_poly.hub import fetch_dictionary, upload_dictionary
from sae_lens_poly.hub.download import refuse_remote_code
from sae_lens_poly.hub.reference import HubReference
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.training.export import export_checkpoint
from sae_lens_poly.training.flags import build_config, fit_to_model
from sae_lens_poly.training.runner import StoppedRun, TrainingRunner

USAGE = """\
usage: python -m sae_lens_poly train [flags]      train a dictionary and print its table
       python -m sae_lens_poly evaluate DIR       print the table of a saved dictionary
       python -m sae_lens_poly evaluate USER/REPO:PATH   of one on the hub
       python -m sae_lens_poly upload DIR USER/REPO:PATH put a saved dictionary on the hub
       python -m sae_lens_poly compare --preset P train several kinds at equal tokens, width, L0
       python -m sae_lens_poly export FROM TO     the inference dictionary of a checkpoint
       python -m sae_lens_poly trace DIR --prompt "..."  the attribution graph of a prompt

train takes the flags of SAELens' own command line (train --help lists them). Without any it
trains a polynomial crosscoder on the embedded model and text. What differs from SAELens:
  --hook_name      may name several hook points: "blocks.{2..9}.hook_resid_post"
  --model_name     may name several models, "a,b", to tell them apart by one crosscoder
  --d_in, --n_hooks are filled in from the model
  --model_class_name AutoModelForCausalLM is taken for a local Hugging Face folder
"""


def train(flags: Sequence[str]) -> None:
    """Train a dictionary, save it, and print the table of what was saved."""
    cfg = build_config(flags)
    model = load_stacked_model(
        cfg.model_name,
        cfg.hook_name,
        cfg.model_class_name,
        cfg.llm_device or cfg.device,
        cfg.model_from_pretrained_kwargs,
    )
    cfg = fit_to_model(cfg, model.d_in)
    torch.manual_seed(cfg.seed)
    runner = TrainingRunner(cfg, override_model=model)
    print(
        f"training {cfg.sae.architecture()}: {model.n_hooks} hook points of {cfg.model_name}, "
        f"width {model.d_model}, {cfg.sae.d_sae} latents, {cfg.training_tokens:,} tokens"
    )
    if isinstance(cfg.sae, StackConfig) and cfg.sae.is_factored:
        print(describe_weights(cfg.sae))
    started = time.perf_counter()
    runner.run()
    seconds = time.perf_counter() - started
    print(
        f"trained {cfg.training_tokens:,} tokens in {seconds:.0f} s "
        f"({cfg.training_tokens / seconds:,.0f} tokens/s)"
    )
    if cfg.output_path is None:
        return
    # Probing takes as long as this training; "evaluate" has it.
    settings = EvaluationSettings(probing=())
    evaluation = evaluate_saved(cfg.output_path, settings, cfg.device, model)
    print_evaluation(evaluation, f"{cfg.sae.architecture()} in {cfg.output_path}")
    names = (EVALUATION_FILENAME, PICTURE_FILENAME)
    written = [name for name in names if Path(cfg.output_path, name).exists()]
    print(f"dictionary saved to {cfg.output_path} ({', '.join(written)})")
    print(f"the same and sparse probing: python -m sae_lens_poly evaluate {cfg.output_path}")


def evaluate(flags: Sequence[str]) -> None:
    """Print all figures of a saved dictionary."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_poly evaluate",
        description="Settings that are not given are those of the last evaluation, so that the "
        "figures are the same.",
    )
    parser.add_argument(
        "folder", help="where a training run saved its dictionary; or user/repo:path on the hub"
    )
    add_evaluation_flags(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--revision", help="branch, tag or commit on the hub; main by default")
    parser.add_argument(
        "--output",
        help="where to save figures and picture; beside the weights by default, and in "
        "evaluations/user/repo/path for a dictionary on the hub",
    )
    options = parser.parse_args(flags)
    folder, output = options.folder, options.output
    if reference := HubReference.parse(folder):
        folder = fetch_dictionary(*reference, revision=options.revision)
        refuse_remote_code(folder)
        at = f"@{options.revision}" if options.revision else ""
        output = output or str(Path("evaluations", reference.repo_id + at, reference.path))
    elif options.revision is not None:
        raise InputError(
            f"revision={options.revision!r} is for dictionaries on the hub, and "
            f"{options.folder!r} is not of the form user/repo:path"
        )
    settings = settings_for(folder, output, **given_evaluation_flags(options))
    evaluation = evaluate_saved(folder, settings, options.device, output=output)
    print_evaluation(evaluation, f"dictionary in {options.folder}")
    if output is not None:
        print(f"written to {output}")


def upload(flags: Sequence[str]) -> None:
    """Upload a saved dictionary with its model card."""
    parser = argparse.ArgumentParser(prog="python -m sae_lens_poly upload")
    parser.add_argument("folder", help="where a training run saved its dictionary")
    parser.add_argument("to", help="user/repo:path; the repository is made if it is missing")
    parser.add_argument("--revision", help="branch to commit to; main by default")
    parser.add_argument("--private", action="store_true", help="refuse to upload publicly")
    parser.add_argument("--license", help="for the model card, such as mit")
    parser.add_argument(
        "--not_evaluated", action="store_true", help="also if there are no figures for the card"
    )
    options = parser.parse_args(flags)
    reference = HubReference.parse(options.to)
    if reference is None:
        raise InputError(f"{options.to!r} is not of the form user/repo:path")
    url = upload_dictionary(
        options.folder,
        *reference,
        revision=options.revision,
        private=options.private or None,
        license=options.license,
        evaluated=not options.not_evaluated,
    )
    print(f"uploaded: {url}")
    print(f'SAE.from_pretrained("{reference.repo_id}", "{reference.path}") loads it')


def compare(flags: Sequence[str]) -> None:
    """Train and evaluate the arms of a comparison, and write its tables and figure."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_poly compare",
        description="What is finished is not done again: give the same command to go on.",
    )
    parser.add_argument("file", nargs="?", help="a YAML file; see the presets for examples")
    parser.add_argument("--preset", help=f"instead of a file: {', '.join(presets())}")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on")
    parser.add_argument("--output", help="folder of the results; comparisons/NAME by default")
    parser.add_argument("--arms", nargs="+", help="names of the arms to run; all by default")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train_only", action="store_true", help="without evaluation and tables")
    parser.add_argument("--model_name", help="in place of the file's")
    parser.add_argument("--text", help="text to train on, in place of the file's dataset_path")
    parser.add_argument("--training_tokens", type=int, help="in place of the file's")
    parser.add_argument("--learning_rates", type=float, nargs="*", help="in place of the file's")
    add_evaluation_flags(parser)
    options = parser.parse_args(flags)
    if (options.file is None) == (options.preset is None):
        raise InputError("give either a YAML file or --preset")
    for name, value in (("seeds", options.seeds), ("jobs", options.jobs)):
        if value < 1:
            raise InputError(f"{name}={value} must be 1 or more")
    overrides = {
        "model_name": options.model_name,
        "dataset_path": options.text,
        "training_tokens": options.training_tokens,
        "learning_rates": options.learning_rates,
    }
    comparison = read_comparison(
        options.preset or options.file,
        {name: value for name, value in overrides.items() if value is not None},
        given_evaluation_flags(options),
    ).only(options.arms)
    output = Path(options.output or Path("comparisons", comparison.name))
    seeds = range(options.seeds)
    try:
        found = run_comparison(
            comparison, output, seeds, options.jobs, options.device, not options.train_only
        )
    except (KeyboardInterrupt, StoppedRun):
        print(f"stopped; to go on, give the same command again ({output})", file=sys.stderr)
        raise StoppedRun(None) from None
    if options.train_only:
        print(f"trained: {found['learning_rates']}")
        return
    command = shlex.join(["python", "-m", "sae_lens_poly", "compare", *flags])
    print(save_results(comparison, found, output, list(seeds), command))
    print(f"written to {output}: table.md, table.json, figure.png")


def export(flags: Sequence[str]) -> None:
    """Save the inference dictionary of a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m sae_lens_poly export")
    parser.add_argument("checkpoint", help="folder of a checkpoint (under checkpoint_path)")
    parser.add_argument("folder", help="where to save the inference dictionary")
    parser.add_argument("--dense", action="store_true", help="factored weights as dense ones")
    options = parser.parse_args(flags)
    export_checkpoint(options.checkpoint, options.folder, dense=options.dense or None)
    print(f"inference dictionary saved to {options.folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the status is 0, 2 for wrong input, or 130 for a run that was stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "train": train,
        "evaluate": evaluate,
        "compare": compare,
        "export": export,
        "upload": upload,
        "trace": trace,
    }
    if not arguments or arguments[0] not in commands:
        print(USAGE, end="")
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    # Said by libraries about choices that the user did not make here.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Dataset is not tokenized")
    warnings.filterwarnings("ignore", message="The training dataset contains fewer samples")
    try:
        commands[arguments[0]](arguments[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StoppedRun as stopped:
        if stopped.checkpoint is not None:
            print(
                f"{stopped}\nto go on, give the same flags and "
                f"--resume_from_checkpoint {stopped.checkpoint}",
                file=sys.stderr,
            )
        return 130
    return 0
