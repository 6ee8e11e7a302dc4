"""What a language model loses when all its MLPs are replaced by a dictionary at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens import HookedTransformer

from sae_lens_poly.circuits.frozen_run import check_fit
from sae_lens_poly.circuits.replaced_run import ReplacedRun
from sae_lens_poly.circuits.replacement import MLPReplacement, add_skips
from sae_lens_poly.evaluation.splicing import Output, SpliceBaselines, SpliceFigures
from sae_lens_poly.models.stacked_hooks import StackedHooks


@dataclass(frozen=True)
class ReplacedModel:
    """The model with the outputs of all MLPs that a dictionary writes replaced at once.

    Special tokens are neither replaced nor counted, as in
    :class:`~sae_lens_poly.evaluation.splicing.Splices`.
    """

    ce_clean: float
    """Cross-entropy of the model alone, nats per token."""
    n_tokens: int
    """Predictions counted in cross-entropies."""
    replaced: SpliceFigures
    """Latents read the run that they change, so that errors build up: the replacement model."""
    clean_codes: SpliceFigures
    """Codes of a run of the model alone."""
    with_errors: SpliceFigures
    """As ``replaced``, with what the dictionary misses in a run of the model alone added: the local
    replacement model of attribution graphs. It computes what the model does, up to rounding."""
    zero: SpliceFigures
    """MLP outputs of 0 instead."""
    mean: SpliceFigures
    """Their means instead."""


@torch.no_grad()
def measure_replaced_model(
    replacement: MLPReplacement,
    model: HookedTransformer,
    batches: Iterable[torch.Tensor],
    special_tokens: Iterable[int] = (),
) -> ReplacedModel:
    """Run the model on text with reconstructions in the place of its MLPs' outputs.

    Args:
        replacement: Of its MLPs.
        model: A TransformerLens model.
        batches: Tokens (batch, pos) each.
        special_tokens: Ids that are neither counted nor replaced.

    Raises:
        InputError: If the replacement does not fit the model, or no tokens are left to count.
    """
    check_fit(model, replacement)
    n_reads = len(replacement.read_hooks)
    stack = StackedHooks(model, [*replacement.read_hooks, *replacement.write_hooks])
    baselines = SpliceBaselines(stack, batches, special_tokens)
    site = tuple(range(n_reads, stack.n_hooks))
    ablations = baselines.ablations([site])
    costs: dict[str, Any] = {}
    for run in baselines.clean_runs():
        x = run.x.unflatten(-1, (stack.n_hooks, stack.d_model))
        reads, outputs = x[..., :n_reads, :], x[..., n_reads:, :]
        decoded = replacement.decode(replacement.encode(reads)).to(x)
        decoded = add_skips(replacement, decoded, reads)
        whole = torch.cat([reads, decoded.where(run.keep[..., None, None], outputs)], dim=-2)

        for kind, output in {
            "replaced": _live(replacement, model, run.tokens, run.keep),
            "clean_codes": baselines.spliced(run.tokens, whole.flatten(-2), site),
            "with_errors": _live(replacement, model, run.tokens, run.keep, outputs - decoded),
        }.items():
            cost = run.cost_of(output)
            costs[kind] = costs[kind] + cost if kind in costs else cost
    return ReplacedModel(
        baselines.ce_clean,
        baselines.n_tokens,
        **{kind: baselines.figures(cost, site) for kind, cost in costs.items()},
        **{kind: figures for (kind, _), figures in ablations.items()},
    )


def _live(
    replacement: MLPReplacement,
    model: HookedTransformer,
    tokens: torch.Tensor,
    keep: torch.Tensor,
    errors: torch.Tensor | None = None,
) -> Output:
    hooks = ReplacedRun(replacement, errors, keep).hooks()
    return model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="both", loss_per_token=True)
