"""What the processes of a run read, save and go on from."""

import pytest
import torch
from safetensors.torch import load_file

from sae_lens_poly import InputError, TrainingRunner
from tests.distributed.processes import in_processes
from tests.training.tiny_runs import remember_contexts, tiny_config, tiny_stack, tokenised_rows

ROWS = tokenised_rows()


def run(mesh, folder, **changes):
    """Train, and say which contexts were read and what was saved of them."""
    cfg = tiny_config(folder, n_checkpoints=1, **changes)
    model = tiny_stack()
    torch.manual_seed(0)
    runner = TrainingRunner(cfg, ROWS, model, mesh=mesh)
    seen = remember_contexts(model)
    runner.run()
    text = runner.sae.cfg.metadata.texts_read[-1]
    return seen, text["n_rows"], runner.sae.cfg.metadata.l0


def rows_of(contexts):
    numbers = {tuple(row): number for number, row in enumerate(ROWS["input_ids"])}
    return {numbers[context] for context in contexts}


@pytest.mark.parametrize("n_shards", [1, 2])
def test_processes_read_different_rows_from_the_front_and_are_resumed_by_one(tmp_path, n_shards):
    settings = {"is_dataset_tokenized": True, "exclude_special_tokens": False, "prepend_bos": False}
    found = in_processes(2, run, tmp_path, n_shards=n_shards, kwargs=settings)
    (first, n_rows, l0), (second, *_) = found
    first, second = rows_of(first), rows_of(second)
    assert not first & second
    assert {row % 2 for row in first} == {0}
    assert {row % 2 for row in second} == {1}
    assert max(first | second) < n_rows <= max(first | second) + 2 * 2
    assert l0 == pytest.approx(4, abs=0.1)

    (checkpoint,) = (path for path in tmp_path.glob("checkpoints/*/*") if path.is_dir())
    read = int(load_file(checkpoint / "activations_store_state.safetensors")["n_dataset_processed"])
    assert 0 < read <= n_rows
    resumed, *_ = run(None, tmp_path, resume_from_checkpoint=str(checkpoint), **settings)
    before = {row for row in first | second if row < read}
    assert not rows_of(resumed) & before
    state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
    assert state["n_training_samples"] == 64 * state["n_training_steps"]


def buffer_of(mesh, folder, changes):
    runner = TrainingRunner(tiny_config(folder, **changes), ROWS, tiny_stack(), mesh=mesh)
    return runner.activations_store.n_batches_in_buffer, runner.cfg.n_batches_in_buffer


@pytest.mark.parametrize(("of_run", "of_each"), [(64, 32), (65, 33)])
def test_processes_share_the_buffer_of_the_run(tmp_path, of_run, of_each):
    """So that two processes mix no more text, and need no more memory, than one."""
    found = in_processes(2, buffer_of, tmp_path, {"n_batches_in_buffer": of_run})
    assert found == [(of_each, of_run)] * 2


def refused(mesh, folder, changes, said):
    with pytest.raises(InputError, match=said):
        TrainingRunner(tiny_config(folder, **changes), ROWS, tiny_stack(), mesh=mesh)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_batch_size_tokens": 63}, "make it a multiple of 2"),
        ({"compile_sae": True}, "compile_sae=True cannot hold"),
    ],
)
def test_what_processes_cannot_share_is_refused(tmp_path, changes, said):
    in_processes(2, refused, tmp_path, changes, said)
