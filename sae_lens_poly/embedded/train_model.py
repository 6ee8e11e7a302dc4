"""Train the embedded language model from nothing: ``python -m sae_lens_poly.embedded.train_model``.

A six-layer transformer on the source of the Python standard library. It is trained as plain
PyTorch with fused attention (on two CPU cores about a third faster than stepping the
TransformerLens model itself) and then written out as the weights of the TransformerLens model
that :func:`sae_lens_poly.embedded.model.load_embedded_model` returns.

An interrupted run continues from its last checkpoint when it is started again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.model import (
    END_OF_TEXT,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    bits_per_byte,
    embedded_model_config,
    load_embedded_model,
)
from sae_lens_poly.embedded.recipe import recipe_parser, train_by_recipe


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with ``END_OF_TEXT`` as token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Block(nn.Module):
    """Pre-norm attention with rotary positions, then an MLP; all matrices two-dimensional."""

    def __init__(self, d_model: int, n_heads: int, d_mlp: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.mlp_in, self.mlp_out = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(*y.shape[:2], self.n_heads, -1).transpose(1, 2)

        def rotate(y: torch.Tensor) -> torch.Tensor:
            first, second = y.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

        h = self.ln1(x)
        mixed = F.scaled_dot_product_attention(
            rotate(heads(self.q(h))), rotate(heads(self.k(h))), heads(self.v(h)), is_causal=True
        )
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.ln2(x)), approximate="tanh"))


class Transformer(nn.Module):
    """The embedded model as plain PyTorch: ``(batch, pos)`` tokens to logits."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        cfg = embedded_model_config()
        assert cfg.d_mlp is not None
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.blocks = nn.ModuleList(
            Block(cfg.d_model, cfg.n_heads, cfg.d_mlp) for _ in range(cfg.n_layers)
        )
        self.ln_final = nn.LayerNorm(cfg.d_model)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab)
        nn.init.zeros_(self.unembed.weight)
        half = cfg.d_head // 2
        angles = torch.arange(cfg.n_ctx)[:, None] * cfg.rotary_base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        n = tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:n], self.sin[:n])
        return self.unembed(self.ln_final(x))


def to_transformer_lens_weights(model: Transformer) -> dict[str, torch.Tensor]:
    """The same function as a TransformerLens state dict (half precision)."""
    cfg = embedded_model_config()
    weights = {
        "embed.W_E": model.embed.weight,
        "ln_final.w": model.ln_final.weight,
        "ln_final.b": model.ln_final.bias,
        "unembed.W_U": model.unembed.weight.T,
        "unembed.b_U": model.unembed.bias,
    }
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        p = f"blocks.{i}"
        for name, layer in (("Q", block.q), ("K", block.k), ("V", block.v)):
            per_head = layer.weight.view(cfg.n_heads, cfg.d_head, cfg.d_model)
            weights[f"{p}.attn.W_{name}"] = per_head.transpose(1, 2)
            weights[f"{p}.attn.b_{name}"] = layer.bias.view(cfg.n_heads, cfg.d_head)
        weights[f"{p}.attn.W_O"] = block.o.weight.T.reshape(cfg.n_heads, cfg.d_head, cfg.d_model)
        weights[f"{p}.attn.b_O"] = block.o.bias
        weights[f"{p}.mlp.W_in"], weights[f"{p}.mlp.b_in"] = (
            block.mlp_in.weight.T,
            block.mlp_in.bias,
        )
        weights[f"{p}.mlp.W_out"] = block.mlp_out.weight.T
        weights[f"{p}.mlp.b_out"] = block.mlp_out.bias
        for name, norm in (("ln1", block.ln1), ("ln2", block.ln2)):
            weights[f"{p}.{name}.w"], weights[f"{p}.{name}.b"] = norm.weight, norm.bias
    return {k: w.detach().to(torch.float16).contiguous() for k, w in weights.items()}


def main() -> None:
    parser = recipe_parser(
        __doc__.splitlines()[0] if __doc__ else None, 6000, 512, Path("build/embedded_model.pt")
    )
    parser.add_argument("--vocab_size", type=int, default=4096)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    modules = stdlib_modules("train")
    tokenizer = train_tokenizer((m.text for m in modules), args.vocab_size)
    tokenizer.save(str(TOKENIZER_FOLDER / "tokenizer.json"), pretty=False)
    documents = [
        torch.tensor([0, *encoding.ids])
        for encoding in tokenizer.encode_batch([m.text for m in modules])
    ]
    print(f"{len(documents)} modules, {sum(map(len, documents)) / 1e6:.2f}M tokens", flush=True)

    model = Transformer()
    matrices = [p for n, p in model.blocks.named_parameters() if p.ndim == 2]
    train_by_recipe(model, matrices, model, documents, args, checkpoint_every=500)

    save_file(to_transformer_lens_weights(model), WEIGHTS_FILE)
    figures = bits_per_byte(load_embedded_model())
    print(f"held-out modules: {figures.model:.3f} bits per byte; xz -9: {figures.xz:.3f}")


if __name__ == "__main__":
    main()
