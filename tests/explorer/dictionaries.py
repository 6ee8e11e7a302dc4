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
    return SAEMetadata(
        model_name="stdlib-6l",
        model_class_name="HookedTransformer",
        hook_name=",".join(HOOKS),
        hook_names=HOOKS,
        dataset_path="stdlib",
        context_size=64,
        prepend_bos=True,
        exclude_special_tokens=True,
        hook_scales=[0.2, 0.15, 0.1],
        **fields,
    )


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
    pre = sae.pre_activations(sae.centred(_activations()))
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
