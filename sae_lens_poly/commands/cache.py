"""``cache``: stores the activations of a text, to train on them many times."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.errors import InputError
from sae_lens_poly.training.flags import config_of, fit_to_model, read_run

_ABOUT = """\
All other flags are those of train: give the same ones to both. Several jobs with the same flags
fill a folder side by side; one that was stopped is started again. Then:
  train --use_cached_activations True --cached_activations_path FOLDER ..."""


def cache(flags: Sequence[str]) -> int:
    """Store the activations of a run's text.

    Returns:
        The exit status.

    Raises:
        InputError: If a flag is wrong, or the disk too small, before the model runs.
    """
    parser = Parser("cache", epilog=_ABOUT)
    parser.add_argument("folder", help="where to store them; of this cache alone")
    parser.add_argument("--storage", default="bfloat16", help="bfloat16, or int8 with scales")
    parser.add_argument("--tokens_per_shard", type=int, default=16_384)
    if not flags or flags[0].startswith("--"):
        parser.parse_args(["--help"] if "--help" in flags else [])
    options, of_run = parser.parse_known_args(flags)
    if options.tokens_per_shard < 1:
        raise InputError(f"tokens_per_shard={options.tokens_per_shard} must be at least 1")
    settings = read_run(of_run)

    from sae_lens_poly.models.loading import load_model_of
    from sae_lens_poly.training.fill_cache import CacheFiller

    cfg = config_of(settings)
    model = load_model_of(cfg)
    cfg = fit_to_model(cfg, model.d_in, model.state_shape)
    filler = CacheFiller(cfg, model, options.folder, options.storage, options.tokens_per_shard)
    print(filler.size(), flush=True)
    filler.begin()
    started = time.perf_counter()
    n_stored = filler.fill()
    seconds = time.perf_counter() - started
    print(f"stored {n_stored:,} tokens in {seconds:.0f} s ({n_stored / seconds:,.0f} tokens/s)")
    left = filler.missing()
    if left:
        print(f"{len(left)} shards are being made by other jobs", file=sys.stderr)
    return 0
