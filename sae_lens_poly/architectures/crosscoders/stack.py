"""What the config of a stack of hook points says and may say, in training and at inference."""

from __future__ import annotations

from typing import Any

from sae_lens_poly.architectures.crosscoders.hook_structure import (
    STRUCTURES,
    HookStructure,
    make_structure,
)
from sae_lens_poly.architectures.encoders import SCORES
from sae_lens_poly.architectures.weights import WEIGHTS, Grouped, Weights
from sae_lens_poly.architectures.weights.factored import check_ranks
from sae_lens_poly.constraints import Choice, Constraint, Flag, Number, Registered, check_fields
from sae_lens_poly.errors import InputError
from sae_lens_poly.hook_names import expand_hook_names

#: What the fields of a stack may be.
STACK_CONSTRAINTS: dict[str, Constraint] = {
    "d_in": Number(at_least=1, whole=True),
    "d_sae": Number(at_least=1, at_most=2**31 - 1, whole=True),
    "n_hooks": Number(at_least=1, whole=True),
    "apply_b_dec_to_input": Flag(),
    "structure": Choice(*STRUCTURES),
    "encoder_weights": Registered(lambda: WEIGHTS),
    "decoder_weights": Registered(lambda: WEIGHTS),
    "encoder_score": Registered(lambda: SCORES),
}


def check_stack(cfg: Any) -> None:
    """Refuse fields that cannot belong to a stack of hook points.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    check_fields(cfg, STACK_CONSTRAINTS)
    if cfg.d_in % cfg.n_hooks:
        raise InputError(
            f"n_hooks={cfg.n_hooks} does not divide d_in={cfg.d_in}: d_in is n_hooks times "
            "the width of one hook point"
        )
    if cfg.normalize_activations != "none":
        raise InputError(
            f"normalize_activations={cfg.normalize_activations!r} scales all hook points by "
            "one number, and a crosscoder has one for each: set normalize_activations='none' "
            "and choose with normalize_hooks"
        )
    if cfg.reshape_activations != "none":
        raise InputError(
            f"reshape_activations={cfg.reshape_activations!r} is for hook points with a head "
            "dimension: set it to 'none' and use a hook point of width d_model"
        )
    full = structure_of(cfg).is_full
    for part in ("encoder", "decoder"):
        form, ranks = getattr(cfg, f"{part}_weights"), getattr(cfg, f"{part}_ranks")
        check_ranks(f"{part}_ranks", form, ranks, *sizes(cfg))
        if form == "matrix" and not full:
            raise InputError(
                f"{part}_weights='matrix' is for latents that read and write all hook points, and "
                f"structure={cfg.structure!r}: take 'acausal'"
            )


def check_groups(cfg: Any) -> None:
    """Refuse groups to select latents of that are not equal, or too small.

    Raises:
        InputError: Naming the field, its value and the remedy.
    """
    if cfg.d_sae % cfg.select_groups:
        raise InputError(
            f"select_groups={cfg.select_groups} does not divide d_sae={cfg.d_sae}: the groups are "
            "of equal size"
        )
    if cfg.select_k is not None and cfg.select_k > cfg.d_sae // cfg.select_groups:
        raise InputError(
            f"select_k={cfg.select_k} must be at most the {cfg.d_sae // cfg.select_groups} latents "
            "of a group: lower it"
        )


def sizes(cfg: Any) -> tuple[int, int, int]:
    """Number of hook points, width of one, number of latents."""
    return cfg.n_hooks, cfg.d_in // cfg.n_hooks, cfg.d_sae


def is_factored(cfg: Any) -> bool:
    """Whether the config is of a crosscoder whose encoder or decoder has factors."""
    forms = {getattr(cfg, f"{part}_weights", "dense") for part in ("encoder", "decoder")}
    return forms != {"dense"}


def structure_of(cfg: Any) -> HookStructure:
    """Which latents read and write which hook points."""
    return make_structure(cfg.structure, cfg.reads, cfg.writes, cfg.n_hooks, cfg.d_sae)


def make_weights(cfg: Any, part: str, structure: HookStructure, **options: Any) -> Weights:
    """The weights of the ``encoder`` or the ``decoder``."""
    form, ranks = getattr(cfg, f"{part}_weights"), getattr(cfg, f"{part}_ranks")
    if WEIGHTS[form].n_ranks:
        options["same_init"] = getattr(cfg, "same_hook_init", False)
    if structure.is_full:
        make: Any = WEIGHTS[form]
        return make(*sizes(cfg), ranks, **options)
    groups = structure.groups
    hooks = [group.reads if part == "encoder" else group.writes for group in groups]
    latents = [group.latents for group in groups]
    return Grouped(form, latents, hooks, *sizes(cfg), ranks, **options)


def with_hook_names(cfg_dict: dict[str, Any], n_hooks: int) -> dict[str, Any]:
    """Spell out in the metadata of a config which hook points ``hook_name`` stands for."""
    metadata = cfg_dict["metadata"]
    if metadata.get("hook_name") and not metadata.get("hook_names"):
        names = expand_hook_names(metadata["hook_name"])
        if len(names) == n_hooks:  # several models have others, which a runner knows
            metadata["hook_names"] = names
    return cfg_dict
