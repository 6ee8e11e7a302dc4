"""A language model behind an OpenAI-compatible server, asked for answers of a given form."""

from __future__ import annotations

import json
import os
import re
import threading
from typing import Any, Literal

from sae_lens_poly.errors import InputError, first_line

Schema = dict[str, Any]
Message = dict[Literal["role", "content"], str]


class UnreadableAnswer(Exception):
    """The judge has answered, as often as it was asked, with what is not of the form."""


class Judge:
    """Asks, and asks again where the answer is nonsense or cut off.

    The ``openai`` client itself tries again, with growing pauses, where the server is busy (429),
    broken (5xx) or silent.

    Args:
        endpoint: Address of the server's API, such as ``http://localhost:8000/v1``. The key, if it
            wants one, is in the environment variable OPENAI_API_KEY.
        model: Name of the model there.
        temperature: Of its answers.
        max_tokens: Of an answer.
        attempts: How often it is asked for an answer that can be read.
        max_retries: How often the client tries to reach the server.

    Raises:
        InputError: If the ``openai`` package is missing.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        temperature: float = 0.0,
        max_tokens: int = 400,
        attempts: int = 3,
        max_retries: int = 6,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                f"explanations need a client ({error}): pip install 'sae-lens-poly[explain]'"
            ) from None
        self.endpoint, self.model = endpoint, model
        self.temperature, self.max_tokens, self.attempts = temperature, max_tokens, attempts
        self.n_input, self.n_output, self.n_requests = 0, 0, 0
        self._structured = True
        self._lock = threading.Lock()
        self._openai = openai
        self._client = openai.OpenAI(
            base_url=endpoint,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=max_retries,
            timeout=120,
        )

    def ask(self, messages: list[Message], schema: Schema) -> dict[str, Any]:
        """An answer that has all properties of a schema.

        Args:
            messages: The conversation.
            schema: JSON schema of an object whose properties are strings, or numbers 0 and 1.

        Raises:
            UnreadableAnswer: If none of the attempts gives one.
            InputError: If the server cannot be reached, or refuses.
        """
        problem = ""
        for attempt in range(self.attempts):
            # The same answer would come back at temperature 0.
            choice = self._request(messages, schema, self.temperature + 0.3 * (attempt > 0))
            if choice is None:
                problem = "it was empty"
            elif choice.finish_reason == "length":
                problem = f"it was cut off at {self.max_tokens} tokens"
            else:
                answer = _read(choice.message.content or "")
                problem = _wrong_with(answer, schema)
                if not problem:
                    return answer
        raise UnreadableAnswer(f"no answer in {self.attempts} attempts could be read: {problem}")

    def _request(self, messages: list[Message], schema: Schema, temperature: float) -> Any:
        form: dict[str, Any] = {}
        if self._structured:
            wanted = {"name": "answer", "schema": schema, "strict": True}
            form = {"response_format": {"type": "json_schema", "json_schema": wanted}}
        try:
            answer = self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=temperature,
                max_tokens=self.max_tokens,
                **form,
            )
        except self._openai.BadRequestError as error:
            if not self._structured or "response_format" not in str(error):
                raise self._refused(error) from error
            self._structured = False  # an older server: the prompt asks for JSON as well
            return self._request(messages, schema, temperature)
        except self._openai.OpenAIError as error:
            raise self._refused(error) from error
        except ValueError:  # a body that is no JSON
            return None
        usage = getattr(answer, "usage", None)
        with self._lock:
            self.n_requests += 1
            self.n_input += usage.prompt_tokens if usage else 0
            self.n_output += usage.completion_tokens if usage else 0
        choices = getattr(answer, "choices", None)
        return choices[0] if choices else None

    def _refused(self, error: Exception) -> InputError:
        return InputError(
            f"endpoint={self.endpoint!r}, model={self.model!r}: {first_line(error)[:300]}; check "
            "the address, the name of the model and OPENAI_API_KEY, and give the command again to "
            "go on"
        )


def _read(text: str) -> dict[str, Any]:
    """The JSON object in a text, which models like to wrap in other words; empty if none."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        answer = json.loads(found[0]) if found else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _wrong_with(answer: dict[str, Any], schema: Schema) -> str:
    """What an answer lacks; nothing if it fits."""
    for name, kind in schema["properties"].items():
        value = answer.get(name)
        if kind["type"] == "string" and not (isinstance(value, str) and value.strip()):
            return f"it has no text for {name!r}"
        if kind["type"] == "integer" and (isinstance(value, bool) or value not in (0, 1)):
            return f"it has neither 0 nor 1 for {name!r}"
    return ""
