"""The embedded hybrid model: three layers of Gated DeltaNet and one of attention, as Qwen3.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3_5TextConfig

HYBRID_FOLDER = Path(__file__).parent / "hybrid"


def hybrid_model_config() -> Qwen3_5TextConfig:
    """The architecture: 4 layers of width 128, three of them with states of 4 heads, 32 x 32."""
    sizes: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return Qwen3_5TextConfig(**sizes)


def load_hybrid_model(device: str = "cpu") -> PreTrainedModel:
    """Return the embedded hybrid model in float32; its tokenizer is the embedded model's.

    Raises:
        FileNotFoundError: If the weights are not part of the installation.
    """
    if not (HYBRID_FOLDER / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{HYBRID_FOLDER} has no weights: reinstall sae_lens_poly, or train them again with "
            "'python -m scripts.train_hybrid_model'"
        )
    model = AutoModelForCausalLM.from_pretrained(HYBRID_FOLDER, dtype=torch.float32)
    return model.to(device).eval().requires_grad_(False)
