"""Models by name: the embedded ones, and everything that SAELens loads."""

from __future__ import annotations

from typing import Any

from sae_lens.config import LanguageModelSAERunnerConfig
from sae_lens.load_model import load_model
from transformer_lens.hook_points import HookedRootModule

from sae_lens_poly.embedded import EMBEDDED_MODEL_NAME, HYBRID_MODEL_NAME
from sae_lens_poly.embedded.hybrid import load_hybrid_model
from sae_lens_poly.embedded.model import load_embedded_model
from sae_lens_poly.errors import InputError, first_line
from sae_lens_poly.hook_names import expand_hook_names
from sae_lens_poly.model_names import guess_model_class, split_model_names
from sae_lens_poly.models.stacked_hooks import StackedHooks
from sae_lens_poly.models.stacked_models import StackedModels, distinct_names
from sae_lens_poly.models.state_hooks import StatePoint


def load_model_of(cfg: LanguageModelSAERunnerConfig[Any]) -> StackedHooks:
    """The model of a run, with its hook points stacked; raises as :func:`load_stacked_model`."""
    return load_stacked_model(
        cfg.model_name,
        cfg.hook_name,
        cfg.model_class_name,
        cfg.llm_device or cfg.device,
        cfg.model_from_pretrained_kwargs,
    )


def load_stacked_model(
    model_name: str,
    hook_name: str | list[str],
    model_class_name: str | None = None,
    device: str = "cpu",
    model_from_pretrained_kwargs: dict[str, Any] | None = None,
) -> StackedHooks:
    """Load a model with several of its hook points stacked into one.

    Args:
        model_name: ``stdlib-6l`` or ``stdlib-hybrid`` (the embedded models), or what SAELens takes
            for ``model_class_name``: a TransformerLens name, a hub repository, a local folder.
            Several of them, separated by commas, are stacked, for model diffing.
        hook_name: Hook points, for example ``blocks.{2..9}.hook_resid_post``.
        model_class_name: ``HookedTransformer``, ``AutoModelForCausalLM`` or ``HookedMamba``;
            None: :func:`guess_model_class`.

    Raises:
        InputError: If the model or a hook point cannot be found.
    """
    several = split_model_names(model_name)
    if len(several) > 1:
        models = [
            load_stacked_model(
                name, hook_name, model_class_name, device, model_from_pretrained_kwargs
            ).model
            for name in several
        ]
        return StackedModels(models, hook_name, distinct_names(several))
    hook_names = expand_hook_names(hook_name)
    try:
        model = _load(
            model_name,
            model_class_name or guess_model_class(model_name),
            device,
            model_from_pretrained_kwargs,
            hook_names,
        )
    except InputError:
        raise
    except Exception as error:
        if "hook_names not found" in str(error):  # SAELens' words for Hugging Face models
            raise InputError(
                f"hook_name={hook_name!r}: {error}; Hugging Face models name them like "
                "'model.layers.{11..18}'"
            ) from error
        raise InputError(
            f"model_name={model_name!r} cannot be loaded as {model_class_name or 'a model'} "
            f"({first_line(error)}): give {EMBEDDED_MODEL_NAME!r}, {HYBRID_MODEL_NAME!r}, a name "
            "that TransformerLens knows, a hub repository that can be reached, or a local folder "
            "with a config.json"
        ) from error
    return StackedHooks(model, hook_name)


def _load(
    model_name: str,
    model_class_name: str,
    device: str,
    model_from_pretrained_kwargs: dict[str, Any] | None,
    hook_names: list[str],
) -> HookedRootModule:
    if model_name == EMBEDDED_MODEL_NAME:
        return load_embedded_model(device)
    if model_name == HYBRID_MODEL_NAME:
        return load_hybrid_model(device)
    return load_model(
        model_class_name,
        model_name,
        device=device,
        model_from_pretrained_kwargs=model_from_pretrained_kwargs,
        # Those on recurrent states are no modules; StackedHooks makes them.
        hook_names=[name for name in hook_names if StatePoint.of_name(name) is None],
    )
