"""A small HTTP server that speaks the OpenAI protocol, and can be told to fail.

`FakeEndpoint` answers with what `answer(path, body)` says; `faults` is a list of what goes wrong
with the next requests, in their order:

| fault | what happens |
|---|---|
| ("status", 429, {"Retry-After": "1"}) | that status and these headers |
| ("hang", 5.0) | nothing is said for so many seconds |
| ("drip", 0.05) | the body comes byte by byte, with that pause |
| ("drip head", 0.05) | the status line and headers come byte by byte, without end |
| ("drip error", 0.05) | a status 400 whose body comes byte by byte |
| ("half",) | the headers promise the whole body, half of it comes |
| ("text", "...") | a body that is not JSON |
| ("line", "...") | a status line that is none, with these words |
| ("die",) | the connection is closed without a word |

`FakeModel` puts a real (tiny) model behind it, in vLLM's, SGLang's or transformers' words.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import DynamicCache

from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel

Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


class FakeEndpoint:
    """Use as a context manager; `url` is where it listens.

    With `window`, it lists that many positions and refuses a request that may need more, as vLLM
    does.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        models: tuple[str, ...] = ("m",),
        port: int = 0,
        window: int | None = None,
    ) -> None:
        self.answer, self.models, self.window = answer, models, window
        self.faults: list[tuple[Any, ...]] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.port = port
        self.open()

    def open(self) -> None:
        """Listens (again, on the same port after `close`)."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.handle(self, {})

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                outer.handle(self, json.loads(self.rfile.read(size)))

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                pass  # a client that hung up

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stops listening; what is under way is cut off."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> FakeEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def posts(self) -> list[dict[str, Any]]:
        """The bodies of all completions asked for."""
        return [body for path, body in self.seen if body]

    def handle(self, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            fault = self.faults.pop(0) if self.faults and body else ("",)
            self.seen.append((request.path, body))
            self.headers.append(dict(request.headers))
            self.times.append(time.monotonic())
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        self._handle(request, body, fault)

    def _done(self) -> None:
        """Counted before the answer leaves: the next request may be there right after it."""
        with self.lock:
            self.busy -= 1

    def _handle(
        self, request: BaseHTTPRequestHandler, body: dict[str, Any], fault: tuple[Any, ...]
    ) -> None:
        kind, *details = fault
        if kind == "die":
            self._done()
            request.close_connection = True
            return
        if kind == "line":
            self._done()
            request.wfile.write(f"{details[0]}\r\n\r\n".encode())
            request.close_connection = True
            return
        if kind == "drip head":
            self._done()
            self._drip(request, b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000, details[0])
            request.close_connection = True
            return
        if kind == "hang":
            time.sleep(details[0])
        if request.path.endswith("/models"):
            data = [{"id": m, "max_model_len": self.window} for m in self.models]
            status, found = 200, {"object": "list", "data": data}
        elif self.window and len(body["prompt"]) + body["max_tokens"] > self.window:
            status, found = 400, {"error": {"message": f"maximum context length {self.window}"}}
        else:
            status, found = self.answer(request.path, body)
        headers: dict[str, str] = {}
        if kind == "status":
            status, headers = int(details[0]), dict(details[1]) if len(details) > 1 else {}
            found = {"error": {"message": details[2] if len(details) > 2 else "no"}}
        if kind == "drip error":
            status, kind = 400, "drip"
        self._done()
        data = details[0].encode() if kind == "text" else json.dumps(found).encode()
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if kind == "half":
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
        elif kind == "drip":
            self._drip(request, data, details[0])
        else:
            request.wfile.write(data)

    @staticmethod
    def _drip(request: BaseHTTPRequestHandler, data: bytes, pause: float) -> None:
        for i in range(len(data)):
            request.wfile.write(data[i : i + 1])
            request.wfile.flush()
            time.sleep(pause)


class FakeModel:
    """Completions of a tiny model: greedy, or sampled with the request's own seed.

    kind "vllm" and "sglang" take and give token ids; "transformers" takes and gives text, refuses
    fields that it does not know, leaves special tokens out, and needs its generation_config.
    """

    def __init__(self, model: ReasoningModel, kind: str = "vllm", name: str = "m") -> None:
        self.model, self.kind, self.name = model, kind, name
        self.lock = threading.Lock()
        self.extra_tokens = 0
        self.says_ids = True

    def __call__(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        with self.lock:
            return self._text(body) if self.kind == "transformers" else self._tokens(body)

    def _tokens(self, body: dict[str, Any]) -> tuple[int, Any]:
        prompt = list(body["prompt"])
        if body.get("echo"):
            logp = torch.log_softmax(self._logits(prompt), -1)
            own = [None, *(float(logp[i, t]) for i, t in enumerate(prompt[1:]))]
            lp = {"token_logprobs": [*own, -1.0], "tokens": ["?"] * (len(prompt) + 1)}
            return 200, _reply("", "length", {"logprobs": lp}, len(prompt), 1)
        stops = set(body.get("stop_token_ids", ()))
        ids, logprobs, ended = self._generate(
            prompt, body["max_tokens"] + self.extra_tokens, stops, body.get("seed", 0),
            body["temperature"],
        )  # fmt: skip
        lp = {"token_logprobs": logprobs, "tokens": [f"token_id:{i}" for i in ids]}
        more: dict[str, Any] = {"logprobs": lp}
        if self.says_ids:
            more["token_ids"] = ids
        more["matched_stop" if self.kind == "sglang" else "stop_reason"] = (
            ids[-1] if ended else None
        )
        return 200, _reply("", "stop" if ended else "length", more, len(prompt), len(ids))

    def _text(self, body: dict[str, Any]) -> tuple[int, Any]:
        known = {"model", "prompt", "generation_config", "seed", "max_tokens", "temperature"}
        if strange := set(body) - known - {"logprobs", "echo", "stop"}:
            return 422, {"detail": f"Unexpected fields in the request: {strange}"}
        if not isinstance(body["prompt"], str):
            return 400, {"detail": "prompt must be a string."}
        config = json.loads(body["generation_config"])
        prompt = list(self.model.tokenizer(body["prompt"])["input_ids"])
        limit = config["max_new_tokens"]
        temperature = config.get("temperature", 1.0) if config["do_sample"] else 0.0
        ids, _, _ = self._generate(
            prompt, limit, set(config.get("eos_token_id", ())), body.get("seed", 0), temperature
        )
        text = self.model.text(ids, skip_special=True)
        return 200, _reply(
            text, "length" if len(ids) >= limit else "stop", {}, len(prompt), len(ids)
        )

    def _generate(
        self, prompt: list[int], limit: int, stops: set[int], seed: int, temperature: float
    ) -> tuple[list[int], list[float], bool]:
        noise = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        logprobs: list[float] = []
        cache, read = DynamicCache(config=self.model.hf.config), prompt
        while len(ids) < limit:
            logits = self._logits(read, cache)[-1]
            if temperature:
                p = torch.softmax(logits / temperature, -1)
                token = int(torch.multinomial(p, 1, generator=noise))
            else:
                token = int(logits.argmax())
            ids.append(token)
            read = [token]
            logprobs.append(float(torch.log_softmax(logits, -1)[token]))
            if token in stops:
                return ids, logprobs, True
        return ids, logprobs, False

    @torch.no_grad()
    def _logits(self, ids: list[int], cache: DynamicCache | None = None) -> torch.Tensor:
        tokens = torch.tensor([ids])
        hf = self.model.hf
        out = hf(input_ids=tokens, use_cache=cache is not None, **handing(hf, cache))
        return out.logits[0].float()


def _reply(
    text: str, finish: str, more: dict[str, Any], prompt_tokens: int, tokens: int
) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish, **more}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    return {"object": "text_completion", "choices": [choice], "usage": usage}
