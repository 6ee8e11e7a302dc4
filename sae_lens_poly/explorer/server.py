"""The pages over HTTP, for this machine alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from sae_lens_poly.errors import InputError
from sae_lens_poly.explorer.data_files import StringTable, TokenTexts
from sae_lens_poly.explorer.examples import ExampleWriter
from sae_lens_poly.explorer.site import ASSETS, EXPLANATIONS_FILENAME
from sae_lens_poly.explorer.try_text import TriedTexts
from sae_lens_poly.explorer.write_data import DataWriter
from sae_lens_poly.models.attached import LatentEdit, add, clamp

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
#: A request body larger than this is refused, in bytes.
LARGEST_BODY = 100_000


class SameOrigin:
    """Refuses requests that a page of another origin makes.

    Together with Starlette's check of the Host header, another site that is open in the same
    browser can neither run a text nor read what comes back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_ours(Request(scope)):
            refused = JSONResponse({"error": "requests of other origins are refused"}, 403)
            await refused(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_ours(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return False
    # A link from elsewhere may open a page; nothing else may come from another site.
    opens = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
    return opens or request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


class Explorer:
    """What the pages ask for that no file answers.

    Args:
        writer: With the dictionary, its model, and what was collected.
        explanations: The file of explanations, which may come and change while pages are open.
    """

    def __init__(self, writer: DataWriter, explanations: Path) -> None:
        self.writer, self.explanations = writer, explanations
        self.tried = TriedTexts(writer.sae, writer.model)
        # One run at a time: runs put hooks on the one model.
        self.lock = threading.Lock()

    def mode(self, _: Request) -> Response:
        """What these pages can do."""
        return JSONResponse({"served": True, "explanations": self.explanations.is_file()})

    def explained(self, _: Request) -> Response:
        """The explanations, as they are now."""
        if not self.explanations.is_file():
            return JSONResponse({"error": "there are no explanations"}, 404)
        return FileResponse(self.explanations, media_type="application/json")

    def pair(self, request: Request) -> Response:
        """The record of any pair."""
        i, j = request.path_params["i"], request.path_params["j"]
        texts = TokenTexts(self.writer.model.tokenizer)
        writer = ExampleWriter(self.writer.collected, texts, StringTable())
        with self.lock:
            records = self.writer.pairs.records([(i, j)], writer)
        return JSONResponse({"strings": writer.strings.to_list(), "pairs": records})

    async def try_text(self, request: Request) -> Response:
        """Run a text, with edits."""
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise InputError("the request must be application/json")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY:
                raise InputError(f"the text must be shorter than {LARGEST_BODY:,} bytes")
        text, edits, hook = _read_request(body)

        def run() -> dict[str, Any]:
            with self.lock:
                return self.tried.run(text, edits, hook)

        return JSONResponse(await run_in_threadpool(run))


def _read_request(body: bytes) -> tuple[str, list[LatentEdit], int | None]:
    kinds = {"clamp": clamp, "add": add}
    try:
        asked = json.loads(body)
        edits = [
            kinds[edit["kind"]](int(edit["latent"]), float(edit["value"]))
            for edit in asked.get("edits", [])
        ]
        hook = asked.get("hook")
        return str(asked["text"]), edits, None if hook is None else int(hook)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the request cannot be read ({error}): send text, edits and hook as JSON"
        ) from None


async def _wrong_input(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


def make_app(
    writer: DataWriter, data: Path, explanations: Path, hosts: Sequence[str] = LOOPBACK
) -> Starlette:
    """The application that serves pages, data and runs of texts.

    Args:
        writer: With the dictionary, its model, and what was collected.
        data: Folder of the data files.
        explanations: File of explanations, which need not be there yet.
        hosts: Values of the Host header that are answered.
    """
    explorer = Explorer(writer, explanations)
    return Starlette(
        routes=[
            Route("/data/mode.json", explorer.mode),
            Route(f"/data/{EXPLANATIONS_FILENAME}", explorer.explained),
            Route("/api/pair/{i:int}/{j:int}", explorer.pair),
            Route("/api/try", explorer.try_text, methods=["POST"]),
            Mount("/data", StaticFiles(directory=data)),
            Mount("/", StaticFiles(directory=ASSETS, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
            Middleware(SameOrigin),
        ],
        exception_handlers={InputError: _wrong_input},
    )
