"""Activations of several hook points computed once, by SAELens' own runner."""

from __future__ import annotations

from datasets import Dataset
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks


def stacked_cache_runner(
    cfg: CacheActivationsRunnerConfig, override_dataset: Dataset | None = None
) -> CacheActivationsRunner:
    """SAELens' runner for hook points that are stacked into one.

    What it writes is read with ``--use_cached_activations True --cached_activations_path ...``.

    Args:
        cfg: A stock config. ``hook_name`` may name several hook points, of a model that SAELens
            loads by name; ``d_in`` is the width of all together.
        override_dataset: Instead of ``cfg.dataset_path``.

    Raises:
        InputError: If a hook point does not exist, or ``d_in`` is another width.
    """
    runner = CacheActivationsRunner(cfg, override_dataset)
    stack = StackedHooks(runner.model, cfg.hook_name)
    if cfg.d_in != stack.d_in:
        raise InputError(
            f"d_in={cfg.d_in}, but {stack.n_hooks} hook points of width {stack.d_model} make "
            f"{stack.d_in}: set d_in={stack.d_in}"
        )
    runner.model = runner.activations_store.model = stack
    return runner
