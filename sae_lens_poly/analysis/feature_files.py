"""Feature files: what front ends of attribution graphs and Neuronpedia show of a latent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.analysis.feature_file_settings import FeatureFileSettings
from sae_lens_poly.errors import InputError
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.whole_files import write_json


class LatentRecords:
    """Where latents were active in a text, and how much.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        model: The model with its hook points stacked.
        batches: Tokens (batch, pos) each.
        latents: Their numbers; None: all.
        special_tokens: Ids at which an activation does not count, such as BOS.

    Raises:
        InputError: If there is no such latent, or no token that counts.
    """

    @torch.no_grad()
    def __init__(
        self,
        sae: SAE[Any],
        model: StackedHooks,
        batches: Iterable[torch.Tensor],
        latents: Sequence[int] | None = None,
        special_tokens: Iterable[int] = (),
    ) -> None:
        self.latents = list(range(sae.cfg.d_sae) if latents is None else dict.fromkeys(latents))
        for latent in self.latents:
            if not 0 <= latent < sae.cfg.d_sae:
                raise InputError(f"latents: {latent} must be from 0 to {sae.cfg.d_sae - 1}")
        self.tokenizer, self.rows = model.tokenizer, list[torch.Tensor]()
        special = torch.tensor(list(special_tokens), dtype=torch.long)
        where, values, self.n_tokens = [torch.zeros(3, 0).long()], [torch.zeros(0)], 0
        for tokens in batches:
            z = sae.encode(model.gather(tokens).to(sae.device, sae.dtype))[..., self.latents]
            z, tokens = z.float().cpu(), tokens.cpu()
            counts = ~torch.isin(tokens, special)
            z[~counts] = 0.0
            row, position, column = z.nonzero().T
            values.append(z[row, position, column])
            where.append(torch.stack([column, row + len(self.rows), position]))
            self.rows += tokens
            self.n_tokens += int(counts.sum())
        if self.n_tokens == 0:
            raise InputError("batches: no token is left beside the special ones: give text")
        together, activations = torch.cat(where, dim=1), torch.cat(values)
        order = together[0].argsort(stable=True)
        sizes = torch.bincount(together[0], minlength=len(self.latents)).tolist()
        self._where = together[1:, order].split(sizes, dim=1)
        self._activations = activations[order].split(sizes)

    def feature_file(
        self,
        latent: int,
        logits: torch.Tensor,
        transcoder_id: str,
        settings: FeatureFileSettings | None = None,
    ) -> dict[str, Any]:
        """The content of a latent's file.

        Args:
            latent: One of ``latents``.
            logits: What the latent adds to those of each token, (d_vocab,).
            transcoder_id: Which dictionary and hook point it is of.
            settings: How much is shown.
        """
        settings = settings or FeatureFileSettings()
        column = self.latents.index(latent)
        (rows, positions), activations = self._where[column], self._activations[column]
        largest = activations.max().item() if len(activations) else 0.0
        shares = torch.linspace(0.01, 0.99, 99)
        some = len(activations) > 0
        most, least = logits.topk(settings.n_logits), (-logits).topk(settings.n_logits)
        return {
            "transcoder_id": transcoder_id,
            "index": latent,
            "examples_quantiles": self._examples(rows, positions, activations, settings),
            "top_logits": self._texts(most.indices),
            "bottom_logits": self._texts(least.indices),
            "act_min": 0.0,
            "act_max": largest,
            "quantile_values": activations.quantile(shares).tolist() if some else [],
            "histogram": torch.histc(activations, settings.n_bins, 0.0, largest or 1.0).tolist(),
            "activation_frequency": len(activations) / self.n_tokens,
        }

    def _examples(
        self,
        rows: torch.Tensor,
        positions: torch.Tensor,
        activations: torch.Tensor,
        settings: FeatureFileSettings,
    ) -> list[dict[str, Any]]:
        """Contexts by group, each at its largest activation."""
        order = activations.argsort(descending=True, stable=True)
        first = np.unique(rows[order].numpy(), return_index=True)[1]  # of each context
        peaks = order[np.sort(first)]
        top, rest = peaks[: settings.n_top], peaks[settings.n_top :]
        groups = {"Top activations": top}
        for number, group in enumerate(rest.tensor_split(max(1, settings.n_intervals))):
            if len(group) and settings.n_intervals:
                n = min(settings.n_per_interval, len(group))
                chosen = torch.linspace(0, len(group) - 1, n).round().long()
                groups[f"Interval {number + 1} of {settings.n_intervals}"] = group[chosen]
        seen: set[str] = set()
        shown = []
        for name, group in groups.items():
            examples = []
            for peak in group.tolist():
                row, at = int(rows[peak]), int(positions[peak])
                start = max(0, at - settings.window)
                tokens = self.rows[row][start : at + settings.window + 1]
                values = torch.zeros(len(self.rows[row]))
                own = rows == row
                values[positions[own]] = activations[own]
                texts = self._texts(tokens)
                examples.append(
                    {
                        "tokens": texts,
                        "tokens_acts_list": values[start : start + len(tokens)].tolist(),
                        "train_token_ind": at - start,
                        "is_repeated_datapoint": "".join(texts) in seen,
                    }
                )
                seen.add("".join(texts))
            shown.append({"quantile_name": name, "examples": examples})
        return shown

    def _texts(self, tokens: torch.Tensor) -> list[str]:
        return list(self.tokenizer.batch_decode(tokens[:, None].tolist()))


@torch.no_grad()
def write_feature_files(
    sae: SAE[Any],
    model: StackedHooks,
    batches: Iterable[torch.Tensor],
    folder: str | Path,
    latents: Sequence[int] | None = None,
    special_tokens: Iterable[int] = (),
    settings: FeatureFileSettings | None = None,
) -> list[Path]:
    """Write ``folder/HOOK_POINT/LATENT.json`` for every hook point that the dictionary writes.

    Activations are those of the latent, whatever the hook point; logits are by its direction there
    and the unembedding, without the last normalisation and without the terms above degree 1.

    Args:
        sae: A dictionary that takes the raw activations of the model's virtual hook point.
        model: The model with its hook points stacked.
        batches: Tokens (batch, pos) each.
        folder: Made if it is missing.
        latents: Their numbers; None: all.
        special_tokens: Ids at which an activation does not count, such as BOS.
        settings: What a file holds.
    """
    records = LatentRecords(sae, model, batches, latents, special_tokens)
    W_U, directions = unembedding(model), directions_at(sae, model)
    paths = []
    for hook in getattr(sae, "written_hooks", range(model.n_hooks)):
        name = model.hook_names[hook]
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for latent in records.latents:
            path = Path(folder) / name / f"{latent}.json"
            logits = directions[latent, hook] @ W_U
            write_json(path, records.feature_file(latent, logits, name, settings))
            paths.append(path)
    return paths


def directions_at(sae: SAE[Any], model: StackedHooks) -> torch.Tensor:
    """The linear decoder of each latent at each hook point, (d_sae, n_hooks, d_model)."""
    own = getattr(sae, "latent_directions", None)
    rows = sae.W_dec if own is None else own()
    return rows.detach().cpu().float().unflatten(1, (model.n_hooks, model.d_model))


def unembedding(model: StackedHooks) -> torch.Tensor:
    """What takes the last residual stream to logits, (d_model, d_vocab)."""
    inner: Any = model.model
    if hasattr(inner, "W_U"):  # TransformerLens
        return inner.W_U.detach().cpu().float()
    # Hugging Face, in SAELens' HookedProxyLM
    return inner.model.get_output_embeddings().weight.detach().cpu().float().T
