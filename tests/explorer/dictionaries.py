"""Small dictionaries on the embedded model, saved as training saves them."""

from functools import cache

import torch
from sae_lens.saes.sae import SAEMetadata

from sae_lens_poly import Crosscoder, CrosscoderConfig, PolyCrosscoderConfig, StackedHooks
from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.model import load_embedded_model

D_MODEL, D_SAE = 128, 64
HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in (1, 3, 5)]


def metadata(**fields):
    known = {
        "model_name": "stdlib-6l",
        "model_class_name": "HookedTransformer",
        "hook_name": ",".join(HOOKS),
        "hook_names": HOOKS,
        "dataset_path": "stdlib",
        "context_size": 64,
        "prepend_bos": True,
        "exclude_special_tokens": True,
        "hook_scales": [0.2, 0.15, 0.1],
    }
    return SAEMetadata(**known | fields)


@torch.no_grad()
def crosscoder(decoder="interactions", d_sae=D_SAE, seed=0, **fields):
    """Random weights; latents fire on some hundredths of the tokens, 0 on all, 1 on none."""
    generator = torch.Generator().manual_seed(seed)
    options = {"d_in": len(HOOKS) * D_MODEL, "d_sae": d_sae, "n_hooks": len(HOOKS)}
    if decoder == "linear":
        sae = Crosscoder(CrosscoderConfig(**options, metadata=metadata(**fields)))
    else:
        degree = {"degree": 3, "rank_2": 4, "rank_3": 4}
        config = PolyCrosscoderConfig(
            **options, **degree, decoder=decoder, metadata=metadata(**fields)
        )
        sae = Crosscoder(config)
    for weight in sae.parameters():
        if weight.ndim:
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    sae.b_dec.zero_()
    sae.b_enc.zero_()
    pre = sae.pre_activations(_activations())
    sae.b_enc -= pre.mean(dim=0)
    sae.threshold[:] = (pre - pre.mean(dim=0)).quantile(0.97, dim=0)
    sae.b_enc[0] += 1e3
    sae.threshold[1] = 1e6
    return sae


@cache
def _activations():
    """Of some other text than the held-out one, (n, d_in)."""
    model = StackedHooks(load_embedded_model(), HOOKS)
    text = stdlib_modules("train")[0].text + stdlib_modules("train")[7].text
    tokens = model.to_tokens(text)[:, :448].view(-1, 64)
    return model.gather(tokens)[:, 1:].flatten(0, 1)


def save(sae, folder):
    sae.save_model(str(folder))
    return folder


@torch.no_grad()
def two_models():
    """A linear crosscoder over the embedded model twice; some latents are of one of them alone."""
    hook = "blocks.3.hook_resid_post"
    names = [f"stdlib-6l#{k}/{hook}" for k in range(2)]
    fields = {"hook_name": hook, "hook_names": names, "model_name": "stdlib-6l,stdlib-6l"}
    one = crosscoder("linear")
    middle = slice(D_MODEL, 2 * D_MODEL)
    config = CrosscoderConfig(d_in=2 * D_MODEL, d_sae=D_SAE, n_hooks=2)
    config.metadata = metadata(**fields | {"hook_scales": [0.15, 0.15]})
    both = Crosscoder(config)
    both.W_enc[:] = one.W_enc[middle].repeat(2, 1)
    both.W_dec[:] = one.W_dec[:, middle].repeat(1, 2)
    both.W_dec[5:15, D_MODEL:] = 0
    both.W_dec[15:25, :D_MODEL] = 0
    x = _activations()[:, middle].repeat(1, 2)
    both.b_dec.zero_()
    pre = both.pre_activations(x)
    both.b_enc -= pre.mean(dim=0)
    both.threshold[:] = (pre - pre.mean(dim=0)).quantile(0.97, dim=0)
    return both
