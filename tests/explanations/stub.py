"""A server that speaks OpenAI's protocol, with faults on order."""

import contextlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[list[dict], dict], dict]


class Stub:
    """Answers by a function of messages and schema; ``faults`` are served first, one a request.

    A fault is a status, or "cut off", "nonsense", "no json".
    """

    def __init__(self, answer: Answer, faults=(), structured=True) -> None:
        self.answer, self.faults, self.structured = answer, list(faults), structured
        self.n_requests = 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def running(self):
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    stub.n_requests += 1
                    fault = stub.faults.pop(0) if stub.faults else None
                status, reply = stub.reply(body, fault)
                data = reply.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()

    def reply(self, body, fault):
        if isinstance(fault, int):
            return fault, json.dumps({"error": {"message": f"fault {fault}"}})
        if fault == "no json":
            return 200, "<html>a proxy says hello</html>"
        if "response_format" in body and not self.structured:
            return 400, json.dumps({"error": {"message": "unknown field response_format"}})
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        content = json.dumps(self.answer(body["messages"], schema))
        if fault == "nonsense":
            content = "I would rather not say."
        if fault == "cut off":
            content = content[: len(content) // 2]
        choice = {
            "index": 0,
            "finish_reason": "length" if fault == "cut off" else "stop",
            "message": {"role": "assistant", "content": content},
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return 200, json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
             "choices": [choice], "usage": usage}
        )  # fmt: skip


def passages(messages):
    """The texts of the passages of a request."""
    return re.split(r"\n*Passage \d+:\n", messages[-1]["content"])[1:]


def judge_by(tells: Callable[[str], bool], explanation="digits") -> Answer:
    """Answers 1 for the passages that a function tells."""

    def answer(messages, schema):
        if "explanation" in schema["properties"]:
            return {"explanation": explanation}
        return {f"passage_{k}": int(tells(t)) for k, t in enumerate(passages(messages), start=1)}

    return answer
