"""Opens a graph in circuit-tracer's own front end, in headless Chromium, and takes a picture of it.

    python -m scripts.graph_in_front_end GRAPHS --slug NAME --screenshot FILE

GRAPHS is the folder that ``trace`` writes to. The pages come from circuit-tracer's wheel, and the
libraries that they load from the network from npm; both are fetched into build/front_end at the
first time (pip and npm have to be there). Requests are answered here, and reach no network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

FOLDER = Path(__file__).resolve().parents[1] / "build" / "front_end"
WHEEL = "circuit-tracer==0.5.0"
PACKAGES = ("d3@7.9.0", "d3-collection@1.0.7", "d3-jetpack@2.3.0", "dagre@0.8.5", "pako@2.1.0")
ADDRESS = "http://front-end/"

#: End of an address to the files of npm packages that answer it.
LIBRARIES = {
    "/d3.js": ["d3/dist/d3.min.js", "d3-collection/dist/d3-collection.min.js"],
    "/jetpack_2024-07-20.js": ["d3-jetpack/build/d3-jetpack.cjs"],
    "/hotserver-client-ws.js": [],  # reloads pages that are being worked on
    "/npy_v0.js": [],  # reads files that graphs have none of
    "/dagre.min.js": ["dagre/dist/dagre.min.js"],
    "/pako.min.js": ["pako/dist/pako.min.js"],
}
#: A module of Node's kind that requires parts of d3 alone and adds to d3 what it exports. The
#: version that the pages ask for has a chart draw its own axes as well.
_ON_D3 = """(() => {
  const d3 = window.d3, exports = {}, module = {exports}, require = () => d3;
  %s
  ;const conventions = (options) => {
    const chart = exports.conventions(options);
    chart.drawAxis = (svg) => exports.drawAxis({...chart, svg: svg || chart.svg});
    return chart;
  };
  window.d3 = {...d3, ...exports, conventions};
})();"""
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def fetch(folder: Path = FOLDER) -> Path:
    """Get the wheel and the libraries, unless they are there, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("circuit_tracer-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    if not (folder / "node_modules" / "dagre").exists():
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        subprocess.run([*command, "--prefix", str(folder), *PACKAGES], check=True)
    return folder


def is_there(folder: Path = FOLDER) -> bool:
    """Whether both have been fetched."""
    return (
        bool(list(folder.glob("circuit_tracer-*.whl")))
        and (folder / "node_modules" / "dagre").exists()
    )


class FrontEnd:
    """circuit-tracer's pages over the graphs of a folder, and what they ask for in vain.

    Args:
        graphs: Where ``trace`` wrote.
        folder: Of :func:`fetch`.
    """

    def __init__(self, graphs: Path, folder: Path = FOLDER) -> None:
        (wheel,) = folder.glob("circuit_tracer-*.whl")
        self.graphs, self.modules = graphs, folder / "node_modules"
        self.wheel = zipfile.ZipFile(wheel)
        self.missing: list[str] = []

    def answer(self, route: Any) -> None:
        """Answer a request of the browser; a handler for ``page.route``."""
        address = urlsplit(route.request.url)
        found = self._content(address.netloc, address.path)
        if found is None:
            self.missing.append(route.request.url)
            route.fulfill(status=404)
        else:
            kind = _KINDS.get(Path(address.path).suffix, "application/json")
            route.fulfill(body=found, content_type=f"{kind}; charset=utf-8")

    def _content(self, host: str, path: str) -> bytes | None:
        if host != urlsplit(ADDRESS).netloc:
            for end, names in LIBRARIES.items():
                if path.endswith(end):
                    return "\n".join(map(self._script, names)).encode()
            return None
        for prefix in ("/data/", "/graph_data/"):  # as circuit-tracer's server maps them
            if path.startswith(prefix):
                file = self.graphs / path.removeprefix(prefix)
                return file.read_bytes() if file.is_file() else None
        try:
            return self.wheel.read(f"circuit_tracer/frontend/assets{path}")
        except KeyError:
            return None

    def _script(self, name: str) -> str:
        script = (self.modules / name).read_text(encoding="utf-8")
        return _ON_D3 % script if name.endswith(".cjs") else script


def open_graph(page: Any, front_end: FrontEnd, slug: str) -> dict[str, Any]:
    """Open a graph, look at its most probable logit, then at the feature that adds most to it.

    Returns:
        What the page shows: ``nodes`` and ``texts`` of logits, ``rows`` of the logit's inputs,
        ``detail`` of the feature, and what went ``wrong``.
    """
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.route("**/*", front_end.answer)
    content = json.loads((front_end.graphs / f"{slug}.json").read_text())
    target = next(node["node_id"] for node in content["nodes"] if node["is_target_logit"])
    query = urlencode({"slug": slug, "clickedId": target})
    page.goto(f"{ADDRESS}index.html?{query}")
    page.wait_for_selector(".link-graph text.node")
    page.wait_for_selector(".node-connections .input .feature-row")
    page.wait_for_timeout(500)  # rows get their events a moment later
    rows = page.locator(".node-connections .input .feature-row")
    found = {
        "nodes": page.locator(".link-graph text.node").count(),
        "tokens": page.locator(".link-graph g.prompt-token text").all_text_contents(),
        "logits": page.locator(".link-graph g.axis g g text").all_text_contents(),
        "title": page.locator(".node-connections .header-top-row").inner_text(),
        "rows": rows.all_inner_texts(),
    }
    most = content["metadata"]["node_threshold"]  # of influence; others are not shown
    features = {
        node["node_id"]
        for node in content["nodes"]
        if node["feature_type"].startswith("cross") and node["influence"] <= most
    }
    to_logit = [
        link for link in content["links"] if link["target"] == target and link["source"] in features
    ]
    if to_logit:
        strongest = max(to_logit, key=lambda link: link["weight"])["source"]
        page.evaluate(
            """(id) => d3.selectAll(".node-connections .input .feature-row")
                .filter((d) => d.nodeId === id).dispatch("mouseover")""",
            strongest,
        )
        page.wait_for_timeout(1000)
        found["detail"] = page.locator(".feature-detail").inner_text()
    return found | {"wrong": wrong + [f"not there: {url}" for url in front_end.missing]}


def main() -> None:
    """Open a graph, print what the page shows, and take a picture."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graphs", type=Path, help="the folder that trace writes to")
    parser.add_argument("--slug", required=True, help="name of the graph")
    parser.add_argument("--screenshot", default="graph_in_front_end.png")
    options = parser.parse_args()
    front_end = FrontEnd(options.graphs, fetch())
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        found = open_graph(page, front_end, options.slug)
        page.screenshot(path=options.screenshot)
        browser.close()
    found["detail"] = found.get("detail", "")[:400]
    print(json.dumps(found, indent=1, ensure_ascii=False))
    print(f"picture in {options.screenshot}")


if __name__ == "__main__":
    main()
