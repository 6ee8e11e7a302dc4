"""The formulas of docs/scale.md against bytes that processes count, and the page's table."""

from pathlib import Path

import pytest
import torch

from sae_lens_poly.distributed.join import joined
from sae_lens_poly.distributed.scale import Run, table
from sae_lens_poly.distributed.shards import SharedLatents
from tests.distributed.processes import in_processes
from tests.distributed.test_data_axis import BATCH, D_MODEL, N_HOOKS, batches_of, make, make_trainer

D_SAE = 4096
FIELDS = {"architecture": "crosscoder", "d_sae": D_SAE, "k": 3, "dtype": "float32"}

# BatchTopK: 3 rounds of 2,048 counts in float32, and some single numbers; flags.
OF_SELECTION = 3 * 2048 * 8 + 200


def counted(mesh):
    """Bytes of one step, and numbers in the weights."""
    trainer = make_trainer(make(FIELDS).float(), (batch.float() for batch in batches_of(mesh)))
    shared = SharedLatents(trainer, mesh)
    shared.divide_()
    with joined(trainer, mesh):
        for step in range(3):
            trainer.n_training_steps = step
            part = next(trainer.data_provider)
            before = mesh.bytes_exchanged
            own = part.chunk(mesh.n_shards)[mesh.shard]
            trainer.step(mesh.gather_tokens(own))
    of_step = mesh.bytes_exchanged - before
    return of_step, sum(p.numel() for p in trainer.sae.parameters())


@pytest.mark.parametrize(("n_processes", "n_shards"), [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_formulas_are_what_processes_count(n_processes, n_shards):
    run = Run(N_HOOKS, D_MODEL, D_SAE, 3, BATCH, n_processes, n_shards)
    for of_step, n_weights in in_processes(n_processes, counted, n_shards=n_shards):
        assert n_weights == run.weights()
        assert 0 <= of_step - run.exchanged() <= OF_SELECTION


def test_the_page_has_the_table_of_the_formulas():
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    assert table() in page


def test_memory_of_a_dictionary_is_that_of_its_tensors():
    run = Run(N_HOOKS, D_MODEL, D_SAE, 3, BATCH, 1)
    trainer = make_trainer(make(FIELDS).float(), (batch.float() for batch in batches_of()))
    trainer.step(next(trainer.data_provider))
    state = trainer.optimizer.state.values()
    tensors = [*trainer.sae.parameters(), *trainer.sae.parameters()]  # and gradients like them
    tensors += [moment for each in state for moment in (each["exp_avg"], each["exp_avg_sq"])]
    assert sum(t.numel() * t.element_size() for t in tensors) == run.memory()
    assert all(t.dtype == torch.float32 for t in tensors)
