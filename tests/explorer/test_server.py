"""What the server refuses, and what it answers."""

import json

import pytest

pytest.importorskip("starlette", reason="pip install 'sae-lens-poly[explorer]'")
pytest.importorskip("httpx", reason="pip install httpx")
from starlette.testclient import TestClient

from sae_lens_poly.explorer.server import LARGEST_BODY, make_app

TEXT = {"text": "import os"}


@pytest.fixture(scope="module")
def explanations(tmp_path_factory):
    return tmp_path_factory.mktemp("explained") / "explanations.json"


@pytest.fixture(scope="module")
def client(explored, explanations):
    folder, writer = explored
    app = make_app(writer, folder / "explorer" / "data", explanations)
    return TestClient(app, base_url="http://127.0.0.1")


def test_pages_and_data_are_there(client):
    assert "<title>Explorer</title>" in client.get("/").text
    assert client.get("/data/overview.json.gz").content.startswith(b"\x1f\x8b")
    assert client.get("/data/mode.json").json() == {"served": True, "explanations": False}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
@pytest.mark.parametrize("place", ["/", "/data/overview.json.gz", "/api/pair/9/12"])
def test_other_hosts_are_refused(client, host, place):
    assert client.get(place, headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_pages_of_other_origins_cannot_run_a_text(client, headers):
    assert client.post("/api/try", json=TEXT, headers=headers).status_code == 403


def test_a_link_from_elsewhere_opens_a_page(client):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("place", ["/../../etc/passwd", "/data/%2e%2e/%2e%2e/cfg.json"])
def test_nothing_outside_the_folders_is_served(client, place):
    assert client.get(place).status_code == 404


def test_a_text_without_edits_is_what_the_model_computes(client, explored):
    _, writer = explored
    found = client.post("/api/try", json=TEXT, headers={"origin": "http://127.0.0.1"}).json()
    logits = writer.model.model("import os")[0, -1].log_softmax(-1).exp()
    text, before, after = found["next"][-1][0]
    assert before == after == pytest.approx(logits.max().item(), rel=1e-3)
    assert text == writer.texts[int(logits.argmax())]
    assert found["special"][0]
    assert not found["codes"][0]
    assert max(found["divergence"]) == 0


@pytest.mark.parametrize("kind", ["clamp", "add"])
def test_edits_change_what_comes_next_and_not_before(client, kind):
    edits = [{"latent": 9, "value": 200.0, "kind": kind}]
    found = client.post("/api/try", json=TEXT | {"edits": edits}).json()
    assert found["divergence"][0] == pytest.approx(0, abs=1e-6)  # BOS is left alone
    assert found["divergence"][-1] > 0
    one = client.post("/api/try", json=TEXT | {"edits": edits, "hook": 0}).json()
    assert one["divergence"][-1] not in (0, found["divergence"][-1])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "cannot be read"),
        ({"text": ""}, "empty"),
        ({"text": "word " * 2000}, "shorten"),
        ({"text": "a", "edits": [{"latent": 64, "value": 1, "kind": "add"}]}, "latent 64"),
        ({"text": "a", "edits": [{"latent": 1, "value": 1, "kind": "melt"}]}, "cannot be read"),
        ({"text": "a", "hook": 3}, "hook=3"),
        ([], "cannot be read"),
    ],
)
def test_wrong_requests_are_told_so(client, request_, message):
    answer = client.post("/api/try", json=request_)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_what_is_no_json_is_refused(client):
    answer = client.post(
        "/api/try", content=json.dumps(TEXT), headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 422
    large = json.dumps({"text": "a" * LARGEST_BODY})
    headers = {"content-type": "application/json"}
    assert client.post("/api/try", content=large, headers=headers).status_code == 422


def test_any_pair_is_computed(client):
    found = client.get("/api/pair/9/31").json()
    assert (found["pairs"][0]["i"], found["pairs"][0]["j"]) == (9, 31)
    assert client.get("/api/pair/9/9").status_code == 422
    assert client.get("/api/pair/9/64").status_code == 422


def test_explanations_that_come_while_it_runs_are_shown(client, explanations):
    assert client.get("/data/explanations.json").status_code == 404
    explanations.write_text(json.dumps({"latents": {}}))
    assert client.get("/data/mode.json").json()["explanations"]
    assert client.get("/data/explanations.json").json() == {"latents": {}}
    explanations.unlink()
