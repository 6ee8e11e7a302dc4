"""What SAEDashboard 0.8 takes of our dictionaries.

SAEDashboard computes the latents of a page alone, by cutting ``W_enc`` of architectures that it
knows by name, unless the activation function is SAELens' TopK; it folds decoder norms in place;
and its logit tables are ``W_dec W_U``, which for a polynomial decoder is the linear term alone.

    pip install --no-deps sae-dashboard==0.8.0 dataclasses-json marshmallow typing-inspect \
        mypy-extensions eindex-callum==0.1.1 decode-clt
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens.saes.sae import SAE
from sae_lens.saes.topk_sae import TopK
from sae_lens.saes.transcoder import JumpReLUTranscoder, JumpReLUTranscoderConfig
from transformer_lens.hook_points import HookedRootModule, HookPoint

from sae_lens_poly.architectures.polynomial_dictionary import PolynomialDictionary
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.hook_point_view import HookPointView
from sae_lens_poly.evaluation.linear_decoder import is_linear
from sae_lens_poly.models.one_hook_point import OneHookPoint
from sae_lens_poly.models.stacked_hooks import HookFunction

#: To be shown beside the pages of a polynomial SAE.
LINEAR_TERM_LABEL = "logit tables: linear term of the polynomial decoder only"


def dashboard_label(sae: SAE[Any]) -> str | None:
    """What must be said beside SAEDashboard's pages of a dictionary; None: nothing.

    Raises:
        InputError: If SAEDashboard cannot take it, with the reason.
    """
    if isinstance(sae, HookPointView) or getattr(sae, "n_hooks", 1) > 1:
        raise InputError(
            f"architecture={sae.cfg.architecture()!r}: SAEDashboard reads one hook point and cuts "
            "the weights of architectures that it knows: give it dashboard_transcoder(view) and "
            "StackAtHookPoint(model), for a crosscoder with a linear decoder"
        )
    if isinstance(sae, PolynomialDictionary) and not isinstance(sae.activation_fn, TopK):
        raise InputError(
            f"architecture={sae.cfg.architecture()!r}: SAEDashboard knows architectures by name, "
            "and not this one; of polynomial SAEs it takes poly_topk"
        )
    return None if is_linear(sae) else LINEAR_TERM_LABEL


@torch.no_grad()
def dashboard_transcoder(view: HookPointView) -> JumpReLUTranscoder:
    """A crosscoder at one hook point as SAELens' transcoder from the stack to the hook point.

    Codes and reconstructions are those of the view; the weights are copies, so that SAEDashboard
    may fold them.

    Raises:
        InputError: If the decoder is polynomial, which no transcoder and no logit table of
            SAEDashboard expresses, or latents are chosen by TopK.
    """
    crosscoder = view.crosscoder
    if not is_linear(view):
        raise InputError(
            "view: its decoder is polynomial; SAEDashboard's logit tables would show the linear "
            "term alone, and no SAE that it takes decodes as this one does"
        )
    if crosscoder.cfg.select_k is not None:
        raise InputError(
            f"view: latents are chosen by TopK (select_k={crosscoder.cfg.select_k}), which a "
            "threshold for each latent does not express: take a crosscoder trained with batchtopk"
        )
    if crosscoder.cfg.encoder_score != "inner_product":
        raise InputError(
            f"view: encoder_score={crosscoder.cfg.encoder_score!r} is no linear function of its "
            "input, and SAEDashboard's transcoder is: take one of 'inner_product'"
        )
    cfg = JumpReLUTranscoderConfig(
        d_in=view.cfg.d_in,
        d_sae=view.cfg.d_sae,
        d_out=view.cfg.d_out,
        dtype=view.cfg.dtype,
        device=view.cfg.device,
        apply_b_dec_to_input=False,
        metadata=view.cfg.metadata,
    )
    transcoder = JumpReLUTranscoder(cfg)
    for name in ("W_enc", "W_dec", "b_dec"):
        getattr(transcoder, name).copy_(getattr(view, name))
    shift = crosscoder.b_dec @ view.W_enc if crosscoder.cfg.apply_b_dec_to_input else 0
    transcoder.b_enc.copy_(view.b_enc - shift)
    transcoder.threshold.copy_(crosscoder.threshold)
    return transcoder


class StackAtHookPoint(HookedRootModule):
    """A model in which the whole stack is what is read at one hook point; for reading only.

    Args:
        at: The model at the hook point, whose name SAEDashboard is given.
    """

    def __init__(self, at: OneHookPoint) -> None:
        super().__init__()
        self.at = at
        self.point = HookPoint()
        self.point.name = at.hook_name
        self.hook_dict = {at.hook_name: self.point}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("at"), name)

    @torch.no_grad()
    def run_with_hooks(
        self,
        tokens: torch.Tensor,
        fwd_hooks: Sequence[tuple[str, HookFunction]] = (),
        **_: Any,
    ) -> torch.Tensor:
        """Call the functions with the stack (batch, pos, n_hooks * d_model), and return it."""
        stack = self.at.gather(tokens)
        for _name, fn in fwd_hooks:
            fn(stack, hook=self.point)
        return stack
