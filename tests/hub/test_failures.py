"""What goes wrong ends in one clear error, and the next try finds nothing that it trips on."""

import json
import pickle

import pytest
from huggingface_hub import snapshot_download
from sae_lens import SAE

from sae_lens_poly.cli import main
from sae_lens_poly.hub import HubError, HubLoader, fetch_dictionary, upload, upload_dictionary
from tests.hub.dictionaries import assert_same, saved
from tests.hub.server import File

WEIGHTS = "sae_weights.safetensors"


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


def test_a_cache_whose_blobs_are_links(hub, expected, cache):
    """As huggingface_hub keeps what comes by its newer protocol: by other names, in a store."""
    path = fetch_dictionary("user/repo", "x") / WEIGHTS
    blob = path.parent / path.readlink()
    store = blob.parent / "store" / ("a" * 64)
    store.parent.mkdir()
    blob.rename(store)
    blob.symlink_to(store)
    assert_same(load(), expected)
    content = store.read_bytes()
    store.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(HubError, match="is damaged"):
        load()
    assert not store.exists()
    assert_same(load(), expected)


def test_a_whole_cache_is_enough_without_a_connection(hub, expected, monkeypatch):
    snapshot_download("user/repo")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(load(), expected)
    assert_same(load(stock=True), expected)
    with pytest.raises(HubError, match=r"not in the cache.*HF_HUB_OFFLINE"):
        fetch_dictionary("user/repo", "y")


def test_no_connection(hub, expected, cache):
    hub.failing = "/"
    with pytest.raises(HubError, match=r"not in the cache .*500.* try again"):
        load()
    hub.failing = None
    assert_same(load(), expected)


def put(hub, **files):
    """Change files of the dictionary; None takes one away."""
    changed = {}
    for name, content in files.items():
        path = f"x/{name.replace('__', '.')}"
        changed[path] = None if content is None else File(content, not path.endswith(".json"))
    hub.repositories["user/repo"].commit("main", changed)


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
    with pytest.raises(HubError, match=r"repo_id='user/repo/x' .* not a name"):
        fetch_dictionary("user/repo/x", "x")


def test_an_unknown_architecture(hub, expected):
    good = hub.files("user/repo")["x/cfg.json"].content
    put(hub, cfg__json=json.dumps({**json.loads(good), "architecture": "octic"}).encode())
    with pytest.raises(HubError, match=r"user/repo:x: .*architecture='octic'.*upgrade"):
        load()
    put(hub, cfg__json=b"{")
    with pytest.raises(HubError, match=r"user/repo:x: .*not a JSON object"):
        load()
    put(hub, cfg__json=good)
    assert_same(load(), expected)


@pytest.mark.parametrize("content", [b"[1]", b"null", b'{"architecture": ["x"]}'])
def test_a_config_that_is_none(hub, expected, content):
    put(hub, cfg__json=content)
    with pytest.raises(HubError, match=r"user/repo:x: .*cfg.json"):
        load()


def test_code_that_comes_with_a_model_is_not_run(hub, expected, capsys):
    config = json.loads(hub.files("user/repo")["x/cfg.json"].content)
    config["metadata"]["model_from_pretrained_kwargs"] = {"trust_remote_code": True}
    put(hub, cfg__json=json.dumps(config).encode())
    assert main(["evaluate", "user/repo:x"]) == 2
    assert "trust_remote_code" in capsys.readouterr().err


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
    with pytest.raises(HubError, match=r"upload to user/repo:x .*500.* or none; try again"):
        upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    assert "user/repo" not in hub.repositories or hub.files("user/repo") == {}
    hub.failing = None
    upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    assert_same(load(), expected)


def test_an_upload_while_somebody_else_commits(hub, tmp_path, monkeypatch):
    saved(tmp_path / "saved")
    upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    card = upload._card_at

    def meanwhile(repo_id, commit):
        hub.repositories["user/repo"].commit("main", {"theirs.txt": File(b"new", False)})
        return card(repo_id, commit)

    monkeypatch.setattr(upload, "_card_at", meanwhile)
    with pytest.raises(HubError, match=r"412|has happened since"):
        upload_dictionary(tmp_path / "saved", "user/repo", "y", evaluated=False)
    assert "theirs.txt" in hub.files("user/repo")
    assert not [name for name in hub.files("user/repo") if name.startswith("y/")]


def test_what_the_hub_refuses(hub, tmp_path):
    saved(tmp_path / "saved")
    with pytest.raises(HubError, match=r'"license" must be one of mit'):
        upload_dictionary(tmp_path / "saved", "user/repo", "x", license="MIT", evaluated=False)
    upload_dictionary(tmp_path / "saved", "user/repo", "x", evaluated=False)
    before = dict(hub.files("user/repo"))
    with pytest.raises(HubError, match="private=True, and user/repo exists and is public"):
        upload_dictionary(tmp_path / "saved", "user/repo", "y", private=True, evaluated=False)
    assert hub.files("user/repo") == before
