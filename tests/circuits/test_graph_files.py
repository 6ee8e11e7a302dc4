"""The JSON of a graph against circuit-tracer's, and against Neuronpedia's schema."""

import dataclasses
import json

import jsonschema
import pytest

from sae_lens_poly import InputError
from sae_lens_poly.circuits.graph_files import (
    METADATA_FILENAME,
    cantor_pair,
    graph_json,
    save_graph,
)
from sae_lens_poly.circuits.settings import PruningSettings
from tests.circuits.folders import DATA
from tests.circuits.test_attribution import CASES, graph_of

STRING, INTEGER, NUMBER = ({"type": kind} for kind in ("string", "integer", "number"))


def an_object(required, **others):
    fields = {"type": "object", "properties": {**required, **others}}
    return {**fields, "required": list(required)}


#: What Neuronpedia asks of an upload (draft-07).
SCHEMA = an_object(
    {
        "metadata": an_object(
            {
                "slug": STRING,
                "scan": STRING,
                "prompt_tokens": {"type": "array", "items": STRING},
                "prompt": STRING,
            },
            node_threshold=NUMBER,
            feature_details=an_object({}, feature_json_base_url=STRING),
            info=an_object(
                {},
                generator=an_object({}, name=STRING, version=STRING),
                create_time_ms=NUMBER,
            ),
            generation_settings=an_object(
                {},
                max_n_logits=INTEGER,
                desired_logit_prob=NUMBER,
                batch_size=INTEGER,
                max_feature_nodes=INTEGER,
            ),
            pruning_settings=an_object({}, node_threshold=NUMBER, edge_threshold=NUMBER),
        ),
        "qParams": an_object(
            {},
            pinnedIds={"type": "array", "items": STRING},
            supernodes={"type": "array"},
            linkType=STRING,
            clickedId=STRING,
            sg_pos=STRING,
        ),
        "nodes": {
            "type": "array",
            "items": an_object(
                {
                    "node_id": STRING,
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": INTEGER,
                    "feature_type": STRING,
                    "jsNodeId": STRING,
                    "clerp": STRING,
                },
                influence={"type": ["number", "null"]},
                activation={"type": ["number", "null"]},
            ),
        },
        "links": {
            "type": "array",
            "items": an_object({"source": STRING, "target": STRING, "weight": NUMBER}),
        },
    }
)


def test_circuit_tracers_file():
    ours = graph_json(graph_of("clt_layernorm"), "clt-layernorm", "tiny")
    path = DATA / "clt_layernorm" / "graph_files" / "clt-layernorm.json"
    theirs = json.loads(path.read_text())
    ids = {}
    assert len(ours["nodes"]) == len(theirs["nodes"])
    for node, other in zip(ours["nodes"], theirs["nodes"], strict=True):
        ids[other["node_id"]] = node["node_id"]
        if "error" in other["feature_type"]:  # ours differ from those of features
            other |= {key: node[key] for key in ("node_id", "jsNodeId")}
        if other["feature_type"] == "logit":
            other["clerp"] = other["clerp"].replace('"t', '"')  # no tokenizer here
        for key, value in other.items():
            expected = pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
            assert node[key] == expected
    assert len(ours["links"]) == len(theirs["links"])
    for link, other in zip(ours["links"], theirs["links"], strict=True):
        assert (link["source"], link["target"]) == (ids[other["source"]], ids[other["target"]])
        assert link["weight"] == pytest.approx(other["weight"], abs=1e-4)
    for key, value in theirs["metadata"].items():
        if not key.startswith("prompt"):
            assert ours["metadata"][key] == value


def test_errors_and_features_of_layer_0_have_ids_of_their_own():
    graph = graph_of("clt_layernorm")
    content = graph_json(graph, "a", "tiny", pruning=PruningSettings(1, 1))
    at = [(int(n["layer"]), n["ctx_idx"]) for n in content["nodes"] if "error" in n["feature_type"]]
    features = graph.features.tolist()
    assert {(number, position) for layer, position, number in features if layer == 0} & set(at)
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(set(ids)) == len(ids)


def test_labels_show_what_front_ends_would_cut_or_leave_blank():
    graph = graph_of("clt_layernorm")
    texts = ['\n\t"', *graph.logit_texts[1:]]
    graph, latent = dataclasses.replace(graph, logit_texts=texts), int(graph.latents[0])
    content = graph_json(graph, "a", "tiny", PruningSettings(1, 1), labels={latent: 'a\n"'})
    clerps = {node["node_id"]: node["clerp"] for node in content["nodes"]}
    target = next(node["clerp"] for node in content["nodes"] if node["is_target_logit"])
    # As circuit-tracer's front end takes a label apart.
    assert target.split('"')[1] == "\u23ce\u2192\u201d"
    layer, position, number = graph.features[0].tolist()
    assert clerps[f"{layer}_{number}_{position}"] == "a\u23ce\u201d"


@pytest.mark.parametrize("name", CASES)
def test_neuronpedias_schema(name):
    url = "https://example.org/features"
    content = graph_json(graph_of(name), "a", "tiny", features_url=url)
    jsonschema.Draft7Validator(SCHEMA).validate(content)
    ids = {node["node_id"] for node in content["nodes"]}
    assert all({link["source"], link["target"]} <= ids for link in content["links"])


def test_cantor_pairing_is_one_to_one():
    pairs = [(layer, number) for layer in range(40) for number in range(40)]
    assert len({cantor_pair(*pair) for pair in pairs}) == len(pairs)
    assert cantor_pair(0, 13) == 104  # circuit-tracer's


def test_graphs_of_a_folder_are_listed(tmp_path):
    graph = graph_of("clt_rmsnorm")
    for slug in ("one", "two", "one"):
        path = save_graph(graph, tmp_path / "graphs", slug, "tiny")
    assert json.loads(path.read_text())["metadata"]["slug"] == "one"
    listed = json.loads((tmp_path / "graphs" / METADATA_FILENAME).read_text())["graphs"]
    assert [of["slug"] for of in listed] == ["two", "one"]
    for slug in ("../a", "", ".a", "a b"):
        with pytest.raises(InputError, match="slug="):
            save_graph(graph, tmp_path, slug, "tiny")
