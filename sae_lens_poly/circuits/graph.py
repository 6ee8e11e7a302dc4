"""An attribution graph: its nodes, and what each does to the others directly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_lens_poly.circuits.settings import AttributionSettings


@dataclass(frozen=True)
class AttributionGraph:
    """Nodes in this order, and the effects between them.

    n active latents at a position ("features"), by layer, position and number; m pairs of them
    that a polynomial decoder combines; n_layers * T errors, by layer and position; T tokens;
    logits, the most probable first.
    """

    tokens: torch.Tensor
    """Ids of the prompt, (T,)."""
    token_texts: list[str]
    n_layers: int
    latents: torch.Tensor
    """Number of each feature in the dictionary, (n,)."""
    features: torch.Tensor
    """Layer, position, and number among the latents of that layer, (n, 3)."""
    activations: torch.Tensor
    """Shape (n,)."""
    pairs: torch.Tensor
    """The two features of each pair, numbers of nodes, (m, 2)."""
    logit_tokens: torch.Tensor
    """Ids of the tokens whose logits are nodes, (n_logits,)."""
    logit_texts: list[str]
    logit_probabilities: torch.Tensor
    """Shape (n_logits,)."""
    adjacency: torch.Tensor
    """What the column's node adds to the row's: to the pre-activation of a feature, to a logit less
    the mean of all logits, or to the product of a pair's activations. Shape (n_nodes, n_nodes)."""
    settings: AttributionSettings

    @property
    def n_tokens(self) -> int:
        """Tokens of the prompt, T."""
        return len(self.tokens)

    @property
    def feature_nodes(self) -> slice:
        """Which nodes are features."""
        return slice(0, len(self.features))

    @property
    def pair_nodes(self) -> slice:
        """Which nodes are pairs."""
        return slice(len(self.features), len(self.features) + len(self.pairs))

    @property
    def error_nodes(self) -> slice:
        """Which nodes are errors."""
        start = self.pair_nodes.stop
        return slice(start, start + self.n_layers * self.n_tokens)

    @property
    def token_nodes(self) -> slice:
        """Which nodes are tokens."""
        return slice(self.error_nodes.stop, self.error_nodes.stop + self.n_tokens)

    @property
    def logit_nodes(self) -> slice:
        """Which nodes are logits."""
        return slice(self.token_nodes.stop, len(self.adjacency))

    @property
    def logit_weights(self) -> torch.Tensor:
        """The probability of each logit, 0 for other nodes, (n_nodes,)."""
        weights = self.adjacency.new_zeros(len(self.adjacency))
        weights[self.logit_nodes] = self.logit_probabilities
        return weights
