"""Train the embedded hybrid model from nothing: ``python -m sae_lens_poly.embedded.train_hybrid``.

Text, tokenizer and recipe are those of the embedded TransformerLens model
(:mod:`sae_lens_poly.embedded.recipe`); the model is transformers' own, whose chunked kernel in
PyTorch takes a tenth of a step. The weights are written at every checkpoint, and an interrupted run
continues from there when it is started again.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.hybrid import HYBRID_FOLDER
from sae_lens_poly.embedded.model import load_embedded_tokenizer
from sae_lens_poly.embedded.recipe import recipe_parser, train_by_recipe


def hybrid_config() -> Qwen3_5TextConfig:
    """The architecture: 4 layers, d_model 128, 4 heads; layer 3 has full attention."""
    return Qwen3_5TextConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["Qwen3_5ForCausalLM"],
        dtype="float32",  # of the weights once they are loaded
    )


@torch.no_grad()
def start_(model: nn.Module) -> None:
    """Start values other than transformers', whose states forget everything within two tokens.

    Decays are drawn as Mamba-2 draws them (Dao and Gu 2024, arXiv 2405.21060): steps between 0.001
    and 0.1, evenly in their logarithm. What writes to the residual stream and to the logits starts
    at zero.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            low, high = math.log(0.001), math.log(0.1)
            steps = (torch.rand(len(parameter)) * (high - low) + low).exp()
            parameter.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus gives the steps
        elif name.endswith("A_log"):
            parameter.copy_(torch.empty(len(parameter)).uniform_(1, 16).log())
        elif name.endswith("embed_tokens.weight"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith(
            ("out_proj.weight", "o_proj.weight", "down_proj.weight", "lm_head.weight")
        ):
            nn.init.zeros_(parameter)


def save_hybrid(model: nn.Module, folder: Path) -> None:
    """Write a folder of transformers in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: w.detach().to(torch.float16).contiguous() for k, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    hybrid_config().save_pretrained(folder)


def main() -> None:
    parser = recipe_parser(
        __doc__.splitlines()[0] if __doc__ else None, 2200, 256, Path("build/hybrid_model.pt")
    )
    parser.add_argument("--folder", type=Path, default=HYBRID_FOLDER)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    tokenizer = load_embedded_tokenizer()
    documents = [
        torch.tensor([tokenizer.bos_token_id, *ids])
        for ids in tokenizer([m.text for m in stdlib_modules("train")], add_special_tokens=False)[
            "input_ids"
        ]
    ]
    print(f"{len(documents)} modules, {sum(map(len, documents)) / 1e6:.2f}M tokens", flush=True)

    model = Qwen3_5ForCausalLM(hybrid_config())
    start_(model)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)
    # The projections to one number a head are too flat to be orthogonalised.
    matrices = [
        p
        for n, p in model.model.layers.named_parameters()
        if p.ndim == 2 and "in_proj_a" not in n and "in_proj_b" not in n
    ]

    def logits_of(tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens, use_cache=False).logits

    start = time.time()
    train_by_recipe(
        model,
        matrices,
        logits_of,
        documents,
        args,
        checkpoint_every=200,
        at_checkpoint=lambda: save_hybrid(model, args.folder),
    )
    save_hybrid(model, args.folder)
    print(f"{(time.time() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
