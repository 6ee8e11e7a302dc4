"""circuit-tracer's folders, read for tests: tiny models, and what replaces their MLPs."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_poly.circuits.replacement import Parts

DATA = Path(__file__).parents[1] / "data" / "circuit_tracer_graph"


def load_model(folder):
    config = json.loads((folder / "hooked_transformer_config.json").read_text())
    model = HookedTransformer(HookedTransformerConfig(**config))
    weights = load_file(folder / "model.safetensors")
    buffers = {k: v for k, v in model.state_dict().items() if k not in weights}
    model.load_state_dict({**buffers, **weights})
    return model.eval().requires_grad_(False)


class FolderReplacement:
    """A cross-layer transcoder, or a transcoder for each layer, with JumpReLU.

    Latents of layer l are numbers l * F to (l + 1) * F. Transcoders at ``mlp.hook_in``, which a
    HookedTransformer has not, read ``ln2.hook_normalized``, with the weights of ln2 in theirs.
    """

    def __init__(self, folder, model):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        read = config.get("feature_input_hook", "hook_resid_mid")
        n_layers, self.skips = model.cfg.n_layers, {}
        if config["model_kind"] == "cross_layer_transcoder":
            files = [
                load_file(folder / f"W_enc_{i}.safetensors")
                | load_file(folder / f"W_dec_{i}.safetensors")
                for i in range(n_layers)
            ]
            layers = [
                {k.removesuffix(f"_{i}"): v for k, v in f.items()} for i, f in enumerate(files)
            ]
        else:
            layers = [load_file(folder / f"layer_{i}.safetensors") for i in range(n_layers)]
            for layer in layers:
                layer["threshold"] = layer["activation_function.threshold"].flatten()
                layer["W_dec"] = layer["W_dec"][:, None]
        if read == "mlp.hook_in":
            read = "ln2.hook_normalized"
            for i, (layer, block) in enumerate(zip(layers, model.blocks, strict=True)):
                b = getattr(block.ln2, "b", torch.zeros(model.cfg.d_model))
                layer["b_enc"] = layer["b_enc"] + layer["W_enc"] @ b
                layer["W_enc"] = layer["W_enc"] * block.ln2.w
                if "W_skip" in layer:
                    layer["b_dec"] = layer["b_dec"] + layer["W_skip"] @ b
                    self.skips[i, i] = (layer["W_skip"] * block.ln2.w).T
        self.read_hooks = [f"blocks.{i}.{read}" for i in range(n_layers)]
        self.write_hooks = [f"blocks.{i}.hook_mlp_out" for i in range(n_layers)]
        self.n_features = n = len(layers[0]["b_enc"])
        self.read_of = torch.arange(n_layers).repeat_interleave(n)
        self.W_enc, self.b_enc, self.threshold = (
            torch.cat([layer[key] for layer in layers]) for key in ("W_enc", "b_enc", "threshold")
        )
        self.W_dec = torch.zeros(n_layers * n, n_layers, model.cfg.d_model)
        for i, layer in enumerate(layers):
            self.W_dec[i * n : (i + 1) * n, i : i + layer["W_dec"].shape[1]] = layer["W_dec"]
        self.b_dec = torch.stack([layer["b_dec"] for layer in layers])

    def encode(self, x):
        pre = (x[..., self.read_of, :] * self.W_enc).sum(-1) + self.b_enc
        return pre * (pre > self.threshold)

    def decode(self, codes):
        return torch.einsum("...f,fld->...ld", codes, self.W_dec) + self.b_dec

    def encoder_vectors(self, latents):
        return self.W_enc[latents]

    def parts(self, code):
        latents = code.nonzero().flatten()
        alone = code[latents, None, None] * self.W_dec[latents]
        return Parts(latents, alone, latents.new_zeros(0, 2), alone[:0])
