"""The embedded language model: a TransformerLens transformer whose weights ship in the package."""

from __future__ import annotations

import lzma
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sae_lens_poly.embedded import EMBEDDED_MODEL_NAME
from sae_lens_poly.embedded.corpus import Module, stdlib_modules

END_OF_TEXT = "<|endoftext|>"

_FOLDER = Path(__file__).parent
TOKENIZER_FOLDER = _FOLDER / "tokenizer"
WEIGHTS_FILE = _FOLDER / "stdlib-6l.safetensors"


def embedded_model_config(device: str = "cpu") -> HookedTransformerConfig:
    """The architecture: 6 layers, d_model 128, 4 heads, rotary positions, LayerNorm."""
    return HookedTransformerConfig(
        model_name=EMBEDDED_MODEL_NAME,
        n_layers=6,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_mlp=512,
        d_vocab=4096,
        n_ctx=512,
        act_fn="gelu_new",
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=32,
        device=device,
        init_weights=False,
    )


def load_embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The byte-level BPE tokenizer of the embedded model; its BOS is also its separator."""
    return AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)


def load_embedded_model(device: str = "cpu") -> HookedTransformer:
    """Return the embedded model in float32, with its tokenizer.

    Raises:
        FileNotFoundError: If the weights are not part of the installation.
    """
    if not WEIGHTS_FILE.exists():
        raise FileNotFoundError(
            f"{WEIGHTS_FILE} is missing: reinstall sae_lens_poly, or train the weights again with "
            "'python -m sae_lens_poly.embedded.train_model'"
        )
    model = HookedTransformer(embedded_model_config(device), tokenizer=load_embedded_tokenizer())
    weights = {k: v.float() for k, v in load_file(WEIGHTS_FILE, device=device).items()}
    buffers = {k: v for k, v in model.state_dict().items() if k not in weights}
    model.load_state_dict({**buffers, **weights})
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class BitsPerByte:
    """How well the held-out modules are predicted, in bits per byte of source."""

    model: float
    xz: float
    """``xz -9`` on the same files one by one."""


@torch.no_grad()
def bits_per_byte(
    model: Any, modules: tuple[Module, ...] | None = None, context: int | None = None
) -> BitsPerByte:
    """Bits per byte of ``model`` on the held-out modules (or on ``modules``), beside xz.

    Every module is coded alone, as xz does it: a BOS token, then the module's tokens, each
    predicted once from at least half a context of what came before it (or from all of it, near
    the start of a module).

    Args:
        model: A ``HookedTransformer``, or a model with a tokenizer that gives logits for tokens.
        modules: The modules; None: those that are held out.
        context: Tokens that it reads at once; None: as many as a ``HookedTransformer`` can.
    """
    modules = stdlib_modules("held_out") if modules is None else modules
    context = context or model.cfg.n_ctx
    device = next(model.parameters()).device
    tokenizer = model.tokenizer
    assert tokenizer is not None
    nats, n_bytes, n_compressed = 0.0, 0, 0
    for module in tqdm(modules, desc="bits per byte"):
        source = module.text.encode()
        n_bytes += len(source)
        n_compressed += len(lzma.compress(source, preset=9))
        ids = tokenizer.encode(module.text, add_special_tokens=False)
        tokens = torch.tensor([tokenizer.bos_token_id, *ids])
        n_done = 1  # the BOS token is given
        for start in range(0, max(1, len(tokens) - context // 2), context // 2):
            window = tokens[start : start + context].to(device)
            log_probs = model(window[None]).log_softmax(-1)[0, :-1]
            per_token = -log_probs.gather(-1, window[1:, None])[:, 0]
            nats += per_token[n_done - start - 1 :].sum().item()
            n_done = start + len(window)
    return BitsPerByte(model=nats / math.log(2) / n_bytes, xz=8 * n_compressed / n_bytes)
