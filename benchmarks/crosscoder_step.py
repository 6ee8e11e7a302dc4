"""Times whole training steps of crosscoders: plain einsums, ours dense, CP and tensor ring.

    python benchmarks/crosscoder_step.py

A step is what SAELens' trainer does with a batch: forward, backward, its statistics, clipping,
Adam, and the retraction of an interactions decoder. "plain" is a BatchTopK crosscoder as it is
commonly written, three-dimensional weights and two einsums, in the same trainer; it selects by
SAELens' BatchTopK. All arms run in turn, each in a process of its own, so that peak memory is that
of one arm. Then BatchTopK's selection alone, at one hook point, against SAELens'.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from factored_fields import factored
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from step_timing import add_ranks, add_sizes, print_steps, run_in_own_process
from torch import nn

import sae_lens_poly  # noqa: F401  (registers the architectures)
from sae_lens_poly.architectures.sparsifiers.batch_topk import batch_top_k

INTERACTIONS = {"architecture": "poly_crosscoder"}


@dataclass(frozen=True)
class Arm:
    """One crosscoder."""

    name: str
    fields: dict[str, Any] | None
    """Of its training config; None: the plain one."""
    compared_with: str | None
    at_most: float | None = None
    """The ratio that it is meant to stay below."""


def arms(options: argparse.Namespace) -> dict[str, Arm]:
    """All arms by their letter."""
    cp = factored("cp", [options.cp_rank])
    ring = factored("tensor_ring", options.ring_ranks)
    by_norm = {"score_by_decoder_norm": True}
    return {
        "A": Arm("plain einsums, dense", None, None),
        "B": Arm("dense", {}, "A", 0.5),
        "C": Arm("dense, interactions", INTERACTIONS, "B", 1.1),
        "D": Arm(f"CP {options.cp_rank}", cp, "B", 0.35),
        "E": Arm(f"CP {options.cp_rank}, interactions", {**cp, **INTERACTIONS}, "D", 1.1),
        "F": Arm(f"tensor ring {tuple(options.ring_ranks)}", ring, "B", 0.35),
        "G": Arm("tensor ring, interactions", {**ring, **INTERACTIONS}, "F", 1.1),
        "H": Arm("dense, scored without norms", {"score_by_decoder_norm": False}, "A"),
        "I": Arm("CP, scored by norms", {**cp, **by_norm}, "B"),
        "J": Arm("dense, masked 5%", {"mask_p": 0.05}, "B"),
    }


class PlainCrosscoder(nn.Module):
    """A BatchTopK crosscoder by two einsums: W_enc (L, d, F), W_dec (F, L, d)."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        L, d, F = options.n_hooks, options.d_model, options.d_sae
        W_dec = torch.randn(F, L, d)
        W_dec /= W_dec.flatten(1).norm(dim=1)[:, None, None]
        self.W_dec = nn.Parameter(W_dec)
        self.W_enc = nn.Parameter(W_dec.permute(1, 2, 0).contiguous())
        self.b_enc = nn.Parameter(torch.zeros(F))
        self.b_dec = nn.Parameter(torch.zeros(L, d))
        self.select = BatchTopK(options.k)
        self.cfg = TrainingSAEConfig.from_dict(config_fields(options, {}))
        self.device = self.W_dec.device

    def get_coefficients(self) -> dict[str, float]:
        """It has no penalties."""
        return {}

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """The squared error of a batch (n, L * d), summed over hook points."""
        x = step_input.sae_in.unflatten(-1, self.b_dec.shape)
        pre = torch.einsum("nld,ldf->nf", x, self.W_enc) + self.b_enc
        with torch.no_grad():
            norms = self.W_dec.norm(dim=-1).sum(dim=-1)
            active = self.select(pre * norms) > 0
        z = pre * active
        x_hat = torch.einsum("nf,fld->nld", z, self.W_dec) + self.b_dec
        loss = (x_hat - x).pow(2).sum(dim=(-1, -2)).mean()
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=x_hat.flatten(1),
            feature_acts=z,
            hidden_pre=pre,
            loss=loss,
            losses={"mse_loss": loss},
        )


def config_fields(options: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a training config at the sizes of the command line."""
    sizes = {
        "architecture": "crosscoder",
        "d_in": options.n_hooks * options.d_model,
        "n_hooks": options.n_hooks,
        "d_sae": options.d_sae,
        "k": options.k,
    }
    return {**sizes, **fields}


def make(arm: Arm, options: argparse.Namespace) -> Any:
    """The dictionary of an arm."""
    torch.manual_seed(0)
    if arm.fields is None:
        return PlainCrosscoder(options)
    cfg = TrainingSAEConfig.from_dict(config_fields(options, arm.fields))
    return TrainingSAE.from_dict(cfg.to_dict())


def time_selection(options: argparse.Namespace) -> None:
    """Print what BatchTopK's selection costs at one hook point, beside the encoder product."""
    n, k = options.selection_batch, options.k
    torch.manual_seed(0)
    x, W_enc = torch.randn(n, options.d_model), torch.randn(options.d_model, options.d_sae)
    b_enc = torch.zeros(options.d_sae)
    scores = torch.addmm(b_enc, x, W_enc / options.d_model**0.5)
    rows, cols = batch_top_k(scores, int(k * n))
    kept = torch.zeros_like(scores)
    kept[rows, cols] = scores[rows, cols]
    equal = torch.equal(kept, BatchTopK(k)(scores))
    del kept
    product = median_time(lambda: torch.addmm(b_enc, x, W_enc), options.steps)
    ours = median_time(lambda: batch_top_k(scores, int(k * n)), options.steps)
    stock = median_time(lambda: BatchTopK(k)(scores), options.steps)
    print(
        f"\nselection at L 1, batch {n}, {options.d_sae} latents, k {k}: encoder product "
        f"{product:.3f} s; SAELens' BatchTopK {stock:.3f} s ({stock / product:.2f} of it); ours "
        f"{ours:.3f} s ({ours / product:.2f}, to be at most 0.3); same result: {equal}"
    )


def median_time(run: Any, repeats: int) -> float:
    """Median seconds of a call, after one that does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Run the arms in turn and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_sizes(parser)
    add_ranks(parser)
    parser.add_argument("--selection_batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm_up", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", default="ABCDEFG", help="letters; H, I and J are extras")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = arms(options)
    if options.only:
        sae = make(known[options.only], options)
        d_in = options.n_hooks * options.d_model
        print_steps(sae, options.batch, d_in, options.warm_up, options.steps)
        return

    print(
        f"L {options.n_hooks}, d_model {options.d_model}, d_sae {options.d_sae}, k {options.k}, "
        f"batch {options.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    results: dict[str, list[dict[str, Any]]] = {letter: [] for letter in options.arms}
    for _ in range(options.rounds):
        for letter in options.arms:
            results[letter].append(run_in_own_process(letter))
    medians = {
        letter: statistics.median([s for run in runs for s in run["seconds"]])
        for letter, runs in results.items()
    }
    for letter, median in medians.items():
        arm, runs = known[letter], results[letter]
        peak = max(run["peak_gib"] for run in runs)
        line = f"  {letter} {arm.name:28} {median:6.3f} s  {peak:5.2f} GiB"
        line += f"  {runs[0]['parameters'] / 1e6:6.1f} M parameters"
        if arm.compared_with in medians:
            line += f"  {median / medians[arm.compared_with]:.2f} of {arm.compared_with}"
            line += f" (to be at most {arm.at_most})" if arm.at_most else ""
        print(line)
    time_selection(options)


if __name__ == "__main__":
    main()
