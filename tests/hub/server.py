"""A small server of the routes that huggingface_hub uses to upload and download models.

One process, everything in memory. Text files are stored as git blobs and others as LFS objects, as
the hub does. ``fault`` makes it misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote, unquote, urlsplit


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def etag(self) -> str:
        """SHA-256 of LFS objects, git's hash of others."""
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


Files = dict[str, File]


@dataclass
class Repository:
    """Commits, oldest first, and which of them each branch is at."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File | None]) -> str:
        """Put files on top of a branch; None takes one away."""
        before = self.commits.get(self.branches.get(branch, ""), {})
        number = f"{branch} {len(self.commits)} {sorted(files)}".encode()
        sha = hashlib.sha1(number).hexdigest()
        after = {**before, **files}
        self.commits[sha] = {name: file for name, file in after.items() if file is not None}
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> tuple[str, Files] | None:
        """The commit that a branch or a hash names."""
        sha = self.branches.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


Fault = Callable[["_Handler", str, bytes], bool]
"""Gets handler, path and the right content of a file that is asked for; True: it has answered."""


class HubServer:
    """The server, bound to a free port of the loopback interface."""

    def __init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.hub = self  # type: ignore[attr-defined]
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        # By another name: the hub keeps objects at another host, and redirects to it.
        self.objects_url = f"http://localhost:{self._http.server_port}/objects"
        self.clear()

    def start(self) -> None:
        """Answer requests."""
        Thread(target=self._http.serve_forever, daemon=True).start()

    def clear(self) -> None:
        """Forget everything."""
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fault: Fault | None = None
        """Asked when a file is downloaded."""
        self.failing: str | None = None
        """Requests whose ``METHOD /path`` contains it are answered with status 500."""

    def files(self, repo_id: str, branch: str = "main") -> Files:
        """What a branch holds."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.branches[branch]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Send an answer; to HEAD without its content."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def _no(self, code: str, status: int = 404) -> None:
        self.reply(status, X_Error_Code=code, X_Error_Message=code)

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.failing is not None and self.hub.failing in self.hub.requests[-1]:
            return self.reply(500)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "repos"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            wrong = "license: MIT" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of mit, ...'}] if wrong else []
            return self._json({"errors": errors, "warnings": []}, 400 if wrong else 200)
        if parts[0] == "objects":
            return self._store(parts[1], body) if body else self._object(parts[1])
        in_repository = parts[2:] if parts[0] == "api" else parts
        if len(in_repository) < 2:
            return self.reply(404)
        user, name, *rest = in_repository
        if name.endswith(".git"):
            return self._batch(json.loads(body))
        repo_id = f"{user}/{name}"
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and "Authorization" not in self.headers):
            return self._no("RepoNotFound", 401 if repository else 404)
        return self._of_repository(repo_id, repository, rest, body)

    def _of_repository(
        self, repo_id: str, repository: Repository, rest: list[str], body: bytes
    ) -> None:
        kind, revision, *path = rest or ["revision", "main"]
        if kind == "branch":
            created = revision in repository.branches
            repository.branches.setdefault(revision, repository.branches["main"])
            return self.reply(409 if created else 200)
        found = repository.at(revision)
        if found is None:
            return self._no("RevisionNotFound")
        sha, files = found
        if kind == "resolve":
            return self._file(sha, files.get("/".join(path)), "/".join(path))
        if kind == "preupload":
            return self._json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "regular"
                            if file["path"].endswith((".json", ".md"))
                            else "lfs",
                            "shouldIgnore": False,
                        }
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        if kind == "commit":
            return self._commit(repository, revision, body, f"{self.hub.url}/{repo_id}")
        if kind == "tree":
            return self._json(
                [
                    {"type": "file", "path": name, "oid": file.etag, "size": len(file.content)}
                    for name, file in files.items()
                ]
            )
        siblings = [{"rfilename": name} for name in files]
        return self._json(
            {"id": repo_id, "sha": sha, "siblings": siblings, "private": repository.private}
        )

    def _create(self, what: dict[str, object]) -> None:
        repo_id = f"{what['organization'] or 'user'}/{what['name']}"
        if repo_id in self.hub.repositories:
            return self._json({"url": f"{self.hub.url}/{repo_id}"}, 409)
        repository = Repository(private=what.get("visibility") == "private")
        repository.commit("main", {})
        self.hub.repositories[repo_id] = repository
        return self._json({"url": f"{self.hub.url}/{repo_id}"})

    def _batch(self, what: dict[str, list[dict[str, object]]]) -> None:
        objects = []
        for wanted in what["objects"]:
            upload = {"href": f"{self.hub.objects_url}/{wanted['oid']}"}
            objects.append({**wanted, "actions": {"upload": upload}})
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> None:
        self.hub.objects[oid] = body
        self.reply(200)

    def _commit(self, repository: Repository, branch: str, body: bytes, url: str) -> None:
        files: dict[str, File | None] = {}
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                latest = repository.branches[branch]
                if value.get("parentCommit", latest) != latest:
                    return self._json({"error": "A commit has happened since."}, 412)
            elif operation["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.objects[value["oid"]], True)
            else:
                files[value["path"]] = None
        sha = repository.commit(branch, files)
        self._json({"commitUrl": f"{url}/commit/{sha}", "commitOid": sha})

    def _file(self, sha: str, file: File | None, path: str) -> None:
        if file is None:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        headers = {"ETag": f'"{file.etag}"', "X_Repo_Commit": sha}
        if file.is_lfs:
            self.hub.objects[file.etag] = file.content
            headers |= {"X_Linked_ETag": f'"{file.etag}"', "X_Linked_Size": str(len(file.content))}
            headers |= {"Location": f"{self.hub.objects_url}/{file.etag}?{quote(path)}"}
            return self.reply(302, **headers)
        return self._content(path, file.content, headers)

    def _object(self, oid: str) -> None:
        self._content(unquote(urlsplit(self.path).query), self.hub.objects[oid], {})

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        fault = self.hub.fault if self.command == "GET" else None
        if fault is None or not fault(self, path, content):
            self.reply(200, content, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer
