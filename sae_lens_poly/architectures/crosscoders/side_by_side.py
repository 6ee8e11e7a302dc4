"""Dictionaries of one hook point each as one dictionary of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_poly.architectures.crosscoders.config import CrosscoderConfig
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.architectures.crosscoders.hook_scales import saved_scales
from sae_lens_poly.architectures.crosscoders.skips import refuse_skips
from sae_lens_poly.errors import InputError


@torch.no_grad()
def side_by_side(dictionaries: Sequence[Crosscoder]) -> Crosscoder:
    """One crosscoder whose latents read and write one hook point each: separate SAEs, in fact.

    Its codes (..., L * d_sae) are those of the dictionaries end to end, its reconstructions theirs.
    What evaluates crosscoders then evaluates SAEs of several layers in the same way.

    Args:
        dictionaries: Inference crosscoders with ``n_hooks=1``, linear decoders and thresholds, of
            one width and number of latents, in the order of their hook points.

    Raises:
        InputError: If one of them is something else, or they do not fit each other.
    """
    first = dictionaries[0]
    for sae in dictionaries:
        cfg = sae.cfg
        refuse_skips(sae, "side by side, dictionaries decode")
        if cfg.n_hooks != 1 or cfg.select_k is not None or sae.polynomial is not None:
            raise InputError(
                f"architecture={cfg.architecture()!r}, n_hooks={cfg.n_hooks}, "
                f"select_k={cfg.select_k}: side by side go crosscoders of one hook point with a "
                "linear decoder and thresholds (sparsifier 'batchtopk', 'jumprelu' or 'relu')"
            )
        if cfg.encoder_score != "inner_product":
            raise InputError(
                f"encoder_score={cfg.encoder_score!r} looks at the size of its input, and each of "
                "several dictionaries has an input of its own: side by side go those of "
                "'inner_product'"
            )
        for field in ("d_in", "d_sae", "apply_b_dec_to_input", "dtype"):
            value, expected = getattr(cfg, field), getattr(first.cfg, field)
            if value != expected:
                raise InputError(f"{field}={value!r} next to {expected!r}: train them alike")
    n = len(dictionaries)
    numbers = ";".join(map(str, range(n)))
    d_model, d_sae = first.cfg.d_in, first.cfg.d_sae
    whole = Crosscoder(
        CrosscoderConfig(
            d_in=n * d_model,
            d_sae=n * d_sae,
            n_hooks=n,
            dtype=first.cfg.dtype,
            device=str(first.device),
            apply_b_dec_to_input=first.cfg.apply_b_dec_to_input,
            structure="free" if n > 1 else "acausal",
            reads=numbers if n > 1 else None,
            writes=numbers if n > 1 else None,
        )
    )
    for i, sae in enumerate(dictionaries):
        own, latents = slice(i * d_model, (i + 1) * d_model), slice(i * d_sae, (i + 1) * d_sae)
        for part in ("encoder_weights", "decoder_weights"):
            mine: Any = getattr(whole, part)
            (mine if n == 1 else mine.forms[i]).copy_from_(getattr(sae, part))
        whole.b_enc[latents], whole.threshold[latents] = sae.b_enc, sae.threshold
        whole.b_dec[own] = sae.b_dec
    for key, value in vars(first.cfg.metadata).items():
        setattr(whole.cfg.metadata, key, value)
    names = [str(sae.cfg.metadata.hook_name) for sae in dictionaries]
    whole.cfg.metadata.hook_name = ",".join(names)
    whole.cfg.metadata.hook_names = names
    whole.cfg.metadata.hook_scales = torch.cat([saved_scales(s, 1) for s in dictionaries]).tolist()
    return whole
