"""The model card of a repository: a section for each dictionary, replaced when it comes anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from sae_lens.constants import RUNNER_CFG_FILENAME

from sae_lens_poly.comparison.table import markdown
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


def updated_card(
    old: str | None,
    reference: HubReference,
    config: dict[str, Any],
    evaluation: dict[str, Any] | None,
    runner_config: dict[str, Any] | None,
    picture: str | None,
    license: str | None = None,
) -> str:
    """The card of a repository with the section of one dictionary new, and the rest as it was.

    Args:
        old: The card that is there; None: none is.
        reference: Repository and folder of the dictionary.
        config: Its ``cfg.json``.
        evaluation: Its figures, as saved.
        runner_config: How it was trained, as saved; None: what ``config`` says of it.
        picture: Name of the picture in the same folder; None: there is none.
        license: Identifier of a licence for the card's metadata.
    """
    card = ModelCard(_new_card(reference, config, license) if old is None else old)
    if license is not None:
        card.data["license"] = license
    section = _section(reference, config, evaluation, runner_config, picture)
    start, end = _marks(reference.path)
    block = f"{start}\n{section}\n{end}"
    text = card.content
    own = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if own.search(text):
        return own.sub(lambda _: block, text)
    return text.rstrip() + f"\n\n{block}\n"


def _new_card(reference: HubReference, config: dict[str, Any], license: str | None) -> str:
    metadata = config.get("metadata", {})
    model, text = metadata.get("model_name"), metadata.get("dataset_path")
    data = ModelCardData(
        library_name="saelens",
        license=license,
        tags=["sae_lens_poly", "sparse-autoencoder", "mechanistic-interpretability"],
        base_model=model if _is_repo_id(model) else None,
        datasets=[text] if _is_repo_id(text) else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_HEAD.format(repo_id=reference.repo_id)}"


def _is_repo_id(name: str | None) -> bool:
    """Whether a name can be one of the hub; TransformerLens' short names cannot."""
    return bool(name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists())


def _marks(path: str) -> tuple[str, str]:
    return f"<!-- dictionary {path} -->", f"<!-- end of dictionary {path} -->"


def _section(
    reference: HubReference,
    config: dict[str, Any],
    evaluation: dict[str, Any] | None,
    runner_config: dict[str, Any] | None,
    picture: str | None,
) -> str:
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
    blocks.append(_details("Training config", _training_config(config, runner_config)))
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


def _training_config(
    config: dict[str, Any], runner_config: dict[str, Any] | None
) -> dict[str, Any]:
    if runner_config is None:
        metadata = config.get("metadata", {})
        return {name: value for name, value in metadata.items() if name.startswith("training_")}
    kept = {name: v for name, v in runner_config.items() if name not in _OF_THE_MACHINE}
    # The dictionary's own metadata repeat it.
    kept["sae"] = {name: v for name, v in runner_config["sae"].items() if name != "metadata"}
    return kept


def _details(title: str, content: dict[str, Any]) -> str:
    return (
        f"<details><summary>{title} ({RUNNER_CFG_FILENAME} has all of it)</summary>\n\n"
        f"```json\n{json.dumps(content, indent=1)}\n```\n\n</details>"
    )
