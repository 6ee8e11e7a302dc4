"""The figures of a saved dictionary: per hook point and pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from tqdm.auto import tqdm

from sae_lens_poly.architectures.hook_scales import saved_scales
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.evaluation.metrics import (
    DegreeShares,
    ExplainedVariance,
    LatentActivity,
    SpliceLoss,
)
from sae_lens_poly.models.stacked_hooks import StackedHooks


@dataclass(frozen=True)
class Figures:
    """The figures of one hook point, or of all together."""

    explained_variance: float
    explained_variance_linear: float
    """With the terms above degree 1 left out."""
    ce_recovered: float
    """Share of the cross-entropy between zeroed and clean that the splice keeps."""
    ce_spliced: float
    """Nats per token with the splice."""
    degree_shares: dict[int, float]
    """Share of the reconstruction by degree; see :class:`DegreeShares`."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_dictionary` measured."""

    per_hook: dict[str, Figures]
    pooled: Figures
    l0: float
    """Active latents per token. One code serves all hook points."""
    n_dead: int
    """Latents that were active on none of the tokens."""
    d_sae: int
    n_tokens: int
    """Tokens counted, special tokens excluded."""
    n_tokens_spliced: int
    """Predictions counted in the cross-entropies."""
    ce_clean: float
    """Nats per token of the model alone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


@torch.no_grad()
def evaluate_dictionary(
    sae: SAE[Any],
    model: StackedHooks,
    batches: Iterable[torch.Tensor],
    special_tokens: Iterable[int] = (),
    n_splice_batches: int | None = None,
) -> Evaluation:
    """Measure a dictionary on batches of tokens (batch, pos).

    Special tokens are neither counted nor replaced. Splices use *clean* codes: computed from all
    hook points of the unmodified run, also where an early one is replaced.

    Args:
        sae: A dictionary that takes the raw activations of ``model``'s virtual hook point.
        model: The model with its hook points stacked.
        batches: Token batches, as ``ActivationsStore.get_batch_tokens`` gives them.
        special_tokens: Ids to leave out, as SAELens' ``get_special_token_ids`` gives them.
        n_splice_batches: How many of the batches the splices are measured on, the first ones;
            None: all. A splice costs two runs of the model per hook point.
    """
    n_hooks = model.n_hooks
    # What no latent writes is not reconstructed, and has no figures.
    written = list(getattr(sae, "written_hooks", range(n_hooks)))
    scales = saved_scales(sae, n_hooks)[written]
    variance, variance_linear = ExplainedVariance(scales), ExplainedVariance(scales)
    activity, shares, pooled_shares = LatentActivity(sae.cfg.d_sae), DegreeShares(), DegreeShares()
    sites = [*([i] for i in written), written]
    splices = [SpliceLoss() for _ in sites]
    ce_clean = 0.0
    special = torch.tensor(list(special_tokens), dtype=torch.long)

    for number, tokens in enumerate(tqdm(batches, desc="evaluating", leave=False)):
        keep = ~torch.isin(tokens, special.to(tokens.device))
        (_, clean_loss), cache = model.run_with_cache(
            tokens,
            names_filter=[model.hook_name],
            return_type="both",
            loss_per_token=True,
        )
        x = cache[model.hook_name]
        z = sae.encode(x.to(sae.device))
        terms = _degree_terms(sae, z)
        x_hat = sae.decode(z).to(x)

        stacked = (-1, n_hooks, model.d_model)
        x_kept, x_hat_kept = (at[keep].view(stacked)[:, written] for at in (x, x_hat))
        terms_kept = {d: term.to(x)[keep].view(stacked)[:, written] for d, term in terms.items()}
        above_linear = sum(t for d, t in terms_kept.items() if d > 1)
        variance.update(x_kept, x_hat_kept)
        variance_linear.update(x_kept, x_hat_kept - above_linear)
        activity.update(z[keep.to(z.device)])
        shares.update(terms_kept)
        scaled = {d: (t * scales.to(x)[:, None]).flatten(1) for d, t in terms_kept.items()}
        pooled_shares.update({d: t[:, None] for d, t in scaled.items()})

        if n_splice_batches is not None and number >= n_splice_batches:
            continue
        replacement = torch.where(keep[..., None], x_hat, x)
        counted = keep[:, :-1]
        ce_clean += clean_loss[counted].sum().item()
        for at, splice in zip(sites, splices, strict=True):
            losses = [
                model.splice(tokens, new, at=at, return_type="both", loss_per_token=True)[1]
                for new in (replacement, torch.zeros_like(x))
            ]
            splice.update(clean_loss[counted], *(loss[counted] for loss in losses))

    ev, ev_pooled = variance.compute()
    ev_linear, ev_linear_pooled = variance_linear.compute()
    per_hook_shares = shares.compute()
    recovered = [splice.compute() for splice in splices]
    l0, n_dead = activity.compute()
    per_hook = {
        model.hook_names[hook]: Figures(
            ev[i], ev_linear[i], *recovered[i], {d: s[i] for d, s in per_hook_shares.items()}
        )
        for i, hook in enumerate(written)
    }
    pooled = Figures(
        ev_pooled,
        ev_linear_pooled,
        *recovered[-1],
        {d: s[0] for d, s in pooled_shares.compute().items()},
    )
    return Evaluation(
        per_hook=per_hook,
        pooled=pooled,
        l0=l0,
        n_dead=n_dead,
        d_sae=sae.cfg.d_sae,
        n_tokens=activity.n_tokens,
        n_tokens_spliced=splices[0].n_tokens,
        ce_clean=ce_clean / splices[0].n_tokens,
    )


def _degree_terms(sae: SAE[Any], z: torch.Tensor) -> dict[int, torch.Tensor]:
    if isinstance(sae, PolynomialDictionary) and sae.cfg.normalize_activations == "none":
        return sae.degree_terms(z)
    return {1: sae.decode(z) - sae.b_dec}
