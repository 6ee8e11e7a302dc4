"""Traces a training step and a reconstruction, and prints calls, depth and files.

    python -m scripts.trace_calls

Counted are functions of this package and of SAELens, properties included, without comprehensions;
of the training step the forward pass. Beside ours stands SAELens' BatchTopK. ``--verbose`` prints
the calls.
"""

from __future__ import annotations

import argparse
import inspect
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from types import FrameType
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput

import sae_lens_poly

PACKAGES = ("/sae_lens_poly/", "/sae_lens/")
SIZES = {"d_in": 64, "d_sae": 128, "k": 8}
INTERACTIONS = {"architecture": "poly_crosscoder", "n_hooks": 4, **SIZES}
LINEAR = {"architecture": "crosscoder", "n_hooks": 4, **SIZES}
STOCK = {"architecture": "batchtopk", **SIZES}


@dataclass
class Trace:
    """Calls into the packages, each with its depth."""

    calls: list[tuple[int, str, str]] = field(default_factory=list)
    now: int = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """What Python's profiler calls."""
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not any(package in file for package in PACKAGES) or name.startswith("<"):
            return
        if event == "call":
            self.now += 1
            self.calls.append((self.now, name, file))
        elif event == "return":
            self.now -= 1

    def summary(self) -> str:
        """Calls, depth, files."""
        depth = max(depth for depth, *_ in self.calls)
        files = len({file for *_, file in self.calls})
        return f"{len(self.calls):3} calls, {depth:2} deep, {files:2} files"


def trace(fn: Callable[[], Any]) -> Trace:
    """The calls that ``fn`` makes."""
    found = Trace()
    sys.setprofile(found)
    try:
        fn()
    finally:
        sys.setprofile(None)
    return found


def make(fields: dict[str, Any]) -> Any:
    """A dictionary in training."""
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())


def training_step(fields: dict[str, Any]) -> Trace:
    """The third step of a dictionary, forward."""
    sae, x = make(fields), torch.randn(64, fields["d_in"])
    optimizer = torch.optim.Adam(sae.parameters())

    def step(number: int) -> Any:
        dead = torch.zeros(fields["d_sae"], dtype=torch.bool)
        return sae.training_forward_pass(TrainStepInput(x, {}, dead, number, False))

    for number in range(2):
        step(number).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return trace(lambda: step(2))


@torch.no_grad()
def reconstruction(fields: dict[str, Any]) -> Trace:
    """From a loaded dictionary and activations to their reconstruction."""
    with tempfile.TemporaryDirectory() as folder:
        make(fields).save_inference_model(folder)
        sae = SAE.load_from_disk(folder)
    x = torch.randn(5, fields["d_in"])
    return trace(lambda: sae.decode(sae.encode(x)))


def most_ancestors() -> tuple[int, list[str]]:
    """The most ancestors of ours that a class of ours has, and which classes have them."""
    ancestors: dict[str, int] = {}
    for module in pkgutil.walk_packages(sae_lens_poly.__path__, "sae_lens_poly."):
        if module.name.endswith("__main__"):
            continue
        try:
            imported = import_module(module.name)
        except ModuleNotFoundError as missing:
            if missing.name != "triton":  # which this module is for, and which has no classes
                raise
            continue
        for _, cls in inspect.getmembers(imported, inspect.isclass):
            if cls.__module__.startswith("sae_lens_poly."):
                ours = [c for c in cls.__mro__[1:] if c.__module__.startswith("sae_lens_poly.")]
                ancestors[f"{cls.__module__}.{cls.__name__}"] = len(ours)
    most = max(ancestors.values())
    return most, sorted(name for name, n in ancestors.items() if n == most)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verbose", action="store_true", help="print the calls")
    options = parser.parse_args()
    traces = {
        "training step, poly_crosscoder with interactions": training_step(INTERACTIONS),
        "training step, SAELens' BatchTopK": training_step(STOCK),
        "reconstruction, linear crosscoder": reconstruction(LINEAR),
        "reconstruction, SAELens' BatchTopK": reconstruction(STOCK),
    }
    for name, found in traces.items():
        print(f"{name:50} {found.summary()}")
        for depth, function, file in found.calls if options.verbose else ():
            print("  " * depth + f"{function}  ({file.rsplit('/', 1)[1]})")
    most, names = most_ancestors()
    print(f"most ancestors of ours: {most} ({len(names)} classes)")


if __name__ == "__main__":
    main()
