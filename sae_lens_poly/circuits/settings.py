"""How large an attribution graph may become, and how much of it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sae_lens_poly.constraints import COUNT, COUNT_OR_0, Constraint, Number, check_fields

_SHARE = Number(at_least=0, at_most=1)


@dataclass(frozen=True)
class AttributionSettings:
    """How large a graph may become; the defaults are circuit-tracer's.

    Args:
        max_logits: Logits that are nodes at most, the most probable ones.
        logit_probability: They are as many as have this probability together.
        max_features: Active latents, over all positions, that are nodes at most. Those with the
            most influence on the logits are, as far as it is known when they are chosen.
        max_pairs: Pairs of latents that are nodes at most: those that write the largest share of
            the MLP outputs at their position. What others write goes to their two latents by
            halves, so that nothing is lost (without any pairs that is the Shapley value).
        n_left_out: Positions at the front where MLPs are not looked into: their codes and errors
            are no nodes. The first token takes part in circuits by its attention sink only.
        batch_size: Nodes whose sources are computed at a time.
    """

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "max_logits": COUNT,
        "logit_probability": Number(above=0, at_most=1),
        "max_features": COUNT,
        "max_pairs": COUNT_OR_0,
        "n_left_out": COUNT_OR_0,
        "batch_size": COUNT,
    }

    max_logits: int = 10
    logit_probability: float = 0.95
    max_features: int = 7500
    max_pairs: int = 500
    n_left_out: int = 1
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)


@dataclass(frozen=True)
class PruningSettings:
    """How much of the influence the shown part of a graph keeps.

    Args:
        node_threshold: Share of the influence of all nodes that those have which are kept.
        edge_threshold: Likewise of the edges between them.
    """

    CONSTRAINTS: ClassVar[dict[str, Constraint]] = {
        "node_threshold": _SHARE,
        "edge_threshold": _SHARE,
    }

    node_threshold: float = 0.8
    edge_threshold: float = 0.98

    def __post_init__(self) -> None:
        check_fields(self, self.CONSTRAINTS)
