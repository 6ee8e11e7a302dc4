"""What is done with a damaged file: as a user would, in this process, and how it went."""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from sae_lens_poly import InputError, StackedHooks, TrainingRunner
from sae_lens_poly.cli import main
from sae_lens_poly.comparison.arms import arm_config, read_comparison
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.evaluation.labelled_text import load_labelled
from sae_lens_poly.evaluation.probing import class_tasks
from sae_lens_poly.hub.upload import upload_dictionary
from sae_lens_poly.training.flags import build_config, fit_to_model
from tests.fuzz.command_lines import wrong_command_line
from tests.fuzz.mutations import (
    change_bytes,
    change_json,
    change_state,
    change_tensors,
    change_text,
    copy_of,
    other_file,
)

HOOKS = "blocks.{1,2}.hook_resid_post"
SMALL = (
    f"--hook_name={HOOKS}",
    *("--training_tokens=512", "--train_batch_size_tokens=128", "--context_size=32"),
    *("--d_sae=32", "--k=4", "--rank_2=4", "--rank_3=4"),
    *("--n_batches_in_buffer=16", "--store_batch_size_prompts=4"),
)
QUICK = ["--n_batches", "1", "--batch_size_prompts", "2", "--n_splice_batches", "1"]
QUICK += ["--n_headroom_tokens", "0", "--probing"]

COMPARISON = {
    "model_name": "stdlib-6l",
    "hook_name": HOOKS,
    "dataset_path": "stdlib",
    "training_tokens": 4096,
    "d_sae": 32,
    "k": 4,
    "learning_rates": [0.001, 0.01],
    "record_gb": 1.0,
    "description": "for damage",
    "run": {"train_batch_size_tokens": 256, "context_size": 64, "n_batches_in_buffer": 8},
    "evaluation": {"n_batches": 1, "probe_ks": [1, 2], "probing": ["tokens"], "test_share": 0.2},
    "arms": {
        "linear": {"architecture": "crosscoder", "separate": True},
        "interactions": {"architecture": "poly_crosscoder", "rank_2": 4, "mask_p": 0.1},
    },
}

#: What an outcome may be. The first two are right; ``accepted`` is so where nothing says that the
#: damage must be refused.
REFUSED, ACCEPTED = "refused", "accepted"
TAKEN, TRACEBACK, NOT_FINITE = "taken, and wrong", "traceback", "not finite"


@dataclass(frozen=True)
class Outcome:
    """How a damaged file or a wrong command line fared."""

    kind: str
    what: str
    """The damage, in words."""
    said: str = ""
    """The error message, or the traceback."""


class Bench:
    """A whole dictionary, checkpoint, comparison and labelled set, to be damaged by copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = load_embedded_model()
        self.text = stdlib_dataset("train").select(range(30))
        out, checkpoints = folder / "out", folder / "checkpoints"
        flags = ["--n_checkpoints=1", f"--checkpoint_path={checkpoints}", f"--output_path={out}"]
        self._train(flags)
        self.out = out
        self.checkpoint = next(checkpoints.glob("*/*"))
        assert main(["evaluate", str(out), *QUICK]) == 0
        self.comparison = folder / "comparison.yaml"
        self.comparison.write_text(yaml.safe_dump(COMPARISON))
        rows = [{"text": f"import {w}\nx = {i}", "label": w} for i in range(30) for w in "ab"]
        self.labelled = {
            "jsonl": "\n".join(json.dumps(row) for row in rows),
            "json": json.dumps(rows),
            "csv": "text,label\n" + "\n".join(f'"{r["text"]}",{r["label"]}' for r in rows),
        }

    def _train(self, flags: list[str]) -> TrainingRunner:
        stack = StackedHooks(self.model, HOOKS)
        cfg = fit_to_model(build_config([*SMALL, *flags]), stack.d_in, stack.state_shape)
        runner = TrainingRunner(cfg, self.text, stack)
        runner.run()
        return runner

    def dictionary(self, rng: random.Random) -> Outcome:
        """Damage a saved dictionary, and evaluate or upload it."""
        folder = copy_of(self.out, self.folder / "damaged")
        what = _damage(
            rng,
            folder,
            {
                "cfg.json": 12,
                "sae_weights.safetensors": 10,
                "evaluation.json": 5,
                "runner_cfg.json": 2,
                "manifest.json": 2,
                "sparsity.safetensors": 1,
            },
        )

        def use() -> bool:
            if rng.random() < 0.2:
                with contextlib.suppress(ZeroDivisionError):
                    upload_dictionary(folder, "user/repo", "x")
            status = main(["evaluate", str(folder), *QUICK])
            if status:
                raise InputError("status 2")
            weights = load_file(folder / "sae_weights.safetensors").values()
            figures = json.loads((folder / "evaluation.json").read_text())["pooled"]
            return all(map(_is_finite, weights)) and math.isfinite(figures["explained_variance"])

        return outcome_of(what, use)

    def checkpoint_of_a_run(self, rng: random.Random) -> Outcome:
        """Damage a checkpoint, and resume from it or export it."""
        folder = copy_of(self.checkpoint, self.folder / "checkpoint")
        what = _damage(
            rng,
            folder,
            {
                "trainer_state.pt": 8,
                "sae_weights.safetensors": 4,
                "cfg.json": 4,
                "activations_store_state.safetensors": 3,
                "activation_scaler.json": 3,
                "runner_cfg.json": 1,
                "manifest.json": 1,
            },
        )
        new = copy_of(self.out, self.folder / "new")

        def use() -> bool:
            if rng.random() < 0.2 and not what.startswith("!"):
                if main(["export", str(folder), str(new)]):
                    raise InputError("status 2")
            else:
                flags = [f"--resume_from_checkpoint={folder}", f"--output_path={new}"]
                self._train([*flags, f"--checkpoint_path={self.folder / 'more'}"])
            return all(map(_is_finite, load_file(new / "sae_weights.safetensors").values()))

        return outcome_of(what, use)

    def comparison_file(self, rng: random.Random) -> Outcome:
        """Damage a comparison file or a labelled set, and read it."""
        return self._labelled_set(rng) if rng.random() < 0.4 else self._yaml(rng)

    def _yaml(self, rng: random.Random) -> Outcome:
        path = copy_of(self.comparison, self.folder / "damaged.yaml")
        if rng.random() < 0.6:
            as_json = path.with_suffix(".json")
            as_json.write_text(json.dumps(COMPARISON))
            what = change_json(rng, as_json)
            path.write_text(yaml.safe_dump(json.loads(as_json.read_text())), encoding="utf-8")
        elif rng.random() < 0.8:
            what = rng.choice((change_text, change_bytes))(rng, path)
        else:
            doubling = "".join(
                f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
            )
            what, text = rng.choice(
                [
                    ("! references that multiply", f"run:\n  a0: &a0 [x]\n{doubling}"),
                    ("! a reference to itself", "run: &a {b: *a}\n"),
                    ("! a tag of Python", "run: !!python/object/apply:os.system [touch /tmp/x]\n"),
                    ("! deep", "run: " + "[" * 100_000),
                    ("! a date", "training_tokens: 2020-01-01\n"),
                ]
            )
            rest = {k: v for k, v in COMPARISON.items() if k != "run" or "date" in what}
            rest.pop("training_tokens" if "date" in what else "run", None)
            path.write_text(yaml.safe_dump(rest) + text)

        def use() -> bool:
            comparison = read_comparison(str(path))
            for arm in comparison.arms:
                for lr in arm.learning_rates:
                    if not _is_plain(arm_config(arm, lr, 0).to_dict()):
                        return False
            return True

        return outcome_of(what, use)

    def _labelled_set(self, rng: random.Random) -> Outcome:
        kind = rng.choice(list(self.labelled))
        # Under a new name: datasets keeps what it has read.
        path = self.folder / f"labelled-{rng.randrange(10**9)}.{kind}"
        path.write_text(self.labelled[kind])
        if kind == "json" and rng.random() < 0.7:
            what = change_json(rng, path)
        else:
            what = rng.choice((change_text, change_bytes))(rng, path)
        columns = {}
        if rng.random() < 0.2:
            columns = {rng.choice(("text_column", "label_column")): rng.choice(("", "x", "label"))}

        def use() -> bool:
            text = load_labelled(str(path), **columns)
            assert text.train_texts
            class_tasks(text.train_labels, text.test_labels, 10, 10, 0)
            return True

        try:
            return outcome_of(f"{kind}: {what}" if not what.startswith("!") else what, use)
        finally:
            path.unlink()

    def command_line(self, rng: random.Random) -> Outcome:
        """Give a command line that is wrong."""
        arguments, what = wrong_command_line(rng, self.out, self.checkpoint, self.comparison)
        new = self.folder / "trained"
        if arguments[0] == "train" and not any("output_path" in word for word in arguments):
            arguments.append(f"--output_path={new}")

        def use() -> bool:
            status = main(arguments)
            if status not in (0, 2):
                raise AssertionError(f"status {status}")
            if status == 2:
                raise InputError("status 2")
            return True

        return outcome_of(f"! {what}", use)


TARGETS: dict[str, Callable[[Bench, random.Random], Outcome]] = {
    "saved dictionaries": Bench.dictionary,
    "checkpoints": Bench.checkpoint_of_a_run,
    "comparison files, labelled sets": Bench.comparison_file,
    "command lines": Bench.command_line,
}


def _damage(rng: random.Random, folder: Path, weights: dict[str, int]) -> str:
    """Damage one file of a folder; the manifest, which would tell, mostly goes."""
    name = rng.choices(list(weights), list(weights.values()))[0]
    path = folder / name
    keeps = rng.random() < 0.15
    if not keeps and name != "manifest.json":
        (folder / "manifest.json").unlink()
    own = {".json": change_json, ".safetensors": change_tensors, ".pt": change_state}
    change = rng.choices((own[path.suffix], change_bytes, other_file), (8, 2, 2))[0]
    before = path.read_bytes()
    what = change(rng, path)
    if name in ("sparsity.safetensors", "runner_cfg.json", "evaluation.json"):
        what = what.removeprefix("! ")
    elif keeps and (not path.is_file() or path.read_bytes() != before) and name != "manifest.json":
        what = f"! {what.removeprefix('! ')}, with its manifest"
    mark, what = ("! ", what[2:]) if what.startswith("! ") else ("", what)
    return f"{mark}{name}: {what}"


def outcome_of(what: str, use: Callable[[], bool]) -> Outcome:
    """Run something and say how it went."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            fine = use()
    except InputError as error:
        said = str(error)
        if said == "status 2":
            lines = printed.getvalue().splitlines()
            said = "\n".join(line for line in lines if line.startswith("error: "))
            if said.count("error: ") != 1 and said.count("\n"):
                return Outcome(TRACEBACK, what, printed.getvalue()[-3000:])
        return Outcome(REFUSED, what, said)
    except SystemExit as error:
        kind = REFUSED if error.code == 2 else TAKEN
        return Outcome(kind, what, printed.getvalue()[-300:])
    except BaseException:
        return Outcome(TRACEBACK, what, traceback.format_exc()[-3000:])
    if not fine:
        return Outcome(NOT_FINITE, what)
    return Outcome(TAKEN if what.startswith("!") else ACCEPTED, what)


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return not isinstance(value, float) or math.isfinite(value)
