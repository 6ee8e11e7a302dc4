"""What a polynomial decoder gains that starts at a trained linear dictionary, at equal tokens.

    python benchmarks/warm_start.py

Crosscoders over the residual hook points of the embedded model with the settings of ``train``. Half
of the tokens train a linear one; from there on, on text that it has not read, it goes on as it is,
with interactions, or with powers (``--from_pretrained_path``). "rate 4" and so on: the terms above
degree 1 learn at 4 times the rate of all else (``--terms_lr_scale 4``). Beside them are runs that
read all tokens with one decoder. Explained variance and L0 are those of the exported dictionary on
the held-out text that ``compare`` tunes on, which no table is reported on; "linear part" is
explained variance with the terms above degree 1 left out. The ladder, where it is printed, is of
other held-out text: "linear refitted" and "own terms" say what the terms add to the best linear
decoder of the same codes, and "best" what any decoder does. Each line is one run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from sae_lens_poly import TrainingRunner
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.embedded import EMBEDDED_DATASET_NAME
from sae_lens_poly.evaluation.evaluate import evaluate_dictionary
from sae_lens_poly.evaluation.headroom import HEADROOM_TOKENS
from sae_lens_poly.evaluation.saved import evaluate_saved, load_evaluation_data
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.loading import load_stacked_model
from sae_lens_poly.models.recorded import RecordedStack
from sae_lens_poly.training.data import load_text
from sae_lens_poly.training.fine_tuning import load_training_dictionary, with_terms
from sae_lens_poly.training.flags import RUN_DEFAULTS, build_config, fit_to_model

LINEAR = ["--architecture", "crosscoder"]
POLYNOMIAL = ["--architecture", "poly_crosscoder", "--terms_lr_scale", "1"]
INTERACTIONS = [*POLYNOMIAL, "--degree", "3", "--rank_2", "64", "--rank_3", "64"]
POWERS = [*INTERACTIONS, "--decoder", "powers"]
WIDE = [*POLYNOMIAL, "--degree", "2", "--rank_2", "256"]
RATE_4, RATE_16 = (["--terms_lr_scale", scale] for scale in ("4", "16"))

#: Name to the flags of what trains on all tokens, or on the second half of them.
WHOLE = {
    "linear": LINEAR,
    "interactions": INTERACTIONS,
    "powers": POWERS,
    "interactions, rate 16": [*INTERACTIONS, *RATE_16],
    "rank 256, rate 16": [*WIDE, *RATE_16],
}
SECOND_HALF = {
    "linear, then linear": LINEAR,
    "linear, then interactions": INTERACTIONS,
    "linear, then powers": POWERS,
    "then interactions, rate 4": [*INTERACTIONS, *RATE_4],
    "then interactions, rate 16": [*INTERACTIONS, *RATE_16],
    "then rank 256": WIDE,
    "then rank 256, rate 16": [*WIDE, *RATE_16],
}

#: Little is needed of what an evaluation measures besides. The text is named because runs on the
#: rest of it, which they are given as an object, do not know where it came from.
FEW: dict[str, Any] = {
    "n_splice_batches": 1,
    "n_coherence_tokens": 256,
    "dataset_path": EMBEDDED_DATASET_NAME,
}


@dataclass
class Bench:
    """Where runs lie, and what all of them share."""

    folder: Path
    stack: RecordedStack
    options: argparse.Namespace

    def train(self, name: str, flags: list[str], tokens: int, seed: int, **more: Any) -> Path:
        """Train one dictionary.

        Returns:
            Its folder, which holds the exported dictionary and, in ``checkpoints``, the last one
            in training.
        """
        folder = self.folder / f"{name}-{seed}"
        given = [*flags, "--training_tokens", str(tokens), "--seed", str(seed)]
        given += ["--output_path", str(folder), "--checkpoint_path", str(folder / "checkpoints")]
        cfg = fit_to_model(
            build_config([*given, "--save_final_checkpoint"]),
            self.stack.d_in,
            self.stack.state_shape,
        )
        start = more.get("start")
        torch.manual_seed(seed)
        sae: Any = None
        if start is not None:
            sae = with_terms(load_training_dictionary(start, "cpu"), cfg.sae)
        with contextlib.redirect_stderr(io.StringIO()):
            TrainingRunner(cfg, more.get("text"), self.stack, sae).run()
        return folder

    def report(self, name: str, folder: Path, seed: int) -> None:
        """Print the figures of a dictionary."""
        explained, linear_part, l0 = figures(folder, self.stack)
        line = f"{name:28}{seed:5}{explained:11.4f}{linear_part:13.4f}{l0:7.1f}"
        if seed in self.options.ladder_seeds and name in self.options.ladder_arms:
            settings = EvaluationSettings(**FEW, n_headroom_tokens=HEADROOM_TOKENS)
            with contextlib.redirect_stderr(io.StringIO()):
                found = evaluate_saved(folder, settings, model=self.stack)
            assert found.headroom is not None
            rungs = found.headroom.rungs
            ours = rungs.get("ours", rungs["linear"])
            best = max(rung for name, rung in rungs.items() if name != "ours")
            line += f"{rungs['linear']:17.4f}{ours:11.4f}{best:8.4f}"
        print(line, flush=True)


def figures(folder: Path, stack: RecordedStack) -> tuple[float, float, float]:
    """Explained variance, that of the linear part, and L0 on the text to tune on."""
    sae = load_dictionary(folder)
    settings = EvaluationSettings(**FEW, n_headroom_tokens=0)
    with contextlib.redirect_stderr(io.StringIO()):
        data = load_evaluation_data(sae, stack, settings, settings.n_batches)
        found = evaluate_dictionary(sae, data)
    return found.pooled.explained_variance, found.pooled.explained_variance_linear, found.l0


def rest_of_text(folder: Path) -> Dataset:
    """The rows that a dictionary has not been trained on."""
    n_read = load_training_dictionary(folder, "cpu").cfg.metadata.n_dataset_rows_read
    text = load_text("stdlib", "train")
    assert isinstance(text, Dataset)
    return text.select(range(n_read, len(text)))


def main() -> None:
    """Train all, seed by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=RUN_DEFAULTS["training_tokens"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[*WHOLE, *SECOND_HALF])
    parser.add_argument("--ladder_seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--ladder_arms", nargs="*", default=[*WHOLE, *SECOND_HALF])
    options = parser.parse_args()

    def chosen(arms: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
        return [(name, flags) for name, flags in arms.items() if name in options.arms]

    warnings.filterwarnings("ignore")
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    batch, lr = RUN_DEFAULTS["train_batch_size_tokens"], RUN_DEFAULTS["lr"]
    print(f"{options.tokens:,} tokens, batch {batch:,}, rate {lr:g}, torch {torch.__version__}\n")
    print(
        f"{'':28}{'seed':>5}{'explained':>11}{'linear part':>13}{'L0':>7}"
        f"{'linear refitted':>17}{'own terms':>11}{'best':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        model = load_stacked_model(RUN_DEFAULTS["model_name"], RUN_DEFAULTS["hook_name"])
        stack = RecordedStack(model, Path(folder) / "activations")
        bench = Bench(Path(folder), stack, options)
        for seed in options.seeds:
            for name, flags in chosen(WHOLE):
                bench.report(name, bench.train(name, flags, options.tokens, seed), seed)
            half = bench.train("half", LINEAR, options.tokens // 2, seed)
            start = str(next((half / "checkpoints").glob("*/final_*")))
            text = rest_of_text(Path(start))
            for name, flags in chosen(SECOND_HALF):
                tokens = options.tokens - options.tokens // 2
                more = {"start": start, "text": text}
                bench.report(name, bench.train(name, flags, tokens, seed, **more), seed)


if __name__ == "__main__":
    main()
