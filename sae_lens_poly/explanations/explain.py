"""Explains latents by a language model, and scores the explanations by the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from sae_lens_poly.errors import InputError
from sae_lens_poly.explanations.judge import Judge, Message, UnreadableAnswer
from sae_lens_poly.explanations.material import LEAST_TEST, Material, Materials, Passage
from sae_lens_poly.explanations.prompts import (
    EXPLANATION_SCHEMA,
    answer_schema,
    detection_prompt,
    explanation_prompt,
    fuzzing_prompt,
)
from sae_lens_poly.explanations.scores import score, summary
from sae_lens_poly.explanations.settings import ExplanationSettings
from sae_lens_poly.read_files import read_json
from sae_lens_poly.whole_files import write_json

#: Characters in a token, for estimates; English prose has 4 and more, code has fewer.
_CHARACTERS_PER_TOKEN = 3.5
#: Tokens of an explanation and of an answer about one passage, for estimates.
_EXPLANATION_TOKENS, _ANSWER_TOKENS = 40, 8

Prompt = Callable[[str, Sequence[Passage]], list[Message]]
_TESTS: dict[str, Prompt] = {"detection": detection_prompt, "fuzzing": fuzzing_prompt}


class _Saved(TypedDict):
    model: str
    settings: dict[str, Any]
    dictionary: str
    latents: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Estimate:
    """What explaining will take, about."""

    n_requests: int
    n_input: int
    """Tokens that are sent."""
    n_output: int
    """Tokens that come back."""

    def price(self, per_million_input: float, per_million_output: float) -> float:
        """In the currency of the prices."""
        return (self.n_input * per_million_input + self.n_output * per_million_output) / 1e6


def draw_latents(live: np.ndarray, settings: ExplanationSettings) -> list[int]:
    """Latents drawn evenly among the live ones (their numbers), in order."""
    random = np.random.default_rng(settings.seed)
    n = min(settings.n_latents, len(live))
    return sorted(random.choice(live, n, replace=False).tolist())


def estimate(
    materials: Materials, latents: Sequence[int], settings: ExplanationSettings
) -> Estimate:
    """What explaining latents will take, from the prompts themselves."""
    n_requests, n_characters, n_output = 0, 0, 0
    for latent in latents:
        material = materials.of(latent)
        prompts = [explanation_prompt(material.shown)]
        for prompt in _TESTS.values():
            for batch in _batches(material, settings, latent):
                prompts.append(prompt("x" * int(_EXPLANATION_TOKENS * 4), batch))
                n_output += _ANSWER_TOKENS * len(batch)
        n_output += _EXPLANATION_TOKENS
        n_requests += len(prompts)
        n_characters += sum(len(m["content"]) for messages in prompts for m in messages)
    return Estimate(n_requests, int(n_characters / _CHARACTERS_PER_TOKEN), n_output)


def explain(
    materials: Materials,
    latents: Sequence[int],
    judge: Judge,
    path: str | Path,
    settings: ExplanationSettings,
    of: str = "",
    jobs: int = 4,
) -> dict[str, Any]:
    """Explain latents, score the explanations, and save both after each latent.

    Those that the file has already are left as they are.

    Args:
        materials: Where the examples come from.
        latents: Their numbers.
        judge: Explains and judges.
        path: The file of explanations.
        settings: Of the prompts and the tests.
        of: What tells this dictionary from others, such as the hash of its files.
        jobs: Requests at a time.

    Returns:
        What the file holds: settings, ``summary``, and ``latents`` by number.

    Raises:
        InputError: If the file is of another judge, dictionary or settings; or the server cannot be
            reached, after what was found until then has been saved.
    """
    path = Path(path)
    run = {"model": judge.model, "settings": settings.to_dict(), "dictionary": of}
    found: dict[str, dict[str, Any]] = _found_in(path, run)
    left = [latent for latent in latents if str(latent) not in found]

    def save() -> dict[str, Any]:
        ordered = {k: found[k] for k in sorted(found, key=int)}
        whole = run | {"summary": summary(ordered, settings.coherent_from), "latents": ordered}
        write_json(path, whole)
        return whole

    with ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future[dict[str, Any]], int] = {
            pool.submit(explain_one, materials.of(latent), judge, settings, latent): latent
            for latent in left
        }
        try:
            for future in tqdm(
                as_completed(futures), total=len(left), desc="explaining", unit="latent"
            ):
                found[str(futures[future])] = future.result()
                save()
        finally:
            pool.shutdown(cancel_futures=True)
    return save()


def explain_one(
    material: Material, judge: Judge, settings: ExplanationSettings, seed: int
) -> dict[str, Any]:
    """Explain one latent and score the explanation.

    Returns:
        ``explanation``, ``detection`` and ``fuzzing``; where one is None, ``error`` says why.
    """
    entry: dict[str, Any] = {"explanation": None, "detection": None, "fuzzing": None}
    if not material.shown:
        return entry | {"error": "it is active on no token that was read"}
    try:
        answer = judge.ask(explanation_prompt(material.shown), EXPLANATION_SCHEMA)
        entry["explanation"] = " ".join(answer["explanation"].split())
        if min(len(material.active), len(material.inactive)) < LEAST_TEST:
            return entry | {"error": f"fewer than {LEAST_TEST} held-out examples of either kind"}
        for kind, prompt in _TESTS.items():
            truth, answers = [], []
            for batch in _batches(material, settings, seed):
                asked = prompt(entry["explanation"], batch)
                found = judge.ask(asked, answer_schema(len(batch)))
                truth += [passage.active for passage in batch]
                answers += [bool(found[f"passage_{k}"]) for k in range(1, len(batch) + 1)]
            whole = score(truth, answers)
            entry[kind] = None if whole is None else whole.to_dict()
    except UnreadableAnswer as problem:
        # Half a test would favour the passages that are easy to answer for.
        entry |= {"detection": None, "fuzzing": None, "error": str(problem)}
    return entry


def _batches(material: Material, settings: ExplanationSettings, seed: int) -> list[list[Passage]]:
    """Held-out passages of both kinds in random order, a request's worth at a time."""
    passages = [*material.active, *material.inactive]
    order = np.random.default_rng([settings.seed, seed, 1]).permutation(len(passages))
    shuffled = [passages[k] for k in order]
    n = settings.n_per_request
    return [shuffled[k : k + n] for k in range(0, len(shuffled), n)]


def _found_in(path: Path, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    saved = read_json(path, _Saved, "name another file with --output, or remove this one")
    for name, value in run.items():
        # How many latents are drawn leaves those that are explained as they are.
        then, now = (_without_number(x) if name == "settings" else x for x in (saved[name], value))
        if then != now:
            raise InputError(
                f"{str(path)!r} has explanations with {name}={then!r}, and now it is {now!r}: name "
                "another file with --output, or remove this one"
            )
    latents: dict[str, dict[str, Any]] = saved["latents"]
    return latents


def _without_number(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "n_latents"}
