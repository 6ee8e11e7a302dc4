"""Training that starts at a dictionary which was trained before."""

import pytest
import torch
from sae_lens import TrainingSAE
from safetensors.torch import load_file

from sae_lens_poly import InputError, TrainingPolyCrosscoderConfig, TrainingRunner
from tests.training.tiny_runs import numbered_rows, tiny_config, tiny_stack

ROWS = numbered_rows()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    cfg = tiny_config(folder, save_final_checkpoint=True)
    TrainingRunner(cfg, ROWS, tiny_stack()).run()
    return next(folder.glob("checkpoints/*/final_*")), folder / "output"


def crosscoder(**changes):
    fields = {"d_in": 64, "d_sae": 32, "n_hooks": 2, "k": 4, "rank_2": 4, "rank_3": 4}
    return TrainingPolyCrosscoderConfig(**(fields | changes))


def test_training_goes_on_from_a_checkpoint(trained, tmp_path):
    cfg = tiny_config(tmp_path, from_pretrained_path=str(trained[0]))
    runner = TrainingRunner(cfg, ROWS, tiny_stack())
    weights = load_file(trained[0] / "sae_weights.safetensors")
    assert torch.equal(runner.sae.W_enc, weights["W_enc"])
    runner.run()
    assert not torch.equal(runner.sae.W_enc, weights["W_enc"])


def test_an_exported_dictionary_is_none_in_training(trained, tmp_path):
    cfg = tiny_config(tmp_path, from_pretrained_path=str(trained[1]))
    with pytest.raises(InputError, match=r"no dictionary in training.*checkpoint_path"):
        TrainingRunner(cfg, ROWS, tiny_stack())


@pytest.mark.parametrize("field", [{"d_sae": 40}, {"k": 3}, {"rank_2": 8}])
@pytest.mark.parametrize("way", ["from_pretrained_path", "override_sae"])
def test_flags_that_are_not_those_of_the_dictionary(trained, tmp_path, field, way):
    path = str(trained[0]) if way == "from_pretrained_path" else None
    cfg = tiny_config(tmp_path, from_pretrained_path=path, sae=crosscoder(**field))
    given = None if path else TrainingSAE.from_dict(crosscoder().to_dict())
    ((name, value),) = field.items()
    with pytest.raises(
        InputError, match=rf"{way}: the dictionary has {name}=.*this run {name}={value}"
    ):
        TrainingRunner(cfg, ROWS, tiny_stack(), given)


def test_other_hook_points(trained, tmp_path):
    hooks = "model.layers.{0,1}"
    cfg = tiny_config(tmp_path, from_pretrained_path=str(trained[0]), hook_name=hooks)
    with pytest.raises(InputError, match=r"trained at \['model\.layers\.1', 'model\.layers\.2'\]"):
        TrainingRunner(cfg, ROWS, tiny_stack(hooks))
