"""What a language model loses when its activations are replaced by reconstructions.

Conventions of SAELens' ``run_evals``: special tokens are neither counted nor replaced by
reconstructions (where all is taken from the clean run they hold the activations of that run, with
causal codes those of their own), zero ablation zeroes every position, cross-entropies are over all
positions but the last, KL divergences over all. Codes of several hook points raise a question that
an SAE does not: which activations they were computed from (``kinds`` of :func:`measure_splices`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sae_lens.saes.sae import SAE

from sae_lens_poly.analysis.interactions import without_degrees
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.skips import decode_from
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.attached import AttachedCrosscoder
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels
from sae_lens_poly.training.text_reading import counted

#: What a dictionary can put in place of activations, and what it is compared with.
KINDS = ("clean", "causal", "linear")
ABLATIONS = ("zero", "mean")

#: Tokens that the model runs on at a time: a larger batch is run in parts, by rows. Logits are
#: d_vocab numbers a token, and several of them are alive at once.
TOKENS_AT_A_TIME = 1024

#: Numbers of the hook points that are replaced together.
Site = tuple[int, ...]

#: Logits (batch, pos, d_vocab) and losses per token (batch, pos - 1) of a run.
Output = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class SpliceFigures:
    """The model with one kind of replacement at one site, per token."""

    ce: float
    """Cross-entropy, in nats."""
    ce_recovered: float
    """SAELens' ``ce_loss_score``: 1 where nothing is lost, 0 where as much as by zero ablation."""
    ce_recovered_vs_mean: float
    """The same against mean ablation."""
    kl: float
    """KL(clean || spliced) of the next token's distribution, in nats."""
    kl_recovered: float
    """SAELens' ``kl_div_score``: the share of the KL of zero ablation that is avoided."""


#: Kind of replacement to its figures: those of :data:`KINDS` that were asked for, and
#: :data:`ABLATIONS`.
ByKind = dict[str, SpliceFigures]


@dataclass(frozen=True)
class Splices:
    """What :func:`measure_splices` measured. Shares are NaN where the ablation costs nothing."""

    ce_clean: float
    """Cross-entropy of the model alone, nats per token."""
    n_tokens: int
    """Predictions counted in cross-entropies."""
    n_tokens_kl: int
    """Tokens counted in KL divergences, the last of each context included."""
    alone: dict[str, ByKind]
    """By hook point, replaced alone."""
    cumulative: list[ByKind]
    """Entry m - 1: the first m of the hook points that the dictionary writes."""
    together: ByKind
    """All hook points that the dictionary writes."""


@dataclass(frozen=True)
class _Cost:
    """Cross-entropy and KL summed over tokens, in nats."""

    ce: float = 0.0
    kl: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.ce + other.ce, self.kl + other.kl)


@dataclass(frozen=True)
class _CleanRun:
    """Some tokens through the model alone."""

    tokens: torch.Tensor
    keep: torch.Tensor
    """True where a token is no special one, (batch, pos)."""
    x: torch.Tensor
    """Activations (batch, pos, d_in)."""
    log_probs: torch.Tensor
    """Shape (batch, pos, d_vocab)."""

    def cost_of(self, output: Output) -> _Cost:
        """What a run with something replaced costs, over the counted tokens."""
        logits, loss = output
        kl = 0.0
        for own, other, keep in zip(self.log_probs, logits, self.keep, strict=True):
            new = other[keep].float().log_softmax(dim=-1)
            per_token = F.kl_div(new, own[keep], reduction="none", log_target=True).sum(dim=-1)
            kl += per_token.double().sum().item()
        return _Cost(loss[self.keep[:, :-1]].double().sum().item(), kl)


class SpliceBaselines:
    """The model alone and with hook points ablated, on some batches: shared by dictionaries.

    Ablations are run when a dictionary first asks for a site, and kept. Of the model alone, sums
    and tokens are kept; its logits are computed again for every pass, on a few tokens at a time.

    Args:
        model: The model with its hook points stacked.
        batches: Tokens (batch, pos) each.
        special_tokens: Ids that are neither counted nor replaced, as SAELens'
            ``get_special_token_ids`` gives them.
        positions: Of a context, those that are counted and replaced.

    Raises:
        InputError: If no tokens are left to count.
    """

    mean: torch.Tensor
    """Mean activation over the counted tokens, (d_in,)."""
    ce_clean: float
    """Cross-entropy of the model alone, nats per token."""

    @torch.no_grad()
    def __init__(
        self,
        model: StackedHooks,
        batches: Iterable[torch.Tensor],
        special_tokens: Iterable[int] = (),
        positions: slice = slice(None),
    ) -> None:
        self.model = model
        self.batches = [part for tokens in batches for part in _in_parts(tokens)]
        self._special, self._positions = list(special_tokens), positions
        keeps = [self._keep(tokens) for tokens in self.batches]
        self.n_tokens = sum(int(keep[:, :-1].sum()) for keep in keeps)
        self.n_tokens_kl = sum(int(keep.sum()) for keep in keeps)
        if self.n_tokens == 0:
            raise InputError(
                f"batches: {len(self.batches)} batches have no token that is counted beside the "
                "special ones and the last of each context: give text, and contexts of 2 or more"
            )
        self._ablated: dict[tuple[str, Site], _Cost] = {}
        ce, total = 0.0, torch.zeros(model.d_in, dtype=torch.float64)
        for tokens, keep in zip(self.batches, keeps, strict=True):
            (_, loss), cache = model.run_with_cache(
                tokens, names_filter=[model.hook_name], return_type="both", loss_per_token=True
            )
            x = cache[model.hook_name][keep]
            ce += loss[keep[:, :-1]].double().sum().item()
            total += x.sum(dim=0, dtype=torch.promote_types(x.dtype, torch.float32)).cpu().double()
        self.ce_clean, self.mean = ce / self.n_tokens, total / self.n_tokens_kl

    def _keep(self, tokens: torch.Tensor) -> torch.Tensor:
        return counted(tokens, self._special, self._positions)

    @torch.no_grad()
    def clean_runs(self) -> Iterator[_CleanRun]:
        """Run the model alone on one part of the text after the other."""
        name = self.model.hook_name
        for tokens in self.batches:
            logits, cache = self.model.run_with_cache(
                tokens, names_filter=[name], return_type="logits"
            )
            log_probs = logits.float().log_softmax(dim=-1)
            yield _CleanRun(tokens, self._keep(tokens), cache[name], log_probs)

    @torch.no_grad()
    def ablations(self, sites: Sequence[Site]) -> dict[tuple[str, Site], SpliceFigures]:
        """Figures of zero and mean ablation at each site; run where they have not been yet."""
        missing = [site for site in dict.fromkeys(sites) if ("zero", site) not in self._ablated]
        costs = {(kind, site): _Cost() for kind in ABLATIONS for site in missing}
        for run in self.clean_runs() if missing else ():
            # SAELens zeroes special tokens too; the mean is of the others, and put there.
            mean = torch.where(run.keep[..., None], self.mean.to(run.x), run.x)
            for kind, new in zip(ABLATIONS, (torch.zeros_like(run.x), mean), strict=True):
                for site in missing:
                    costs[kind, site] += run.cost_of(self.spliced(run.tokens, new, site))
        self._ablated |= costs
        return {(k, s): self.figures(self._ablated[k, s], s) for k in ABLATIONS for s in sites}

    def spliced(self, tokens: torch.Tensor, new: torch.Tensor, site: Site) -> Output:
        """The model's output with ``new`` (batch, pos, d_in) in place at ``site``."""
        return self.model.splice(tokens, new, at=site, return_type="both", loss_per_token=True)

    def figures(self, cost: _Cost, site: Site) -> SpliceFigures:
        """What a replacement costs, against the ablations at its site."""
        ce, kl = cost.ce / self.n_tokens, cost.kl / self.n_tokens_kl
        zero, mean = (self._ablated[kind, site] for kind in ABLATIONS)
        return SpliceFigures(
            ce,
            _recovered(ce, self.ce_clean, zero.ce / self.n_tokens),
            _recovered(ce, self.ce_clean, mean.ce / self.n_tokens),
            kl,
            _recovered(kl, 0.0, zero.kl / self.n_tokens_kl),
        )


def _in_parts(tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tokens.split(max(1, TOKENS_AT_A_TIME // tokens.shape[1]))


def _recovered(spliced: float, clean: float, ablated: float) -> float:
    return (ablated - spliced) / (ablated - clean) if ablated != clean else float("nan")


@torch.no_grad()
def measure_splices(
    sae: SAE[Any], baselines: SpliceBaselines, kinds: Sequence[str] | None = None
) -> Splices:
    """Replace activations by reconstructions, at every hook point alone and at several together.

    Sites are each hook point that the dictionary writes, alone; the first m of them, for every m;
    and all. Kinds of replacement:

    - ``clean``: codes from all hook points of the run of the model alone. What is written at an
      early hook point depends on later ones.
    - ``causal``: codes computed as the run goes, from the hook points that it has reached, as they
      are in this run; the others are hidden from the encoder (:class:`AttachedCrosscoder`). For
      crosscoders over several hook points of one model; at one hook point it is ``clean``.
    - ``linear``: clean codes, decoded without the terms above degree 1. For polynomial decoders.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        baselines: The model, the text, and what ablations cost there.
        kinds: Of :data:`KINDS`; None: those that this dictionary has.

    Raises:
        InputError: If the dictionary does not fit the model, or has no such kind.
    """
    model = baselines.model
    if sae.cfg.d_in != model.d_in:
        raise InputError(
            f"the dictionary takes activations of width d_in={sae.cfg.d_in}, and those at "
            f"{model.hook_name!r} are {model.d_in} wide: it belongs to other hook points"
        )
    kinds = _checked_kinds(sae, model, kinds)
    written = tuple(getattr(sae, "written_hooks", range(model.n_hooks)))
    alone: list[Site] = [(hook,) for hook in written]
    cumulative: list[Site] = [written[:m] for m in range(1, len(written) + 1)]
    sites = list(dict.fromkeys([*alone, *cumulative]))

    ablated = baselines.ablations(sites)
    costs = {(kind, site): _Cost() for kind in kinds for site in sites}
    attached = (
        {site: _attached(model, sae, site) for site in sites}
        if isinstance(sae, Crosscoder) and "causal" in kinds
        else {}
    )
    for run in baselines.clean_runs():
        replacements = _reconstructions(sae, run, kinds)
        for site in sites:
            for kind in kinds:
                output = (
                    attached[site](
                        run.tokens, where=run.keep, return_type="both", loss_per_token=True
                    )
                    if kind == "causal"
                    else baselines.spliced(run.tokens, replacements[kind], site)
                )
                costs[kind, site] += run.cost_of(output)

    figures = {key: baselines.figures(cost, key[1]) for key, cost in costs.items()} | ablated
    by_site: dict[Site, ByKind] = {
        site: {kind: figures[kind, site] for kind in (*kinds, *ABLATIONS)} for site in sites
    }
    return Splices(
        baselines.ce_clean,
        baselines.n_tokens,
        baselines.n_tokens_kl,
        {model.hook_names[site[0]]: by_site[site] for site in alone},
        [by_site[site] for site in cumulative],
        by_site[cumulative[-1]],
    )


def splice_kinds(sae: SAE[Any], model: StackedHooks) -> tuple[str, ...]:
    """Which of :data:`KINDS` a dictionary has on a model."""
    several = isinstance(sae, Crosscoder) and sae.n_hooks > 1
    has = {
        "clean": True,
        "causal": several and not isinstance(model, StackedModels),
        "linear": isinstance(sae, PolynomialDictionary) and sae.polynomial is not None,
    }
    return tuple(kind for kind in KINDS if has[kind])


def _checked_kinds(
    sae: SAE[Any], model: StackedHooks, kinds: Sequence[str] | None
) -> tuple[str, ...]:
    known = splice_kinds(sae, model)
    for kind in kinds or ():
        if kind not in known:
            raise InputError(
                f"kinds={list(kinds or ())}: {sae.cfg.architecture()!r} has no kind {kind!r} "
                f"here; choose of {', '.join(known)}"
            )
    return known if kinds is None else tuple(kinds)


def _attached(model: StackedHooks, sae: Crosscoder, site: Site) -> AttachedCrosscoder:
    at = [model.hook_names[hook] for hook in site]
    attached = AttachedCrosscoder(model.model, sae, at, "causal", hook_names=model.hook_names)
    attached.stack = attached.stack.with_run(model.run_kwargs, model.autocast)
    return attached


def _reconstructions(
    sae: SAE[Any], run: _CleanRun, kinds: Sequence[str]
) -> dict[str, torch.Tensor]:
    """What is put in place with codes of the clean run, by kind, (batch, pos, d_in)."""
    x = run.x.to(sae.device, sae.dtype)
    decoded = {}
    # Encoded for each: SAELens' normalisation at run time is undone by decoding, once.
    if "clean" in kinds:
        decoded["clean"] = decode_from(sae, sae.encode(x), x)
    if "linear" in kinds:
        with without_degrees(sae):
            decoded["linear"] = decode_from(sae, sae.encode(x), x)
    keep = run.keep[..., None]
    return {kind: torch.where(keep, x_hat.to(run.x), run.x) for kind, x_hat in decoded.items()}
