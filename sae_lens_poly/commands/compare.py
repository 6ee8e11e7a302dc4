"""``compare``: trains and evaluates the arms of a comparison."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_lens_poly.commands.parser import PROGRAM, Parser
from sae_lens_poly.comparison.arms import check_arms, comparison_of, presets
from sae_lens_poly.constraints import Number, check_value
from sae_lens_poly.devices import check_device
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.settings import add_evaluation_flags, given_evaluation_settings
from sae_lens_poly.paths import check_can_write


def compare(flags: Sequence[str]) -> int:
    """Train and evaluate the arms of a comparison, and write its tables and figure.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag or the file is wrong, before training.
    """
    parser = Parser(
        "compare",
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
    parser.add_argument("--learning_rates", type=float, nargs="+", help="in place of the file's")
    add_evaluation_flags(parser)
    options = parser.parse_args(flags)
    if (options.file is None) == (options.preset is None):
        raise InputError("give either a YAML file or --preset")
    # Seeds from 1000 on are those of runs that choose a learning rate.
    check_value("seeds", options.seeds, Number(at_least=1, at_most=1000, whole=True))
    check_value("jobs", options.jobs, Number(at_least=1, at_most=1024, whole=True))
    overrides = {
        "model_name": options.model_name,
        "dataset_path": options.text,
        "training_tokens": options.training_tokens,
        "learning_rates": options.learning_rates,
    }
    comparison = comparison_of(
        options.preset or options.file,
        {name: value for name, value in overrides.items() if value is not None},
        given_evaluation_settings(options),
    ).only(options.arms)
    output = Path(options.output or Path("comparisons", comparison.name))
    check_can_write("output", output)
    check_device("device", options.device)
    print(f"loading {comparison.arms[0].flags['model_name']} ...", file=sys.stderr)
    check_arms(comparison)

    from sae_lens_poly.comparison.compare import run_comparison
    from sae_lens_poly.comparison.results import save_results
    from sae_lens_poly.training.runner import StoppedRun

    seeds = range(options.seeds)
    try:
        found = run_comparison(
            comparison, output, seeds, options.jobs, options.device, not options.train_only
        )
    except (KeyboardInterrupt, StoppedRun):
        print(f"stopped; to go on, give the same command again ({output})", file=sys.stderr)
        return 130
    if options.train_only:
        print(f"trained: {found['learning_rates']}")
        return 0
    command = f"{PROGRAM} {shlex.join(['compare', *flags])}"
    print(save_results(comparison, found, output, list(seeds), command))
    print(f"written to {output}: table.md, table.json, figure.png")
    return 0
