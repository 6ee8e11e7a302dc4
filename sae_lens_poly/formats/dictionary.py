"""What every format is read into: blocks of latents, and with them a crosscoder for SAELens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from sae_lens import __version__

from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

# A threshold that nothing passes: saved dictionaries hold no infinity, and nothing above 1e18.
_NEVER = 1e17


@dataclass
class Block:
    """Latents that read the same hook points, and write the same ones."""

    reads: tuple[int, ...]
    """Numbers of hook points, ascending."""
    writes: tuple[int, ...]
    W_enc: torch.Tensor
    """Shape (n_reads * d, F)."""
    W_dec: torch.Tensor
    """Shape (F, n_writes * d)."""
    b_enc: torch.Tensor
    """Shape (F,)."""
    threshold: torch.Tensor | None = None
    """What pre-activations must exceed, (F,); None: 0. Negative ones count as 0; with infinity a
    latent is never active."""


@dataclass
class PublicDictionary:
    """A linear dictionary of another package, in this package's terms.

    ``f = gate(x W_enc + b_enc)`` and ``x_hat = b_dec + f W_dec + skips``, x raw.
    """

    b_dec: torch.Tensor
    """Shape (n_hooks, d); 0 at hook points that are not written."""
    blocks: list[Block] = field(default_factory=list)
    """Of equal numbers of latents."""
    hook_names: list[str] | None = None
    model_name: str | None = None
    k: int | None = None
    """How many latents of a group are kept; None: thresholds decide."""
    n_groups: int = 1
    """Ranges of latents of which k are kept each."""
    signed: bool = False
    """Whether TopK keeps pre-activations below zero as they are."""
    skips: Mapping[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """Numbers of a read and a written hook point to M (d, d), by which ``x M`` is added there."""
    centred: bool = False
    """Whether b_dec is taken off the input."""

    def to_sae_lens(
        self, hook_name: str | None = None, model_name: str | None = None
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Config and weights as a file of a crosscoder has them. The blocks are given away.

        Args:
            hook_name: Hook points, in place of those that the format names.
            model_name: The model, likewise.

        Raises:
            InputError: If ``hook_name`` names another number of hook points, or the blocks are not
                of equal size.
        """
        n_hooks, d_model = self.b_dec.shape
        sizes = {len(block.b_enc) for block in self.blocks}
        if len(sizes) > 1:
            raise InputError(
                f"layers have {min(sizes):,} to {max(sizes):,} latents: a crosscoder has as many "
                "in each, so this dictionary has no place in one"
            )
        dtype = reduce(torch.promote_types, (block.W_dec.dtype for block in self.blocks))
        structure, whole = self._structure(n_hooks)
        state: dict[str, torch.Tensor] = {"b_dec": self.b_dec.flatten()}
        per_latent: dict[str, list[torch.Tensor]] = {"b_enc": [], "gate": []}
        for number, block in enumerate(self.blocks):
            suffix = "" if whole else f".{number}"
            state[f"W_enc{suffix}"], state[f"W_dec{suffix}"] = block.W_enc, block.W_dec
            per_latent["b_enc"].append(block.b_enc)
            start = torch.zeros_like if self.k is None else torch.ones_like
            gate = start(block.b_enc)
            if block.threshold is not None:
                gate = block.threshold.clamp(0, _NEVER)
            per_latent["gate"].append(gate)
        n_latents = len(self.blocks) * sizes.pop()
        self.blocks = []
        state["b_enc"] = torch.cat(per_latent["b_enc"])
        state["threshold" if self.k is None else "score_weight"] = torch.cat(per_latent["gate"])
        state |= {f"skips.{i}": matrix for i, matrix in enumerate(self.skips.values())}
        cfg = {
            "architecture": "crosscoder",
            "d_in": n_hooks * d_model,
            "d_sae": n_latents,
            "n_hooks": n_hooks,
            "dtype": str(dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": self.centred,
            "normalize_activations": "none",
            "reshape_activations": "none",
            **structure,
            "metadata": self._metadata(hook_name, model_name, n_hooks),
        }
        if self.k is not None:
            cfg |= {"select_k": self.k, "select_groups": self.n_groups}
            cfg["select_by"] = "signed_topk" if self.signed else "topk"
        if self.skips:
            cfg["skips"] = ";".join(f"{read}>{write}" for read, write in self.skips)
        return cfg, {name: tensor.to(dtype) for name, tensor in state.items()}

    def _structure(self, n_hooks: int) -> tuple[dict[str, Any], bool]:
        """Fields of the config, and whether all latents read and write all hook points."""
        everything = tuple(range(n_hooks))
        sets = [(block.reads, block.writes) for block in self.blocks]
        if sets == [(everything, everything)]:
            return {"structure": "acausal"}, True
        if sets == [((hook,), everything[hook:]) for hook in everything]:
            return {"structure": "weakly_causal"}, False
        reads, writes = (";".join(map(_numbers, of)) for of in zip(*sets, strict=True))
        return {"structure": "free", "reads": reads, "writes": writes}, False

    def _metadata(
        self, hook_name: str | None, model_name: str | None, n_hooks: int
    ) -> dict[str, Any]:
        names = self.hook_names if hook_name is None else expand_hook_names(hook_name)
        if hook_name is not None and names is not None and n_hooks % len(names):
            raise InputError(
                f"hook_name={hook_name!r} names {len(names)} hook points, and the dictionary has "
                f"{n_hooks}, in the order of docs/formats.md: name all of them"
            )
        # The version says that this is a config of today.
        metadata: dict[str, Any] = {
            "sae_lens_version": __version__,
            "model_name": model_name or self.model_name,
        }
        if names is not None:
            metadata["hook_name"] = hook_name or ",".join(names)
            if len(names) == n_hooks:  # several models have the same, each in front of its own
                metadata["hook_names"] = names
        return {name: value for name, value in metadata.items() if value is not None}


def _numbers(hooks: Sequence[int]) -> str:
    """``(0, 1, 2, 4)`` as ``"0..2,4"``."""
    runs: list[list[int]] = []
    for hook in hooks:
        if runs and runs[-1][-1] == hook - 1:
            runs[-1].append(hook)
        else:
            runs.append([hook])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
