"""HTTP client of an endpoint: API key, retries, and parallel requests.

What an endpoint replies is untrusted text. Before any of it is shown, `Client` removes the key (a server may echo it)
and control characters, and shortens it to one line.
"""

import asyncio
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from alignbench.errors import AlignbenchError
from alignbench.models.remote.replies import Choice, read_choices
from alignbench.parse import parse_json

KEY, HOST = "ALIGNBENCH_API_KEY", "ALIGNBENCH_API_HOST"
LONGEST_MESSAGE = 200  # characters shown of a server's message
LARGEST_BODY = 64 * 2**20  # bytes of a reply; an endpoint does not send more
RETRIED = {408, 409, 425, 429}  # and 5xx: statuses for which a retry may succeed
T = TypeVar("T")


class RequestFailed(Exception):  # noqa: N818
    """A request without a usable reply.

    status: HTTP status of the last try, 0 if there was no reply; retry_after: seconds that the server asks to wait
    not_found: there is no such path or model; permanent: the server refused it, and would refuse it again
    """

    def __init__(self, reason: str, status: int = 0, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after
        self.not_found = status in (404, 405)
        self.permanent = 400 <= status < 500 and status not in RETRIED and not self.not_found


def parse_endpoint(spec: str) -> tuple[str, str]:
    """URL up to and including the version, and model, of `https://host[:port]/v1#model-name`. Raises AlignbenchError,
    which never shows a password."""
    address, _, model = spec.partition("#")
    if not spec.isprintable() or " " in spec:
        raise AlignbenchError("endpoint: its address has spaces or control characters")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL) as error:
        raise AlignbenchError("endpoint: its address is not a URL; write https://host/v1#model-name") from error
    for wrong, message in (
        ("@" in parts.netloc, f"{host}: no name or password in the address; set {KEY}_… in the environment"),
        ("?" in address, f"{host}: the address must not have a query (?…); put the key into {KEY}_…"),
        (parts.scheme not in ("http", "https") or not host, f"{spec}: not an address; write https://host/v1#model"),
        (not model, f"{spec}: no model; add its name after a #, as in https://host/v1#model-name"),
    ):
        if wrong:
            raise AlignbenchError(f"endpoint {message}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", model


def key_name(url: str) -> str:
    """The environment variable with the key of a URL's host: ALIGNBENCH_API_KEY_API_EXAMPLE_COM for api.example.com."""
    return f"{KEY}_{re.sub('[^A-Z0-9]', '_', str(urlsplit(url).hostname).upper())}"


def find_key(url: str) -> str | None:
    """The key that belongs to the host of a URL: `key_name`, or else KEY if HOST names this host. No other is sent."""
    name, own = key_name(url), os.environ.get(HOST, "").strip().lower() == urlsplit(url).hostname
    name = KEY if own and name not in os.environ else name
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise AlignbenchError(f"{name}: not a key, since it contains a space, a line break or a non-ASCII character")
    return key or None


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all clients, on a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="endpoints", daemon=True).start()
    return loop


@dataclass(repr=False, eq=False)
class Client:
    """Posts JSON, and retries requests that may succeed later.

    concurrency: maximum number of requests at once, over all threads; timeout: seconds for a reply with its headers
    retries: after a 429, a 5xx, a timeout, a broken connection or an unreadable reply
    first_wait, longest_wait: seconds before the first retry, doubled each time, and their limit (also of Retry-After)
    counts: also tokens, as counted by the server; reported: names in the last reply
    """

    url: str
    key: str | None
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines show the headers of replies
        if self.concurrency < 1:
            raise AlignbenchError(f"concurrency {self.concurrency}: must be at least 1")
        self.counts = Counter(requests=0, repeated=0, prompt_tokens=0, completion_tokens=0)
        self.reported = {"model": "", "system_fingerprint": ""}
        self._slots = threading.BoundedSemaphore(self.concurrency)
        self._lock = threading.Lock()
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            limits=httpx.Limits(max_keepalive_connections=self.concurrency),
            follow_redirects=False,  # a redirect would send the key to another address
        )

    def ask(
        self, path: str, body: dict[str, Any], *, retries: int | None = None, stop: threading.Event | None = None
    ) -> list[Choice]:
        """Post `body` until there is a reply with choices. Raises RequestFailed if the server refuses it or all tries
        failed, CancelledError once `stop` is set, and AlignbenchError for a wrong key or a redirect."""
        stop = stop or threading.Event()
        wait, left = self.first_wait, self.retries if retries is None else retries
        while not stop.is_set():
            try:
                return self._try(path, body)
            except RequestFailed as failure:
                if failure.permanent or failure.not_found or not left:
                    raise
                stop.wait(min(self.longest_wait, max(wait * random.uniform(0.5, 1.0), failure.retry_after)))
                wait, left = min(2 * wait, self.longest_wait), left - 1
                self._count(repeated=1)
        raise CancelledError

    def clean(self, text: str) -> str:
        """A server's text as one short line of printable characters, without the key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if self.key:
            line = line.replace(self.key, "***")
        return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"

    def _count(self, **amounts: int) -> None:
        with self._lock:
            self.counts.update(amounts)

    def _try(self, path: str, body: dict[str, Any]) -> list[Choice]:
        self._count(requests=1)
        try:
            with self._slots:
                reply = asyncio.run_coroutine_threadsafe(self._post(self.url + path, body), _loop()).result()
            status, headers, text = reply
            # a short key ("none") could be a word of a correct answer
            if self.key and (len(self.key) >= 16 or status >= 300):
                text = text.replace(self.key, "***")
            if 200 <= status < 300:
                return self._read(text)
        except (TimeoutError, httpx.TimeoutException):
            raise RequestFailed(f"no reply within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise RequestFailed(f"the connection failed ({self.clean(str(error)) or type(error).__name__})") from None
        except ValueError as error:
            raise RequestFailed(f"the reply is not valid ({self.clean(str(error))})", 200) from None
        reason = f"{status} {self._message(text)}".strip()
        if status in (401, 403):
            name = key_name(self.url)
            advice = f"the key in the environment is not accepted; set {name}" if self.key else f"set the key in {name}"
            raise AlignbenchError(f"endpoint {self.url}: {reason}: {advice}")
        if 300 <= status < 400:
            target = self.clean(headers.get("location", "another address"))
            raise AlignbenchError(f"endpoint {self.url}: it redirects to {target}; give that address instead")
        raise RequestFailed(reason, status, _retry_after(headers.get("retry-after", "")))

    async def _post(self, url: str, body: dict[str, Any]) -> tuple[int, httpx.Headers, str]:
        """Status, headers and body of the reply. Raises TimeoutError, since the timeout of httpx is that of a part."""
        content = bytearray()
        async with asyncio.timeout(self.timeout), self.http.stream("POST", url, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_BODY:
                    raise ValueError(f"more than {LARGEST_BODY // 2**20} MiB")
        return response.status_code, response.headers, content.decode("utf-8", "replace")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.http.aclose(), _loop()).result()

    def _read(self, text: str) -> list[Choice]:
        """Raises ValueError if there are no choices in the reply."""
        try:
            reply = parse_json(text, number=_finite)
        except ValueError as error:
            raise ValueError("not JSON" if text else "empty") from error
        if not isinstance(reply, dict):
            raise ValueError("not a JSON object")
        if reply.get("error"):  # some gateways send errors with status 200
            raise ValueError(self._message(text))
        choices = read_choices(reply)
        usage = reply.get("usage")
        tokens = usage if isinstance(usage, dict) else {}
        self._count(**{n: tokens[n] for n in ("prompt_tokens", "completion_tokens") if isinstance(tokens.get(n), int)})
        self.reported |= {name: self.clean(reply[name]) for name in self.reported if isinstance(reply.get(name), str)}
        return choices

    def _message(self, text: str) -> str:
        """The message in the body of an error: in OpenAI's form, in that of other servers, or plain text."""
        with suppress(ValueError):
            error = parse_json(text)
            for name in ("error", "message", "detail"):
                error = error.get(name) or error if isinstance(error, dict) else error
            text = error if isinstance(error, str) else json.dumps(error)
        return self.clean(re.sub(r"<[^>]*>", " ", text[:10_000]))


def in_parallel(
    indices: Sequence[int], work: Callable[[int], T], workers: int, stop: threading.Event
) -> Iterator[tuple[int, T]]:
    """Yield `work(index)` of each index, computed in several threads, in the order of completion.

    At most 2 × `workers` are started ahead of the consumer. Closing the generator sets `stop` and starts no more.
    """
    ahead = threading.Semaphore(2 * workers)

    def serve(index: int) -> tuple[int, T]:
        ahead.acquire()
        if stop.is_set():
            raise CancelledError
        return index, work(index)

    pool = ThreadPool(min(workers, max(1, len(indices))))  # of daemons, so that Ctrl-C does not wait for requests
    try:
        for found in pool.imap_unordered(serve, indices):
            yield found
            ahead.release()
    finally:
        stop.set()
        ahead.release(len(indices) + 1)
        pool.terminate()


def _finite(number: str) -> float | None:
    """None for NaN and infinity, which JSON does not have: as if the number were missing."""
    value = float(number)
    return value if math.isfinite(value) else None


def _retry_after(value: str) -> float:
    """In seconds, of a number or a date (RFC 9110, section 10.2.3)."""
    with suppress(ValueError):
        return max(0.0, float(value))  # 0 for NaN
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
