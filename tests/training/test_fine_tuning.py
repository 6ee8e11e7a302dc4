"""Training that starts at a dictionary which was trained before."""

import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from safetensors.torch import load_file

from sae_lens_poly import (
    InputError,
    TrainingCrosscoderConfig,
    TrainingPolyCrosscoderConfig,
    TrainingRunner,
)
from sae_lens_poly.training.fine_tuning import with_terms
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


# A linear dictionary in a polynomial one

OF_SAES = {"d_in": 8, "d_sae": 12}
ARCHITECTURES = {
    "crosscoder": {**OF_SAES, "n_hooks": 2, "k": 3},
    "topk": {**OF_SAES, "k": 3},
    "batchtopk": {**OF_SAES, "k": 3},
    "matryoshka_batchtopk": {**OF_SAES, "k": 3, "matryoshka_widths": [6, 12]},
    "jumprelu": OF_SAES,
    "gated": OF_SAES,
    "standard": OF_SAES,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_linear_dictionary_is_the_start_of_a_polynomial_one(architecture):
    fields = {"architecture": architecture, **ARCHITECTURES[architecture]}
    linear = TrainingSAE.from_dict(TrainingSAEConfig.from_dict(fields).to_dict())
    for parameter in linear.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    linear.cfg.metadata.n_dataset_rows_read = 7
    fields |= {"architecture": f"poly_{architecture}", "decoder": "powers", "rank_2": 2}
    polynomial = with_terms(linear, TrainingSAEConfig.from_dict(fields))
    assert polynomial.cfg.architecture() == f"poly_{architecture}"
    assert polynomial.cfg.decoder == "powers"
    assert polynomial.cfg.metadata.n_dataset_rows_read == 7
    x = torch.randn(20, 8)
    z = linear.encode(x)
    assert z.any()
    assert torch.equal(polynomial.encode(x), z)
    torch.testing.assert_close(polynomial.decode(z), linear.decode(z), rtol=1e-6, atol=1e-6)
    assert all(not factor.any() for factor in polynomial.polynomial.output_factors().values())


@pytest.fixture(scope="module")
def trained_linear(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained_linear")
    sae = TrainingCrosscoderConfig(d_in=64, d_sae=32, n_hooks=2, k=4)
    cfg = tiny_config(folder, save_final_checkpoint=True, sae=sae)
    TrainingRunner(cfg, ROWS, tiny_stack()).run()
    return next(folder.glob("checkpoints/*/final_*"))


def test_training_of_terms_starts_at_a_linear_crosscoder(trained_linear, tmp_path):
    path = str(trained_linear)
    runner = TrainingRunner(tiny_config(tmp_path, from_pretrained_path=path), ROWS, tiny_stack())
    linear = TrainingSAE.load_from_disk(path)
    x = torch.randn(30, 64)
    z = linear.encode(x)
    assert torch.equal(runner.sae.encode(x), z)
    assert torch.equal(runner.sae.decode(z), linear.decode(z))
    assert not runner.sae.polynomial.scaled
    runner.run()
    terms = runner.sae.polynomial
    assert terms.scaled
    assert (terms.code_scale != 1).all()
    assert all(factor.any() for factor in terms.output_factors().values())
    assert len(runner.sae.cfg.metadata.texts_read) == 2


@pytest.mark.parametrize(
    "changes",
    [{"d_sae": 40}, {"k": 3}, {"sparsifier": "jumprelu"}, {"normalize_hooks": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_linear_crosscoder_that_does_not_fit(trained_linear, tmp_path, changes):
    sae = crosscoder(**changes)
    cfg = tiny_config(tmp_path, from_pretrained_path=str(trained_linear), sae=sae)
    with pytest.raises(InputError, match=r"from_pretrained_path: the dictionary has \w+="):
        TrainingRunner(cfg, ROWS, tiny_stack())
