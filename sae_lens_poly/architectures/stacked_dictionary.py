"""What training and inference crosscoders share: weights over a stack of hook points."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import override

from sae_lens_poly.architectures.factored_weights import FactoredWeights
from sae_lens_poly.architectures.hook_structure import HookStructure, LatentGroup, runs_of
from sae_lens_poly.architectures.polynomial_dictionary import PairBlock, PolynomialDictionary
from sae_lens_poly.architectures.polynomial_terms import ALL
from sae_lens_poly.architectures.sparse_code import code_times, latent_range
from sae_lens_poly.errors import InputError


class StackedDictionary(PolynomialDictionary):
    """A dictionary over hook points that are laid end to end.

    At its boundary an SAE whose ``d_in`` is ``n_hooks * d_model``; inside, the width is viewed as
    ``(n_hooks, d_model)``. Dense weights are the parameters ``W_enc`` (d_in, d_sae) and ``W_dec``
    (d_sae, d_in). Factored ones are modules, ``encoder_factors`` and ``decoder_factors``; whoever
    reads ``W_enc`` or ``W_dec`` then gets the dense tensor, made on the spot.
    """

    b_enc: nn.Parameter
    structure: HookStructure
    encoder_factors: FactoredWeights | None
    decoder_factors: FactoredWeights | None

    @override
    def initialize_weights(self) -> None:
        # Not SAELens', which makes both dense tensors whatever the form.
        cfg = self.cfg
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        self.structure = cfg.make_structure()
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae, **options))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in, **options))
        self.encoder_factors = cfg.make_factors("encoder", self.dtype, self.device)
        self.decoder_factors = cfg.make_factors("decoder", self.dtype, self.device)
        if self.encoder_factors is None:
            self.W_enc = nn.Parameter(torch.zeros(cfg.d_in, cfg.d_sae, **options))
        if self.decoder_factors is None:
            self.W_dec = nn.Parameter(torch.zeros(cfg.d_sae, cfg.d_in, **options))
        if not self.b_dec.is_meta:  # a dictionary that is being loaded gets its weights later
            self.start_weights_()
        self._initialize_polynomial()

    def start_weights_(self) -> None:
        """Draw the weights that training starts from."""

    def __getattr__(self, name: str) -> Any:
        if name in ("W_enc", "W_dec"):
            part = "encoder_factors" if name == "W_enc" else "decoder_factors"
            factors = self._modules.get(part)
            if isinstance(factors, FactoredWeights):
                rows = factors.write(factors.latent)
                if not self.structure.is_full:
                    reads, writes = self.structure.read_mask(rows), self.structure.write_mask(rows)
                    rows = rows * self._over_width(reads if name == "W_enc" else writes)
                return rows.T if name == "W_enc" else rows
        return super().__getattr__(name)

    @property
    def n_hooks(self) -> int:
        """Number of hook points."""
        return self.cfg.n_hooks

    @property
    def d_model(self) -> int:
        """Width of one hook point."""
        return self.cfg.d_in // self.cfg.n_hooks

    @property
    def written_hooks(self) -> tuple[int, ...]:
        """Numbers of the hook points that are reconstructed."""
        return self.structure.written

    def per_hook(self, x: torch.Tensor) -> torch.Tensor:
        """View activations (..., d_in) as (..., n_hooks, d_model)."""
        return x.unflatten(-1, (self.n_hooks, self.d_model))

    def _over_width(self, per_hook: torch.Tensor) -> torch.Tensor:
        """Repeat (..., n_hooks) over the width of each hook point: (..., d_in)."""
        return per_hook.repeat_interleave(self.d_model, dim=-1)

    @property
    def W_enc_per_hook(self) -> torch.Tensor:
        """``W_enc`` as (n_hooks, d_model, d_sae)."""
        return self.W_enc.unflatten(0, (self.n_hooks, self.d_model))

    @property
    def W_dec_per_hook(self) -> torch.Tensor:
        """``W_dec``, the linear term, as (d_sae, n_hooks, d_model)."""
        return self.per_hook(self.W_dec)

    def decoder_norms(self) -> torch.Tensor:
        """Norm of the linear decoder of each latent at each hook point, (d_sae, n_hooks)."""
        if self.decoder_factors is None:
            return self.W_dec_per_hook.norm(dim=-1)
        norms = self.decoder_factors.norms()
        return norms if self.structure.is_full else norms * self.structure.write_mask(norms)

    def get_name(self) -> str:
        """SAELens' name for the dictionary, with the signs that wandb refuses replaced."""
        return re.sub(r"[^\w./-]+", "-", super().get_name())

    # Encoder

    def centred(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """What the encoder is applied to, (..., d_in).

        Args:
            x: Activations, as ``encode`` takes them.
            seen: 1 for hook points that the encoder sees, 0 for others, (..., n_hooks); an unseen
                one is zero, which is ``b_dec`` where that is taken off the input. None: all.
        """
        sae_in = self.process_sae_in(x)
        return sae_in if seen is None else sae_in * self._over_width(seen.to(sae_in.dtype))

    def pre_activations(self, centred: torch.Tensor) -> torch.Tensor:
        """``sum_l x^l W_enc^l + b_enc``, (..., d_sae)."""
        factors = self.encoder_factors
        if self.structure.is_full:
            if factors is None:
                return centred @ self.W_enc + self.b_enc
            return factors.read(centred) @ factors.latent.T + self.b_enc
        if factors is None:
            read = [self._read_by_group(centred, group) for group in self.structure.groups]
            return torch.cat(read, dim=-1)
        groups = [
            factors.read(centred, self.structure.indicator(group.reads, centred))
            @ factors.latent[group.latents].T
            for group in self.structure.groups
        ]
        return torch.cat(groups, dim=-1) + self.b_enc

    def _read_by_group(self, centred: torch.Tensor, group: LatentGroup) -> torch.Tensor:
        """Pre-activations of one group's latents from what they read, (..., n_latents)."""
        first, *others = self._columns(group.reads)
        W, b = self.W_enc[:, group.latents], self.b_enc[group.latents]
        read = F.linear(centred[..., first], W[first].T, b)
        for columns in others:
            read = read + centred[..., columns] @ W[columns]
        return read

    def _columns(self, hooks: tuple[int, ...]) -> list[slice]:
        """Where hook points lie in the width d_in, in as few stretches as can be."""
        d = self.d_model
        return [slice(run.start * d, run.stop * d) for run in runs_of(hooks)]

    def masked_W_enc(self) -> torch.Tensor:
        """Dense ``W_enc``, with no gradient where a latent does not read (it has zeros)."""
        if self.structure.is_full:
            return self.W_enc
        return self.W_enc * self._over_width(self.structure.read_mask(self.W_enc)).T

    # Decoder

    @override
    def linear_term(self, code: torch.Tensor, latents: slice = ALL) -> torch.Tensor:
        factors = self.decoder_factors
        if factors is None:
            return super().linear_term(code, latents)
        return factors.write(code_times(code, factors.latent[latents]))

    @override
    def latent_directions(self) -> torch.Tensor:
        if self.decoder_factors is not None or self.structure.is_full:
            return self.W_dec
        return self.W_dec * self._over_width(self.structure.write_mask(self.W_dec))

    @override
    def _can_add_at_once(self, feature_acts: torch.Tensor) -> bool:
        return self.structure.is_full and super()._can_add_at_once(feature_acts)

    @override
    def _terms(self, feature_acts: torch.Tensor) -> dict[int, torch.Tensor]:
        if self.structure.is_full:
            return super()._terms(feature_acts)
        # A hook point is reconstructed from the latents that write it, in every term.
        linear = [self._linear_of_group(feature_acts, group) for group in self.structure.groups]
        terms = {1: sum(linear[1:], start=linear[0])}
        if self.polynomial is None:
            return terms
        sums = [
            self.polynomial.sums(
                latent_range(feature_acts, group.start, group.stop),
                own_linear,
                self.latent_directions,
                group.latents,
            )
            for group, own_linear in zip(self.structure.groups, linear, strict=True)
        ]
        above = [self._terms_at_hook(hook, sums) for hook in range(self.n_hooks)]
        degrees = self.polynomial.ranks
        return terms | {d: torch.cat([at[d] for at in above], dim=-1) for d in degrees}

    @override
    def pair_blocks(self) -> list[PairBlock]:
        if self.structure.is_full:
            return super().pair_blocks()
        columns = torch.arange(self.cfg.d_in, device=self.device).view(self.n_hooks, self.d_model)
        groups, blocks = self.structure.groups, []
        for number, first in enumerate(groups):
            for second in groups[number:]:
                both = [hook for hook in first.writes if hook in second.writes]
                if both:
                    written = columns[both].flatten()
                    blocks.append(PairBlock(first.latents, second.latents, written))
        return blocks

    def _linear_of_group(self, feature_acts: torch.Tensor, group: LatentGroup) -> torch.Tensor:
        code = latent_range(feature_acts, group.start, group.stop)
        if self.decoder_factors is None and not code.is_sparse:
            written = code.new_zeros(*code.shape[:-1], self.cfg.d_in)
            for columns in self._columns(group.writes):
                written[..., columns] = code @ self.W_dec[group.latents, columns]
            return written
        linear = self.linear_term(code, group.latents)
        return linear * self._over_width(self.structure.indicator(group.writes, linear))

    def _terms_at_hook(
        self, hook: int, sums: list[dict[int, torch.Tensor]]
    ) -> dict[int, torch.Tensor]:
        assert self.polynomial is not None
        outputs = slice(hook * self.d_model, (hook + 1) * self.d_model)
        writers = [
            own
            for group, own in zip(self.structure.groups, sums, strict=True)
            if hook in group.writes
        ]
        if not writers:
            nothing = {key: torch.zeros_like(part) for key, part in sums[0].items()}
            writers = [nothing]
        added = {key: torch.stack([own[key] for own in writers]).sum(dim=0) for key in writers[0]}
        return self.polynomial.terms(added, outputs)

    # Folds

    @override
    @torch.no_grad()
    def get_W_dec_norm(self) -> torch.Tensor:
        """Norm of each latent's decoder over the stack, (d_sae,)."""
        return self.decoder_norms().norm(dim=-1).clamp(min=1e-8)

    @override
    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> torch.Tensor:
        norms = self.get_W_dec_norm()
        if self.decoder_factors is None:
            self.W_dec.div_(norms[:, None])
        else:
            self.decoder_factors.scale_latents_(1 / norms)
        if self.encoder_factors is None:
            self.W_enc.mul_(norms)
        else:
            self.encoder_factors.scale_latents_(norms)
        self.b_enc.mul_(norms)
        return norms

    @torch.no_grad()
    def scale_hooks_(self, factor: torch.Tensor) -> None:
        """Take activations in units where they are ``factor`` (n_hooks,) times smaller.

        ``W_enc^l f_l``, ``W_dec^l / f_l``, ``b_dec^l / f_l``, and every polynomial term ``/ f_l``.
        """
        factor = factor.cpu().double()  # its reciprocal is taken; not every device has float64
        at_least_float32 = torch.promote_types(self.dtype, torch.float32)
        inverse = (1 / factor).to(self.device, at_least_float32)
        factor = factor.to(self.device, at_least_float32)
        if self.encoder_factors is None:
            self.W_enc.mul_(self._over_width(factor)[:, None].to(self.dtype))
        else:
            self.encoder_factors.scale_hooks_(factor)
        if self.decoder_factors is None:
            self.W_dec.mul_(self._over_width(inverse).to(self.dtype))
        else:
            self.decoder_factors.scale_hooks_(inverse)
        self.b_dec.mul_(self._over_width(inverse).to(self.dtype))
        if self.polynomial is not None:
            self.polynomial.rescale_outputs_(self._over_width(inverse))

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        self.use_code_form_()
        self.scale_hooks_(torch.full((self.n_hooks,), scaling_factor, device=self.device))
        self.cfg.normalize_activations = "none"

    @override
    def fold_activation_whitening(self, *args: Any, **kwargs: Any) -> None:
        """A whitening mixes hook points; it is refused.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "covariance_whitening mixes the hook points of a crosscoder: use "
            "normalize_activations='none' with normalize_hooks=True"
        )
