"""Steering by two latents, as PolySAE's second version reports it, and the arms that it leaves out.

    python benchmarks/steering.py
    python benchmarks/steering.py --model_name build/smollm2 --hook_name model.layers.14 \\
        --text FILE --training_tokens 300000 --context_size 128 --lr 0.002 --seeds 0

A concept is a token. Its pair of latents is the one that announces it best: the F1 of "both are
active" as a prediction that the concept follows, on held-out text. Concepts are the most frequent
tokens of at least three letters, each with the pair of the dictionary that is measured. Then, on
neutral prompts of other held-out text, a vector is added to the hook point at every position, and
the concept's rank among all tokens at the last position is compared with the rank without it:

    d_i + d_j                  PolySAE's published arm
    B_ij                       what the two add together, alone
    d_i + d_j and B_ij         s (d_i + d_j) + s^2 B_ij at their typical activation s
    d_i + d_j, linear SAE      the same of a TopK SAE that was trained alike, with its own pairs
    difference in means        activations before the concept, less the mean of all
    two random latents         the control

All vectors of a line have the same norm, a share of the median norm of an activation. "better" is
the share of concepts and prompts whose rank is lower than without the vector, "worse" likewise (the
rest is unchanged); "gain" is how much lower it is on average, "median" the median of that;
"concepts" counts those with a mean gain above that of the linear SAE. "cosine" is with the
difference in means. Interactions are trained with degree 2 and 3; seeds count together, with the
standard error over seeds behind the gain.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sae_lens import SAE

from sae_lens_poly import TrainingRunner, load_stacked_model
from sae_lens_poly.analysis.steering import add_to_residual, interaction_direction
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.dictionary_folder import load_dictionary
from sae_lens_poly.evaluation.evaluate import EvaluationData
from sae_lens_poly.evaluation.saved import load_evaluation_data
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.models.recorded import RecordedStack
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.flags import RUN_DEFAULTS, SINGLE_HOOK_NAME, build_config, fit_to_model

POLYNOMIAL, LINEAR = "poly_topk", "topk"
DIRECTIONS, PAIR, BOTH = "d_i + d_j", "B_ij", "d_i + d_j and B_ij"
OF_LINEAR, MEANS, RANDOM = "d_i + d_j, linear SAE", "difference in means", "two random latents"
ARMS = (DIRECTIONS, PAIR, BOTH, OF_LINEAR, MEANS, RANDOM)
N_CONCEPTS, N_PROMPTS, PROMPT_TOKENS = 27, 12, 32
#: Of the held-out text: batches that concepts and pairs are found on, and those before prompts.
N_BATCHES, BATCH = 16, 8


@dataclass
class Positions:
    """Held-out positions and what follows them."""

    x: torch.Tensor
    """Activations (n, d_in)."""
    following: torch.Tensor
    """The next token, (n,)."""


def train(architecture: str, stack: StackedHooks, folder: Path, seed: int, flags: Any) -> SAE[Any]:
    """A dictionary of the hook point, exported."""
    given = {
        "architecture": architecture,
        "hook_name": flags.hook_name,
        "model_name": flags.model_name,
        "dataset_path": flags.text,
        "training_tokens": flags.training_tokens,
        "context_size": flags.context_size,
        "lr": flags.lr,
        "seed": seed,
        "output_path": str(folder / f"{architecture}-{seed}"),
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    cfg = fit_to_model(build_config(words), stack.d_in, stack.state_shape)
    torch.manual_seed(seed)
    with contextlib.redirect_stderr(io.StringIO()):
        TrainingRunner(cfg, override_model=stack).run()
    return load_dictionary(str(given["output_path"]))


@torch.no_grad()
def positions_of(data: EvaluationData) -> Positions:
    """All positions of held-out batches but the last of each context."""
    x, following = [], []
    for tokens in data.batches:
        keep = data.keep(tokens)[:, :-1]
        x.append(data.model.gather(tokens)[:, :-1][keep].float())
        following.append(tokens[:, 1:][keep])
    return Positions(torch.cat(x), torch.cat(following))


def concepts_of(positions: Positions, tokenizer: Any) -> list[int]:
    """The most frequent tokens of at least three letters, most frequent first."""
    counts = positions.following.bincount()
    found: list[int] = []
    for token in counts.argsort(descending=True).tolist():
        if len(found) == N_CONCEPTS:
            break
        word = tokenizer.decode([token]).strip()
        if word.isalpha() and len(word) >= 3:
            found.append(token)
    return found


@torch.no_grad()
def pair_of(z: torch.Tensor, follows: torch.Tensor) -> tuple[int, int]:
    """The two latents whose common activity announces the concept best, by F1.

    Args:
        z: Codes (n, d_sae).
        follows: Where the concept is the next token, (n,).
    """
    # Pairs of the latents that are active most often in front of the concept.
    candidates = (z[follows] > 0).sum(dim=0).topk(200).indices
    mine = (z[:, candidates] > 0).float()
    together, before = mine.T @ mine, mine[follows].T @ mine[follows]
    f1 = 2 * before / (together + follows.sum())
    best = int(f1.fill_diagonal_(0).argmax())
    i, j = divmod(best, len(candidates))
    return int(candidates[i]), int(candidates[j])


def vectors_of(
    dictionaries: tuple[PolynomialDictionary, SAE[Any]],
    codes: tuple[torch.Tensor, torch.Tensor],
    positions: Positions,
    concept: int,
) -> dict[str, torch.Tensor]:
    """The vector of each arm (d_in,), of any norm; ``codes`` are those of the positions."""
    (polynomial, linear), (z, z_linear) = dictionaries, codes
    follows = positions.following == concept
    i, j = pair_of(z, follows)
    direction = interaction_direction(polynomial, i, j)
    both = z[(z[:, i] > 0) & (z[:, j] > 0)][:, [i, j]]
    a, b = pair_of(z_linear, follows)
    drawn = torch.randint(len(linear.W_dec), (2,), generator=torch.Generator().manual_seed(concept))
    return {
        DIRECTIONS: direction.linear,
        PAIR: direction.pair,
        BOTH: direction.at(float(both.mean())),
        OF_LINEAR: linear.W_dec[a] + linear.W_dec[b],
        MEANS: positions.x[follows].mean(dim=0) - positions.x.mean(dim=0),
        RANDOM: linear.W_dec[drawn].sum(dim=0),
    }


@torch.no_grad()
def ranks(stack: StackedHooks, prompts: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """The rank of every token at the last position, with a vector added, (prompts, d_vocab)."""
    hook = (stack.hook_name, add_to_residual(vector))
    logits = stack.run_with_hooks(prompts, return_type="logits", fwd_hooks=[hook])[:, -1]
    return logits.argsort(dim=-1, descending=True).argsort(dim=-1)


@torch.no_grad()
def measured(
    data: tuple[EvaluationData, torch.Tensor],
    dictionaries: tuple[PolynomialDictionary, SAE[Any]],
    shares: list[float],
) -> Iterator[tuple[str, float, float, torch.Tensor]]:
    """Arm, share of the norm, cosine with the difference in means, and gains of rank."""
    text, prompts = data
    positions = positions_of(text)
    polynomial, linear = dictionaries
    codes = polynomial.encode(positions.x), linear.encode(positions.x)
    norm = positions.x.norm(dim=-1).median()
    unsteered = ranks(text.model, prompts, torch.zeros(text.model.d_in))
    for concept in concepts_of(positions, text.model.tokenizer):
        vectors = vectors_of(dictionaries, codes, positions, concept)
        for arm, vector in vectors.items():
            cosine = float(F.cosine_similarity(vector, vectors[MEANS], dim=0))
            for share in shares:
                added = share * norm * vector / vector.norm().clamp_min(1e-12)
                steered = ranks(text.model, prompts, added)
                yield arm, share, cosine, unsteered[:, concept] - steered[:, concept]


def data_of(
    sae: SAE[Any], stack: StackedHooks, text: str, skip_rows: int | None
) -> tuple[EvaluationData, torch.Tensor]:
    """Text to find concepts on, and prompts of the text behind it."""
    settings = EvaluationSettings(
        n_batches=N_BATCHES,
        batch_size_prompts=BATCH,
        dataset_path=text,
        skip_rows=skip_rows,
    )
    found = load_evaluation_data(sae, stack, settings)
    behind = load_evaluation_data(sae, stack, settings, N_BATCHES)
    prompts = torch.cat(behind.batches)[:: N_BATCHES * BATCH // N_PROMPTS]
    return found, prompts[:N_PROMPTS, :PROMPT_TOKENS]


def main() -> None:
    """Train, steer, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name", default=RUN_DEFAULTS["model_name"])
    parser.add_argument("--hook_name", default=SINGLE_HOOK_NAME)
    parser.add_argument("--text", default=RUN_DEFAULTS["dataset_path"])
    parser.add_argument(
        "--skip_rows", type=int, help="not held out; if not given, those of training"
    )
    for name in ("training_tokens", "context_size"):
        parser.add_argument(f"--{name}", type=int, default=RUN_DEFAULTS[name])
    parser.add_argument("--lr", type=float, default=RUN_DEFAULTS["lr"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("sae_lens").setLevel(logging.ERROR)

    gains: dict[tuple[float, str], list[torch.Tensor]] = defaultdict(list)
    cosines: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_stacked_model(options.model_name, options.hook_name)
        stack = RecordedStack(model, folder / "activations")
        for seed in options.seeds:
            polynomial, linear = (
                train(architecture, stack, folder, seed, options)
                for architecture in (POLYNOMIAL, LINEAR)
            )
            assert isinstance(polynomial, PolynomialDictionary)
            data = data_of(polynomial, model, options.text, options.skip_rows)
            of_seed: dict[tuple[float, str], list[torch.Tensor]] = defaultdict(list)
            for arm, share, cosine, gain in measured(data, (polynomial, linear), options.shares):
                of_seed[share, arm].append(gain)
                cosines[arm].append(cosine)
            for key, of_concepts in of_seed.items():
                gains[key].append(torch.stack(of_concepts))

    print(
        f"{options.model_name}, {options.hook_name}: {options.training_tokens:,} tokens, seeds "
        f"{options.seeds}, {N_CONCEPTS} concepts, {N_PROMPTS} prompts of {PROMPT_TOKENS} tokens, "
        f"torch {torch.__version__}"
    )
    for share in options.shares:
        print(
            f"\nnorm {share:g}{'':20}{'better':>8}{'worse':>8}{'gain':>10}{'+-':>8}"
            f"{'median':>9}{'concepts':>11}{'cosine':>9}"
        )
        reference = torch.stack(gains[share, OF_LINEAR]).float().mean(dim=-1)
        for arm in ARMS:
            of_arm = torch.stack(gains[share, arm]).float()  # seeds, concepts, prompts
            of_seeds = of_arm.mean(dim=(1, 2))
            error = float(of_seeds.std() / len(of_seeds) ** 0.5) if len(of_seeds) > 1 else 0.0
            ahead = (of_arm.mean(dim=-1) > reference).float().sum(dim=-1).mean()
            cosine = sum(cosines[arm]) / len(cosines[arm])
            print(
                f"{arm:26}{(of_arm > 0).float().mean():8.0%}{(of_arm < 0).float().mean():8.0%}"
                f"{of_seeds.mean():10.1f}{error:8.1f}{of_arm.median():9.0f}"
                f"{ahead:8.1f}/{of_arm.shape[1]}{cosine:9.2f}"
            )


if __name__ == "__main__":
    main()
