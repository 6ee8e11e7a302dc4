"""Runs a comparison: rates, seeds, evaluations, tables; what is finished is not done again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activations_store import ActivationsStore
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from sae_lens_poly.comparison.arms import Arm, Comparison, arm_config
from sae_lens_poly.comparison.train_arms import train_arm
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.evaluate import EvaluationData
from sae_lens_poly.evaluation.probing_sets import load_probing_sets
from sae_lens_poly.evaluation.saved import (
    EVALUATION_FILENAME,
    evaluate_saved,
    held_out_explained_variance,
    load_evaluation_data,
)
from sae_lens_poly.evaluation.saved_figures import read_evaluation
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.recorded import RecordedStack
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels
from sae_lens_poly.paths import check_can_write
from sae_lens_poly.read_files import read_json
from sae_lens_poly.training.finite_loss import DivergedRun
from sae_lens_poly.training.flags import fit_to_model
from sae_lens_poly.training.runner import StoppedRun
from sae_lens_poly.training.training_text import TrainingText
from sae_lens_poly.whole_files import sole_user, write_json

TUNING_FILENAME = "explained_variance.json"


class _TuningResult(TypedDict):
    explained_variance: float | None
    settings: dict[str, Any]


#: Seeds of runs that only choose a learning rate; not among those that are reported. One is not
#: enough: near the largest rate that works, runs of other seeds come out far worse.
TUNING_SEEDS = (1000, 1001)


@dataclass
class Bench:
    """A comparison and the folder of its results; what a worker process needs to know."""

    comparison: Comparison
    output: Path
    device: str = "cpu"
    _data: EvaluationData | None = None

    @property
    def settings(self) -> EvaluationSettings:
        """How every dictionary is evaluated."""
        model_name = self.comparison.arms[0].flags["model_name"]
        return EvaluationSettings.for_model(model_name, **self.comparison.evaluation)

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where the dictionary of an arm and a seed lies."""
        return self.output / "runs" / arm.folder_name / f"seed-{seed}"

    def tuning_folder(self, arm: Arm, lr: float, seed: int) -> Path:
        """Where a run of an arm at a learning rate lies."""
        return self.output / "tuning" / arm.folder_name / f"lr-{lr:g}" / f"seed-{seed}"

    @cached_property
    def stack(self) -> StackedHooks:
        """The model; with its activations recorded if they fit."""
        cfg = arm_config(self.comparison.arms[0], 1.0, 0)
        stack = load_stacked_model(
            cfg.model_name,
            self.comparison.hook_name,
            cfg.model_class_name,
            self.device,
            cfg.model_from_pretrained_kwargs,
        )
        gigabytes = self.comparison.training_tokens * stack.d_in * 4 / 1e9
        too_large = gigabytes > self.comparison.record_gb
        if too_large or cfg.use_cached_activations or isinstance(stack, StackedModels):
            return stack
        return RecordedStack(stack, self.output / "activations")

    def data_for(self, folder: Path) -> EvaluationData:
        """What dictionaries are evaluated on: the same for all, drawn for the first one."""
        if self._data is None:
            sae = load_dictionary(folder)
            self._data = load_evaluation_data(sae, self.stack, self.settings)
        return self._data

    def record(self) -> None:
        """Run the model over the training text once, so that no arm has to."""
        stack = self.stack
        if not isinstance(stack, RecordedStack):
            return
        cfg = arm_config(self.comparison.arms[0], 1.0, 0, hook_name=stack.hook_name)
        cfg = fit_to_model(cfg, stack.d_in, stack.state_shape)
        text = TrainingText.of_run(cfg, stack)
        store = ActivationsStore.from_config(stack, cfg, text.dataset)
        per_batch = cfg.store_batch_size_prompts * cfg.context_size
        for _ in tqdm(
            range(self.comparison.training_tokens // per_batch), desc="activations", unit="batch"
        ):
            store.get_activations(store.get_batch_tokens())


@dataclass(frozen=True)
class Task:
    """A piece of work on one arm, for one process."""

    arm: Arm
    kind: str
    """``tune`` or ``train`` or ``evaluate``."""
    lr: float
    seed: int

    def do(self, bench: Bench) -> None:
        """Do it, unless its result is there."""
        if self.kind == "tune":
            self._tune(bench)
            return
        folder = bench.folder(self.arm, self.seed)
        train_arm(self.arm, self.lr, self.seed, folder, bench.stack, bench.device)
        if self.kind == "evaluate" and not _has(folder / EVALUATION_FILENAME, bench.settings):
            evaluate_saved(folder, device=bench.device, data=bench.data_for(folder))

    def _tune(self, bench: Bench) -> None:
        """Measure a learning rate; one at which the run diverges has no figure."""
        folder = bench.tuning_folder(self.arm, self.lr, self.seed)
        result, settings = folder / TUNING_FILENAME, bench.settings
        try:
            train_arm(self.arm, self.lr, self.seed, folder, bench.stack, bench.device)
            diverged = not (folder / SAE_CFG_FILENAME).is_file()
        except DivergedRun:
            diverged = True
        if _has(result, settings):
            return
        value = (
            None
            if diverged
            else held_out_explained_variance(folder, bench.stack, settings, bench.device)
        )
        write_json(result, {"explained_variance": value, "settings": settings.to_dict()})


def run_comparison(
    comparison: Comparison,
    output: Path,
    seeds: Sequence[int],
    jobs: int = 1,
    device: str = "cpu",
    evaluate: bool = True,
) -> dict[str, Any]:
    """Train and evaluate all arms; what a former call finished is kept.

    Args:
        comparison: What to compare.
        output: Folder of all results.
        seeds: One run of every arm for each.
        jobs: Processes that work at once, sharing the processor's cores.
        device: Where to train and evaluate.
        evaluate: Whether to evaluate as well.

    Returns:
        The learning rate of each arm, what it was chosen by and, by arm and seed, the evaluation.

    Raises:
        InputError: If the folder holds runs of other settings, or something cannot be loaded.
        StoppedRun: If a signal stopped it; the next call continues from there.
    """
    check_can_write("output", output)
    with sole_user(output / "runs"):
        return _run(Bench(comparison, output, device), seeds, jobs, evaluate)


def _run(bench: Bench, seeds: Sequence[int], jobs: int, evaluate: bool) -> dict[str, Any]:
    comparison = bench.comparison
    if evaluate:  # so that a set that cannot be loaded ends it here, not after training
        load_probing_sets(bench.stack, bench.settings)
    bench.record()
    tuning = [
        Task(arm, "tune", lr, seed)
        for arm in comparison.arms
        if len(arm.learning_rates) > 1
        for lr in arm.learning_rates
        for seed in TUNING_SEEDS
    ]
    _do_all(tuning, bench, jobs, "learning rates")
    tuned = {arm.name: _tuned(bench, arm) for arm in comparison.arms}
    chosen = {name: _best(name, found) for name, found in tuned.items()}
    kind = "evaluate" if evaluate else "train"
    # Seed by seed, so that a comparison that is cut short has whole seeds.
    tasks = [Task(arm, kind, chosen[arm.name], seed) for seed in seeds for arm in comparison.arms]
    _do_all(tasks, bench, jobs, "arms and seeds")
    if not evaluate:
        return {"learning_rates": chosen, "tuning": tuned}
    return {
        "learning_rates": chosen,
        "tuning": tuned,
        "settings": bench.settings.to_dict(),
        "evaluations": {
            arm.name: {
                str(seed): read_evaluation(bench.folder(arm, seed) / EVALUATION_FILENAME)
                for seed in seeds
            }
            for arm in comparison.arms
        },
    }


def _tuned(bench: Bench, arm: Arm) -> dict[float, float | None]:
    """Learning rate to mean explained variance; None without a choice, or where a run diverged."""
    rates = arm.learning_rates
    if len(rates) == 1:
        return {rates[0]: None}
    found = {}
    for lr in rates:
        values = [_tuning_result(bench, arm, lr, seed) for seed in TUNING_SEEDS]
        known = [value for value in values if value is not None]
        found[lr] = mean(known) if len(known) == len(values) else None
    return found


def _best(name: str, tuned: dict[float, float | None]) -> float:
    known = {lr: value for lr, value in tuned.items() if value is not None}
    if not known and len(tuned) > 1:
        raise InputError(
            f"learning_rates: runs of the arm {name!r} diverge at each of {sorted(tuned)}: give "
            "lower ones"
        )
    return max(known, key=lambda lr: known[lr], default=next(iter(tuned)))


def _tuning_result(bench: Bench, arm: Arm, lr: float, seed: int) -> float | None:
    path = bench.tuning_folder(arm, lr, seed) / TUNING_FILENAME
    return read_json(path, _TuningResult)["explained_variance"]


def _has(path: Path, settings: EvaluationSettings) -> bool:
    """Whether there is a result that was measured with these settings."""
    if not path.is_file():
        return False
    try:
        is_tuning = path.name == TUNING_FILENAME
        read = read_json(path, _TuningResult) if is_tuning else read_evaluation(path)
    except InputError:  # damaged, or of an older version
        return False
    return read["settings"] == settings.to_dict()


def _do_all(tasks: list[Task], bench: Bench, jobs: int, what: str) -> None:
    if not tasks:
        return
    with tqdm(total=len(tasks), desc=what, unit="run") as progress:
        if jobs == 1:
            for task in tasks:
                progress.set_postfix_str(f"{task.arm.name}, lr {task.lr:g}, seed {task.seed}")
                task.do(bench)
                progress.update()
            return
        for _ in _in_processes(tasks, bench, jobs):
            progress.update()


def _in_processes(tasks: list[Task], bench: Bench, jobs: int) -> Iterator[None]:
    threads = max(1, torch.get_num_threads() // jobs)
    # Bars of several processes would overwrite each other. Workers read it when they start.
    os.environ["TQDM_DISABLE"] = "1"
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        jobs,
        context,
        initializer=_start_worker,
        initargs=(Bench(bench.comparison, bench.output, bench.device), threads, stop),
    )
    with pool, _passing_on_sigterm(stop):
        futures = [pool.submit(_do_in_worker, task) for task in tasks]
        try:
            for future in as_completed(futures):
                if (error := future.result()) is not None:
                    raise error
                yield
        except BrokenProcessPool:  # a worker was stopped between two pieces of work
            raise StoppedRun(None) from None
        except BaseException:  # Ctrl-C too: other arms still run; the next call continues them
            _interrupt_workers(stop)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _passing_on_sigterm(stop: Event) -> Iterator[None]:
    """Within it, SIGTERM to this process stops the workers as Ctrl-C would."""

    def pass_on(number: int, frame: Any) -> None:
        _interrupt_workers(stop)
        raise StoppedRun(None)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt_workers(stop: Event) -> None:
    stop.set()  # a worker may have pieces of work at hand that cannot be called back
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


_bench: Bench | None = None
_stop: Event | None = None


def _start_worker(bench: Bench, threads: int, stop: Event) -> None:
    global _bench, _stop
    import sae_lens_poly  # noqa: F401 (registers the architectures)

    torch.set_num_threads(threads)
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    _bench, _stop = bench, stop


def _do_in_worker(task: Task) -> Exception | None:
    assert _bench is not None
    assert _stop is not None
    if _stop.is_set():
        return StoppedRun(None)
    try:
        task.do(_bench)
    except (InputError, StoppedRun) as error:  # handed over; a traceback tells nothing here
        return error
    except KeyboardInterrupt:
        return StoppedRun(None)
    return None
