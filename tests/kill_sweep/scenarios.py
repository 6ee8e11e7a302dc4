"""What is interrupted: each has a state before, an act, and the state that the act leads to."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from sae_lens.config import LoggingConfig
from sae_lens.saes.sae import SAE
from safetensors.torch import load_file

from sae_lens_poly import (
    StackedHooks,
    TrainingPolyCrosscoderConfig,
    TrainingRunner,
    export_checkpoint,
    whole_files,
)
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.evaluation.saved import evaluate_saved, load_evaluation_data
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.hub import fetch_dictionary, upload_dictionary
from sae_lens_poly.manifest import check_manifest
from tests.conftest import HUB
from tests.kill_sweep.operations import NEVER, Ending, Interruption, run_child

BATCH, N_STEPS = 64, 6
SETTINGS = {"n_batches": 1, "n_splice_batches": 1, "batch_size_prompts": 2, "n_pairs": 20}

#: Files to their content; folders that are empty do not count.
Snapshot = dict[str, bytes]


class Materials:
    """The model and the text of all scenarios."""

    def __init__(self) -> None:
        self.model = load_embedded_model()
        self.text = stdlib_dataset("train").select(range(20))

    def train(self, folder: Path, n_steps: int, layers: str = "1,2", **settings: Any) -> None:
        """Train a small dictionary on batches that depend on the number of the step alone."""
        from sae_lens import LanguageModelSAERunnerConfig

        hooks = f"blocks.{{{layers}}}.hook_resid_post"
        defaults: dict[str, Any] = {
            "sae": TrainingPolyCrosscoderConfig(
                d_in=256, d_sae=32, n_hooks=2, k=4, rank_2=4, rank_3=4, k_start=8, k_anneal_steps=5
            ),
            "model_name": "stdlib-6l",
            "hook_name": hooks,
            "dataset_path": "stdlib",
            "context_size": 32,
            "training_tokens": n_steps * BATCH,
            "train_batch_size_tokens": BATCH,
            "store_batch_size_prompts": 4,
            "n_batches_in_buffer": 8,
            "lr": 1e-3,
            "device": "cpu",
            "checkpoint_path": str(folder / "checkpoints"),
            "output_path": str(folder / "out"),
            # In place of a name that is drawn.
            "logger": LoggingConfig(log_to_wandb=False, wandb_id="run"),
            "verbose": False,
        }
        cfg = LanguageModelSAERunnerConfig(**{**defaults, **settings})
        torch.manual_seed(0)
        _Deterministic(cfg, self.text, StackedHooks(self.model, hooks)).run()


class _Deterministic(TrainingRunner):
    def run_trainer_with_interruption_handling(self, trainer: Any) -> Any:
        trainer.data_provider = _batches(trainer.n_training_samples // BATCH)
        return super().run_trainer_with_interruption_handling(trainer)


def _batches(step: int) -> Iterator[torch.Tensor]:
    while True:
        yield torch.randn(BATCH, 256, generator=torch.Generator().manual_seed(step))
        step += 1


class Scenario(ABC):
    """An act on a folder.

    Args:
        materials: Model and text.
        folder: Where everything of it lies, always the same: paths are in some of the files.
    """

    def __init__(self, materials: Materials, folder: Path) -> None:
        self.materials, self.folder = materials, folder
        self.pristine = folder.with_name(f"{folder.name}-pristine")

    @abstractmethod
    def prepare(self) -> None:
        """Make the state before."""

    @abstractmethod
    def act(self) -> None:
        """Change it."""

    def watched(self) -> Path:
        """Where operations count."""
        return self.folder

    def things(self) -> list[Path]:
        """Folders that each have to be whole, in the old state or the new."""
        return [self.folder / "out"]

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        """Look at what is there after an interruption; raises AssertionError."""
        found = self.snapshot()
        assert found in (old, new), _difference(found, old, new)

    def snapshot(self) -> Snapshot:
        """What is there, without what is unfinished."""
        found: Snapshot = {}
        for thing in self.things():
            for path in sorted(thing.rglob("*")):
                inside = path.relative_to(self.folder)
                unfinished = any(part.startswith(".unfinished-") for part in inside.parts)
                if path.is_file() and not unfinished:
                    found[str(inside)] = path.read_bytes()
        return found

    def strays(self) -> list[Path]:
        """What is unfinished."""
        return list(self.folder.rglob(".unfinished-*"))

    def save_state(self) -> None:
        """Keep the state before."""
        shutil.copytree(self.folder, self.pristine, symlinks=True)

    def reset(self) -> None:
        """Go back to the state before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.pristine, self.folder, symlinks=True, dirs_exist_ok=True)

    def run(self, interruption: Interruption) -> Ending:
        """Act in a child process."""
        return run_child(self.act, self.watched(), interruption)


class Save(Scenario):
    """The final save of a run over the evaluated dictionary of another one."""

    def prepare(self) -> None:
        self.materials.train(self.folder, 2)
        evaluate(self.materials, self.folder / "out")
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        (self.folder / "out" / "notes.txt").write_text("the user's")

    def act(self) -> None:
        self.materials.train(self.folder, 3, layers="3,4", checkpoint_path=None)

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        super().check(ending, old, new)
        load_dictionary(self.folder / "out")


class SaveInPlace(Save):
    """The same where the file system cannot exchange folders."""

    def act(self) -> None:
        whole_files.exchange = lambda *_: False
        super().act()

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        load_dictionary(self.folder / "out")  # finishes what was ready
        super().check(ending, old, new)


class Export(Scenario):
    """An export over an older dictionary."""

    def prepare(self) -> None:
        self.materials.train(self.folder, N_STEPS, n_checkpoints=1)

    def act(self) -> None:
        checkpoint = next((self.folder / "checkpoints").glob("run/*"))
        export_checkpoint(checkpoint, self.folder / "out")

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        super().check(ending, old, new)
        SAE.load_from_disk(self.folder / "out")
        check_manifest(next((self.folder / "checkpoints").glob("run/*")))


class Evaluate(Scenario):
    """An evaluation over an older one."""

    def prepare(self) -> None:
        self.materials.train(self.folder, 2, checkpoint_path=None)
        evaluate(self.materials, self.folder / "out")

    def act(self) -> None:
        evaluate(self.materials, self.folder / "out", n_pairs=10)

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        super().check(ending, old, new)
        load_dictionary(self.folder / "out")


def evaluate(materials: Materials, folder: Path, **settings: Any) -> None:
    """Evaluate without probing."""
    sae = load_dictionary(folder)
    model = StackedHooks(materials.model, str(sae.cfg.metadata.hook_name))
    asked = EvaluationSettings.from_dict({**SETTINGS, **settings})
    evaluate_saved(folder, data=load_evaluation_data(sae, model, asked))


class Checkpoints(Scenario):
    """A run with two checkpoints; resumed after each interruption, it ends as one that was not."""

    def prepare(self) -> None:
        self.folder.mkdir(parents=True)

    def act(self) -> None:
        self.materials.train(self.folder, N_STEPS, n_checkpoints=2)

    def watched(self) -> Path:
        return self.folder / "checkpoints"

    def things(self) -> list[Path]:
        return [self.folder / "checkpoints"]

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        found = self.snapshot()
        wholes = {name for name in found if name.endswith("manifest.json")}
        assert all(found[name] == new[name] for name in found), _difference(found, old, new)
        for name in wholes:  # each that is there has all of its files
            start = name.removesuffix("manifest.json")
            assert {n for n in new if n.startswith(start)} <= found.keys()
        assert {Path(name).parent for name in found} == {Path(name).parent for name in wholes}
        if ending.status == 0:
            return
        if not wholes:
            said = self._resumed()
            assert said.status != 0
            made = (self.folder / "checkpoints").is_dir()
            expected = "is no checkpoint, and holds none" if made else "is not there"
            assert expected in said.said, said.said
            self.materials.train(self.folder, N_STEPS, n_checkpoints=2)
        else:
            newest = max(int(Path(name).parent.name) for name in wholes)
            said = self._resumed()
            assert said.status == 0, said.said
            assert f"/{newest}, the newest whole checkpoint" in said.said, said.said
            assert not self.strays()
        weights = load_file(self.folder / "out" / "sae_weights.safetensors")
        for name, value in self.whole_run.items():
            assert torch.equal(value, weights[name]), name

    def _resumed(self) -> Ending:
        settings = {"resume_from_checkpoint": str(self.folder / "checkpoints"), "n_checkpoints": 2}
        act = lambda: self.materials.train(self.folder, N_STEPS, **settings)  # noqa: E731
        return run_child(act, self.folder, NEVER)

    @property
    def whole_run(self) -> dict[str, torch.Tensor]:
        """Weights of the run that nothing interrupts."""
        if not hasattr(self, "_whole_run"):
            folder = self.folder.with_name(f"{self.folder.name}-whole")
            self.materials.train(folder, N_STEPS, n_checkpoints=2)
            self._whole_run = load_file(folder / "out" / "sae_weights.safetensors")
        return self._whole_run


class Upload(Scenario):
    """An upload over an older one, and the cache that it reads the model card through."""

    def prepare(self) -> None:
        HUB.start()
        self.materials.train(self.folder, 2, checkpoint_path=None)
        self.materials.train(self.folder / "more", 3, checkpoint_path=None)

    def reset(self) -> None:
        super().reset()
        HUB.clear()
        with self._cache():
            upload_dictionary(self.folder / "out", "user/repo", "x", evaluated=False)
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def act(self) -> None:
        with self._cache():
            new = self.folder / "more" / "out"
            upload_dictionary(new, "user/repo", "x", evaluated=False)
            fetch_dictionary("user/repo", "x")

    @contextmanager
    def _cache(self) -> Iterator[None]:
        previous = constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(self.folder / "cache"), False
        try:
            yield
        finally:
            constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = previous

    def watched(self) -> Path:
        return self.folder / "cache"

    def strays(self) -> list[Path]:
        return []  # the cache is huggingface_hub's, which resumes them

    def snapshot(self) -> Snapshot:
        return {name: file.content for name, file in HUB.files("user/repo").items()}

    def check(self, ending: Ending, old: Snapshot, new: Snapshot) -> None:
        super().check(ending, old, new)
        with self._cache():
            fetched = fetch_dictionary("user/repo", "x")
            for file in fetched.iterdir():
                assert file.read_bytes() == self.snapshot()[f"x/{file.name}"]


SCENARIOS: dict[str, type[Scenario]] = {
    "checkpoints, and resuming": Checkpoints,
    "a save over an old dictionary": Save,
    "the same, file by file": SaveInPlace,
    "an export over an old dictionary": Export,
    "an evaluation over an old one": Evaluate,
    "an upload and its cache": Upload,
}


def _difference(found: Snapshot, old: Snapshot, new: Snapshot) -> str:
    kinds = {}
    for name in sorted({*found, *old, *new}):
        value = found.get(name)
        same_as = [k for k, state in (("old", old), ("new", new)) if state.get(name) == value]
        kinds[name] = "/".join(same_as) or "neither"
    return json.dumps(kinds, indent=1)
