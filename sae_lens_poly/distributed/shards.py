"""Latents that processes share: which tensors have a row for each, and who holds which rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from sae_lens.training.sae_trainer import SAETrainer
from torch import nn

from sae_lens_poly.architectures.crosscoders import TrainingCrosscoder
from sae_lens_poly.architectures.decoders.interactions import OrthonormalProjection
from sae_lens_poly.distributed.process_mesh import ProcessMesh
from sae_lens_poly.errors import InputError

#: Counts of SAELens' trainer, one for each latent.
_COUNTS = ("act_freq_scores", "n_forward_passes_since_fired")

Rows = Callable[[torch.Tensor], torch.Tensor]


def _parts(sae: TrainingCrosscoder) -> dict[str, Any]:
    """The parts that hold weights of latents, by the field of the config that chooses them."""
    parts = {
        "encoder_weights": sae.encoder_weights,
        "decoder_weights": sae.decoder_weights,
        "encoder_score": sae.encoder_score,
        "sparsifier": sae.sparsifier,
    }
    if sae.encoder_weights is sae.decoder_weights:  # tied
        del parts["encoder_weights"]
    return parts if sae.polynomial is None else {**parts, "decoder": sae.polynomial}


def check_can_shard(cfg: Any, n_shards: int) -> None:
    """Refuse a dictionary whose latents cannot be shared, as far as its config says.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if not hasattr(cfg, "n_hooks"):
        raise InputError(
            f"latent_shards={n_shards} is for crosscoders, and architecture="
            f"{cfg.architecture()!r} is one of SAELens' classes, which hold all latents: leave it "
            "out, and every process takes a part of the batch"
        )
    if cfg.d_sae % n_shards:
        raise InputError(
            f"latent_shards={n_shards} does not divide d_sae={cfg.d_sae}: shards are of equal size"
        )
    if cfg.structure != "acausal":
        raise InputError(
            f"latent_shards={n_shards}: with structure={cfg.structure!r} latents are in groups "
            "that read and write other hook points, so that shards would not be alike: take "
            "'acausal', or leave latent_shards out"
        )
    if cfg.sparsifier == "jumprelu" and cfg.jumprelu_sparsity_loss_mode == "quadratic":
        raise InputError(
            f"latent_shards={n_shards}: jumprelu_sparsity_loss_mode='quadratic' squares the number "
            "of active latents, which SAELens' loss counts where it is: take 'step' or 'tanh'"
        )


def of_latents(sae: Any) -> Iterator[torch.Tensor]:
    """The weights and buffers of a crosscoder that have a row for each latent, each once.

    Raises:
        InputError: If one of its parts does not say which of its tensors do.
    """
    yield sae.b_enc
    for field, part in _parts(sae).items():
        if part.of_latents is None:
            raise InputError(
                f"{field}: {type(part).__name__} does not say which of its tensors have a row for "
                "each latent (of_latents), so that they cannot be shared: leave latent_shards out"
            )
        tensors = {**dict(part.named_parameters()), **dict(part.named_buffers())}
        yield from (tensors[name] for name in part.of_latents if name in tensors)


def share_latents_(sae: Any, mesh: ProcessMesh | None) -> None:
    """Tell the parts of a crosscoder who has the other latents; None: nobody."""
    if not isinstance(sae, TrainingCrosscoder):
        return
    sae.decoder = replace(sae.decoder, world=mesh)
    sae.first_latent = 0 if mesh is None else mesh.shard * sae.cfg.d_sae
    for module in sae.modules():
        if isinstance(module, OrthonormalProjection):
            rows_are_latents = any(module.weight is tensor for tensor in of_latents(sae))
            module.other_rows = mesh if rows_are_latents else None


class SharedLatents:
    """The latents that processes share in training: each a shard, or all at times.

    Weights, Adam's state of them and the trainer's counts; nothing where every process has all
    latents anyway.

    Args:
        trainer: With all latents, alike in all processes.
        mesh: The processes.
    """

    def __init__(self, trainer: SAETrainer[Any, Any], mesh: ProcessMesh) -> None:
        self.trainer, self.mesh = trainer, mesh
        self.is_divided = False

    def divide_(self) -> None:
        """Leave the trainer with the latents of this process."""
        n, shard = self.mesh.n_shards, self.mesh.shard
        if n > 1:
            d_sae = self.trainer.sae.cfg.d_sae // n
            self._replace_rows_(lambda rows: rows.chunk(n)[shard].clone(), d_sae)
            self.is_divided = True

    def unite_(self) -> None:
        """Give the trainer the latents of all processes."""
        if self.is_divided:
            d_sae = self.trainer.sae.cfg.d_sae * self.mesh.n_shards
            self._replace_rows_(self.mesh.gather_latents, d_sae)
            self.is_divided = False

    @contextmanager
    def united(self) -> Iterator[None]:
        """Within it, every process has all latents, and one of them can save them."""
        if not self.is_divided:
            yield
            return
        sae = self.trainer.sae
        world = sae.decoder.world
        self.unite_()
        share_latents_(sae, None)
        sae.retract_()  # in all processes, as it would be in the one that saves
        try:
            yield
        finally:
            self.divide_()
            share_latents_(sae, world)

    @torch.no_grad()
    def _replace_rows_(self, other_rows: Rows, d_sae: int) -> None:
        trainer = self.trainer
        for tensor in list(of_latents(trainer.sae)):
            tensor.data = other_rows(tensor.data)
            tensor.grad = None
            if isinstance(tensor, nn.Parameter):
                state = trainer.optimizer.state.get(tensor, {})
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in state:
                        state[name] = other_rows(state[name])
        for name in _COUNTS:
            setattr(trainer, name, other_rows(getattr(trainer, name)))
        trainer.sae.cfg.d_sae = d_sae
