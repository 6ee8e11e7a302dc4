"""A model of the Hugging Face kind that needs no download."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LONGEST_CONTEXT = 128


def tiny_llama():
    """Four layers of width 32 without training, for the embedded model's tokenizer."""
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LONGEST_CONTEXT,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()
