"""Times the same training step by this package and by its peers, each in an environment of its own.

    python benchmarks/peers.py

Installs llamascopium (a pre-release) and dictionary_learning from PyPI into ``build/peers``, with
the torch of this environment, unless they are there. Then all run in turn, each round in processes
of their own, on as many threads. Every step has forward, backward, clipping, the peer's or our own
optimiser, and its schedule, from its trainer: ours is SAELens' with the fused Adam that ``train``
uses; see the scripts beside this one for the others. All keep k latents a token by BatchTopK, and
none has dead latents, so that AuxK costs nothing. Where one cannot be installed or run, what it
said is printed. Without AMX or AVX512_BF16 a step in bfloat16 takes minutes; ``--arms`` leaves
arms out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"n_hooks": 8, "d_model": 768, "d_sae": 16384, "k": 64, "batch": 1024}

#: What is installed for each peer. The pins are of what its own requirements leave open and what
#: it does not run with: TransformerLens 4, transformers 5.
PEERS = {
    "llamascopium": ["llamascopium==2.0.0b34", "transformer-lens>=3,<4"],
    "dictionary_learning": ["dictionary-learning==0.1.0", "transformers<5"],
}


@dataclass(frozen=True)
class Arm:
    """One way to step."""

    peer: str | None
    """Of :data:`PEERS`; None: this package."""
    dtype: str


ARMS = {
    "ours, float32": Arm(None, "float32"),
    "ours, bfloat16": Arm(None, "bfloat16"),
    "llamascopium, float32": Arm("llamascopium", "float32"),
    "llamascopium, bfloat16": Arm("llamascopium", "bfloat16"),
    "dictionary_learning, float32": Arm("dictionary_learning", "float32"),
}


def environment_of(peer: str, folder: Path) -> Path:
    """The Python of an environment that has a peer, which is made if it is not there.

    Raises:
        RuntimeError: With what pip said, if it cannot be installed.
    """
    python = folder / peer / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / peer)], check=True)
        wanted = [f"torch=={torch.__version__}", *PEERS[peer]]
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        run = subprocess.run(install, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(run.stderr[-1500:])
        # Another build of it than torch's cannot be imported, and nothing here needs it.
        remove = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"]
        subprocess.run(remove, check=False, capture_output=True)
    return python


def command_of(arm: Arm, folder: Path, options: argparse.Namespace) -> list[str]:
    """What times an arm and prints its seconds as JSON."""
    sizes = {**SIZES, "steps": options.steps, "warm_up": options.warm_up}
    flags = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    if arm.peer is None:
        return [sys.executable, __file__, "--only", arm.dtype, *flags[10:]]
    script = ROOT / "benchmarks" / f"peer_{arm.peer}.py"
    dtype = ["--dtype", arm.dtype] if arm.peer == "llamascopium" else []
    return [str(environment_of(arm.peer, folder)), str(script), *flags, *dtype]


def print_own_steps(options: argparse.Namespace) -> None:
    """Time our own steps; print their seconds as JSON."""
    from sae_lens import TrainingSAE, TrainingSAEConfig
    from step_timing import make_trainer

    import sae_lens_poly  # noqa: F401  (registers the architectures)
    from sae_lens_poly.training.fused_adam import fuse_

    fields: dict[str, Any] = {"architecture": "crosscoder", **SIZES}
    batch = fields.pop("batch")
    d_in = fields.pop("d_model") * fields["n_hooks"]
    torch.manual_seed(0)
    cfg = TrainingSAEConfig.from_dict({**fields, "d_in": d_in})
    sae = TrainingSAE.from_dict(cfg.to_dict())
    trainer = make_trainer(sae, batch, autocast=options.only == "bfloat16")
    fuse_(trainer.optimizer)
    batches = [torch.randn(batch, d_in) for _ in range(2)]
    seconds = []
    for step in range(options.warm_up + options.steps):
        start = time.perf_counter()
        trainer.step(batches[step % 2])
        seconds.append(time.perf_counter() - start)
        trainer.n_training_steps += 1
    print(json.dumps({"seconds": seconds[options.warm_up :]}))


def main() -> None:
    """Run all arms in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm_up", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print_own_steps(options)
        return
    sizes = ", ".join(f"{name} {value:,}" for name, value in SIZES.items())
    print(
        f"{sizes}; {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        flush=True,
    )
    for wanted in PEERS.values():
        print(f"  with {', '.join(wanted)}")
    seconds: dict[str, list[float]] = {name: [] for name in options.arms}
    failed: dict[str, str] = {}
    for _ in range(options.rounds):
        for name in [name for name in options.arms if name not in failed]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                command = command_of(ARMS[name], options.environments, options)
                run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                if run.returncode:
                    raise RuntimeError(run.stderr[-1500:])
            except RuntimeError as error:
                failed[name] = str(error)
            else:
                seconds[name] += json.loads(run.stdout.splitlines()[-1])["seconds"]
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    peers = [median for name, median in medians.items() if ARMS[name].peer]
    for name, median in medians.items():
        line = f"  {name:30} {median:7.3f} s"
        line += f"   ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})"
        if ARMS[name].peer is None and peers:
            line += f"   {median / min(peers):.2f} of the fastest peer (to be at most 0.5)"
        print(line, flush=True)
    for name, why in failed.items():
        print(f"  {name}: cannot be run here\n{why}")


if __name__ == "__main__":
    main()
