"""What goes wrong ends in one clear error, and the next try finds nothing that it trips on."""

import json
import pickle

import pytest
from sae_lens import SAE

from sae_lens_poly.hub import HubError, HubLoader, fetch_dictionary, upload_dictionary
from tests.hub.dictionaries import assert_same, saved
from tests.hub.server import File

WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Between what huggingface_hub tries again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def expected(hub, tmp_path):
    sae = saved(tmp_path / "saved")
    upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    return sae


def load(stock=False):
    return SAE.from_pretrained("user/repo", "x", converter=None if stock else HubLoader())


def half_with_the_right_length(handler, path, content):
    """The connection ends in the middle, and the server is gone after that."""
    if not path.endswith(WEIGHTS):
        return False
    handler.hub.failing = "/objects"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True
    return True


def truncated(handler, path, content):
    """Less than the hub has said that the file is long."""
    if not path.endswith(WEIGHTS):
        return False
    handler.reply(200, content[: len(content) // 2])
    return True


def one_bit_else(handler, path, content):
    """As long as it must be, with another content."""
    if not path.endswith(WEIGHTS):
        return False
    handler.reply(200, content[:-1] + bytes([content[-1] ^ 1]))
    return True


def status_500(handler, path, content):
    handler.reply(500)
    return True


def web_page(handler, path, content):
    """What a proxy answers, say."""
    handler.reply(200, b"<html>log in</html>")
    return True


FAULTS = {
    half_with_the_right_length: "download of user/repo:x/sae_weights.safetensors .* try again",
    truncated: "download of user/repo:x/sae_weights.safetensors .*(?i:size).* try again",
    one_bit_else: "user/repo:x/sae_weights.safetensors is damaged .*hash.* try again",
    status_500: "download of user/repo:x/cfg.json .*500.* try again",
    web_page: "download of user/repo:x/cfg.json .*(?i:size).* try again",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_download(hub, expected, cache, fault):
    hub.fault = fault
    with pytest.raises(HubError, match=FAULTS[fault]):
        load()
    assert not [name for name in cache() if "sae_weights" in name or "incomplete" in name]
    hub.fault = hub.failing = None
    assert_same(load(), expected)
    assert_same(load(stock=True), expected)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not one_bit_else])
def test_sae_lens_own_loader_leaves_nothing_behind_either(hub, expected, cache, fault):
    hub.fault = fault
    with pytest.raises(Exception):  # noqa: B017, PT011 (huggingface_hub's, of several kinds)
        load(stock=True)
    assert not [name for name in cache() if "sae_weights" in name or "incomplete" in name]
    hub.fault = hub.failing = None
    assert_same(load(stock=True), expected)


def test_a_file_that_was_damaged_in_the_cache(hub, expected, cache):
    path = fetch_dictionary("user/repo", "x") / WEIGHTS
    content = path.read_bytes()
    path.resolve().write_bytes(content[: len(content) // 2])
    with pytest.raises(HubError, match="is damaged"):
        load()
    assert_same(load(), expected)


def test_no_connection(hub, expected, cache):
    hub.failing = "/"
    with pytest.raises(HubError, match=r"not in the cache .*500.* try again"):
        load()
    hub.failing = None
    assert_same(load(), expected)


def put(hub, **files):
    """Change files of the dictionary; None takes one away."""
    repository = hub.repositories["user/repo"]
    sha = repository.commit("main", {})
    for name, content in files.items():
        path = f"x/{name.replace('__', '.')}"
        if content is None:
            del repository.commits[sha][path]
        else:
            repository.commits[sha][path] = File(content, not path.endswith(".json"))


def test_missing_files(hub, expected):
    weights = hub.files("user/repo")[f"x/{WEIGHTS}"].content
    put(hub, sae_weights__safetensors=None, sae_weights__pt=b"some")
    with pytest.raises(
        HubError, match=rf"no user/repo:x/{WEIGHTS}; .* x/cfg.json, x/sae_weights.p"
    ):
        load()
    put(hub, sae_weights__safetensors=weights)
    assert_same(load(), expected)
    with pytest.raises(HubError, match=r"no user/repo:y/cfg.json; folders with a cfg.json: x$"):
        fetch_dictionary("user/repo", "y")
    with pytest.raises(HubError, match="repo_id='user/other' is not at"):
        fetch_dictionary("user/other", "x")
    with pytest.raises(HubError, match="no revision='v9'"):
        fetch_dictionary("user/repo", "x", "v9")
    with pytest.raises(HubError, match="not a name of the form user/repo"):
        fetch_dictionary("user/repo/x", "x")


def test_an_unknown_architecture(hub, expected):
    good = hub.files("user/repo")["x/cfg.json"].content
    put(hub, cfg__json=json.dumps({**json.loads(good), "architecture": "octic"}).encode())
    with pytest.raises(HubError, match=r"user/repo:x: .*architecture='octic'.*upgrade"):
        load()
    put(hub, cfg__json=b"{")
    with pytest.raises(HubError, match=r"user/repo:x: .*not JSON"):
        load()
    put(hub, cfg__json=good)
    assert_same(load(), expected)


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


@pytest.mark.parametrize("stock", [False, True])
def test_a_pickle_instead_of_safetensors(hub, expected, stock):
    weights = hub.files("user/repo")[f"x/{WEIGHTS}"].content
    put(hub, sae_weights__safetensors=pickle.dumps(Malice()))
    if stock:
        with pytest.raises(Exception, match="header"):
            load(stock=True)
    else:
        with pytest.raises(HubError, match=r"user/repo:x: .*is a pickle and not safetensors"):
            load()
    put(hub, sae_weights__safetensors=b"\0" * 100)
    with pytest.raises(HubError, match=r"user/repo:x: .*is damaged"):
        load()
    put(hub, sae_weights__safetensors=weights)
    assert_same(load(), expected)


@pytest.mark.parametrize("part", ["preupload", "PUT /objects", "/commit/", "create"])
def test_an_upload_that_fails_half_way(hub, tmp_path, part):
    expected = saved(tmp_path / "saved")
    hub.failing = "/api/repos/create" if part == "create" else part
    with pytest.raises(HubError, match=r"upload to user/repo:x .*500.* or nothing.* try again"):
        upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    assert "user/repo" not in hub.repositories or hub.files("user/repo") == {}
    hub.failing = None
    upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    assert_same(load(), expected)
