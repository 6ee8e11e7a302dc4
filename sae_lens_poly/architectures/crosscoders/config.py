"""The fields of crosscoders, in training and at inference."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
from sae_lens.saes.sae import TrainingSAEConfig
from typing_extensions import Self, override

from sae_lens_poly.architectures.checks import check_matryoshka_widths, check_training_dtype
from sae_lens_poly.architectures.crosscoders.atom_upkeep import AtomUpkeep
from sae_lens_poly.architectures.crosscoders.old_fields import with_new_names
from sae_lens_poly.architectures.crosscoders.skips import parse_skips
from sae_lens_poly.architectures.crosscoders.stack import (
    STACK_CONSTRAINTS,
    check_groups,
    check_stack,
    with_hook_names,
)
from sae_lens_poly.architectures.decoders.term import Term
from sae_lens_poly.architectures.encoders import SCORES
from sae_lens_poly.architectures.polynomial_fields import PolynomialDefaults, PolynomialFields
from sae_lens_poly.architectures.sparsifiers import SPARSIFIERS
from sae_lens_poly.constraints import (
    Choice,
    Constraint,
    Flag,
    Number,
    Registered,
    Text,
    check_fields,
)
from sae_lens_poly.errors import InputError


@dataclass(kw_only=True)
class CrosscoderConfig(JumpReLUSAEConfig):
    """Configuration of an inference crosscoder with a linear decoder.

    Args:
        n_hooks (int): Number of hook points; ``d_in`` is ``n_hooks`` times the width of one.
        structure (str): As in :class:`TrainingCrosscoderConfig`, like the next seven.
        reads (str | None): See there.
        writes (str | None): See there.
        encoder_weights (str): See there.
        decoder_weights (str): See there.
        encoder_ranks (list[int]): See there.
        decoder_ranks (list[int]): See there.
        encoder_score (str): See there.
        select_k (int | None): Where inference selects latents token by token, as TopK does: how
            many a token keeps. None: a latent is active where it exceeds its threshold.
        select_by (str): The sparsifier that selects them.
        select_groups (int): Into how many ranges of equal size the latents are split, of each of
            which ``select_k`` are kept.
        skips (str | None): Affine skips, ``"0>2;1>3"``: what stands at hook point 0 is, times a
            matrix of the dictionary, added to the reconstruction of hook point 2, and so on.
    """

    n_hooks: int = 1
    structure: Literal["acausal", "weakly_causal", "strictly_causal", "free"] = "acausal"
    reads: str | None = None
    writes: str | None = None
    encoder_weights: str = "dense"
    decoder_weights: str = "dense"
    encoder_ranks: list[int] = field(default_factory=list)
    decoder_ranks: list[int] = field(default_factory=list)
    encoder_score: str = "inner_product"
    select_k: int | None = None
    select_by: str = "topk"
    select_groups: int = 1
    skips: str | None = None

    #: What the fields of inference may be.
    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "select_k": Number(at_least=1, whole=True, optional=True),
        "select_by": Registered(lambda: [n for n, s in SPARSIFIERS.items() if s.at_inference]),
        "select_groups": Number(at_least=1, whole=True),
        "skips": Text(optional=True),
    }

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_stack(self)
        check_fields(self, CrosscoderConfig.CONSTRAINTS)
        check_groups(self)
        parse_skips(self.skips, self.n_hooks)

    @property
    def k(self) -> int | None:
        """What a selecting sparsifier reads."""
        return self.select_k

    def make_term(self, dtype: torch.dtype, device: torch.device) -> Term | None:
        """A linear decoder has no terms above degree 1."""
        return None


@dataclass(kw_only=True)
class TrainingCrosscoderConfig(TrainingSAEConfig):
    """Configuration for training a crosscoder with a linear decoder.

    Args:
        d_sae (int): Number of latents.
        n_hooks (int): Number of hook points; ``d_in`` is ``n_hooks`` times the width of one. The
            command line fills both in.
        structure (str): ``acausal``: every latent reads and writes every hook point.
            ``weakly_causal``: a latent belongs to a hook point, reads it, and writes it and later
            ones. ``strictly_causal``: it writes later ones only (on MLP inputs and outputs, a
            cross-layer transcoder). ``free``: see ``reads`` and ``writes``.
        reads (str | None): With ``structure="free"``: numbers of the hook points that are read,
            ``"0..3"``, ``"0,2"`` or ``"all"``; with several sets, ``"0;1;2"``, the latents fall
            into as many groups of equal size, one after the other.
        writes (str | None): Likewise, of the hook points that are written.
        encoder_weights (str): ``dense``, ``cp``, ``tensor_ring`` or ``matrix``.
        decoder_weights (str): Likewise.
        encoder_ranks (list[int]): ``[R]`` for ``cp``, ``[R1, R2, R3]`` for ``tensor_ring``, whose
            bonds lie between activation and latent (R2), latent and hook point (R3), hook point
            and activation (R1); ``[d_k, r]`` for ``matrix``, whose latents are matrices of rank r
            with d_k rows at each hook point. ``sae_lens_poly.describe_weights(cfg)`` prints what
            they imply.
        decoder_ranks (list[int]): Likewise.
        encoder_score (str): How a pre-activation comes of the product with the encoder's vector:
            ``inner_product`` is the product; ``cosine`` is ``exp(b) |x|^a cos(x, w_i)`` with
            learned a and b, and ``cosine_per_latent`` the same with a pair for each latent;
            ``read_by_cosine`` trains by the inner product and is exported to read by the cosine;
            ``input_power`` is ``|x|^(a_i - 1) <x, w_i>``, as which these three are exported.
        sparsifier (str): ``batchtopk``, ``topk``, ``jumprelu`` or ``relu`` (with an L1 penalty).
        k (float): Mean number of active latents per token (BatchTopK), or the number of each
            token (TopK, a whole one).
        k_start (float | None): What k is at the first step, if it is annealed.
        k_anneal_steps (int): Number of steps in which it goes to ``k``.
        matryoshka_widths (list[int]): Widths at which the first latents alone are made to
            reconstruct as well, by losses of their own (Bussmann et al. 2025). The whole width is
            one of them anyway. With ``sparsifier="batchtopk"``: Matryoshka BatchTopK.
        score_by_decoder_norm (bool | None): Whether TopK, BatchTopK and the JumpReLU threshold
            rank latents by pre-activation times the sum over hook points of the decoder norm
            (Minder et al. 2025), or by the pre-activation alone. What is decoded is the unscaled
            code in either case. None: with a dense decoder by the norm, with a factored one not
            (as fmxcoder has it; the norms would cost a product with the dense tensor each step).
        topk_threshold_lr (float): BatchTopK: weight of a batch in the moving average that becomes
            the inference threshold.
        sparsity_penalty (str): ReLU and JumpReLU: whether penalties take a latent's decoder norms
            at its hook points together as their sum, ``l1_of_norms``, or as the norm of all that it
            writes, ``l2_of_norms`` (Lindsey et al. 2024).
        l1_coefficient (float): ReLU: weight of the penalty.
        l1_warm_up_steps (int): ReLU: steps over which the weight rises from 0.
        jumprelu_init_threshold (float): This and the next seven as in SAELens'
            JumpReLUTrainingSAEConfig.
        pre_act_loss_on (str): Which latents the loss on pre-activations is of: the ``dead``, as in
            SAELens, or ``all``, as in the Circuits Updates of January 2025.
        use_sparse_activations (bool): Whether training steps of TopK and BatchTopK touch active
            latents only. Faster than dense ones, with the same numbers.
        mask_p (float): Stochastic layer masking (fmxcoder, Demou et al. 2026): the probability
            with which the encoder does not see a hook point of a token.
        mask_mode (str): ``bernoulli`` for each hook point by itself, or ``one`` for exactly one,
            in a share ``mask_p`` of the tokens.
        mask_seed (int): Of the draws.
        normalize_hooks (bool): Whether every hook point gets a scale of its own, estimated from
            the first training batch, or all keep the scale they have.
        b_dec_init (str): What b_dec starts at: the ``mean`` of the first training batch, its
            ``geometric_median`` at each hook point, or ``zeros``.
        decoder_init_norm (float | None): Norm of a latent's decoder vector at the start.
        init_norm_over (str): Whether that is the norm over the ``stack``, or at each ``hook``
            point (exact for dense weights; for factored ones on average over the hook points).
        same_hook_init (bool): Whether a latent starts with one direction at all hook points.
        encoder_init (str): ``transposed`` starts the encoder as the decoder's transpose,
            ``independent`` with draws of its own.
        aux_loss_coefficient (float | None): Weight of the loss by which dead latents learn to
            reconstruct the residual (AuxK). None: 1 for TopK and BatchTopK, else 0.
        k_aux (int | None): How many dead latents it may use per token; None: half the width of
            one hook point.
        export_dense (bool): Whether factored weights are exported as dense ones.
    """

    n_hooks: int = 1
    structure: Literal["acausal", "weakly_causal", "strictly_causal", "free"] = "acausal"
    reads: str | None = None
    writes: str | None = None
    encoder_weights: str = "dense"
    decoder_weights: str = "dense"
    encoder_ranks: list[int] = field(default_factory=list)
    decoder_ranks: list[int] = field(default_factory=list)
    encoder_score: str = "inner_product"
    sparsifier: str = "batchtopk"
    k: float = 32
    k_start: float | None = None
    k_anneal_steps: int = 0
    matryoshka_widths: list[int] = field(default_factory=list)
    score_by_decoder_norm: bool | None = None
    topk_threshold_lr: float = 0.05
    sparsity_penalty: Literal["l1_of_norms", "l2_of_norms"] = "l1_of_norms"
    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0
    jumprelu_init_threshold: float = 0.01
    jumprelu_bandwidth: float = 0.05
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    l0_coefficient: float = 1.0
    l0_warm_up_steps: int = 0
    pre_act_loss_coefficient: float | None = None
    pre_act_loss_on: Literal["dead", "all"] = "dead"
    jumprelu_tanh_scale: float = 4.0
    jumprelu_ste_to_input: bool = False
    target_l0: float | None = None
    use_sparse_activations: bool = True
    mask_p: float = 0.0
    mask_mode: Literal["bernoulli", "one"] = "bernoulli"
    mask_seed: int = 0
    normalize_hooks: bool = True
    b_dec_init: Literal["mean", "geometric_median", "zeros"] = "mean"
    decoder_init_norm: float | None = 0.5
    init_norm_over: Literal["stack", "hook"] = "stack"
    same_hook_init: bool = False
    encoder_init: Literal["transposed", "independent"] = "transposed"
    aux_loss_coefficient: float | None = None
    k_aux: int | None = None
    export_dense: bool = False

    #: What the inference dictionary has: training makes neither groups nor skips.
    select_groups: ClassVar[int] = 1
    skips: ClassVar[str | None] = None

    #: What fields may be, those of every sparsifier among them: a NaN is refused anywhere.
    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        **STACK_CONSTRAINTS,
        **{name: what for each in SPARSIFIERS.values() for name, what in each.CONSTRAINTS.items()},
        "sparsifier": Registered(lambda: SPARSIFIERS),
        "use_sparse_activations": Flag(),
        "mask_p": Number(at_least=0, at_most=1),
        "mask_mode": Choice("bernoulli", "one"),
        "mask_seed": Number(whole=True),
        "normalize_hooks": Flag(),
        "b_dec_init": Choice("mean", "geometric_median", "zeros"),
        "decoder_init_norm": Number(above=0, optional=True),
        "init_norm_over": Choice("stack", "hook"),
        "same_hook_init": Flag(),
        "encoder_init": Choice("transposed", "independent"),
        "aux_loss_coefficient": Number(at_least=0, optional=True),
        "k_aux": Number(above=0, whole=True, optional=True),
        "export_dense": Flag(),
        "score_by_decoder_norm": Flag(optional=True),
    }

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"

    @override
    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> Self:
        return super().from_dict(with_new_names(config_dict))

    @override
    def __post_init__(self) -> None:
        check_fields(self, TrainingCrosscoderConfig.CONSTRAINTS)
        if self.score_by_decoder_norm is None:
            self.score_by_decoder_norm = self.decoder_weights == "dense"
        if self.aux_loss_coefficient is None:
            self.aux_loss_coefficient = 1.0 if self.selects else 0.0
        super().__post_init__()
        check_stack(self)
        self.check_training()

    @property
    def selects(self) -> bool:
        """Whether the sparsifier keeps the highest scores."""
        return SPARSIFIERS[self.sparsifier].selects

    def check_training(self) -> None:
        """Refuse choices that do not exist or do not go together.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        check_training_dtype(self)
        SPARSIFIERS[self.sparsifier].check(self)
        if self.normalize_hooks and not SCORES[self.encoder_score].folds_scales:
            raise InputError(
                f"encoder_score={self.encoder_score!r} looks at the size of its input, so that the "
                "scales of hook points cannot be folded for inference: set normalize_hooks=False"
            )
        if not self.selects and (self.k_start is not None or self.k_anneal_steps):
            raise InputError(
                f"k_start={self.k_start}, k_anneal_steps={self.k_anneal_steps} are for 'topk' "
                f"and 'batchtopk', and sparsifier={self.sparsifier!r}: leave them out"
            )
        self._check_masking()
        if self.matryoshka_widths:
            check_matryoshka_widths(self.matryoshka_widths, self.d_sae)
            if self.structure != "acausal":
                raise InputError(
                    f"matryoshka_widths={self.matryoshka_widths} nests the first latents in all "
                    f"others, and with structure={self.structure!r} these belong to one hook "
                    "point: take 'acausal'"
                )
        both = (
            (self.encoder_weights, self.encoder_ranks),
            (self.decoder_weights, self.decoder_ranks),
        )
        factored = "dense" not in (self.encoder_weights, self.decoder_weights)
        if self.encoder_init == "transposed" and factored and both[0] != both[1]:
            raise InputError(
                f"encoder_init='transposed' needs an encoder of the decoder's form, and they are "
                f"{both[0]} and {both[1]}: make them equal or set encoder_init='independent'"
            )

    @property
    def ties_encoder(self) -> bool:
        """Whether the encoder's weights are the decoder's; these crosscoders have their own."""
        return False

    @property
    def aux_k_is_published(self) -> bool:
        """Whether AuxK is that of WriteSAE's code; see :func:`aux_k_of_write_sae`."""
        return False

    def make_upkeep(self) -> AtomUpkeep | None:
        """What is done to latents every so many steps; these crosscoders have nothing."""
        return None

    def _check_masking(self) -> None:
        if self.mask_p == 1 and self.mask_mode == "bernoulli":
            raise InputError(
                "mask_p=1 with mask_mode='bernoulli' hides everything from the encoder: lower it"
            )
        if self.mask_p > 0 and self.n_hooks == 1:
            raise InputError(
                f"mask_p={self.mask_p} hides hook points from one another, and n_hooks=1: set "
                "mask_p=0"
            )

    def make_term(self, dtype: torch.dtype, device: torch.device) -> Term | None:
        """A linear decoder has no terms above degree 1."""
        return None

    @override
    def to_dict(self) -> dict[str, Any]:
        return with_hook_names(super().to_dict(), self.n_hooks)

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        score = SCORES[self.encoder_score].exports_as or self.encoder_score
        whole = with_hook_names(super().get_inference_sae_cfg_dict(), self.n_hooks)
        return (
            whole
            | {"encoder_score": score}
            | (
                {f"{part}_weights": "dense" for part in ("encoder", "decoder")}
                | {f"{part}_ranks": [] for part in ("encoder", "decoder")}
                if self.export_dense
                else {}
            )
        )

    @property
    def select_k(self) -> int | None:
        """What the inference dictionary has as ``select_k``."""
        return int(self.k) if SPARSIFIERS[self.sparsifier].at_inference else None

    @property
    def select_by(self) -> str:
        """What the inference dictionary has as ``select_by``."""
        return self.sparsifier if SPARSIFIERS[self.sparsifier].at_inference else "topk"


#: What polynomial crosscoders are best with (benchmarks/default_decoder.py).
CROSSCODER_DEFAULTS = PolynomialDefaults(degree=2, rank_2=256, rank_3=64, terms_lr_scale=16.0)


@dataclass(kw_only=True)
class PolyCrosscoderConfig(PolynomialFields, CrosscoderConfig):
    """Configuration of an inference polynomial crosscoder; see :class:`PolynomialFields`."""

    DEFAULTS = CROSSCODER_DEFAULTS
    DEGREES = (2, 3)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"


@dataclass(kw_only=True)
class TrainingPolyCrosscoderConfig(PolynomialFields, TrainingCrosscoderConfig):
    """Configuration for training a polynomial crosscoder.

    The fields of :class:`TrainingCrosscoderConfig` and :class:`PolynomialFields`. Interactions go
    through the codes by default: V costs little beside a decoder of several hook points.
    """

    DEFAULTS = CROSSCODER_DEFAULTS
    DEGREES = (2, 3)

    @override
    @classmethod
    def architecture(cls) -> str:
        return "poly_crosscoder"
