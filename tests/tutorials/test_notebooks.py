"""The tutorial notebooks run, and are committed as they should be."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from scripts.run_tutorials import TUTORIALS, execute, parameter_cells, read

NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))

#: Other knobs for notebooks that need more than this machine has.
PARAMETERS = {
    "04_your_own_model.ipynb": """
MODEL = "stdlib-6l"
HOOKS = "blocks.{2..3}.hook_resid_post"
DATASET = "stdlib"
DEVICE = "cpu"

ARCHITECTURE = "poly_crosscoder"
D_SAE = 256
K = 8
TOKENS = 8192
BATCH = 256
CONTEXT = 64
MODEL_BATCH = 8
BUFFER = 32
SEED = 0

RATES = [1e-3, 3e-3]
KS = [8, 16]
TRIAL_TOKENS = 2048

OUTPUT = "out"
CHECKPOINTS = "checkpoints"
N_CHECKPOINTS = 2
LOG_TO_WANDB = False

EVALUATION = {
    "n_batches": 2,
    "batch_size_prompts": 4,
    "n_splice_batches": 1,
    "n_coherence_tokens": 128,
    "n_pairs": 500,
}
""",
}


def assigned(source):
    """Names that a cell of plain assignments sets."""
    scope = {}
    exec(source, scope)
    return set(scope) - {"__builtins__"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    execute(read(path), tmp_path, PARAMETERS.get(path.name))


@pytest.mark.slow
def test_your_own_model_resumes(tmp_path):
    name = "04_your_own_model.ipynb"
    parameters = PARAMETERS[name] + "RATES, KS = [1e-3], []\n"
    for _ in range(2):
        notebook = execute(read(TUTORIALS / name), tmp_path, parameters)
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "resuming from: checkpoints/" in printed


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_replaced(name):
    (cell,) = parameter_cells(read(TUTORIALS / name))
    assert assigned(cell.source) == assigned(PARAMETERS[name])


def test_a_cell_that_raises_fails(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    if path.name in PARAMETERS:
        assert not outputs
        assert all(cell.execution_count is None for cell in cells)
        return
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
