"""Checks training steps against float64, then times them on one GPU.

    python benchmarks/gpu_step.py

Checked, at a small size and on any device: the loss and all gradients of each arm in float32
against the same arm in float64. Timed, on a GPU: whole steps of SAELens' trainer under autocast to
bfloat16, of SAELens' own BatchTopK on the hook points end to end, a plain einsum crosscoder, and
ours: dense, dense by Triton, CP, tensor ring. Last, the share of the card's bfloat16 peak (measured
by a product of two square matrices) that the encoder's product reaches.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from crosscoder_step import arms, config_fields, make
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from step_timing import add_ranks, add_sizes, make_trainer

from sae_lens_poly.architectures.kernels.sparse_code import use_triton

SMALL = {"n_hooks": 3, "d_model": 16, "d_sae": 96, "k": 4, "batch": 32}
SMALL |= {"cp_rank": 12, "ring_ranks": [2, 6, 2]}

#: Name to a letter of crosscoder_step.py, or None for SAELens' own.
ARMS = {
    "SAELens' batchtopk": None,
    "plain einsums": "A",
    "ours, dense": "B",
    "ours, dense, Triton": "B",
    "ours, CP": "D",
    "ours, tensor ring": "F",
}
TRITON = "ours, dense, Triton"


def dictionary_of(name: str, options: argparse.Namespace) -> Any:
    """The dictionary of an arm, in float32 on CPU."""
    letter = ARMS[name]
    if letter is not None:
        return make(arms(options)[letter], options)
    fields = config_fields(options, {"architecture": "batchtopk"})
    fields.pop("n_hooks")
    torch.manual_seed(0)
    return TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())


def loss_and_gradients(sae: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Of one forward and backward pass."""
    step_input = TrainStepInput(
        sae_in=x,
        dead_neuron_mask=None,
        coefficients={},
        n_training_steps=0,
        is_logging_step=False,
    )
    output = sae.training_forward_pass(step_input)
    output.loss.backward()
    return [output.loss.detach(), *(p.grad for p in sae.parameters() if p.grad is not None)]


def check(name: str, device: str) -> float:
    """The largest relative error of an arm's loss and gradients."""
    options = argparse.Namespace(**SMALL)
    sae = dictionary_of(name, options).to(device)
    x = torch.randn(options.batch, options.n_hooks * options.d_model, dtype=torch.float64)
    exact = copy.deepcopy(sae).double()
    if hasattr(exact, "cfg"):
        exact.cfg.dtype = "float64"
    wanted = loss_and_gradients(exact, x.to(device))
    found = loss_and_gradients(sae, x.float().to(device))
    errors = [
        float((a.double() - b).norm() / b.norm().clamp_min(1e-12))
        for a, b in zip(found, wanted, strict=True)
    ]
    return max(errors)


def seconds_of(run: Callable[[], Any], warm_up: int, repeats: int) -> float:
    """Median seconds of a call on the GPU."""
    seconds = []
    for number in range(warm_up + repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number >= warm_up:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_arm(name: str, options: argparse.Namespace) -> None:
    """Print the median step of an arm."""
    sae = dictionary_of(name, options).cuda()
    sae.device = torch.device("cuda")
    trainer = make_trainer(sae, options.batch, autocast=True, device="cuda")
    x = torch.randn(options.batch, options.n_hooks * options.d_model, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(lambda: trainer.step(x), options.warm_up, options.steps)
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"  {name:22} {1e3 * seconds:8.1f} ms  {peak:6.2f} GiB", flush=True)


def print_share_of_peak(options: argparse.Namespace) -> None:
    """Print how near the encoder's product comes to the card's bfloat16 peak."""
    n, d_in = options.batch, options.n_hooks * options.d_model

    def flops(rows: int, inner: int, columns: int) -> float:
        a = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(inner, columns, device="cuda", dtype=torch.bfloat16)
        return 2.0 * rows * inner * columns / seconds_of(lambda: a @ b, 5, 20)

    peak, reached = flops(8192, 8192, 8192), flops(n, d_in, options.d_sae)
    print(
        f"bfloat16 peak, measured: {peak / 1e12:.0f} TFLOP/s; the encoder's product reaches "
        f"{reached / 1e12:.0f}, {reached / peak:.0%} of it"
    )


def main() -> None:
    """Check on any device; time on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_sizes(parser, batch=4096)
    add_ranks(parser)
    parser.add_argument("--warm_up", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    names = [name for name in ARMS if name != TRITON or on_gpu]
    print(f"errors against float64, on {'the GPU' if on_gpu else 'CPU'}:")
    for name in names:
        use_triton(name == TRITON)
        error = check(name, "cuda" if on_gpu else "cpu")
        print(f"  {name:22} {error:.1e}", flush=True)
        if not error < 1e-3:
            raise SystemExit(f"{name} is not what float64 says: nothing is timed")
    if not on_gpu:
        raise SystemExit("There is no GPU here, and steps are timed on one: nothing was timed.")
    print(f"steps on {torch.cuda.get_device_name()}, torch {torch.__version__}, autocast:")
    for name in names:
        use_triton(name == TRITON)
        time_arm(name, options)
    print_share_of_peak(options)


if __name__ == "__main__":
    main()
