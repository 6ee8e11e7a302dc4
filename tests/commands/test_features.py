"""The features command on a polynomial transcoder of the embedded model."""

import json

import jsonschema
import pytest

from sae_lens_poly.cli import main
from tests.analysis.test_feature_files import SCHEMA
from tests.circuits.crosscoders import cross_layer, names_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sae = cross_layer("degree 2", n_layers=6, d_model=128, d_sae=12, dtype="float32")
    metadata = {"model_name": "stdlib-6l", "hook_name": ",".join(names_of(6)), "prepend_bos": True}
    for name, value in metadata.items():
        setattr(sae.cfg.metadata, name, value)
    path = tmp_path_factory.mktemp("transcoder")
    sae.save_model(path)
    return str(path)


def test_a_file_for_each_latent_at_the_outputs_of_mlps(folder, tmp_path, capsys):
    flags = ["--latents", "0", "7", "--n_batches", "1", "--batch_size_prompts", "2"]
    assert main(["features", folder, *flags, "--output", str(tmp_path / "f"), "--n_top", "2"]) == 0
    files = sorted(str(path.relative_to(tmp_path / "f")) for path in tmp_path.glob("f/*/*"))
    assert files == [
        f"blocks.{i}.hook_mlp_out/{latent}.json" for i in range(6) for latent in (0, 7)
    ]
    assert "12 files" in capsys.readouterr().out
    for name in files:
        content = json.loads((tmp_path / "f" / name).read_text())
        jsonschema.Draft7Validator(SCHEMA).validate(content)
        assert f"{content['transcoder_id']}/{content['index']}.json" == name
        assert len(content["examples_quantiles"][0]["examples"]) <= 2


def test_latents_that_are_not_there(folder, tmp_path, capsys):
    flags = ["--latents", "12", "--n_batches", "1", "--output", str(tmp_path / "f")]
    assert main(["features", folder, *flags]) == 2
    assert "latents: 12 must be from 0 to 11" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
