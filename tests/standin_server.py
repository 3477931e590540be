"""A local OpenAI-compatible server with an artificial model, which fails on request.

The model is a hash: its text depends only on the prompt, the seed and the number of the choice, and the log-probability
of a token on its own letters. Every correct answer is therefore known, whatever failed before.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = re.split(" ", "red bees make honey and the hive is warm today.\n Mars has two moons never mix them")
MODEL = "farm-1"


@dataclass
class Behaviour:
    """What the server supports. `faults`: number of a request after the probes -> the fault."""

    faults: dict[int, str] = field(default_factory=dict)
    fault_of: Callable[[dict[str, Any]], str | None] | None = None  # the fault by the request's body
    completions: bool = True
    chat: bool = True
    echo: bool = True
    logprobs: bool = True
    several: str = "several"  # the result of `n`: "several", "one" (choice), "equal" (choices), "refused"
    samples: bool = True  # False: greedy at every temperature
    seed: bool = True
    begin: tuple[str, ...] = ("<s>",)  # tokens before the text
    refused: tuple[str, ...] = ()  # parameters
    window: int = 10_000  # characters
    delay: float = 0.0  # seconds per answer
    content_form: bool = False  # log-probabilities in llama.cpp's form


def pieces_of(text: str) -> list[str]:
    """The tokens: a word with the space before it, or one other character."""
    return re.findall(r" ?\w+|[^\w]", text)


def logprob_of(piece: str) -> float:
    return -(1 + sum(piece.encode()) % 97) / 32  # exact in binary, so that sums are too


def written(prompt: str, seed: int, max_tokens: int) -> str:
    """The model's text before any stop string, cut at `max_tokens` tokens."""
    digest = hashlib.sha256(f"{prompt}|{seed}".encode()).digest()
    return "".join(pieces_of(" " + " ".join(WORDS[byte % len(WORDS)] for byte in digest))[:max_tokens])


class StandIn:
    """The server, as a context manager. `asked`: all requests (path, body, headers); `answered`: those with a 200.

    Set `armed` after the probes of `connect`: faults are counted from then on.
    """

    def __init__(self, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.answered: list[tuple[str, dict[str, Any]]] = []
        self.most_at_once = 0
        self.armed = False
        self.number = 0
        self._at_once = 0
        self._lock = threading.Lock()
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it waits 40 ms between head and body

            def do_POST(self) -> None:
                standin._serve(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that has gone is no error
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        self.spec = f"{self.address}#{MODEL}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        version, _, rest = handler.path.removeprefix("/").partition("/")
        path = f"/{rest}" if version == "v1" else handler.path + " without a version"
        with self._lock:
            self.asked.append((path, body, dict(handler.headers)))
            fault = None
            if self.armed:
                fault = self.behaviour.faults.get(self.number)
                self.number += 1
                if self.behaviour.fault_of is not None:
                    fault = self.behaviour.fault_of(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.behaviour.delay)
            status, answer = self._answer(path, body)
            if fault:
                _misbehave(handler, fault, answer)
            else:
                if status == 200:
                    with self._lock:
                        self.answered.append((path, body))
                _send(handler, status, json.dumps(answer))
        except (BrokenPipeError, ConnectionResetError):  # the client has gone
            pass
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        has = self.behaviour
        if not {"/completions": has.completions, "/chat/completions": has.chat}.get(path):
            return 404, {"detail": "Not Found"}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        refused = list(has.refused) + ["n"] * (has.several == "refused")
        refused += [name for name in ("echo", "seed", "logprobs") if not getattr(has, name)]
        for name in refused:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'.{hint}", "param": name}}
        chat = path == "/chat/completions"
        prompt = "<user>" + body["messages"][0]["content"] + "<model>" if chat else body["prompt"]
        if len(prompt) > has.window:
            return 400, {"error": {"message": f"maximum context length is {has.window}\u001b[31m, you sent more"}}
        count = body.get("n", 1) if has.several in ("several", "equal") else 1
        usage = {"prompt_tokens": len(pieces_of(prompt)), "completion_tokens": count}
        choices = [self._choice(prompt, index, body, chat) for index in range(count)]
        reply = {"model": f"{MODEL}-2026-01-01", "choices": choices, "usage": usage, "system_fingerprint": "fp_7"}
        return 200, reply

    def _choice(self, prompt: str, index: int, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        has = self.behaviour
        drawn = has.samples and body.get("temperature")
        seed = body.get("seed", self.number) + (0 if has.several == "equal" else index)
        text = written(prompt, seed if drawn else 0, body.get("max_tokens", body.get("max_completion_tokens")))
        cuts = [text.find(stop) for stop in body.get("stop", []) if stop in text]
        text = text[: min(cuts)] if cuts else text
        pieces = pieces_of(text)
        if body.get("echo"):
            pieces, text = [*has.begin, *pieces_of(prompt), *pieces], prompt + text
        values = [None if body.get("echo") and at == 0 else logprob_of(piece) for at, piece in enumerate(pieces)]
        choice: dict[str, Any] = {"index": index, "finish_reason": "stop" if cuts else "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if "logprobs" in body:
            choice["logprobs"] = {"tokens": pieces, "token_logprobs": values}
            if chat or has.content_form:
                kept = pieces_of(written(prompt, 0, 1)) if body.get("echo") else pieces
                choice["logprobs"] = {"content": [{"token": piece, "logprob": logprob_of(piece)} for piece in kept]}
        return choice


def _misbehave(handler: BaseHTTPRequestHandler, fault: str, answer: dict[str, Any]) -> None:
    """fault: its kind and a value; {key} in the value becomes the request's API key"""
    kind, _, value = fault.partition(" ")
    whole = json.dumps(answer)
    key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
    if kind == "429":
        wait = email.utils.formatdate(time.time() + 1, usegmt=True) if value == "date" else value
        _send(handler, 429, '{"error": {"message": "slow down"}}', {"Retry-After": wait})
    elif kind in ("400", "401", "500", "503"):
        _send(handler, int(kind), json.dumps({"error": {"message": value.format(key=key) or "oh"}}))
    elif kind == "page":
        _send(handler, 502, f"<html><h1>Bad gateway</h1> {key}</html>")
    elif kind == "late":
        time.sleep(float(value))
        _send(handler, 200, whole)
    elif kind == "trickle":
        _send(handler, 200, whole, seconds=float(value))
    elif kind == "half":
        _send(handler, 200, whole, sent=len(whole) // 2)
        handler.close_connection = True
    elif kind == "silence":
        handler.close_connection = True
        handler.connection.close()
    elif kind == "garbage":
        _send(handler, 200, value.format(key=key))
    elif kind == "fewer":
        _send(handler, 200, json.dumps(answer | {"choices": answer["choices"][: int(value)]}))
    elif kind == "filter":
        filtered = [choice | {"finish_reason": "content_filter", "text": ""} for choice in answer["choices"]]
        _send(handler, 200, json.dumps(answer | {"choices": filtered}))
    elif kind == "redirect":
        _send(handler, 302, "", {"Location": value.format(key=key)})
    else:
        raise AssertionError(fault)


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    text: str,
    headers: dict[str, str] | None = None,
    *,
    sent: int | None = None,
    seconds: float = 0,
) -> None:
    """Send a reply, or only `sent` characters of it, or one byte every so many seconds."""
    content = text.encode()
    handler.send_response(status)
    for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
        handler.send_header(name, value)
    handler.end_headers()
    for byte in content if seconds else ():
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(seconds)
    if not seconds:
        handler.wfile.write(content[:sent])
