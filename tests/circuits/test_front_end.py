"""A graph with pairs in circuit-tracer's own front end, where that and Chromium are there."""

import json

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

from sae_lens_poly.circuits.graph_features import local_scan  # noqa: E402
from sae_lens_poly.circuits.graph_files import save_graph  # noqa: E402
from scripts.graph_in_front_end import FrontEnd, is_there, open_graph  # noqa: E402
from tests.circuits.folders import DATA, load_model  # noqa: E402
from tests.circuits.test_crosscoder_replacement import poly_graph  # noqa: E402
from tests.explorer.browser import chromium  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium() is None or not is_there(),
        reason="needs chromium, and what 'python -m scripts.graph_in_front_end' fetches",
    ),
]
EXAMPLE = {
    "tokens": ["a", "b"],
    "tokens_acts_list": [0.0, 1.0],
    "train_token_ind": 1,
    "is_repeated_datapoint": False,
}
FEATURE = {
    "examples_quantiles": [{"quantile_name": "Top activations", "examples": [EXAMPLE]}],
    "top_logits": ["more"],
    "bottom_logits": ["less"],
    "act_min": 0.0,
    "act_max": 1.0,
    "quantile_values": [0.5],
    "histogram": [1.0, 2.0],
}


def test_a_graph_is_shown(tmp_path):
    graph = poly_graph(load_model(DATA / "clt_layernorm"), "degree 2", max_logits=3)
    labels = {latent: f"label {latent}" for latent in graph.latents.tolist()}
    path = save_graph(graph, tmp_path, "poly", local_scan("poly"), labels=labels)
    content = json.loads(path.read_text())
    nodes = content["nodes"]
    features = tmp_path / "features" / "poly"
    features.mkdir(parents=True)
    for node in nodes:
        if node["feature_type"].startswith("cross"):
            (features / f"{node['feature']}.json").write_text(json.dumps(FEATURE))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        found = open_graph(page, FrontEnd(tmp_path), "poly")
        browser.close()
    assert found["wrong"] == []
    shown = [node for node in nodes if (node["influence"] or 0) <= 0.8 or node["layer"] == "E"]
    assert found["nodes"] == len(shown)
    assert found["tokens"] == graph.token_texts
    assert sorted(found["logits"]) == sorted(graph.logit_texts)
    assert f'Output "{graph.logit_texts[0]}"' in found["title"]
    assert any("label " in row for row in found["rows"])  # of features
    pairs = {node["node_id"] for node in shown if node["feature_type"] == "interaction"}
    target = next(node["node_id"] for node in nodes if node["is_target_logit"])
    links = [of for of in content["links"] if of["target"] == target and of["source"] in pairs]
    assert len([row for row in found["rows"] if "\u00d7" in row]) == len(links)
    assert all(word in found["detail"] for word in ("Feature", "Top activations", "more", "less"))
