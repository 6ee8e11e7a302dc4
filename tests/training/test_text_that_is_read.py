"""A run reads as much text as it trains on."""

import pytest

from sae_lens_poly import PolyTopKTrainingSAEConfig, TrainingRunner
from tests.training.tiny_runs import CONTEXT, HOOKS, tiny_config, tiny_stack, tokenised_rows

ONE_HOOK = "model.layers.1"
NORMALISED = PolyTopKTrainingSAEConfig(
    d_in=32, d_sae=32, k=4, normalize_activations="expected_average_only_in"
)


def contexts_read(folder, **changes):
    model = tiny_stack(changes.get("hook_name", HOOKS))
    run, n_read = model.run_with_cache, []

    def counting(tokens, *args, **kwargs):
        n_read.append(len(tokens))
        return run(tokens, *args, **kwargs)

    model.run_with_cache = counting
    changes |= {"is_dataset_tokenized": True, "exclude_special_tokens": False}
    TrainingRunner(tiny_config(folder, **changes), tokenised_rows(), model).run()
    return sum(n_read) - n_read[0]  # which is one context, by which SAELens' store tries the model


@pytest.mark.parametrize("n_batches_in_buffer", [8, 40, 400])
@pytest.mark.parametrize("prefetch", [False, 2])
def test_no_more_than_is_trained_on(tmp_path, n_batches_in_buffer, prefetch):
    changes = {"n_batches_in_buffer": n_batches_in_buffer, "prefetch_llm_batches": prefetch}
    n_read = contexts_read(tmp_path, **changes)
    assert n_read == 2048 // CONTEXT


def test_and_what_activations_are_normalised_by(tmp_path):
    changes = {"sae": NORMALISED, "hook_name": ONE_HOOK, "n_batches_for_norm_estimate": 5}
    n_read = contexts_read(tmp_path, **changes)
    assert n_read == (2048 + 5 * 64) // CONTEXT


@pytest.mark.parametrize("changes", [{}, {"sae": NORMALISED, "hook_name": ONE_HOOK}])
def test_resumed_it_reads_what_is_left(tmp_path, changes):
    changes = {"n_batches_for_norm_estimate": 5} | changes
    contexts_read(tmp_path, n_checkpoints=1, **changes)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/[0-9]*")
    n_trained = int(checkpoint.name)
    assert 0 < n_trained < 2048
    n_read = contexts_read(tmp_path, resume_from_checkpoint=str(checkpoint), **changes)
    assert n_read == (2048 - n_trained) // CONTEXT
