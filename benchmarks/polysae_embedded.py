"""TopK against poly_topk on the embedded language model, through SAELens' own runner.

    python benchmarks/polysae_embedded.py

Equal tokens, width, k, learning rate and seeds; held-out modules of the standard library for
evaluation. Prints explained variance (and without the terms above degree 1), CE recovered, L0,
dead latents, of every seed; and what B_ij of the strongest arm has to do with co-occurrence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    TrainingSAEConfig,
)
from sae_lens.config import LoggingConfig
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.util import get_special_token_ids

from sae_lens_poly import StackedHooks
from sae_lens_poly.analysis.interactions import (
    CoOccurrence,
    interaction_correlations,
    random_pairs,
)
from sae_lens_poly.embedded.corpus import stdlib_dataset
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.evaluation.evaluate import EvaluationData, evaluate_dictionary

_POLY = {"architecture": "poly_topk"}
ARMS: dict[str, dict[str, Any]] = {
    "topk": {"architecture": "topk"},
    "poly_topk (default: codes)": _POLY,
    "poly_topk, reconstruction": {**_POLY, "projection": "reconstruction"},
}


def train_and_evaluate(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One arm, one seed."""
    model = load_embedded_model()
    fields = {
        "d_in": model.cfg.d_model,
        "d_sae": options.d_sae,
        "k": options.k,
        "decoder_init_norm": options.decoder_init_norm,
        **ARMS[arm],
    }
    n_steps = options.tokens // options.batch
    with tempfile.TemporaryDirectory() as folder:
        cfg = LanguageModelSAERunnerConfig(
            sae=TrainingSAEConfig.from_dict(fields),
            model_name="embedded",
            hook_name=options.hook_name,
            dataset_path="stdlib",
            is_dataset_tokenized=False,
            exclude_special_tokens=True,
            training_tokens=options.tokens,
            train_batch_size_tokens=options.batch,
            context_size=256,
            store_batch_size_prompts=16,
            n_batches_in_buffer=64,
            lr=options.lr,
            lr_end=options.lr,
            lr_warm_up_steps=n_steps // 20,
            lr_decay_steps=n_steps // 4,
            dead_feature_window=100,
            seed=seed,
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=folder,
            verbose=False,
        )
        torch.manual_seed(seed)
        started = time.perf_counter()
        LanguageModelSAETrainingRunner(cfg, stdlib_dataset("train"), model).run()
        seconds = time.perf_counter() - started
        sae = SAE.load_from_disk(folder)
    store = ActivationsStore.from_sae(
        model, sae, stdlib_dataset("held_out"), store_batch_size_prompts=8
    )
    batches = [store.get_batch_tokens() for _ in range(8)]
    special = get_special_token_ids(model.tokenizer)
    stack = StackedHooks(model, options.hook_name)
    evaluation = evaluate_dictionary(sae, EvaluationData(stack, batches, special))
    result = {
        "explained variance": evaluation.pooled.explained_variance,
        "linear only": evaluation.pooled.explained_variance_linear,
        "CE recovered": evaluation.pooled.ce_recovered,
        "L0": evaluation.l0,
        "dead": evaluation.n_dead,
        "seconds": seconds,
    }
    if "projection" in fields or fields["architecture"] == "poly_topk":
        result["correlations"] = correlations(sae, model, batches, options.hook_name)
    return result


@torch.no_grad()
def correlations(sae: Any, model: Any, batches: list[torch.Tensor], hook_name: str) -> Any:
    """Of ||B_ij|| and its controls with co-occurrence, over random pairs."""
    counter = CoOccurrence(random_pairs(sae.cfg.d_sae, 50_000))
    for tokens in batches:
        _, cache = model.run_with_cache(tokens, names_filter=hook_name)
        counter.update(sae.encode(cache[hook_name][:, 1:]))
    return interaction_correlations(sae, counter)


def main() -> None:
    """Run the arms over the seeds and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--d_sae", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decoder_init_norm", type=float, default=0.1)
    parser.add_argument("--hook_name", default="blocks.3.hook_resid_post")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--json", help="write all figures there")
    options = parser.parse_args()
    print(f"torch {torch.__version__}; {vars(options)}")
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            result = train_and_evaluate(arm, seed, options)
            results[arm].append(result)
            shown = {n: round(v, 4) for n, v in result.items() if not isinstance(v, dict)}
            print(f"seed {seed}  {arm:28} {shown}", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(results, indent=1))
    print("\nmeans over seeds:")
    for arm, runs in results.items():
        evs = [run["explained variance"] for run in runs]
        error = statistics.stdev(evs) / len(evs) ** 0.5 if len(evs) > 1 else float("nan")
        means = {
            n: round(statistics.mean(run[n] for run in runs), 4)
            for n, v in runs[0].items()
            if not isinstance(v, dict)
        }
        print(f"  {arm:28} {means}  standard error of EV {error:.4f}")
        for name in runs[0].get("correlations", {}):
            pearson = [run["correlations"][name]["pearson"] for run in runs]
            spearman = [run["correlations"][name]["spearman"] for run in runs]
            print(
                f"    co-occurrence and {name:20} pearson {statistics.mean(pearson):+.3f}, "
                f"spearman {statistics.mean(spearman):+.3f}"
            )


if __name__ == "__main__":
    sys.exit(main())
