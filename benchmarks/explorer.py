"""Times the explorer: collection beside the model's forward pass, memory, bytes, and pages.

    python benchmarks/explorer.py collection     forward pass, encoder, and the whole collection
    python benchmarks/explorer.py memory         of a collection at 16,384 latents
    python benchmarks/explorer.py pages DIR      of an explored dictionary, in Chromium

Collection is timed in turns with the model's own forward pass on the same tokens, so that a busy
machine slows both. It is dearest at the front of a text, where every context is among a latent's
best, so the embedded model reads as much as ``explore`` does by default, from the first batch to
the last. Two models: the embedded one, which is far smaller than what anybody studies, and one of
the size and shape of GPT-2 small without training, of which the first batches are timed.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_poly import Crosscoder, CrosscoderConfig, StackedHooks
from sae_lens_poly.embedded.corpus import stdlib_modules
from sae_lens_poly.embedded.model import load_embedded_model, load_embedded_tokenizer
from sae_lens_poly.explorer.collect import Collection
from sae_lens_poly.explorer.settings import CollectionSettings

K = 64


def gpt2_size() -> HookedTransformer:
    """A model of GPT-2 small's size, with the embedded tokenizer and random weights."""
    config = HookedTransformerConfig(
        n_layers=12, d_model=768, n_heads=12, d_head=64, d_mlp=3072, d_vocab=50257, n_ctx=1024,
        act_fn="gelu_new", normalization_type="LN", seed=0,
    )  # fmt: skip
    return HookedTransformer(config, tokenizer=load_embedded_tokenizer())


#: Name to model, hook points, latents, and the part of the batches that is read.
SETTINGS: dict[str, tuple[Callable[[], HookedTransformer], list[str], int, float]] = {
    "embedded, 6 hook points": (
        load_embedded_model,
        [f"blocks.{layer}.hook_resid_post" for layer in range(6)],
        2048,
        1.0,
    ),
    "embedded, 1 hook point": (load_embedded_model, ["blocks.5.hook_resid_post"], 2048, 1.0),
    "GPT-2 size, 1 hook point": (gpt2_size, ["blocks.11.hook_resid_post"], 16384, 0.1),
}


@torch.no_grad()
def dictionary(x: torch.Tensor, n_hooks: int, d_sae: int) -> Crosscoder:
    """Random directions with thresholds such that about K latents are active on a token of x."""
    sae = Crosscoder(CrosscoderConfig(d_in=x.shape[-1], d_sae=d_sae, n_hooks=n_hooks))
    torch.nn.init.normal_(sae.W_enc)
    sae.W_dec.copy_(sae.W_enc.T)
    pre = sae.pre_activations(x)
    sae.threshold.copy_(pre.quantile(1 - K / d_sae, dim=0).clamp_min(1e-3))
    return sae


def batches(model: StackedHooks, rows: int, size: int = 128) -> Iterator[torch.Tensor]:
    """Contexts of the training text (batch, pos), for ever different."""
    for module in stdlib_modules("train"):
        ids = model.tokenizer(module.text)["input_ids"]
        n = len(ids) // (rows * size)
        yield from torch.tensor(ids[: n * rows * size]).view(n, rows, size)


@torch.no_grad()
def time_collection(name: str, n_batches: int) -> dict[str, float]:
    """Mean seconds a batch of each part, from a text's first batch on; and the mean L0."""
    make, hooks, d_sae, part_read = SETTINGS[name]
    model = StackedHooks(make(), hooks)
    text = batches(model, 8)
    sae = dictionary(model.gather(next(text)).flatten(0, 1), len(hooks), d_sae)
    n_batches = round(n_batches * part_read)
    settings = CollectionSettings()
    collection = Collection(d_sae, settings)
    n_codes = n_tokens = 0
    seconds = dict.fromkeys(("model", "forward", "encode", "collect"), 0.0)
    for _, tokens in zip(range(n_batches), text, strict=False):
        stages = [time.perf_counter()]
        model.model(tokens, return_type="logits")
        stages.append(time.perf_counter())
        x = model.gather(tokens)
        stages.append(time.perf_counter())
        z = sae.encode(x)
        stages.append(time.perf_counter())
        counted = torch.ones(tokens.shape, dtype=torch.bool)
        collection.update(z, counted, settings.n_tokens // tokens.shape[1])
        stages.append(time.perf_counter())
        for part, start, stop in zip(seconds, stages, stages[1:], strict=False):
            seconds[part] += (stop - start) / n_batches
        n_codes, n_tokens = n_codes + int((z > 0).sum()), n_tokens + tokens.numel()
    return seconds | {"l0": n_codes / n_tokens, "batches": n_batches}


def collection(options: argparse.Namespace) -> None:
    """Print times a batch of 1,024 tokens."""
    torch.set_num_threads(options.threads)
    print(f"milliseconds for 1,024 tokens, mean from the first on, threads: {options.threads}")
    print(f"{'':26}{'model':>8}{'stack':>8}{'encode':>8}{'keep':>8}  all/model   L0  batches")
    for name in SETTINGS:
        s = time_collection(name, options.batches)
        whole = s["forward"] + s["encode"] + s["collect"]
        row = "".join(f"{1e3 * s[k]:8.1f}" for k in ("model", "forward", "encode", "collect"))
        print(
            f"{name:26}{row}{whole / s['model']:11.2f}{s['l0']:5.0f}{s['batches']:9.0f}", flush=True
        )


def _peak(d_sae: int, n_batches: int) -> float:
    """MiB that collecting took at most, above what this process had before."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = Collection(d_sae, CollectionSettings(n_tokens=10_000_000))
    generator = torch.Generator().manual_seed(0)
    counted = torch.ones(8, 128, dtype=torch.bool)
    for _ in range(n_batches):
        z = torch.rand(8, 128, d_sae, generator=generator) - (1 - K / d_sae)
        kept.update(z.relu_(), counted, 10_000_000 // 128)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(options: argparse.Namespace) -> None:
    """Print the peak memory of a collection, and what it keeps."""
    settings = CollectionSettings(n_tokens=10_000_000)
    kept = sum(buffer.nbytes for buffer in Collection(options.d_sae, settings).buffers())
    print(
        f"{options.d_sae} latents: kept {kept / 2**20:.0f} MiB ({kept / options.d_sae:.0f} bytes "
        "a latent), whatever the text's length"
    )
    peak = _peak(options.d_sae, options.batches)
    print(f"peak above the start, {options.batches} batches of 1,024 tokens: {peak:.0f} MiB")


def pages(options: argparse.Namespace) -> None:
    """Print bytes a latent, and the time until pages are drawn, in Chromium."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from playwright.sync_api import sync_playwright

    from sae_lens_poly.explorer.data_files import read_data
    from sae_lens_poly.explorer.site import write_site
    from tests.explorer.browser import chromium, serving_folder

    data = Path(options.folder) / "explorer" / "data"
    d_sae = read_data(data / "overview.json.gz")["d_sae"]
    for kind in ("latents", "pairs"):
        n_bytes = sum(path.stat().st_size for path in (data / kind).iterdir())
        print(f"{kind}: {n_bytes / d_sae:,.0f} bytes a latent, {n_bytes / 2**20:.1f} MiB")
    site = Path(tempfile.mkdtemp()) / "site"
    write_site(data, Path("none"), site)
    drawn = "() => document.querySelector('.chart svg') && document.querySelector('{}')"
    with serving_folder(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        first, latent = [], []
        for number in range(options.repeats):
            context = browser.new_context(viewport={"width": 1280, "height": 800})
            page = context.new_page()
            started = time.perf_counter()
            page.goto(address)
            page.wait_for_function(drawn.format(".latents tbody tr"), polling=5)
            first.append(time.perf_counter() - started)
            # A latent whose file was not read yet.
            target = (997 * (number + 1)) % d_sae
            started = time.perf_counter()
            page.evaluate(f"location.hash = '#/latent/{target}'")
            page.wait_for_function(drawn.format(".summary .title h1"), polling=5)
            latent.append(time.perf_counter() - started)
            context.close()
        browser.close()
    shutil.rmtree(site.parent)
    for name, seconds in (("first page", first), ("latent page", latent)):
        print(
            f"{name}: median {1e3 * statistics.median(seconds):.0f} ms, "
            f"largest {1e3 * max(seconds):.0f} ms of {len(seconds)}"
        )


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    commands: dict[str, tuple[Callable[[argparse.Namespace], None], dict[str, Any]]] = {
        "collection": (collection, {"--threads": 1, "--batches": 195}),
        "memory": (memory, {"--d_sae": 16384, "--batches": 20}),
        "pages": (pages, {"--repeats": 7}),
    }
    for name, (run, flags) in commands.items():
        part = parts.add_parser(name)
        part.set_defaults(run=run)
        for flag, default in flags.items():
            part.add_argument(flag, type=int, default=default)
        if name == "pages":
            part.add_argument("folder", help="a dictionary that was explored")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
