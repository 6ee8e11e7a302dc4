"""One pass over a text: what every latent is active on, with memory that the text does not grow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.saes.sae import SAE
from sae_lens.util import get_special_token_ids
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.evaluation.saved import held_out_store
from sae_lens_poly.evaluation.settings import EvaluationSettings
from sae_lens_poly.explorer.kept_contexts import KeptContexts
from sae_lens_poly.explorer.latent_counts import LatentCounts
from sae_lens_poly.explorer.sampled_codes import SampledCodes
from sae_lens_poly.explorer.settings import CollectionSettings
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.read_files import damaged, read_json
from sae_lens_poly.read_tensors import read_header
from sae_lens_poly.whole_files import whole_file, write_json

STATE_FILENAME, RUN_FILENAME, TOKENS_FILENAME = "state.safetensors", "run.json", "tokens.npy"


_REMEDY = "delete it: the text is then read again"


class _Run(TypedDict):
    settings: dict[str, Any]
    dictionary: str
    finished: bool


class Collection(nn.Module):
    """Everything that a pass keeps.

    Args:
        d_sae: Number of latents.
        settings: How much is kept.
    """

    n_batches: torch.Tensor
    """Batches seen, shape ()."""
    n_contexts: torch.Tensor
    """Contexts seen, shape ()."""

    def __init__(self, d_sae: int, settings: CollectionSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = (settings.before, settings.after)
        self.counts = LatentCounts(d_sae)
        self.top = KeptContexts(d_sae, settings.n_top, *shape)
        self.drawn = KeptContexts(d_sae, settings.n_drawn, *shape)
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long))
        self.register_buffer("n_contexts", torch.zeros((), dtype=torch.long))
        self.sample = SampledCodes(settings.n_sampled_codes, d_sae)

    def counts_to(self, device: torch.device | str) -> Collection:
        """Count on a device; the sample of codes, which is large, stays on the CPU."""
        for part in (self.counts, self.top, self.drawn):
            part.to(device)
        return self

    @torch.no_grad()
    def update(self, z: torch.Tensor, counted: torch.Tensor, n_contexts: int) -> None:
        """See the codes of one batch of contexts.

        Args:
            z: Shape (batch, pos, d_sae); what is not above 0 counts as not active.
            counted: False at special tokens, (batch, pos).
            n_contexts: Contexts that the whole text will have.
        """
        if not counted.all():
            z = z.masked_fill(~counted[..., None], 0)
        n_rows, n_positions, d_sae = z.shape
        # Of a mask without dimensions: codes themselves take several times as long to search.
        place = (z > 0).view(-1).nonzero()[:, 0]
        token, latent, value = place // d_sae, place % d_sae, z.reshape(-1)[place]
        self.counts.update(latent, value, int(counted.sum()))
        generator = torch.Generator().manual_seed(hash((self.settings.seed, int(self.n_batches))))
        if self.n_batches == 0:
            self.sample.plan(len(token) / n_rows, n_contexts)
        sampled = torch.rand(n_rows, generator=generator) < self.sample.share
        first = int(self.n_contexts)
        chosen = sampled.to(z.device)[token // n_positions].nonzero()[:, 0]
        self.sample.update(token[chosen] + first * n_positions, latent[chosen], value[chosen])
        peaks = z.amax(dim=1).relu_()
        self.top.update(z, peaks, peaks.float(), first)
        draw = torch.rand(n_rows, d_sae, generator=generator).clamp_min(1e-9).to(z.device)
        self.drawn.update(z, peaks, draw * (peaks > 0), first)
        self.n_batches += 1
        self.n_contexts += n_rows


class Collected:
    """A finished pass, on the CPU: what it kept, and the tokens that it read.

    Args:
        collection: What was kept.
        tokens: Of the contexts, (n_contexts, pos).
    """

    def __init__(self, collection: Collection, tokens: np.ndarray) -> None:
        self.counts, self.sample = collection.counts, collection.sample
        self.top, self.drawn = collection.top, collection.drawn
        self.settings = collection.settings
        self.tokens = tokens
        for kept in (self.top, self.drawn):
            kept.sort_()

    @property
    def dense(self) -> torch.Tensor:
        """True for latents that are active on more than a tenth of the tokens, (d_sae,)."""
        return self.counts.density > 0.1

    def flat_tokens(self) -> np.ndarray:
        """All tokens end to end."""
        return self.tokens.reshape(-1)


def collect(
    sae: SAE[Any],
    model: StackedHooks,
    folder: str | Path,
    settings: CollectionSettings,
    of: str = "",
    seconds_between_saves: float = 60.0,
) -> Collected:
    """Read a text, or finish reading it where an earlier call was stopped.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        model: Its model.
        folder: Where what is collected is kept.
        settings: How much.
        of: What tells this dictionary from others, such as the hash of its files; what the folder
            has of another one, or with other settings, is collected again.
        seconds_between_saves: How much work a stop may lose.

    Raises:
        InputError: If the text cannot be loaded, or has no whole context.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    collection = Collection(sae.cfg.d_sae, settings).counts_to(sae.device)
    run = {"settings": settings.to_dict(), "dictionary": of}
    found = _run_in(folder)
    if found is not None and {k: found[k] for k in run} == run:
        _load(collection, folder)
    else:
        found = None
    if found is None or not found["finished"]:
        _read_text(collection, sae, model, folder, run, seconds_between_saves)
    return collected_in(folder, collection)


def collected_in(folder: str | Path, collection: Collection | None = None) -> Collected:
    """What a finished pass left in a folder.

    Raises:
        InputError: If there is no finished pass.
    """
    folder = Path(folder)
    run = _run_in(folder)
    if run is None or not run["finished"]:
        raise InputError(
            f"{str(folder)!r} holds no finished collection: run 'python -m sae_lens_poly explore' "
            "on the dictionary first"
        )
    if collection is None:
        header = read_header(folder / STATE_FILENAME, _REMEDY)
        try:
            d_sae = header["counts.n_active"].shape[0]
            collection = Collection(d_sae, CollectionSettings(**run["settings"]))
        except (KeyError, IndexError, TypeError) as error:
            raise damaged(folder / RUN_FILENAME, first_line(error), _REMEDY) from None
        _load(collection, folder)
    try:
        tokens = np.load(folder / TOKENS_FILENAME, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise damaged(folder / TOKENS_FILENAME, first_line(error), _REMEDY) from None
    return Collected(collection.cpu(), tokens[: int(collection.n_contexts)])


def settings_in(folder: str | Path) -> dict[str, Any]:
    """The settings of the last collection in a folder; none where there is none."""
    run = _run_in(Path(folder))
    return {} if run is None else dict(run["settings"])


def _run_in(folder: Path) -> dict[str, Any] | None:
    if not (folder / RUN_FILENAME).is_file() or not (folder / STATE_FILENAME).is_file():
        return None
    run: dict[str, Any] = read_json(folder / RUN_FILENAME, _Run, _REMEDY)
    return run


def _load(collection: Collection, folder: Path) -> None:
    path = folder / STATE_FILENAME
    read_header(path, _REMEDY)
    try:
        collection.load_state_dict(load_file(path))
    except RuntimeError as error:  # other names or shapes
        raise damaged(path, first_line(error), _REMEDY) from None


def _read_text(
    collection: Collection,
    sae: SAE[Any],
    model: StackedHooks,
    folder: Path,
    run: dict[str, Any],
    seconds_between_saves: float,
) -> None:
    settings = collection.settings
    special = torch.tensor(get_special_token_ids(model.tokenizer), dtype=torch.long)
    tokens_kept: np.ndarray | None = None
    saved_at = time.monotonic()

    def save(finished: bool) -> None:
        if tokens_kept is not None:
            tokens_kept.flush()  # type: ignore[attr-defined]
        # The state is written last: a run that is stopped in between starts from the older one.
        with whole_file(folder / STATE_FILENAME) as unfinished:
            save_file({k: v.contiguous() for k, v in collection.state_dict().items()}, unfinished)
        write_json(folder / RUN_FILENAME, run | {"finished": finished})

    batches = _batches(sae, model, settings)
    context_size = 0
    with tqdm(total=settings.n_tokens, desc="collecting", unit="token", unit_scale=True) as bar:
        for number, tokens in enumerate(batches):
            context_size = tokens.shape[1]
            n_contexts = -(-settings.n_tokens // context_size)
            bar.update(tokens.numel())
            if number < collection.n_batches:
                continue
            if tokens_kept is None:
                tokens_kept = _open_tokens(folder, number, n_contexts + len(tokens), context_size)
            z = sae.encode(model.gather(tokens).to(sae.device, sae.dtype)).to_dense()
            counted = ~torch.isin(tokens.cpu(), special)
            start = int(collection.n_contexts)
            tokens_kept[start : start + len(tokens)] = tokens.cpu().numpy()
            collection.update(z, counted.to(z.device), n_contexts)
            if time.monotonic() - saved_at >= seconds_between_saves:
                save(finished=False)
                saved_at = time.monotonic()
    if not context_size:
        raise InputError(
            f"dataset_path={settings.dataset_path or sae.cfg.metadata.dataset_path!r} has not one "
            "batch of whole contexts: name a longer text with --dataset_path, or lower "
            "--batch_size_prompts"
        )
    save(finished=True)


def _batches(
    sae: SAE[Any], model: StackedHooks, settings: CollectionSettings
) -> Iterator[torch.Tensor]:
    """Batches of tokens (batch, pos), until there are enough or the text ends."""
    wanted = EvaluationSettings(
        batch_size_prompts=settings.batch_size_prompts,
        dataset_path=settings.dataset_path,
        skip_rows=settings.skip_rows,
    )
    store, _ = held_out_store(sae, model, wanted)
    n_tokens = 0
    while n_tokens < settings.n_tokens:
        try:
            tokens = store.get_batch_tokens(raise_at_epoch_end=True)
        except StopIteration:
            return
        n_tokens += tokens.numel()
        yield tokens


def _open_tokens(folder: Path, batch: int, n_contexts: int, context_size: int) -> np.ndarray:
    path, shape = folder / TOKENS_FILENAME, (n_contexts, context_size)
    return np.lib.format.open_memmap(
        path, mode="r+" if batch else "w+", dtype=None if batch else np.int32, shape=shape
    )
