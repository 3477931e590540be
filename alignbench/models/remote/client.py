"""HTTP client of an endpoint: API key, retries, and as many parallel requests as the server answers in time.

All requests run in one event loop, on a thread of its own. What an endpoint replies is untrusted text: before any of it
is shown, `Client` removes the key (a server may echo it) and control characters, and shortens it to one line.
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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import islice
from queue import Empty, SimpleQueue
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
OVERLOADED = {429, 503}
GROW = 0.9  # of the timeout: longest expected wait for which another parallel request is added
QUIET = 10.0  # seconds without an answer until it is said what is waiting
T = TypeVar("T")


class RequestFailed(Exception):  # noqa: N818
    """A request without a usable reply.

    status: HTTP status of the last try, 0 if there was no reply; retry_after: seconds that the server asks to wait
    late: no reply within the timeout; overloaded: late, or the server has too many requests
    not_found: there is no such path or model; permanent: the server refused it, and would refuse it again
    """

    def __init__(self, reason: str, status: int = 0, retry_after: float = 0, late: bool = False) -> None:
        super().__init__(reason)
        self.status, self.retry_after, self.late = status, retry_after, late
        self.overloaded = late or status in OVERLOADED
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
        host, _, _ = parts.hostname, parts.port, httpx.URL(address)
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
def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all clients."""
    own = asyncio.new_event_loop()
    threading.Thread(target=own.run_forever, name="endpoints", daemon=True).start()
    return own


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine in the event loop of all clients."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


class Gate:
    """Limits the requests in flight to those that the server answers in time (AIMD: Chiu and Jain 1989).

    The limit begins at 1 and grows with each answer (after the first overload, by one in a round of answers) if one
    request more would still be answered in time by a server that answers one after the other. It is halved if the
    server is overloaded, and all requests wait as long as the server asks for. A request that was given up after the
    timeout keeps its place for as long again, since a server may go on with it.

    most: maximum of the limit; longest: wait, in seconds
    """

    def __init__(self, most: int, timeout: float, longest: float) -> None:
        self.most, self.timeout, self.longest = most, timeout, longest
        self.limit, self.flying = 1.0, 0
        self._held = self._cut = 0.0
        self._given_up: list[float] = []  # when their places are free
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place, and adapt the limit to how the request ends that has it."""
        while True:
            began = time.monotonic()
            self._given_up = [free for free in self._given_up if free > began]
            used = self.flying + len(self._given_up) + 1
            if began >= self._held and used <= self.limit:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._changed.wait()
        self.flying += 1
        try:
            yield
            if (time.monotonic() - began) / used * (self.limit + 1) <= GROW * self.timeout:
                self.limit = min(self.most, self.limit + (1 / self.limit if self._cut else 1))
        except RequestFailed as failure:
            now = time.monotonic()
            if failure.overloaded:
                if began >= self._cut:  # requests that began before have seen the old limit
                    self.limit, self._cut = max(1, self.limit / 2), now
                self._held = max(self._held, now + min(failure.retry_after, self.longest))
            if failure.late:
                self._given_up.append(now + min(self.timeout, self.longest))
            raise
        finally:
            self.flying -= 1
            self._changed.set()
            self._changed = asyncio.Event()


@dataclass(repr=False, eq=False)
class Client:
    """Posts JSON, and retries requests that may succeed later.

    concurrency: maximum number of requests at once; timeout: seconds for a whole reply
    retries: after a 429, a 5xx, a timeout, a broken connection or an unreadable reply
    first_wait, longest_wait: seconds before the first retry, doubled each time, and their limit (also of Retry-After)
    counts: also tokens, as counted by the server; reported: names in the last reply
    """

    url: str
    key: str | None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines show the headers of replies
        for name, least in (("concurrency", 1), ("timeout", 0.1), ("retries", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise AlignbenchError(f"{name} {getattr(self, name)}: must be at least {least}")
        self.counts = Counter(requests=0, repeated=0, prompt_tokens=0, completion_tokens=0)
        self.reported = {"model": "", "system_fingerprint": ""}
        self.gate = Gate(self.concurrency, self.timeout, self.longest_wait)
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            limits=httpx.Limits(max_keepalive_connections=self.concurrency),
            follow_redirects=False,  # a redirect would send the key to another address
        )

    def ask(self, path: str, body: dict[str, Any], retries: int | None = None) -> list[Choice]:
        """`post`, and wait for the reply."""
        return start(self.post(path, body, retries)).result()

    async def post(self, path: str, body: dict[str, Any], retries: int | None = None) -> list[Choice]:
        """Post `body` until there is a reply with choices. Raises RequestFailed if the server refuses it or all tries
        failed, and AlignbenchError for a wrong key or a redirect."""
        wait, left = self.first_wait, self.retries if retries is None else retries
        while True:
            try:
                async with self.gate.place():
                    return await self._try(path, body)
            except RequestFailed as failure:
                if failure.permanent or failure.not_found or not left:
                    raise
                pause = max(wait * random.uniform(0.5, 1.0), failure.retry_after)
            await asyncio.sleep(min(self.longest_wait, pause))
            wait, left = min(2 * wait, self.longest_wait), left - 1
            self.counts["repeated"] += 1

    def look(self, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object at `url`, which is on the host of the endpoint; empty if there is none."""
        with suppress(TimeoutError, httpx.HTTPError, ValueError):
            status, _, text = start(self._send(url, body)).result()
            reply = parse_json(text) if status == 200 else {}
            return reply if isinstance(reply, dict) else {}
        return {}

    def clean(self, text: str) -> str:
        """A server's text as one short line of printable characters, without the key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if self.key:
            line = line.replace(self.key, "***")
        return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"

    async def _try(self, path: str, body: dict[str, Any]) -> list[Choice]:
        self.counts["requests"] += 1
        try:
            status, headers, text = await self._send(self.url + path, body)
            # a short key ("none") could be a word of a correct answer
            if self.key and (len(self.key) >= 16 or status >= 300):
                text = text.replace(self.key, "***")
            if 200 <= status < 300:
                return self._read(text)
        except (TimeoutError, httpx.TimeoutException):
            raise RequestFailed(f"no reply within {self.timeout:g} s (--timeout)", late=True) from None
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

    async def _send(self, url: str, body: dict[str, Any] | None) -> tuple[int, httpx.Headers, str]:
        """Status, headers and body of the reply. Raises TimeoutError, since the timeout of httpx is that of a part."""
        content, method = bytearray(), "GET" if body is None else "POST"
        async with asyncio.timeout(self.timeout), self.http.stream(method, url, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > LARGEST_BODY:
                    raise ValueError(f"more than {LARGEST_BODY // 2**20} MiB")
        return response.status_code, response.headers, content.decode("utf-8", "replace")

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
        usage = found if isinstance(found := reply.get("usage"), dict) else {}
        names = ("prompt_tokens", "completion_tokens")
        self.counts.update({name: usage[name] for name in names if isinstance(usage.get(name), int)})
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
    indices: Sequence[int], work: Callable[[int], Coroutine[Any, Any, T]], ahead: int, quiet: Callable[[float], None]
) -> Iterator[tuple[int, T]]:
    """Yield `work(index)` of each index, in the order of completion.

    At most `ahead` are started ahead of the consumer. Closing the generator cancels them.
    quiet: called after every QUIET seconds without a result, with the seconds since the last one
    """
    done: SimpleQueue[Future[T]] = SimpleQueue()
    running: dict[Future[T], int] = {}
    waiting, since = iter(indices), time.monotonic()
    try:
        while True:
            for index in islice(waiting, ahead - len(running)):
                running[future := start(work(index))] = index
                future.add_done_callback(done.put)
            if not running:
                return
            try:
                future = done.get(timeout=QUIET)
            except Empty:
                quiet(time.monotonic() - since)
                continue
            yield running[future], future.result()
            del running[future]
            since = time.monotonic()
    finally:
        for future in running:
            future.cancel()


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
