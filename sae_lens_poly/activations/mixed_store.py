"""A stream of activations that is mixed in a large buffer and ends with the run."""

from __future__ import annotations

from collections.abc import Generator

import torch
from sae_lens.training.activations_store import ActivationsStore
from typing_extensions import override


class MixedStore(ActivationsStore):
    """SAELens' store, for a shuffle buffer of many texts.

    Two things make a large buffer cheap. SAELens copies the whole buffer for each batch of the
    language model that is added; here batches wait until there are as many tokens as were handed
    out, and are added at once. And the model reads what is trained on and no more: at the end of a
    run the buffer is emptied, where SAELens leaves it full.
    """

    #: Tokens that the run is going to ask for.
    n_tokens_wanted: int

    @override
    def _iterate_filtered_activations(self) -> Generator[torch.Tensor, None, None]:
        n_in_buffer = self.n_batches_in_buffer * self.training_context_size
        n_to_refill = n_in_buffer - int(n_in_buffer * self.activations_mixing_fraction)
        waiting: list[torch.Tensor] = []
        n_needed, n_waiting, n_left = n_in_buffer, 0, self.n_tokens_wanted
        for activations in super()._iterate_filtered_activations():
            waiting.append(activations)
            n_waiting += len(activations)
            n_left -= len(activations)
            # The last tokens wait for those before them, so that none come unmixed.
            if n_left <= 0 or (n_waiting >= n_needed and n_left >= n_to_refill):
                chunk = torch.cat(waiting)
                if self.n_tokens_wanted < n_in_buffer and self.activations_mixing_fraction:
                    # SAELens shuffles a buffer once it is full.
                    chunk = chunk[torch.randperm(n_waiting)]
                yield chunk
                waiting, n_needed, n_waiting = [], n_to_refill, 0
            if n_left <= 0:
                return
