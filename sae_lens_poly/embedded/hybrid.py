"""The embedded hybrid model: a tiny Qwen3.5 of transformers whose weights ship in the package.

Three of its four layers keep a recurrent state (Gated DeltaNet). It has the tokenizer and the text
of the embedded TransformerLens model, and the same modules are held out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sae_lens.load_model import HookedProxyLM
from transformers import AutoModelForCausalLM

from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.models.hugging_face import HuggingFaceModel

#: A folder of transformers, ``config.json`` and weights in half precision; without a tokenizer.
HYBRID_FOLDER = Path(__file__).parent / "stdlib-hybrid"


def load_hybrid_model(device: str = "cpu") -> HuggingFaceModel:
    """Return the embedded hybrid model in float32, with its tokenizer.

    Its hook points are named as those of any Hugging Face model; ``model.model`` is the model of
    transformers.

    Raises:
        FileNotFoundError: If the weights are not part of the installation.
    """
    if not (HYBRID_FOLDER / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{HYBRID_FOLDER} has no weights: reinstall sae_lens_poly, or train them again with "
            "'python -m sae_lens_poly.embedded.train_hybrid'"
        )
    model = AutoModelForCausalLM.from_pretrained(HYBRID_FOLDER, dtype=torch.float32)
    model = model.to(device).eval().requires_grad_(False)
    return HuggingFaceModel.of(HookedProxyLM(model, load_embedded_tokenizer()))
