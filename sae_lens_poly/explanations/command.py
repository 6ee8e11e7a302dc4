"""``python -m sae_lens_poly explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_poly.commands.parser import Parser
from sae_lens_poly.errors import InputError
from sae_lens_poly.evaluation.feature_cache import dictionary_hash
from sae_lens_poly.explanations.explain import draw_latents, estimate
from sae_lens_poly.explanations.explain import explain as explain_latents
from sae_lens_poly.explanations.judge import Judge
from sae_lens_poly.explanations.material import Materials
from sae_lens_poly.explanations.settings import ExplanationSettings
from sae_lens_poly.explorer.collect import settings_in
from sae_lens_poly.explorer.command import can_be_stopped, folders_of, prepare
from sae_lens_poly.explorer.settings import CollectionSettings
from sae_lens_poly.explorer.site import EXPLANATIONS_FILENAME

_FLAGS: dict[str, type] = {
    "n_latents": int,
    "n_shown": int,
    "n_test": int,
    "n_per_request": int,
    "coherent_from": float,
    "temperature": float,
    "max_tokens": int,
    "seed": int,
}


def explain(flags: Sequence[str]) -> None:
    """Explain the latents of a dictionary by a language model, and score the explanations."""
    parser = Parser(
        "explain",
        description="Any server with OpenAI's interface will do, such as vLLM's or llama.cpp's on "
        "this machine. The key is in OPENAI_API_KEY. What is explained is not explained again.",
    )
    parser.add_argument("folder", help="a saved dictionary, or user/repo:path on the hub")
    parser.add_argument("--endpoint", required=True, help="such as http://localhost:8000/v1")
    parser.add_argument("--model", required=True, help="its name on that server")
    parser.add_argument("--latents", type=int, nargs="+", help="these, instead of drawn ones")
    parser.add_argument("--jobs", type=int, default=4, help="requests at a time")
    parser.add_argument("--output", help="file; explanations.json beside the weights by default")
    parser.add_argument("--estimate", action="store_true", help="say what it takes, and stop")
    parser.add_argument("--price_input", type=float, help="of a million tokens that are sent")
    parser.add_argument("--price_output", type=float, help="of a million that come back")
    parser.add_argument("--device", default="cpu")
    for name, kind in _FLAGS.items():
        parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args(flags)
    given = {name: getattr(options, name) for name in _FLAGS}
    settings = ExplanationSettings(**{k: v for k, v in given.items() if v is not None})
    if options.jobs < 1:
        raise InputError(f"jobs={options.jobs} must be 1 or more")
    judge = Judge(
        options.endpoint,
        options.model,
        settings.temperature,
        settings.max_tokens,
        settings.attempts,
    )
    folder, workplace = folders_of(options.folder)
    collection = CollectionSettings(**settings_in(workplace / "collected"))
    with can_be_stopped():
        writer = prepare(folder, workplace, collection, options.device)
    materials = Materials(writer.collected, writer.texts, settings)
    latents = options.latents
    if latents is None:
        live = (writer.collected.counts.n_active > 0).nonzero()[:, 0].numpy()
        latents = draw_latents(live, settings)
    for latent in latents:
        if not 0 <= latent < writer.sae.cfg.d_sae:
            raise InputError(f"latents: {latent} must be from 0 to {writer.sae.cfg.d_sae - 1}")
    expected = estimate(materials, latents, settings)
    cost = ""
    if options.price_input is not None and options.price_output is not None:
        cost = f", at these prices {expected.price(options.price_input, options.price_output):.2f}"
    print(
        f"{len(latents)} latents take about {expected.n_requests:,} requests, "
        f"{expected.n_input:,} tokens to send and {expected.n_output:,} to get{cost}"
    )
    if options.estimate:
        return
    path = Path(options.output or workplace.parent / EXPLANATIONS_FILENAME)
    with can_be_stopped():
        found = explain_latents(
            materials, latents, judge, path, settings, dictionary_hash(folder), options.jobs
        )
    _print_summary(found["summary"], judge, path)


def _print_summary(summary: dict[str, Any], judge: Judge, path: Path) -> None:
    print(
        f"{summary['n_scored']} latents scored, {summary['n_not_scored']} not; "
        f"{judge.n_input:,} tokens sent and {judge.n_output:,} back"
    )
    for kind in ("detection", "fuzzing"):
        if kind in summary:
            interval = summary[kind]["interval"]
            within = "" if interval is None else " ({:.3f} to {:.3f})".format(*interval)
            print(f"{kind}: balanced accuracy {summary[kind]['mean']:.3f}{within}; chance is 0.5")
    if "coherent" in summary:
        coherent = summary["coherent"]
        print(
            f"semantically coherent (at least {coherent['from']} in both): "
            f"{coherent['share']:.1%} ({coherent['interval'][0]:.1%} to "
            f"{coherent['interval'][1]:.1%})"
        )
    print(f"written to {path}")
