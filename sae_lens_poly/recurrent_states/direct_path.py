"""How logits change with the read-out of a layer, if later layers do not see the change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sae_lens_poly.recurrent_states.reached_layers import delta_layers


@dataclass(frozen=True)
class DirectPath:
    """From the read-outs of a layer to the logits, in one run of a model on a text.

    Args:
        model: A transformers model.
        layer: Its layer.
        logits: Of the run, (batch, pos, d_vocab).
        read_out: What the layer read out of its state, (batch, pos, n_heads, d_v).
        gate: What its gated norm was given beside, likewise.
        last: What the model's last norm was given, (batch, pos, d_model).
    """

    model: Any
    layer: Any
    logits: torch.Tensor
    read_out: torch.Tensor
    gate: torch.Tensor
    last: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of_run(cls, model: Any, tokens: torch.Tensor, number: int) -> DirectPath:
        """Run the model on tokens (batch, pos); ``number`` is that of the layer.

        Raises:
            InputError: If the model's states cannot be reached.
        """
        layer: Any = delta_layers(model)[number]
        seen: dict[str, tuple[torch.Tensor, ...]] = {}

        def before(name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen[name] = args

        norms = {"gated": _gated_norm(layer), "last": model.get_decoder().norm}
        handles = [
            norm.register_forward_pre_hook(partial(before, name)) for name, norm in norms.items()
        ]
        try:
            logits = model(tokens, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        per_head = (*tokens.shape, -1, layer.head_v_dim)
        read_out, gate = (each.reshape(per_head) for each in seen["gated"][:2])
        return cls(model, layer, logits, read_out, gate, seen["last"][0])

    @torch.no_grad()
    def logit_shift(self, shift: torch.Tensor) -> torch.Tensor:
        """Change of the logits (batch, pos, d_vocab) with a change of the read-outs.

        The gated norm, the projection and the last norm are computed as they are, and later layers
        write what they wrote.

        Args:
            shift: Shape (batch, pos, n_heads, d_v).
        """
        written = self._written(self.read_out + shift) - self._written(self.read_out)
        last = self.model.get_decoder().norm(self.last + written)
        return self.model.get_output_embeddings()(last) - self.logits

    @torch.no_grad()
    def bare_logit_shift(self, shift: torch.Tensor) -> torch.Tensor:
        """The same by the projection and the unembedding alone, without norms and gate.

        That is the form that WriteSAE publishes (arXiv 2605.12770, appendix A).
        """
        return self.model.get_output_embeddings()(self._projection(shift.flatten(2)))

    def _written(self, read_out: torch.Tensor) -> torch.Tensor:
        d_v = read_out.shape[-1]
        normed = _gated_norm(self.layer)(read_out.reshape(-1, d_v), self.gate.reshape(-1, d_v))
        return self._projection(normed.reshape(read_out.shape).flatten(2))

    @property
    def _projection(self) -> Any:
        return output_projection(self.layer)


def output_projection(layer: Any) -> Any:
    """The projection of a layer's gated read-outs, (batch, pos, n_heads * d_v), to d_model."""
    return layer.o_proj if hasattr(layer, "o_proj") else layer.out_proj


def _gated_norm(layer: Any) -> Any:
    return layer.o_norm if hasattr(layer, "o_norm") else layer.norm
