"""The command line: ``sae-lens-poly train`` and the other commands."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module

from sae_lens_poly.commands.parser import PROGRAM
from sae_lens_poly.commands.quiet import quiet_libraries
from sae_lens_poly.distributed.one_voice import one_voice, say_once
from sae_lens_poly.errors import InputError, first_line

COMMANDS = (
    "train",
    "evaluate",
    "explore",
    "explain",
    "trace",
    "features",
    "upload",
    "compare",
    "export",
    "convert",
    "cache",
)

USAGE = f"""\
usage: {PROGRAM} train [flags]      train a dictionary and print its table
       {PROGRAM} evaluate DIR       print the table of a saved dictionary
       {PROGRAM} evaluate USER/REPO:PATH   of one on the hub
       {PROGRAM} explore DIR        look at its latents in a browser
       {PROGRAM} explain DIR        have a language model explain them
       {PROGRAM} upload DIR USER/REPO:PATH put a saved dictionary on the hub
       {PROGRAM} compare --preset P train several kinds at equal tokens, width, L0
       {PROGRAM} cache DIR          store activations, to train on them many times
       {PROGRAM} export FROM TO     the inference dictionary of a checkpoint
       {PROGRAM} convert FROM TO    a dictionary of another package as one of ours
       {PROGRAM} trace DIR --prompt TEXT   the attribution graph of a prompt
       {PROGRAM} features DIR       feature files of its latents, for Neuronpedia

train takes the flags of SAELens' own command line (train --help lists them). Without any it
trains a polynomial crosscoder on the embedded model and text. What differs from SAELens:
  --hook_name      may name several hook points: "blocks.{{2..9}}.hook_resid_post"
  --model_name     may name several models, "a,b", to tell them apart by one crosscoder
  --d_in, --n_hooks, --d_k are filled in from the model
  --preset         a recipe as defaults: clt, a cross-layer transcoder
  --latent_shards  under torchrun: how many processes share the latents of a crosscoder
  --model_class_name AutoModelForCausalLM is taken for a local Hugging Face folder
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 2 for wrong input, or 130 for a run that was stopped.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written as \u00b1
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] not in COMMANDS:
        print(USAGE, end="")
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    with one_voice():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    name = arguments[0]
    command = getattr(import_module(f"sae_lens_poly.commands.{name}"), name)
    try:
        with quiet_libraries():
            return command(arguments[1:])
    except InputError as error:
        say_once(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        say_once(
            f"error: not enough memory ({first_line(error)[:200]}): lower d_sae, context_size, "
            "n_batches_in_buffer or store_batch_size_prompts"
        )
        return 2
