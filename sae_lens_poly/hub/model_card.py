"""The model card of a repository: a section for each dictionary, replaced by its next upload."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_CFG_FILENAME

from sae_lens_poly.comparison.table import markdown
from sae_lens_poly.errors import InputError
from sae_lens_poly.hub.reference import HubReference

_HEAD = """\
# {repo_id}

Sparse dictionaries for [SAELens](https://github.com/decoderesearch/SAELens) with the plugin
[sae_lens_poly](https://pypi.org/project/sae-lens-poly/):

```
pip install sae-lens-poly
```

`import sae_lens_poly` comes before `SAE.from_pretrained`: it enters the architectures into SAELens'
registries. Without it SAELens raises a `KeyError` with the name of the architecture.
"""

# What says nothing about how a dictionary was trained but where.
_OF_THE_MACHINE = (
    *("checkpoint_path", "output_path", "cached_activations_path", "resume_from_checkpoint"),
    *("logger", "verbose", "device", "llm_device", "act_store_device", "from_pretrained_path"),
)


def with_section(card: str, reference: HubReference, section: str, license: str | None) -> str:
    """A card with the section of one dictionary new, and the rest as it was.

    Args:
        card: The card of the repository.
        reference: Repository and folder of the dictionary.
        section: As :func:`dictionary_section` writes it.
        license: Identifier of a licence for the card's metadata; None: as it is.

    Raises:
        InputError: If the marks of the section do not pair up.
    """
    if license is not None:
        parsed = ModelCard(card)
        parsed.data["license"] = license
        card = parsed.content
    start = f"<!-- dictionary {reference.path} -->"
    end = f"<!-- end of dictionary {reference.path} -->"
    block = f"{start}\n{section}\n{end}"
    found = [card.count(start), card.count(end)]
    if found == [0, 0]:
        return card.rstrip() + f"\n\n{block}\n"
    before, _, rest = card.partition(start)
    _, closed, after = rest.partition(end)
    if found != [1, 1] or not closed:
        raise InputError(
            f"README.md of {reference.repo_id} has the marks {start!r} and {end!r} {found[0]} and "
            f"{found[1]} times, and should have each once, in this order: mend it on the hub"
        )
    return before + block + after


def new_card(reference: HubReference, config: dict[str, Any]) -> str:
    """A card without sections, for a repository that has none."""
    metadata = config.get("metadata", {})
    model, text = metadata.get("model_name"), metadata.get("dataset_path")
    data = ModelCardData(
        library_name="saelens",
        tags=["sae_lens_poly", "sparse-autoencoder", "mechanistic-interpretability"],
        base_model=model if _is_repo_id(model) else None,
        datasets=[text] if _is_repo_id(text) else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_HEAD.format(repo_id=reference.repo_id)}"


def _is_repo_id(name: str | None) -> bool:
    """Whether a name can be one of the hub; TransformerLens' short names cannot."""
    return bool(name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists())


def dictionary_section(
    reference: HubReference,
    config: dict[str, Any],
    evaluation: dict[str, Any] | None,
    runner_config: dict[str, Any] | None,
    picture: str | None,
) -> str:
    """What a card says of one dictionary.

    Args:
        reference: Repository and folder of the dictionary.
        config: Its ``cfg.json``.
        evaluation: Its figures, as saved; None: without them.
        runner_config: How it was trained, as saved; None: what ``config`` says of it.
        picture: Name of the picture in the same folder; None: there is none.
    """
    metadata = config.get("metadata", {})
    blocks = [
        f"## {reference.path}",
        f"`{config.get('architecture')}`, {config['d_sae']} latents, on "
        f"`{metadata.get('model_name')}` at `{metadata.get('hook_name')}`, trained on "
        f"`{metadata.get('dataset_path')}`.",
        "```python\nimport sae_lens_poly  # registers the architectures\n"
        "from sae_lens import SAE\n\n"
        f'sae = SAE.from_pretrained("{reference.repo_id}", "{reference.path}")\n```',
        f"The figures again: `python -m sae_lens_poly evaluate {reference}`",
    ]
    if picture is not None:
        blocks.append(f"![figures of this dictionary]({reference.path}/{picture})")
    if evaluation is not None:
        blocks += [_per_hook(evaluation), markdown({"dictionary": {"": evaluation}})]
    blocks.append(_training(config, runner_config))
    return "\n\n".join(block.strip() for block in blocks)


def _per_hook(evaluation: dict[str, Any]) -> str:
    """One row for each hook point, and one for all."""
    columns = {
        "explained variance": ("explained_variance", ".4f"),
        "linear only": ("explained_variance_linear", ".4f"),
        "MSE, normalised": ("mse_normalised", ".2f"),
        "cosine": ("cosine", ".4f"),
        "CE recovered": ("ce_recovered", ".4f"),
        "L0": ("l0", ".1f"),
        "dead": ("n_dead", "d"),
        "dense": ("n_dense", "d"),
        "latents": ("n_latents", "d"),
    }
    rows = evaluation["per_hook"] | {"pooled / all spliced": evaluation["pooled"]}
    lines = [
        f"On {evaluation['n_tokens']:,} held-out tokens (cross-entropies: "
        f"{evaluation['n_tokens_spliced']:,}; the model alone: {evaluation['ce_clean']:.4f} nats):",
        "",
        f"| hook point | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, figures in rows.items():
        cells = (format(figures[field], form) for field, form in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _training(config: dict[str, Any], runner_config: dict[str, Any] | None) -> str:
    """The training config, folded away."""
    if runner_config is None:
        title = f"Training config, as {SAE_CFG_FILENAME} has it"
        metadata = config.get("metadata", {})
        shown = {name: v for name, v in metadata.items() if name.startswith("training_")}
    else:
        title = f"Training config ({RUNNER_CFG_FILENAME} has all of it)"
        shown = {name: v for name, v in runner_config.items() if name not in _OF_THE_MACHINE}
        # The dictionary's own metadata repeat it.
        shown["sae"] = {name: v for name, v in runner_config["sae"].items() if name != "metadata"}
    return (
        f"<details><summary>{title}</summary>\n\n"
        f"```json\n{json.dumps(shown, indent=1)}\n```\n\n</details>"
    )
