"""What ``model_name`` may hold: a model, or several with commas between them."""

from __future__ import annotations

from pathlib import Path

from sae_lens_poly.embedded import HYBRID_MODEL_NAME
from sae_lens_poly.errors import InputError
from sae_lens_poly.paths import exists


def split_model_names(model_name: str) -> list[str]:
    """The models that a name stands for; a comma in the path of a folder separates nothing.

    Args:
        model_name: ``"gpt2"``, ``"base,tuned"``, ``"folders/llama,v2"``, ...
    """
    pieces, names = model_name.split(","), []
    while pieces:
        # The longest path that is there; a piece alone may be one of TransformerLens or the hub.
        joined = [",".join(pieces[:n]).strip() for n in range(1, min(len(pieces), 8) + 1)]
        n = max((n for n, name in enumerate(joined, 1) if exists(name)), default=1)
        names.append(joined[n - 1])
        del pieces[:n]
    return names


def check_model_names(model_name: str) -> None:
    """Refuse a model that is named twice.

    Raises:
        InputError: Naming it.
    """
    names = split_model_names(model_name)
    places = [str(Path(name).resolve()) if exists(name) else name for name in names]
    for name, place in zip(names, places, strict=True):
        if not name:
            raise InputError(f"model_name={model_name!r} has a comma without a model beside it")
        if places.count(place) > 1:
            raise InputError(
                f"model_name={model_name!r} names {name!r} twice: a crosscoder tells different "
                "models apart"
            )


def guess_model_class(model_name: str) -> str:
    """The ``model_class_name`` for a model: Hugging Face folders are not TransformerLens'."""
    first = split_model_names(model_name)[0]
    is_hugging_face = first == HYBRID_MODEL_NAME or exists(Path(first) / "config.json")
    return "AutoModelForCausalLM" if is_hugging_face else "HookedTransformer"
