"""Graphs of dictionaries that were read from circuit-tracer's folders."""

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

from sae_lens_poly.circuits.attribution import attribute
from sae_lens_poly.circuits.crosscoder_replacement import CrosscoderReplacement
from sae_lens_poly.circuits.settings import AttributionSettings
from sae_lens_poly.formats import PublicFormat
from sae_lens_poly.formats.convert import write_public
from tests.circuits.crosscoders import cross_layer, names_of
from tests.circuits.folders import DATA, FolderReplacement, load_model
from tests.circuits.test_attribution import CLOSE

TOKENS = torch.tensor([1, 5, 9, 33, 17])
SETTINGS = AttributionSettings(max_logits=4, logit_probability=1.0)


@pytest.fixture(scope="module")
def model():
    return load_model(DATA / "clt_layernorm")


def test_a_public_transcoder_has_its_graph(model):
    folder = DATA / "clt_layernorm"
    sae = SAE.load_from_disk(folder / "transcoder", converter=PublicFormat())
    graph = attribute(model, CrosscoderReplacement(sae), TOKENS, SETTINGS)
    reference = load_file(folder / "reference.safetensors")
    assert torch.equal(graph.features, reference["active_features_layer_pos_feature"])
    torch.testing.assert_close(graph.adjacency, reference["adjacency_matrix"], **CLOSE)


def test_skips_are_in_the_graph(model, tmp_path):
    metadata = {"hook_names": names_of(3), "model_name": "tiny"}
    sae = cross_layer(dtype="float32", writes="3;4;5", skips="0>3;1>4;2>5", metadata=metadata)
    write_public(sae, tmp_path / "set", "circuit_tracer_set")
    theirs = FolderReplacement(tmp_path / "set", model)
    theirs.skips = {(i, i): matrix for i, matrix in enumerate(sae.skips)}
    graphs = [
        attribute(model, replacement, TOKENS, SETTINGS)
        for replacement in (CrosscoderReplacement(sae), theirs)
    ]
    torch.testing.assert_close(graphs[0].adjacency, graphs[1].adjacency, **CLOSE)
    sae.skips[0].zero_()
    other = attribute(model, CrosscoderReplacement(sae), TOKENS, SETTINGS)
    assert (
        other.adjacency.shape != graphs[0].adjacency.shape
        or (other.adjacency - graphs[0].adjacency).abs().max() > 1e-2
    )
