"""A store that mixes many texts, and reads as many tokens as a run asks for."""

import pytest
import torch

from sae_lens_poly.activations.mixed_store import MixedStore

CONTEXT, BATCH = 8, 16


class Numbered(MixedStore):
    """Reads batches of two contexts, in which each token is the number of its place."""

    def __init__(self, n_tokens_wanted, n_batches_in_buffer, mixed=0.5):
        self.n_tokens_wanted, self.n_batches_in_buffer = n_tokens_wanted, n_batches_in_buffer
        self.training_context_size = CONTEXT
        self.train_batch_size_tokens, self.activations_mixing_fraction = BATCH, mixed
        self.n_read = 0

    def get_filtered_llm_batch(self, raise_on_epoch_end=False):
        self.n_read += 2 * CONTEXT
        return torch.arange(self.n_read - 2 * CONTEXT, self.n_read)[:, None]


@pytest.mark.parametrize("mixed", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("n_in_buffer", [2, 8, 20, 200])
@pytest.mark.parametrize("n_wanted", [16, 160, 320, 336, 1600])
def test_every_token_that_is_read_is_handed_out_once(n_wanted, n_in_buffer, mixed):
    store = Numbered(n_wanted, n_in_buffer, mixed)
    handed_out = torch.cat(list(store)).flatten()
    assert sorted(handed_out.tolist()) == list(range(n_wanted))
    assert store.n_read == n_wanted


@pytest.mark.parametrize("n_wanted", [320, 1600, 1616, 1760])
def test_tokens_come_far_from_their_neighbours(n_wanted):
    """To the last batch, also where the whole run fits into the buffer."""
    for n_in_buffer in (20, 100):
        batches = torch.stack(list(Numbered(n_wanted, n_in_buffer)))
        spread = batches.float().std(dim=1).min()
        # Of tokens that are drawn evenly from as many as there are it is 0.29 times their number.
        assert spread > 0.1 * min(n_wanted, n_in_buffer * CONTEXT)


def test_without_mixing_tokens_keep_their_order():
    assert torch.cat(list(Numbered(160, 4, mixed=0))).flatten().tolist() == list(range(160))
    assert torch.cat(list(Numbered(160, 100, mixed=0))).flatten().tolist() == list(range(160))


def test_a_buffer_is_copied_once_for_as_much_as_was_handed_out():
    added = [len(chunk) for chunk in Numbered(1600, 40)._iterate_filtered_activations()]
    assert added[0] == 40 * CONTEXT
    assert min(added) >= 20 * CONTEXT
    assert sum(added) == 1600
