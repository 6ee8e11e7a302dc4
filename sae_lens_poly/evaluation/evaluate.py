"""The figures of a saved dictionary: per hook point and pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from sae_lens_poly.analysis.interactions import (
    CoOccurrence,
    interaction_correlations,
    random_pairs,
    without_degrees,
)
from sae_lens_poly.analysis.profiles import decoder_profile, direction_cosines
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.skips import decode_from
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.coherence import FunctionalCoherence
from sae_lens_poly.evaluation.headroom import MOST_BYTES, Headroom, Samples, measure_headroom
from sae_lens_poly.evaluation.held_out import HeldOutText
from sae_lens_poly.evaluation.metrics import (
    CosineSimilarity,
    DegreeShares,
    ExplainedVariance,
    LatentActivity,
    MeanSquaredError,
)
from sae_lens_poly.evaluation.probing_sets import (
    ProbingSet,
    Summary,
    TextSet,
    load_probing_sets,
)
from sae_lens_poly.evaluation.replaced_model import ReplacedModel, measure_replaced_model
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.evaluation.splicing import SpliceBaselines, Splices, measure_splices
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.training.text_reading import TextReading, counted


@dataclass(frozen=True)
class Figures:
    """The figures of one hook point, or of all together."""

    explained_variance: float
    explained_variance_linear: float
    """With the terms above degree 1 left out."""
    mse: float
    """Squared error per token, summed over d_model; pooled: in normalised units, all summed."""
    mse_normalised: float
    """The same in units in which all hook points have the same mean norm."""
    cosine: float
    """Mean cosine of activation and reconstruction."""
    l0: float
    """Active latents per token, of those that write the hook point; pooled: of all."""
    n_dead: int
    """Of the same latents, those that were active on no token."""
    n_dense: int
    """Of the same latents, those that were active on more than a tenth of the tokens."""
    n_latents: int
    """How many the same latents are."""
    ce_recovered: float
    """Share of the cross-entropy between zeroed and clean that the splice keeps, clean codes."""
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
    """Active latents per token."""
    n_dead: int
    """Latents that were active on none of the tokens."""
    n_dense: int
    """Latents that were active on more than a tenth of the tokens."""
    d_sae: int
    n_tokens: int
    """Tokens counted, special tokens excluded."""
    n_tokens_spliced: int
    """Predictions counted in the cross-entropies."""
    ce_clean: float
    """Nats per token of the model alone."""
    splicing: Splices
    coherence: dict[str, float] | None = None
    """Of crosscoders over several hook points: functional coherence, means over live latents, of
    codes (``selected``) and pre-activations, with raw zeros too, and of the decoder."""
    direction_cosine: float | None = None
    """Mean cosine of live latents' directions between neighbouring hook points."""
    interactions: dict[str, dict[str, float]] | None = None
    """Of polynomial decoders: correlation with co-occurrence of B_ij and its controls."""
    headroom: Headroom | None = None
    """What decoders of the same codes reach that were fitted on other tokens."""
    replaced_model: ReplacedModel | None = None
    """Of transcoders on a TransformerLens model: the model with all MLPs replaced at once."""
    probing: dict[str, dict[str, Summary]] = field(default_factory=dict)
    """Labelled set to features (codes, raw activations) to scores."""
    class_separation: dict[str, dict[str, float]] = field(default_factory=dict)
    """Labelled set of texts to Wasserstein-1 distances."""
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {**asdict(self), "settings": self.settings.to_dict()}


class EvaluationData:
    """The text and the labelled sets of one model, shared by the dictionaries that are evaluated.

    What depends on the model alone (runs without dictionary, ablations, probes on raw activations)
    is computed once, when first asked for.

    Args:
        model: The model with its hook points stacked.
        batches: Token batches, as ``ActivationsStore.get_batch_tokens`` gives them.
        special_tokens: Ids to leave out, as SAELens' ``get_special_token_ids`` gives them. They are
            neither counted nor replaced.
        settings: How much of it is used for what.
        reading: How the batches were read, and labelled sets will be; None: as by default.
        text: Where the batches are from, if that is known.
        further: Token batches of other parts of the text, which decoders of the same codes are
            fitted on; none: the headroom is not measured.
    """

    def __init__(
        self,
        model: StackedHooks,
        batches: Iterable[torch.Tensor],
        special_tokens: Iterable[int] = (),
        settings: EvaluationSettings | None = None,
        reading: TextReading | None = None,
        text: HeldOutText | None = None,
        further: Iterable[torch.Tensor] = (),
    ) -> None:
        self.model, self.batches, self.further = model, list(batches), list(further)
        self.special_tokens = list(special_tokens)
        self.settings = settings or EvaluationSettings()
        self.reading, self.text = reading, text

    @property
    def positions(self) -> slice:
        """The positions of a context that count."""
        return slice(None) if self.reading is None else self.reading.positions

    @cached_property
    def hook_scales(self) -> torch.Tensor:
        """What brings every hook point to a mean norm of sqrt(d_model) on this text, (n_hooks,).

        The same for every dictionary: figures of several hook points together, and normalised ones,
        are in these units, whatever a dictionary was trained in.
        """
        shape = (-1, self.model.n_hooks, self.model.d_model)
        norms = [
            self.model.gather(tokens)[self.keep(tokens)].view(shape).float().norm(dim=-1)
            for tokens in self.batches
        ]
        return self.model.d_model**0.5 / torch.cat(norms).mean(dim=0).cpu().clamp_min(1e-12)

    @cached_property
    def baselines(self) -> SpliceBaselines:
        """What splices are compared with."""
        n = self.settings.n_splice_batches
        batches = self.batches[:n]
        return SpliceBaselines(self.model, batches, self.special_tokens, self.positions)

    @cached_property
    def probing_sets(self) -> list[ProbingSet]:
        """The labelled sets."""
        return load_probing_sets(self.model, self.settings, self.reading)

    def keep(self, tokens: torch.Tensor) -> torch.Tensor:
        """True where a token counts, (batch, pos)."""
        return counted(tokens, self.special_tokens, self.positions)


@torch.no_grad()
def evaluate_dictionary(
    sae: SAE[Any], data: EvaluationData, folder: str | Path | None = None
) -> Evaluation:
    """Measure a dictionary.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        data: The model, and what it is measured on.
        folder: Where the dictionary is saved, if so: its codes of labelled examples are kept there.
    """
    model, settings = data.model, data.settings
    n_hooks = model.n_hooks
    # What no latent writes is not reconstructed, and has no figures.
    written = list(getattr(sae, "written_hooks", range(n_hooks)))
    scales = data.hook_scales[written]
    variance, variance_linear = ExplainedVariance(scales), ExplainedVariance(scales)
    error, cosine = MeanSquaredError(scales), CosineSimilarity(scales)
    activity, shares, pooled_shares = LatentActivity(sae.cfg.d_sae), DegreeShares(), DegreeShares()
    coherence = _coherence_of(sae)
    pairs = _pairs_of(sae, settings)

    for tokens in tqdm(data.batches, desc="evaluating", leave=False):
        keep = data.keep(tokens)
        x = model.gather(tokens)[keep]
        sae_in = x.to(sae.device, sae.dtype)
        z = sae.encode(sae_in)
        x_hat = decode_from(sae, z, sae_in)
        terms = _degree_terms(sae, sae_in, z, x_hat)
        stacked = (-1, n_hooks, model.d_model)
        x, x_hat = (at.to(x).view(stacked)[:, written] for at in (x, x_hat))
        terms = {d: term.to(x).view(stacked)[:, written] for d, term in terms.items()}
        above_linear = sum(t for d, t in terms.items() if d > 1)
        variance.update(x, x_hat)
        variance_linear.update(x, x_hat - above_linear)
        error.update(x, x_hat)
        cosine.update(x, x_hat)
        activity.update(z)
        shares.update(terms)
        scaled = {d: (t * scales.to(x)[:, None]).flatten(1) for d, t in terms.items()}
        pooled_shares.update({d: t[:, None] for d, t in scaled.items()})
        n_left = settings.n_coherence_tokens - (activity.n_tokens - len(z))
        for measure in coherence.values():
            if n_left > 0:
                measure.update(sae_in[:n_left])
        if pairs is not None:
            pairs.update(z)

    splices = measure_splices(sae, data.baselines)
    names = [model.hook_names[hook] for hook in written]
    per_hook_activity = activity.per_hook(_writes(sae, n_hooks)[:, written])
    ev, ev_pooled = variance.compute()
    ev_linear, ev_linear_pooled = variance_linear.compute()
    mse, similarity = error.compute(), cosine.compute()
    degree = shares.compute()
    per_hook = {
        name: Figures(
            ev[i],
            ev_linear[i],
            mse["raw"].per_hook[i],
            mse["normalised"].per_hook[i],
            similarity.per_hook[i],
            **asdict(per_hook_activity[i]),
            ce_recovered=splices.alone[name]["clean"].ce_recovered,
            ce_spliced=splices.alone[name]["clean"].ce,
            degree_shares={d: s[i] for d, s in degree.items()},
        )
        for i, name in enumerate(names)
    }
    whole = activity.figures()
    pooled = Figures(
        ev_pooled,
        ev_linear_pooled,
        mse["normalised"].pooled,
        mse["normalised"].pooled,
        similarity.pooled,
        **asdict(whole),
        ce_recovered=splices.together["clean"].ce_recovered,
        ce_spliced=splices.together["clean"].ce,
        degree_shares={d: s[0] for d, s in pooled_shares.compute().items()},
    )
    live = activity.n_active > 0
    probing, separation = _probe(sae, data, None if folder is None else Path(folder))
    return Evaluation(
        per_hook=per_hook,
        pooled=pooled,
        l0=whole.l0,
        n_dead=whole.n_dead,
        n_dense=whole.n_dense,
        d_sae=sae.cfg.d_sae,
        n_tokens=activity.n_tokens,
        n_tokens_spliced=splices.n_tokens,
        ce_clean=splices.ce_clean,
        splicing=splices,
        coherence=_coherence_figures(sae, coherence, live),
        direction_cosine=_direction_cosine(sae, live),
        interactions=None if pairs is None else interaction_correlations(sae, pairs, settings.seed),
        headroom=_headroom(sae, data),
        replaced_model=_replaced_model(sae, data),
        probing=probing,
        class_separation=separation,
        settings=settings,
    )


def _degree_terms(
    sae: SAE[Any], x: torch.Tensor, z: torch.Tensor, x_hat: torch.Tensor
) -> dict[int, torch.Tensor]:
    """What each degree adds to the reconstructions, (n, d_in) each."""
    if not isinstance(sae, PolynomialDictionary) or sae.polynomial is None:
        return {1: x_hat - sae.b_dec}
    if sae.cfg.normalize_activations == "none":
        return sae.degree_terms(z)
    # Units of the input that encode() has seen, and decode() goes back to once.
    above = {}
    for degree in (d for d in sae.polynomial.ranks if d > 1):
        with without_degrees(sae, [degree]):
            above[degree] = x_hat - sae.decode(sae.encode(x))
    return {1: x_hat - sae.b_dec - sum(above.values())} | above


def _writes(sae: SAE[Any], n_hooks: int) -> torch.Tensor:
    """Nonzero where a latent writes a hook point, (d_sae, n_hooks)."""
    if isinstance(sae, Crosscoder):
        return sae.structure.write_mask(sae.b_enc)
    return torch.ones(sae.cfg.d_sae, n_hooks)


def _coherence_of(sae: SAE[Any]) -> dict[str, FunctionalCoherence]:
    if not isinstance(sae, Crosscoder) or sae.n_hooks < 2:
        return {}
    return {"": FunctionalCoherence(sae), "_raw": FunctionalCoherence(sae, raw=True)}


def _coherence_figures(
    sae: SAE[Any], measures: dict[str, FunctionalCoherence], live: torch.Tensor
) -> dict[str, float] | None:
    if not measures:
        return None
    found: dict[str, float] = {}
    for suffix, measure in measures.items():
        selected, pre_activation = measure.compute().mean()
        found |= {f"selected{suffix}": selected, f"pre_activation{suffix}": pre_activation}
    found["decoder"] = decoder_profile(sae).n_effective[live].nanmean().item()
    return found


def _direction_cosine(sae: SAE[Any], live: torch.Tensor) -> float | None:
    if not isinstance(sae, Crosscoder) or len(sae.written_hooks) < 2:
        return None
    mean = direction_cosines(sae, live).neighbours.nanmean().item()
    return None if mean != mean else mean  # no latent writes two


def _pairs_of(sae: SAE[Any], settings: EvaluationSettings) -> CoOccurrence | None:
    terms = sae.polynomial if isinstance(sae, PolynomialDictionary) else None
    if terms is None or terms.homogeneous or sae.cfg.decoder != "interactions":
        return None
    return CoOccurrence(random_pairs(sae.cfg.d_sae, settings.n_pairs, settings.seed))


def _replaced_model(sae: SAE[Any], data: EvaluationData) -> ReplacedModel | None:
    model: Any = data.model.model
    if not isinstance(model, HookedTransformer):
        return None
    try:
        replacement = CrosscoderReplacement(sae, data.model.hook_names)
    except InputError:  # it reads or writes something else
        return None
    batches = data.batches[: data.settings.n_splice_batches]
    return measure_replaced_model(replacement, model, batches, data.special_tokens)


def _headroom(sae: SAE[Any], data: EvaluationData) -> Headroom | None:
    """None where it is not asked for, the text is too short, or latents write some hook points."""
    model, scales = data.model, data.hook_scales
    if len(data.further) < 2 or not bool((_writes(sae, model.n_hooks) != 0).all()):
        return None

    def sample(tokens: torch.Tensor) -> tuple[Samples, torch.Tensor]:
        x = model.gather(tokens)[data.keep(tokens)]
        sae_in = x.to(sae.device, sae.dtype)
        z = sae.encode(sae_in)
        x_hat = sae.decode(z)
        above = sum(t for d, t in _degree_terms(sae, sae_in, z, x_hat).items() if d > 1)
        scaled = [
            (of.to(x).view(-1, model.n_hooks, model.d_model) * scales.to(x)[:, None])
            .flatten(1)
            .float()
            .cpu()
            for of in (x, x_hat, above)
            if isinstance(of, torch.Tensor)
        ]
        x, x_hat, *own = scaled
        code = z.float().cpu()
        code = code.to_dense() if code.is_sparse else code
        target = x - x_hat + own[0] if own else x - x_hat
        return Samples(code.to_sparse_csr(), target, own[0] if own else None), x

    fitted: list[Samples] = []
    n_bytes = 0
    for tokens in tqdm(data.further, desc="headroom", leave=False):
        fitted.append(sample(tokens)[0])
        n_bytes += fitted[-1].target.nbytes * (1 if fitted[-1].above is None else 2)
        if n_bytes > MOST_BYTES:
            break
    n_choose = max(1, len(fitted) // 6)
    scored, xs = zip(*map(sample, data.batches), strict=True)
    x = torch.cat(xs)
    variance = (x - x.mean(dim=0)).double().pow(2).sum().item()
    fit, choose = Samples.cat(fitted[:-n_choose]), Samples.cat(fitted[-n_choose:])
    return measure_headroom(fit, choose, Samples.cat(scored), variance, data.settings.seed)


def _probe(
    sae: SAE[Any], data: EvaluationData, folder: Path | None
) -> tuple[dict[str, dict[str, Summary]], dict[str, dict[str, float]]]:
    probing: dict[str, dict[str, Summary]] = {}
    separation: dict[str, dict[str, float]] = {}
    sets = data.probing_sets
    for own in tqdm(sets, desc="probing", leave=False, disable=not sets):
        codes = own.codes(sae, folder)
        probing[own.name] = own.probe(sae, codes) | own.ceiling
        if isinstance(own, TextSet):
            separation[own.name] = own.separation(sae, codes)
    return probing, separation
