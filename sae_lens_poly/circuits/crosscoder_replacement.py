"""A crosscoder that reads in front of MLPs and writes their outputs, as a replacement of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sae_lens.saes.sae import SAE

from sae_lens_poly.architectures.crosscoders.crosscoder import Crosscoder
from sae_lens_poly.circuits.parts import parts_of_code
from sae_lens_poly.circuits.replacement import Parts, layer_of
from sae_lens_poly.errors import InputError

_OUTPUT = re.compile(r"blocks\.\d+\.hook_mlp_out")


class CrosscoderReplacement:
    """An :class:`MLPReplacement` of a crosscoder whose structure is that of transcoders.

    Which hook points a latent reads and writes is seen from its weights.

    Args:
        crosscoder: An inference crosscoder with a linear or a polynomial decoder.
        hook_names: Its hook points, in order; None: as its metadata say.

    Raises:
        InputError: If this is no crosscoder, its hook points are not inputs and outputs of MLPs,
            or a latent reads several of them or writes the MLP of an earlier layer.
    """

    read_hooks: Sequence[str]
    write_hooks: Sequence[str]
    read_of: torch.Tensor
    skips: Mapping[tuple[int, int], torch.Tensor]

    def __init__(self, crosscoder: SAE[Any], hook_names: Sequence[str] | None = None) -> None:
        if not isinstance(crosscoder, Crosscoder):
            raise InputError(
                f"architecture={crosscoder.cfg.architecture()!r} is no crosscoder: graphs need one "
                "from inputs of MLPs to their outputs"
            )
        if crosscoder.cfg.encoder_score != "inner_product":
            raise InputError(
                f"encoder_score={crosscoder.cfg.encoder_score!r} is no linear function of its "
                "input, and edges of a graph are: take a crosscoder of 'inner_product'"
            )
        if crosscoder.polynomial is not None and crosscoder.polynomial.homogeneous:
            raise InputError(
                "homogeneous=True divides what a pair of latents adds by the size of the whole "
                "code, and edges of a graph are of pairs alone: take a crosscoder without it"
            )
        names = list(hook_names or crosscoder.cfg.metadata.hook_names or [])
        if len(names) != crosscoder.n_hooks:
            raise InputError(
                f"the crosscoder has {crosscoder.n_hooks} hook points and {len(names)} are named: "
                "give hook_names"
            )
        reads = crosscoder.encoder_weights.norms().detach() > 0  # (d_sae, n_hooks)
        writes = crosscoder.decoder_norms().detach() > 0
        outputs = [number for number, name in enumerate(names) if _OUTPUT.fullmatch(name)]
        inputs = [number for number in range(len(names)) if number not in outputs]
        _check(reads, writes, names, inputs, outputs)
        self.crosscoder = crosscoder
        self._inputs = sorted(inputs, key=lambda number: layer_of(names[number]))
        self._outputs = sorted(outputs, key=lambda number: layer_of(names[number]))
        self.skips = {
            (self._inputs.index(read), self._outputs.index(write)): matrix.detach()
            for (read, write), matrix in zip(crosscoder.skip_pairs, crosscoder.skips, strict=True)
        }
        self.read_hooks = [names[number] for number in self._inputs]
        self.write_hooks = [names[number] for number in self._outputs]
        self.read_of = reads[:, self._inputs].int().argmax(dim=-1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (..., d_sae) of what stands at the read hook points, (..., n_reads, d_model)."""
        crosscoder = self.crosscoder
        whole = x.new_zeros(*x.shape[:-2], crosscoder.n_hooks, crosscoder.d_model)
        whole[..., self._inputs, :] = x
        return crosscoder.encode(whole.flatten(-2).to(crosscoder.device, crosscoder.dtype))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Reconstructions (..., n_writes, d_model) of codes (..., d_sae)."""
        return self.crosscoder.per_hook(self.crosscoder.decode(codes))[..., self._outputs, :]

    def encoder_vectors(self, latents: torch.Tensor) -> torch.Tensor:
        """Encoder vectors (n, d_model) of latents (n,)."""
        vectors = self.crosscoder.encoder_weights.vectors(latents).detach()
        inputs = torch.tensor(self._inputs, device=latents.device)[self.read_of[latents]]
        return self.crosscoder.per_hook(vectors)[torch.arange(len(latents)), inputs]

    def parts(self, code: torch.Tensor) -> Parts:
        """What the active latents of one token, and pairs of them, write."""
        return parts_of_code(self.crosscoder, code, self._outputs)


def _check(
    reads: torch.Tensor,
    writes: torch.Tensor,
    names: list[str],
    inputs: list[int],
    outputs: list[int],
) -> None:
    """Refuse what is no replacement of MLPs; ``reads`` and ``writes`` are (d_sae, n_hooks)."""
    fit = (
        "let each latent read one 'blocks.N.hook_resid_mid' and write 'blocks.N.hook_mlp_out' of "
        "this layer and later ones (structure='free')"
    )
    if not outputs or not inputs:
        raise InputError(
            f"hook_names={names} must have inputs of MLPs and outputs of theirs, "
            f"'blocks.N.hook_mlp_out': {fit}"
        )
    layers = torch.tensor([layer_of(name) for name in names], device=reads.device)
    behind = [n for n, name in enumerate(names) if name.endswith(("hook_mlp_out", "_resid_post"))]
    several = reads.sum(dim=-1) > 1
    looks_back = reads[:, behind].any(dim=-1)
    writes_input = writes[:, inputs].any(dim=-1)
    first_read = torch.where(reads, layers, len(names) + layers.max()).amin(dim=-1)
    first_written = torch.where(writes, layers, len(names) + layers.max()).amin(dim=-1)
    backwards = reads.any(dim=-1) & (first_written < first_read)
    for wrong, what in {
        "reads several hook points": several,
        "reads behind an MLP": looks_back,
        "writes the input of an MLP": writes_input,
        "writes the MLP of a layer before the one that it reads": backwards,
    }.items():
        if what.any():
            latent = int(what.int().argmax())
            raise InputError(f"latent {latent} {wrong}, which a replacement of MLPs cannot: {fit}")
