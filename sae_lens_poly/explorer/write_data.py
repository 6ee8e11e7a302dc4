"""The data files that the pages read, from what was collected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.saes.sae import SAE
from sae_lens.util import get_special_token_ids
from tqdm.auto import tqdm

from sae_lens_poly.analysis.profiles import profile_of
from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.coherence import FunctionalCoherence
from sae_lens_poly.evaluation.saved import DICTIONARY_HASH, EVALUATION_FILENAME
from sae_lens_poly.explorer.collect import Collected
from sae_lens_poly.explorer.data_files import StringTable, TokenTexts, plain, write_data
from sae_lens_poly.explorer.examples import ExampleWriter
from sae_lens_poly.explorer.latent_counts import BINS_PER_OCTAVE, FIRST_OCTAVE
from sae_lens_poly.explorer.latent_views import N_CURVE_POINTS, LatentViews, has_several_hooks
from sae_lens_poly.explorer.model_diffs import model_diffs
from sae_lens_poly.explorer.pair_records import PairRecords
from sae_lens_poly.explorer.unembedding import unembeddings
from sae_lens_poly.hook_names import short_hook_name
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels
from sae_lens_poly.read_files import read_json
from sae_lens_poly.whole_files import write_json

#: Of the format; files of another one are written again.
FORMAT = 1
OVERVIEW, LATENTS, MODELS = "overview.json.gz", "latents.json.gz", "models.json.gz"
LATENTS_PER_FILE = 16
N_LISTED, N_LOGITS = 8, 8
# Tokens whose activations are looked at together.
_SLICE = 512


class DataWriter:
    """Writes the data files of a dictionary.

    Args:
        sae: The dictionary.
        model: Its model.
        collected: What its latents are active on.
    """

    def __init__(self, sae: SAE[Any], model: StackedHooks, collected: Collected) -> None:
        self.sae, self.model, self.collected = sae, model, collected
        self.texts = TokenTexts(model.tokenizer)
        some_text = torch.tensor(collected.tokens[:8].astype("int64"))
        self.views = LatentViews(sae, model.n_hooks, unembeddings(model, some_text))
        self.pairs = PairRecords(collected, self.views)

    def write(self, folder: Path, source: Path, of: str) -> None:
        """Write everything; files that are there already for the same collection are kept.

        Args:
            folder: Where the data files go.
            source: The dictionary's folder, which may hold an evaluation.
            of: What tells this dictionary from others.
        """
        stamp = {
            "format": FORMAT,
            "dictionary": of,
            "settings": self.collected.settings.to_dict(),
        }
        stamp_file = folder / "stamp.json"
        if not _is_of(stamp_file, stamp):
            for path in folder.glob("**/*.json.gz"):
                path.unlink()
            write_json(stamp_file, stamp)
        drive, coherence = self._drive()
        if isinstance(self.model, StackedModels) and isinstance(self.sae, Crosscoder):
            found = model_diffs(self.sae, self.model, self._activations())
            write_data(folder / MODELS, found)
        n = self.sae.cfg.d_sae
        parts = [
            slice(first, min(first + LATENTS_PER_FILE, n))
            for first in range(0, n, LATENTS_PER_FILE)
        ]
        partners: list[list[int]] = []
        for part in tqdm(parts, desc="pairs", unit="file", leave=False):
            partners += self.pairs.partners(part, self.pairs.together(part).phi)
        for number, part in enumerate(tqdm(parts, desc="writing pages", unit="file")):
            latents, pairs = (folder / kind / file_name(number) for kind in ("latents", "pairs"))
            if not (latents.is_file() and pairs.is_file()):
                write_data(pairs, self._pair_file(part, partners))
                write_data(latents, self._latent_file(part, partners, drive, coherence))
        write_data(folder / LATENTS, self._table(coherence))
        write_data(folder / OVERVIEW, self._overview(source, of))

    # The whole dictionary

    def _overview(self, source: Path, of: str) -> dict[str, Any]:
        metadata, counts = self.sae.cfg.metadata, self.collected.counts
        names = self.model.hook_names
        written = self.views.written
        details = getattr(metadata, "training_architecture_details", None) or {}
        return {
            "format": FORMAT,
            "name": source.name,
            "architecture": self.sae.cfg.architecture(),
            "decoder": getattr(self.sae.cfg, "decoder", None) if self.views.is_curved else "linear",
            "model": metadata.model_name,
            "hook_names": names,
            "hooks": [short_hook_name(name) for name in names],
            "written": written,
            "models": getattr(self.model, "model_names", None),
            "d_sae": self.sae.cfg.d_sae,
            "d_in": self.sae.cfg.d_in,
            "training": {
                "architecture": getattr(metadata, "training_architecture", None),
                "dataset": metadata.dataset_path,
                "context size": metadata.context_size,
                **{k: v for k, v in details.items() if isinstance(v, str | int | float | bool)},
            },
            "settings": self.collected.settings.to_dict(),
            "n_tokens": int(counts.n_tokens),
            "n_contexts": len(self.collected.tokens),
            "l0": plain(counts.n_active.sum().item() / max(int(counts.n_tokens), 1)),
            "n_dead": int((counts.n_active == 0).sum()),
            "n_dense": int(self.collected.dense.sum()),
            "n_sampled": self.collected.sample.codes.shape[0],
            "latents_per_file": LATENTS_PER_FILE,
            "bins_per_octave": BINS_PER_OCTAVE,
            "first_octave": FIRST_OCTAVE,
            "interact": self.pairs.interact,
            "curved": self.views.is_curved,
            "evaluation": _evaluation_in(source, of),
        }

    def _table(self, coherence: torch.Tensor) -> dict[str, Any]:
        """One row for each latent, by column."""
        counts = self.collected.counts
        profile = profile_of(self.views.decoder_norms.cpu())
        strings = StringTable()
        return {
            "density": plain(counts.density, 3),
            "max": plain(counts.maximum, 3),
            "mean": plain(counts.typical, 3),
            "spread": plain(profile.n_effective, 3),
            "centre": plain(profile.centre, 3),
            "coherence": plain(coherence, 3),
            "profile": [_digits(row) for row in profile.profile.nan_to_num().tolist()],
            "peaks": [self._peak_tokens(i, strings) for i in range(self.sae.cfg.d_sae)],
            "strings": strings.to_list(),
        }

    def _peak_tokens(self, latent: int, strings: StringTable, n: int = 3) -> list[int]:
        """The different tokens at which a latent is most active."""
        top = self.collected.top
        live = int((top.priority[latent] > 0).sum())
        found: dict[int, None] = {}
        for k in range(live):
            token = self.collected.tokens[int(top.context[latent, k]), int(top.position[latent, k])]
            found.setdefault(strings.number(self.texts[int(token)]))
            if len(found) == n:
                break
        return list(found)

    # Coherence and latent scaling take activations once more, of the first contexts

    def _activations(self) -> Iterator[torch.Tensor]:
        special = torch.tensor(get_special_token_ids(self.model.tokenizer), dtype=torch.long)
        left = self.collected.settings.n_coherence_tokens
        for row in self.collected.tokens:
            tokens = torch.tensor(row.astype("int64"))[None]
            x = self.model.gather(tokens)[~torch.isin(tokens, special)][:left]
            yield from x.to(self.sae.device, self.sae.dtype).split(_SLICE)
            left -= len(x)
            if left <= 0:
                return

    def _drive(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Relative change of each latent without a hook point, and its coherence; NaN if none."""
        d_sae, n_hooks = self.sae.cfg.d_sae, self.model.n_hooks
        if not has_several_hooks(self.sae):
            return torch.full((d_sae, n_hooks), torch.nan), torch.full((d_sae,), torch.nan)
        measure = FunctionalCoherence(self.sae)
        n_tokens = self.collected.settings.n_coherence_tokens
        with tqdm(total=n_tokens, desc="coherence", unit="token", leave=False) as bar:
            for x in self._activations():
                measure.update(x)
                bar.update(len(x))
        selected, _ = measure.changes
        return selected / measure.n_active[:, None], measure.compute().selected

    # A few latents

    def _pair_file(self, part: slice, partners: list[list[int]]) -> dict[str, Any]:
        """Records of the pairs of these latents that are in no earlier file."""
        writer = ExampleWriter(self.collected, self.texts, StringTable())
        pairs = [
            (i, j)
            for i in range(part.start, part.stop)
            for j in partners[i]
            if i < j or i not in partners[j]
        ]
        records = self.pairs.records(pairs, writer)
        return {"strings": writer.strings.to_list(), "pairs": records}

    def _latent_file(
        self,
        part: slice,
        partners: list[list[int]],
        drive: torch.Tensor,
        coherence: torch.Tensor,
    ) -> dict[str, Any]:
        writer = ExampleWriter(self.collected, self.texts, StringTable())
        numbers = range(part.start, part.stop)
        together = self.pairs.together(part)
        pairs = [(i, j) for i in numbers for j in partners[i]]
        shares = dict(zip(pairs, self.pairs.shares(pairs), strict=True))
        views = self._views(part, writer.strings)
        latents = [
            {
                **self._counts(i),
                **{name: values[row] for name, values in views.items()},
                "top": writer.top(i),
                "quantiles": writer.quantiles(i),
                "drive": plain(drive[i], 3),
                "coherence": plain(coherence[i].item(), 3),
                "together": self._together(together.phi[row], together.share[row]),
                "partners": sorted(
                    ([j, shares[i, j], bool(self.pairs.dense[j])] for j in partners[i]),
                    key=lambda partner: -(partner[1] or 0),
                ),
            }
            for row, i in enumerate(numbers)
        ]
        return {"strings": writer.strings.to_list(), "latents": latents}

    def _counts(self, latent: int) -> dict[str, Any]:
        counts = self.collected.counts
        histogram = counts.histogram[latent]
        filled = histogram.nonzero()[:, 0].tolist()
        first, last = (filled[0], filled[-1]) if filled else (0, -1)
        return {
            "id": latent,
            "n_active": int(counts.n_active[latent]),
            "density": plain(counts.density[latent].item()),
            "max": plain(counts.maximum[latent].item()),
            "mean": plain(counts.typical[latent].item()),
            "histogram": [first, histogram[first : last + 1].tolist()],
        }

    @torch.no_grad()
    def _views(self, part: slice, strings: StringTable) -> dict[str, list[Any]]:
        """What the weights say, by name, in the order of the latents."""
        views, typical = self.views, self.collected.counts.typical[part]
        n = len(typical)
        cosines, nearest = views.nearest(part, N_LISTED)
        found: dict[str, list[Any]] = {
            "decoder": plain(views.decoder_norms[part], 3),
            "encoder": plain(views.encoder_norms[part], 3),
            "nearest": [
                [[j, plain(c, 3)] for j, c in zip(*row, strict=True)]
                for row in zip(nearest.tolist(), cosines.tolist(), strict=True)
            ],
        }
        if len(views.written) > 1:
            found["cosines"] = plain(views.cosines(part), 2)
        logits = views.logits(views.alone(part, typical[:, None])[:, 0], N_LOGITS)
        found["logits"] = [
            [
                [
                    [strings.number(self.texts[token]), plain(value, 3)]
                    for token, value in zip(tokens[row].tolist(), values[row].tolist(), strict=True)
                ]
                for values, tokens in logits
            ]
            for row in range(n)
        ]
        if views.is_curved:
            largest = self.collected.counts.maximum[part]
            z = largest[:, None] * torch.linspace(0, 1, N_CURVE_POINTS)
            curves = views.curves(part, z)
            found["curve"] = [
                {"z": plain(z[row], 3)} | {k: plain(v[row], 3) for k, v in curves.items()}
                for row in range(n)
            ]
        return found

    def _together(self, phi: np.ndarray, share: np.ndarray) -> list[list[Any]]:
        """The latents that one is active with: number, correlation, share of its tokens."""
        best = [j for j in phi.argsort()[::-1][:N_LISTED].tolist() if phi[j] > 0]
        return [[j, plain(phi[j].item(), 3), plain(share[j].item(), 3)] for j in best]


def _digits(shares: list[float]) -> str:
    """Numbers from 0 to 1 as one digit each."""
    return "".join(str(min(9, int(share * 9.999))) for share in shares)


def file_name(number: int) -> str:
    """The name of the file with the latents from ``number * LATENTS_PER_FILE`` on."""
    return f"{number:05d}.json.gz"


def _is_of(stamp_file: Path, stamp: dict[str, Any]) -> bool:
    """Whether the data beside a stamp are of the same; a damaged one is of nothing."""
    try:
        return stamp_file.is_file() and read_json(stamp_file, dict[str, Any]) == stamp
    except InputError:
        return False


def _evaluation_in(source: Path, of: str) -> dict[str, Any] | None:
    """The figures of the last evaluation, if they are of these weights."""
    path = source / EVALUATION_FILENAME
    if not path.is_file():
        return None
    evaluation: dict[str, Any] = read_json(path, dict[str, Any])
    wanted = ("per_hook", "pooled", "l0", "coherence", "interactions", "n_tokens", "ce_clean")
    if of and evaluation.get(DICTIONARY_HASH) != of:
        return None
    return {name: evaluation.get(name) for name in wanted}
