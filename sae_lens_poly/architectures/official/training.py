"""Training in PolySAE's published form, on SAELens' TopK, BatchTopK and Matryoshka BatchTopK."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEConfig, TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopK, TopKTrainingSAE, TopKTrainingSAEConfig
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.checks import check_training_dtype
from sae_lens_poly.architectures.decoders.decoder import Decoder, DenseRows
from sae_lens_poly.architectures.decoders.drawing import drawing_aside
from sae_lens_poly.architectures.decoders.term import CODE_LIMIT
from sae_lens_poly.architectures.kernels.sparse_code import (
    can_use_sparse_codes,
    latent_range,
    scale_latents,
)
from sae_lens_poly.architectures.official.reader import refuse_official
from sae_lens_poly.architectures.official.shared_u import SharedU
from sae_lens_poly.architectures.poly_saes.shells import PolyJumpReLUSAEConfig
from sae_lens_poly.architectures.poly_saes.top_k import (
    aux_k_of_dead,
    aux_k_of_levels,
    check_top_k,
    matryoshka_levels,
    sparse_codes,
)
from sae_lens_poly.architectures.poly_saes.top_k_shells import PolyTopKSAEConfig
from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary, polynomial_step
from sae_lens_poly.architectures.polynomial_fields import PUBLISHED
from sae_lens_poly.architectures.sparsifiers.batch_topk import k_of_batch, least_kept
from sae_lens_poly.architectures.sparsifiers.top_k import top_k
from sae_lens_poly.constraints import Choice, Constraint, Flag, Number, check_fields
from sae_lens_poly.errors import InputError

#: The options of PolySAE's published runs, for :class:`PolySAETopKTrainingSAEConfig` and its
#: sisters. R1 is d_in.
OFFICIAL_OPTIONS: dict[str, Any] = {
    "init": "official",
    "retraction": "uncompensated",
    "code_limit": None,
    "self_terms": True,
    "rescale_acts_by_decoder_norm": False,
}


@dataclass(kw_only=True)
class PublishedFields:
    """Fields of PolySAE's published decoder in training.

    Args:
        degree (int): 1, 2 or 3.
        rank_1 (int | None): Rank of the linear term; None: d_in.
        rank_2 (int | None): Rank of the term of degree 2; None: 32, or the most there can be.
        rank_3 (int | None): Rank of the term of degree 3; None likewise.
        self_terms (bool): Whether powers of a single latent are kept beside the products.
        code_limit (float | None): Bound on the norm of what is raised to a power, in units of its
            root mean square on the first batch. None: none.
        init (str): ``linear`` starts exactly at the linear dictionary (output factors zero);
            ``official`` as PolySAE's code does, without scaling what is raised to a power.
        retraction (str): Whether the retraction of U leaves the linear term alone
            (``compensated``) or moves it, as PolySAE's code does (``uncompensated``).
    """

    degree: int = 3
    rank_1: int | None = None
    rank_2: int | None = None
    rank_3: int | None = None
    self_terms: bool = True
    code_limit: float | None = CODE_LIMIT
    init: Literal["linear", "official"] = "linear"
    retraction: Literal["compensated", "uncompensated"] = "compensated"

    #: What the inference dictionary has: the published form knows no other.
    decoder: ClassVar[str] = "interactions"
    projection: ClassVar[str] = "codes"
    homogeneous: ClassVar[bool] = False
    terms_lr_scale: ClassVar[float] = 1.0

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "degree": Number(at_least=1, at_most=3, whole=True),
        "rank_1": Number(at_least=1, whole=True, optional=True),
        "rank_2": Number(at_least=1, whole=True, optional=True),
        "rank_3": Number(at_least=1, whole=True, optional=True),
        "self_terms": Flag(),
        "code_limit": Number(above=0, optional=True),
        "init": Choice("linear", "official"),
        "retraction": Choice("compensated", "uncompensated"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        cfg: Any = self
        check_training_dtype(cfg)
        check_fields(self, PublishedFields.CONSTRAINTS)
        check_top_k(cfg)
        most = min(cfg.d_in, cfg.d_sae)
        self.rank_2 = min(32, most) if self.rank_2 is None else self.rank_2
        self.rank_3 = min(32, most) if self.rank_3 is None else self.rank_3
        ranks = {"rank_1": self.rank_1, "rank_2": self.rank_2, "rank_3": self.rank_3}
        least = max(self.ranks().values(), default=1)
        for name, rank in ranks.items():
            if rank is not None and rank > most:
                raise InputError(f"{name}={rank} must be at most min(d_in, d_sae)={most}: lower it")
        if self.rank_1 is not None and self.rank_1 < least:
            raise InputError(f"rank_1={self.rank_1} must be at least the other ranks ({least})")

    def ranks(self) -> dict[int, int]:
        """Degree to rank, for the degrees above 1 that are in use."""
        ranks = {2: self.rank_2, 3: self.rank_3}
        return {d: r for d, r in ranks.items() if r is not None and d <= self.degree}

    def make_form(self, W_dec: torch.Tensor) -> SharedU:
        """The decoder, started at ``W_dec`` (d_sae, d_in) unless it starts as published."""
        d_sae, d_in = W_dec.shape
        return SharedU(
            d_in,
            d_sae,
            self.ranks(),
            rank_1=self.rank_1 or min(d_in, d_sae),
            W_dec=W_dec.detach(),
            compensated=self.retraction == "compensated",
            official_init=self.init == "official",
            self_terms=self.self_terms,
            code_limit=self.code_limit,
            dtype=W_dec.dtype,
            device=W_dec.device,
        )


class PublishedRows(DenseRows):
    """``W_dec = U C1``, which is not there as a weight."""

    def code(self, z: torch.Tensor, latents: slice = slice(None)) -> torch.Tensor:
        """What U is applied to, (..., n)."""
        if self.of_norm_1:
            return scale_latents(z, 1 / self.W_dec.norm(dim=-1)[latents])
        return z


class PublishedDecoder(Decoder):
    """The decoder of which the linear term is one of the terms."""

    def __call__(self, z: torch.Tensor, W: Any, b_dec: torch.Tensor) -> torch.Tensor:
        return sum(self.by_degree(z, W).values(), start=b_dec)

    def by_degree(self, z: torch.Tensor, W: Any) -> dict[int, torch.Tensor]:
        assert self.term is not None
        watch_sums, *watch = self.hooks
        code = W.code(z)
        terms = self.term.terms(watch_sums(self.term.sums(code, code, W.dense)))
        return {degree: watch[degree - 1](term) for degree, term in sorted(terms.items())}

    def nested(
        self, z: torch.Tensor, W: Any, b_dec: torch.Tensor, widths: Sequence[int]
    ) -> Generator[tuple[int, torch.Tensor], None, None]:
        assert self.term is not None
        sums: Any = 0
        start = 0
        for width in widths:
            latents = slice(start, width)
            code = W.code(latent_range(z, latents), latents)
            sums = sums + self.term.sums(code, code, W.dense, latents)
            yield width, sum(self.term.terms(sums).values(), start=b_dec)
            start = width


class PublishedForm(PolynomialDictionary):
    """Goes in front of one of SAELens' training classes; see :class:`SharedU`."""

    @override
    def initialize_weights(self) -> None:
        super(PolynomialDictionary, self).initialize_weights()
        with drawing_aside(self.device):
            form = self.cfg.make_form(self._parameters["W_dec"])
        self.set_decoder_(form)
        self.decoder = PublishedDecoder(form, self.decoder.hooks)
        del self._parameters["W_dec"]
        if self.cfg.init != "official" and not self.W_enc.is_meta:
            self.W_enc.data = self.W_dec.data.T.contiguous()

    def __getattr__(self, name: str) -> Any:
        # There is no W_dec among the weights; whoever reads it gets U C1.
        if name == "W_dec":
            form = self._modules.get("polynomial")
            if isinstance(form, SharedU):
                return form.W_dec()
        return super().__getattr__(name)

    @property
    @override
    def linear_decoder(self) -> DenseRows:
        if isinstance(self.polynomial, SharedU):
            return PublishedRows(self.W_dec, self.norms_the_code)
        return super().linear_decoder  # type: ignore[return-value]

    def select(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the latents to keep, in order, from scores (n, d_sae)."""
        k = self.cfg.k
        if isinstance(self, BatchTopKTrainingSAE):
            return k_of_batch(scores, k, self)
        return top_k(scores, k)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        return polynomial_step(self, step_input, super().training_forward_pass)

    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scores (..., d_sae)."""
        if self.cfg.use_sparse_activations and can_use_sparse_codes(self, x):
            return sparse_codes(self, x, self.select)
        return super().encode_with_hidden_pre(x)

    calculate_topk_aux_loss = aux_k_of_dead

    def update_topk_threshold(self, acts_topk: torch.Tensor) -> None:
        """SAELens' moving average, as in the published runs."""
        active = acts_topk.coalesce().values() if acts_topk.is_sparse else acts_topk
        if self.world is not None:
            active = least_kept(active[active > 0], self.world)
        super().update_topk_threshold(active)

    @override
    def code_of_terms(self, feature_acts: torch.Tensor) -> torch.Tensor:
        rows = self.linear_decoder
        return rows.code(feature_acts) if isinstance(rows, PublishedRows) else feature_acts

    @override
    @torch.no_grad()
    def pair_factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right, C = super().pair_factors()
        if isinstance(self.polynomial, SharedU) and self.norms_the_code:
            norms = self.W_dec.norm(dim=-1, keepdim=True)
            left, right = left / norms, right / norms
        return left, right, C

    @torch.no_grad()
    def use_code_form_(self) -> None:
        """Turn the published form into the same function with a ``W_dec`` of its own, in place."""
        form = self.polynomial
        if not isinstance(form, SharedU):
            return
        norms = self.W_dec.norm(dim=-1)  # type: ignore[has-type]
        W_dec = form.projection.V.double() @ form.C1.double()
        self.polynomial = None
        self.W_dec = nn.Parameter(W_dec.to(form.C1.dtype))
        terms = form.to_code_interactions() if form.ranks else None
        if terms is not None and self.norms_the_code:  # U is applied to the linear code, V not
            terms.rescale_latents_(norms)
        self.polynomial = terms
        self.decoder = Decoder(terms, self.decoder.hooks)

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        self.use_code_form_()
        super().fold_W_dec_norm()

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        self.use_code_form_()
        super().fold_activation_norm_scaling_factor(scaling_factor)

    @override
    @torch.no_grad()
    def fold_activation_whitening(self, *args: Any, **kwargs: Any) -> None:
        self.use_code_form_()
        super().fold_activation_whitening(*args, **kwargs)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        """Files of this form stay in it: past the base class, which converts them."""
        super(PolynomialDictionary, self).process_state_dict_for_loading(state_dict)
        refuse_official(state_dict)

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """The code form, which is the same function."""
        self.retract_()
        plain = self
        if isinstance(self.polynomial, SharedU):
            plain = copy.deepcopy(self)
            plain.use_code_form_()
            state_dict.clear()
            state_dict.update(plain.state_dict())
        super(PublishedForm, plain).process_state_dict_for_saving_inference(state_dict)


@dataclass(kw_only=True)
class PolySAETopKTrainingSAEConfig(PublishedFields, TopKTrainingSAEConfig):
    """SAELens' TopKTrainingSAEConfig and :class:`PublishedFields`."""

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "polysae_topk"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyTopKSAEConfig


class PolySAETopKTrainingSAE(PublishedForm, TopKTrainingSAE):
    """PolySAE as published, with TopK."""

    @override
    def get_activation_fn(self) -> TopK:
        return TopK(self.cfg.k, use_sparse_activations=False)


@dataclass(kw_only=True)
class PolySAEBatchTopKTrainingSAEConfig(PublishedFields, BatchTopKTrainingSAEConfig):
    """SAELens' BatchTopKTrainingSAEConfig and :class:`PublishedFields`."""

    use_sparse_activations: bool = True

    @override
    @classmethod
    def architecture(cls) -> str:
        return "polysae_batchtopk"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolySAEBatchTopKTrainingSAE(PublishedForm, BatchTopKTrainingSAE):
    """PolySAE as published, with BatchTopK."""


@dataclass(kw_only=True)
class PolySAEMatryoshkaBatchTopKTrainingSAEConfig(
    PublishedFields, MatryoshkaBatchTopKTrainingSAEConfig
):
    """SAELens' MatryoshkaBatchTopKTrainingSAEConfig and :class:`PublishedFields`."""

    use_sparse_activations: bool = True
    matryoshka_widths: list[int] = field(default_factory=list)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "polysae_matryoshka_batchtopk"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return PolyJumpReLUSAEConfig


class PolySAEMatryoshkaBatchTopKTrainingSAE(PublishedForm, MatryoshkaBatchTopKTrainingSAE):
    """PolySAE as published, with Matryoshka BatchTopK: a polynomial at every width."""

    _iterable_decode = matryoshka_levels
    calculate_matryoshka_aux_loss = aux_k_of_levels


@dataclass(kw_only=True)
class TrainingFileConfig(PolyJumpReLUSAEConfig):
    """What a training file of PolySAE's code, for BatchTopK or Matryoshka, is loaded with.

    Args:
        rescale_acts_by_decoder_norm (bool): As in the file; loading folds it into the weights.
    """

    rescale_acts_by_decoder_norm: bool = False


PUBLISHED["poly_topk"] = PolySAETopKTrainingSAEConfig
PUBLISHED["poly_batchtopk"] = PolySAEBatchTopKTrainingSAEConfig
PUBLISHED["poly_matryoshka_batchtopk"] = PolySAEMatryoshkaBatchTopKTrainingSAEConfig
