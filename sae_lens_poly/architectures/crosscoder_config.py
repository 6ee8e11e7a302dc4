"""The fields of crosscoders, in training and at inference."""

# No "from __future__ import annotations" here: SAELens' command line reads the types of fields.

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
from sae_lens.saes.sae import TrainingSAEConfig
from typing_extensions import override

from sae_lens_poly.architectures.factored_weights import (
    FACTORED_FORMS,
    FactoredWeights,
    check_ranks,
)
from sae_lens_poly.architectures.hook_structure import HookStructure, make_structure
from sae_lens_poly.architectures.layer_masking import LayerMasking
from sae_lens_poly.architectures.polynomial_terms import PolynomialTerms
from sae_lens_poly.architectures.sparsifiers.base import Sparsifier
from sae_lens_poly.architectures.sparsifiers.batch_topk import BatchTopKSparsifier
from sae_lens_poly.architectures.sparsifiers.jump_relu import JumpReLUSparsifier
from sae_lens_poly.architectures.sparsifiers.relu import ReLUSparsifier
from sae_lens_poly.architectures.sparsifiers.top_k import TopKSparsifier
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

SPARSIFIERS = ("batchtopk", "topk", "jumprelu", "relu")


@dataclass(kw_only=True)
class StackConfig:
    """Fields of a crosscoder in training and at inference.

    Args:
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
        encoder_weights (str): ``dense``, ``cp`` or ``tensor_ring``.
        decoder_weights (str): Likewise.
        encoder_ranks (list[int]): ``[R]`` for ``cp``, ``[R1, R2, R3]`` for ``tensor_ring``, whose
            bonds lie between activation and latent (R2), latent and hook point (R3), hook point
            and activation (R1). ``sae_lens_poly.describe_weights(cfg)`` prints what they imply.
        decoder_ranks (list[int]): Likewise.
    """

    n_hooks: int = 1
    structure: Literal["acausal", "weakly_causal", "strictly_causal", "free"] = "acausal"
    reads: str | None = None
    writes: str | None = None
    encoder_weights: Literal["dense", "cp", "tensor_ring"] = "dense"
    decoder_weights: Literal["dense", "cp", "tensor_ring"] = "dense"
    encoder_ranks: list[int] = field(default_factory=list)
    decoder_ranks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        self.check_stack()

    def check_stack(self) -> None:
        """Refuse fields that cannot belong to a stack of hook points.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        cfg: Any = self
        if self.n_hooks < 1 or cfg.d_in % self.n_hooks:
            raise InputError(
                f"n_hooks={self.n_hooks} does not divide d_in={cfg.d_in}: d_in is n_hooks times "
                "the width of one hook point"
            )
        if cfg.normalize_activations != "none":
            raise InputError(
                f"normalize_activations={cfg.normalize_activations!r} scales all hook points by "
                "one number, and a crosscoder has one for each: set normalize_activations='none' "
                "and choose with normalize_hooks"
            )
        if cfg.reshape_activations != "none":
            raise InputError(
                f"reshape_activations={cfg.reshape_activations!r} is for hook points with a head "
                "dimension: set it to 'none' and use a hook point of width d_model"
            )
        self.make_structure()
        for part in ("encoder", "decoder"):
            check_ranks(f"{part}_ranks", *self.form(part), *self.sizes())

    def form(self, part: str) -> tuple[str, list[int]]:
        """The form of the ``encoder`` or the ``decoder``, and its ranks."""
        return getattr(self, f"{part}_weights"), getattr(self, f"{part}_ranks")

    def sizes(self) -> tuple[int, int, int]:
        """Number of hook points, width of one, number of latents."""
        cfg: Any = self
        return self.n_hooks, cfg.d_in // self.n_hooks, cfg.d_sae

    @property
    def is_factored(self) -> bool:
        """Whether the encoder or the decoder has factors."""
        return {self.encoder_weights, self.decoder_weights} != {"dense"}

    def make_structure(self) -> HookStructure:
        """Which latents read and write which hook points."""
        cfg: Any = self
        return make_structure(self.structure, self.reads, self.writes, self.n_hooks, cfg.d_sae)

    def make_factors(
        self, part: str, dtype: torch.dtype, device: torch.device
    ) -> FactoredWeights | None:
        """The factors of the ``encoder`` or the ``decoder``; None for dense weights."""
        form, ranks = self.form(part)
        if form == "dense":
            return None
        same_init = getattr(self, "same_hook_init", False)
        return FACTORED_FORMS[form](*self.sizes(), ranks, dtype, device, same_init)

    def make_polynomial_terms(self, W_dec: torch.Tensor) -> PolynomialTerms | None:
        """The terms above degree 1; a linear decoder has none."""
        return None


@dataclass(kw_only=True)
class CrosscoderConfig(StackConfig, JumpReLUSAEConfig):
    """Configuration of an inference crosscoder with a linear decoder: :class:`StackConfig` and

    Args:
        select_k (int | None): Where a crosscoder was trained with TopK: how many latents a token
            keeps. None: a latent is active where it exceeds its threshold.
    """

    select_k: int | None = None

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"


@dataclass(kw_only=True)
class TrainingCrosscoderConfig(StackConfig, TrainingSAEConfig):
    """Configuration for training a crosscoder with a linear decoder.

    The fields of :class:`StackConfig`, and:

    Args:
        d_sae (int): Number of latents.
        sparsifier (str): ``batchtopk``, ``topk``, ``jumprelu`` or ``relu`` (with an L1 penalty).
        k (float): Mean number of active latents per token (BatchTopK), or the number of each
            token (TopK, a whole one).
        k_start (float | None): What k is at the first step, if it is annealed.
        k_anneal_steps (int): Number of steps in which it goes to ``k``.
        matryoshka_widths (list[int]): Widths at which the first latents alone are made to
            reconstruct, too, by losses of their own (Bussmann et al. 2025). The whole width is
            one of them anyway. With ``sparsifier="batchtopk"``: Matryoshka BatchTopK.
        score_by_decoder_norm (bool | None): Whether TopK, BatchTopK and the JumpReLU threshold
            rank latents by pre-activation times the sum over hook points of the decoder norm
            (Minder et al. 2025), or by the pre-activation alone. What is decoded is the unscaled
            code in either case. None: with a dense decoder by the norm, with a factored one not
            (as fmxcoder has it; the norms would cost a product with the dense tensor each step).
        threshold_lr (float): BatchTopK: weight of a batch in the moving average that becomes the
            inference threshold.
        sparsity_penalty (str): ReLU: ``l1_of_norms`` or ``l2_of_norms`` (Lindsey et al. 2024).
        l1_coefficient (float): ReLU: weight of the penalty.
        l1_warm_up_steps (int): ReLU: steps over which the weight rises from 0.
        jumprelu_init_threshold (float): This and the next seven as in SAELens'
            JumpReLUTrainingSAEConfig.
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

    sparsifier: Literal["batchtopk", "topk", "jumprelu", "relu"] = "batchtopk"
    k: float = 32
    k_start: float | None = None
    k_anneal_steps: int = 0
    matryoshka_widths: list[int] = field(default_factory=list)
    score_by_decoder_norm: bool | None = None
    threshold_lr: float = 0.05
    sparsity_penalty: Literal["l1_of_norms", "l2_of_norms"] = "l1_of_norms"
    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0
    jumprelu_init_threshold: float = 0.01
    jumprelu_bandwidth: float = 0.05
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"] = "step"
    l0_coefficient: float = 1.0
    l0_warm_up_steps: int = 0
    pre_act_loss_coefficient: float | None = None
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

    @override
    @classmethod
    def architecture(cls) -> str:
        return "crosscoder"

    @override
    def __post_init__(self) -> None:
        if self.score_by_decoder_norm is None:
            self.score_by_decoder_norm = self.decoder_weights == "dense"
        if self.aux_loss_coefficient is None:
            self.aux_loss_coefficient = 1.0 if self.selects else 0.0
        super().__post_init__()
        self.check_training()

    @property
    def selects(self) -> bool:
        """Whether the sparsifier keeps the highest scores."""
        return self.sparsifier in ("batchtopk", "topk")

    def check_training(self) -> None:
        """Refuse choices that do not exist or do not go together.

        Raises:
            InputError: Naming the field, its value and the remedy.
        """
        choices = {
            "sparsifier": SPARSIFIERS,
            "sparsity_penalty": ("l1_of_norms", "l2_of_norms"),
            "jumprelu_sparsity_loss_mode": ("step", "tanh", "quadratic"),
            "b_dec_init": ("mean", "geometric_median", "zeros"),
            "init_norm_over": ("stack", "hook"),
            "encoder_init": ("transposed", "independent"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}={getattr(self, name)!r} is unknown: choose of {', '.join(known)}"
                )
        self.make_masking()
        self._check_ranges()
        self._check_k()
        self._check_matryoshka()
        if self.jumprelu_sparsity_loss_mode == "quadratic" and self.target_l0 is None:
            raise InputError(
                "target_l0=None must be set with jumprelu_sparsity_loss_mode='quadratic'"
            )
        both = self.form("encoder"), self.form("decoder")
        factored = "dense" not in (self.encoder_weights, self.decoder_weights)
        if self.encoder_init == "transposed" and factored and both[0] != both[1]:
            raise InputError(
                f"encoder_init='transposed' needs an encoder of the decoder's form, and they are "
                f"{both[0]} and {both[1]}: make them equal or set encoder_init='independent'"
            )

    def _check_ranges(self) -> None:
        above_0 = {"k_aux", "decoder_init_norm", "jumprelu_bandwidth", "threshold_lr", "target_l0"}
        at_least_0 = {
            "aux_loss_coefficient",
            "l1_coefficient",
            "l1_warm_up_steps",
            "l0_coefficient",
            "l0_warm_up_steps",
            "jumprelu_init_threshold",
        }
        for name in sorted(above_0 | at_least_0):
            value = getattr(self, name)
            if value is not None and (value < 0 or (name in above_0 and value == 0)):
                least = "above 0" if name in above_0 else "at least 0"
                raise InputError(f"{name}={value} must be {least}")
        for name, most in {"threshold_lr": 1.0, "target_l0": self.d_sae}.items():
            value = getattr(self, name)
            if value is not None and value > most:
                raise InputError(f"{name}={value} must be at most {most}")

    def _check_k(self) -> None:
        if not self.selects:
            if self.k_start is not None or self.k_anneal_steps:
                raise InputError(
                    f"k_start={self.k_start}, k_anneal_steps={self.k_anneal_steps} are for 'topk' "
                    f"and 'batchtopk', and sparsifier={self.sparsifier!r}: leave them out"
                )
            return
        for name, k in {"k": self.k, "k_start": self.k_start}.items():
            if k is not None and not 0 < k <= self.d_sae:
                raise InputError(
                    f"{name}={k} must be above 0 and at most d_sae={self.d_sae}: lower it or "
                    "raise d_sae"
                )
        if self.sparsifier == "topk" and self.k != round(self.k):
            raise InputError(f"k={self.k} must be a whole number with sparsifier='topk'")
        if (self.k_start is None) != (self.k_anneal_steps == 0) or self.k_anneal_steps < 0:
            raise InputError(
                f"k_start={self.k_start} and k_anneal_steps={self.k_anneal_steps} go together: "
                "give both, or neither"
            )

    def _check_matryoshka(self) -> None:
        widths = self.matryoshka_widths
        if not widths:
            return
        if sorted(set(widths)) != widths or widths[0] < 1 or widths[-1] > self.d_sae:
            raise InputError(
                f"matryoshka_widths={widths} must be widths, each wider than the one before, up "
                f"to d_sae={self.d_sae}"
            )
        if self.structure != "acausal":
            raise InputError(
                f"matryoshka_widths={widths} nests the first latents in all others, and with "
                f"structure={self.structure!r} these belong to one hook point: take 'acausal'"
            )

    @property
    def select_k(self) -> int | None:
        """What the inference dictionary has as ``select_k``."""
        return int(self.k) if self.sparsifier == "topk" else None

    def inner_widths(self) -> list[int]:
        """Widths that are reconstructed beside the whole one."""
        return [width for width in self.matryoshka_widths if width < self.d_sae]

    def make_masking(self) -> LayerMasking:
        """The layer masking of the encoder in training."""
        return LayerMasking(self.mask_mode, self.mask_p, self.mask_seed, self.n_hooks)

    def make_sparsifier(self, device: torch.device) -> Sparsifier:
        """The module that makes codes of pre-activations."""
        if self.sparsifier == "jumprelu":
            return JumpReLUSparsifier(self, self.d_sae, device)
        if self.sparsifier == "relu":
            return ReLUSparsifier(self.sparsity_penalty, self.l1_coefficient, self.l1_warm_up_steps)
        if self.sparsifier == "topk":
            return TopKSparsifier(self.k, self.k_start, self.k_anneal_steps)
        return BatchTopKSparsifier(
            self.k, self.threshold_lr, self.k_start, self.k_anneal_steps, device
        )

    @override
    def to_dict(self) -> dict[str, Any]:
        return self._with_hook_names(super().to_dict())

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        cfg_dict = super().get_inference_sae_cfg_dict()
        if self.export_dense:
            dense = {"weights": "dense", "ranks": []}
            cfg_dict |= {
                f"{p}_{key}": v for p in ("encoder", "decoder") for key, v in dense.items()
            }
        return self._with_hook_names(cfg_dict)

    def _with_hook_names(self, cfg_dict: dict[str, Any]) -> dict[str, Any]:
        """Spell out in the metadata which hook points ``hook_name`` stands for."""
        metadata = cfg_dict["metadata"]
        if metadata.get("hook_name") and not metadata.get("hook_names"):
            names = expand_hook_names(metadata["hook_name"])
            if len(names) == self.n_hooks:  # several models have others, which a runner knows
                metadata["hook_names"] = names
        return cfg_dict
