"""Recipes from the literature as defaults of ``train``: ``--preset NAME``.

A preset is one class that enters itself into :data:`PRESETS`. Flags that are given replace what it
sets.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

#: Name to preset.
PRESETS: dict[str, type[Preset]] = {}


class Preset(ABC):
    """Defaults of ``train`` for one kind of dictionary."""

    #: Flag to value, whatever is trained.
    FLAGS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        PRESETS[name] = cls

    @staticmethod
    @abstractmethod
    def fitted(settings: Mapping[str, Any], n_steps: int) -> dict[str, Any]:
        """Flags that depend on others.

        Args:
            settings: Flag to value, those that were given and :attr:`FLAGS`.
            n_steps: Of the run.

        Raises:
            InputError: If the preset does not fit what was given.
        """


class CrossLayerTranscoder(Preset, name="clt"):
    """A cross-layer transcoder with the recipe of the Circuits Updates of January 2025.

    (Conerly et al., "Dictionary Learning Optimization Techniques"; as Ameisen et al. 2025, "Circuit
    Tracing", train theirs.) Every latent reads the input of one MLP and writes the outputs of this
    MLP and of all later ones. JumpReLU, whose straight-through gradient reaches the encoder as
    well; ``lambda_S sum_i tanh(c z_i |W_dec,i|)``, with the norm of all that a latent writes and
    lambda_S rising over the whole run; ``lambda_P sum_i relu(theta_i - h_i) |W_dec,i|`` on all
    latents; the learning rate decays over the last fifth.
    """

    FLAGS: ClassVar = {
        "architecture": "crosscoder",
        "hook_name": "blocks.{0..5}.hook_resid_mid,blocks.{0..5}.hook_mlp_out",
        "d_sae": 1536,
        "sparsifier": "jumprelu",
        "score_by_decoder_norm": False,
        "jumprelu_init_threshold": 0.1,
        "jumprelu_bandwidth": 2.0,
        "jumprelu_ste_to_input": True,
        "jumprelu_sparsity_loss_mode": "tanh",
        "jumprelu_tanh_scale": 4.0,
        "sparsity_penalty": "l2_of_norms",
        "l0_coefficient": 2.0,
        "pre_act_loss_coefficient": 3e-6,
        "pre_act_loss_on": "all",
        "train_batch_size_tokens": 1024,
        "lr": 0.001,
    }

    @staticmethod
    def fitted(settings: Mapping[str, Any], n_steps: int) -> dict[str, Any]:
        flags: dict[str, Any] = {"l0_warm_up_steps": n_steps, "lr_decay_steps": n_steps // 5}
        if settings.get("structure", "free") == "free":
            flags["structure"] = "free"
            if not {"reads", "writes"} & set(settings):
                flags |= _reads_and_writes(settings["hook_name"])
        return flags


def _reads_and_writes(hook_name: str) -> dict[str, str]:
    """``reads`` and ``writes`` of a group of latents for each input of an MLP."""
    layers = {}
    for number, name in enumerate(expand_hook_names(hook_name)):
        match = re.match(r"blocks\.(\d+)\.", name)
        if match is None:
            raise InputError(
                f"hook_name={hook_name!r:.200}: preset='clt' does not know the layer of "
                f"{name!r:.80}, as it does of 'blocks.3.hook_mlp_out': give reads and writes"
            )
        layers[number] = int(match[1]), name.endswith("hook_mlp_out")
    inputs = sorted((layer, number) for number, (layer, written) in layers.items() if not written)
    writes = [
        [str(number) for number, (at, written) in layers.items() if written and at >= layer]
        for layer, _ in inputs
    ]
    if not inputs or not all(writes):
        raise InputError(
            f"hook_name={hook_name!r:.200}: preset='clt' needs inputs of MLPs, and the output of "
            "each of these MLPs: 'blocks.{0..5}.hook_resid_mid,blocks.{0..5}.hook_mlp_out'"
        )
    return {
        "reads": ";".join(str(number) for _, number in inputs),
        "writes": ";".join(map(",".join, writes)),
    }
