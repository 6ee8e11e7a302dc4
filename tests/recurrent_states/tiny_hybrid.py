"""Models with recurrent states that need no download."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

LONGEST_CONTEXT = 128


def tiny_hybrid(kind, vocab_size=60):
    """Three layers of linear attention and a full one, without training; states are 8 x 6."""
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2 if kind == "olmo_hybrid" else 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 6,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "max_position_embeddings": LONGEST_CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if kind in ("qwen3_next", "qwen3_5_moe_text"):
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
        sizes |= {"shared_expert_intermediate_size": 8}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
