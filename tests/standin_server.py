"""A local OpenAI-compatible server with an artificial model, which fails on request.

The model is a hash: its text depends only on the prompt, the seed and the number of the choice, and the log-probability
of a token on its own letters. Every correct answer is therefore known, whatever failed before.
"""

import email.utils
import hashlib
import json
import re
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

WORDS = re.split(" ", "red bees make honey and the hive is warm today.\n Mars has two moons never mix them")
MODEL = "farm-1"
# What the server supports. faults: number of a request after the probes -> the fault; fault_of: it by the request's
# body; several: the result of `n`, "several", "one" (choice), "equal" (choices), "refused"; samples: False is greedy at
# every temperature; begin: tokens before the text; refused: parameters; window: in characters; delay: seconds per
# answer, or with `serial` between answers; content_form: log-probabilities in llama.cpp's form; most: limit of `n`;
# models: names that it lists; used: llama.cpp's own path reports that it would use them
BEHAVIOUR = {"faults": {}, "fault_of": lambda body: None, "completions": True, "chat": True, "echo": True}
BEHAVIOUR |= {"logprobs": True, "several": "several", "samples": True, "seed": True, "begin": ("<s>",), "refused": ()}
BEHAVIOUR |= {"window": 10_000, "delay": 0.0, "content_form": False, "models": [MODEL]}
BEHAVIOUR |= {"serial": False, "most": 128, "used": None}


def asked_of(body: dict[str, Any]) -> str:
    """The text of a request: the last message, or the prompt."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


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
    """A context manager. asked: all requests (path, body, headers); answered: those with a 200; armed: set after the
    probes of the engine, faults are counted from then on; say: what it answers to the body of a request instead of its
    own text (a text, or the fields of a message, and why it ended), or None"""

    def __init__(self, **behaviour: Any) -> None:
        assert behaviour.keys() <= BEHAVIOUR.keys()
        self.behaviour = SimpleNamespace(**BEHAVIOUR | behaviour)
        self.asked, self.answered, self.armed, self.say = [], [], False, lambda body: None
        self.number = self.most_at_once = self._at_once = 0
        self._lock, self._turn = threading.Lock(), threading.Lock()
        serve, has = self._serve, self.behaviour

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it waits 40 ms between head and body

            def do_POST(self) -> None:
                serve(self)

            def do_GET(self) -> None:
                models = {"data": [{"id": name} for name in has.models]}
                _send(self, 200 if self.path == "/v1/models" else 404, json.dumps(models))

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # a client that has gone is no error
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        self.spec = f"{self.address}#{MODEL}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        path = handler.path.removeprefix("/v1")
        with self._lock:
            self.asked.append((path, body, dict(handler.headers)))
            fault = None
            if self.armed:
                fault = self.behaviour.faults.get(self.number) or self.behaviour.fault_of(body)
                self.number += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            with self._turn if self.behaviour.serial else nullcontext():
                time.sleep(self.behaviour.delay)
            status, answer = self._answer(path if path != handler.path else "", body)
            if fault:
                _misbehave(handler, fault, answer)
            else:
                self.answered += [(path, body)] * (status == 200)
                _send(handler, status, json.dumps(answer))
        finally:
            with self._lock:
                self._at_once -= 1

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        has, chat = self.behaviour, path == "/chat/completions"
        if not path and has.used is not None:
            return 200, {"content": "x", "generation_settings": body | has.used}
        if not {"/completions": has.completions, "/chat/completions": has.chat}.get(path):
            return 404, {"detail": "Not Found"}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        refused = [*has.refused, *(name for name in ("echo", "seed", "logprobs") if not getattr(has, name))]
        for name in [*refused, *["n"] * (has.several == "refused")]:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'.{hint}", "param": name}}
        prompt = "<user>" + body["messages"][0]["content"] + "<model>" if chat else body["prompt"]
        if body.get("n", 1) > has.most:  # as llama.cpp
            message = f"Field 'n': Value must be between 1 <= value <= {has.most}, but got {body['n']}"
            return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
        if len(prompt) > has.window:
            return 400, {"error": {"message": f"maximum context length is {has.window}\u001b[31m, you sent more"}}
        count = body.get("n", 1) if has.several in ("several", "equal") else 1
        usage = {"prompt_tokens": len(pieces_of(prompt)), "completion_tokens": count}
        choices = [self._choice(prompt, index, body, chat) for index in range(count)]
        if said := self.say(body):
            content, finish = said
            message = {"role": "assistant"} | (content if isinstance(content, dict) else {"content": content})
            choices = [{"index": index, "finish_reason": finish} | ({"message": message} if chat else {"text": content})
                       for index in range(count)]  # fmt: skip
        reply = {"model": f"{MODEL}-2026-01-01", "choices": choices, "usage": usage, "system_fingerprint": "fp_7"}
        return 200, reply

    def _choice(self, prompt: str, index: int, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        has, echo = self.behaviour, body.get("echo")
        seed = body.get("seed", self.number) + (0 if has.several == "equal" else index)
        drawn = has.samples and body.get("temperature")
        text = written(prompt, seed if drawn else 0, body.get("max_tokens", body.get("max_completion_tokens")))
        cuts = [text.find(stop) for stop in body.get("stop", []) if stop in text]
        text = text[: min(cuts)] if cuts else text
        pieces = pieces_of(text)
        if echo:
            pieces, text = [*has.begin, *pieces_of(prompt), *pieces], prompt + text
        choice: dict[str, Any] = {"index": index, "finish_reason": "stop" if cuts else "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if "logprobs" in body and (chat or has.content_form):
            kept = pieces_of(written(prompt, 0, 1)) if echo else pieces
            choice["logprobs"] = {"content": [{"token": piece, "logprob": logprob_of(piece)} for piece in kept]}
        elif "logprobs" in body:
            values = [None if echo and at == 0 else logprob_of(piece) for at, piece in enumerate(pieces)]
            choice["logprobs"] = {"tokens": pieces, "token_logprobs": values}
        return choice


def _misbehave(handler: BaseHTTPRequestHandler, fault: str, answer: dict[str, Any]) -> None:
    """fault: its kind and a value; {key} in the value becomes the request's API key"""
    key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
    kind, _, value = fault.replace("{key}", key).partition(" ")
    whole, status, headers = json.dumps(answer), 200, {}
    if kind == "silence":
        handler.close_connection = True
        handler.connection.close()
        return
    if kind == "drip":  # headers that never end
        handler.close_connection = True
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 50:
            handler.wfile.write(bytes([byte]))
            time.sleep(float(value))
        return
    if kind == "late":
        time.sleep(float(value))
    elif kind == "half":
        handler.close_connection = True
    elif kind == "page":
        status, whole = 502, f"<html><h1>Bad gateway</h1> {key}</html>"
    elif kind == "garbage":
        whole = value
    elif kind == "fewer":
        whole = json.dumps(answer | {"choices": answer["choices"][: int(value)]})
    elif kind == "filter":
        filtered = [choice | {"finish_reason": "content_filter", "text": ""} for choice in answer["choices"]]
        whole = json.dumps(answer | {"choices": filtered})
    elif kind == "redirect":
        status, headers = 302, {"Location": value}
    elif kind != "trickle":
        status, whole = int(kind), json.dumps({"error": {"message": value or "oh"}})
        headers = {"Retry-After": email.utils.formatdate(time.time() + 1, usegmt=True) if value == "date" else value}
    sent = len(whole) // 2 if kind == "half" else None
    _send(handler, status, whole, headers, sent=sent, seconds=float(value) if kind == "trickle" else 0)


def _send(handler, status, text, headers=None, *, sent=None, seconds=0.0) -> None:
    """Send a reply, or only `sent` characters of it, or one byte every so many seconds."""
    content = text.encode()
    handler.send_response(status)
    for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
        handler.send_header(name, value)
    handler.end_headers()
    for part in [bytes([byte]) for byte in content] if seconds else [content[:sent]]:
        handler.wfile.write(part)
        time.sleep(seconds)
