"""HTTP client of an endpoint: API key, retries, and parallel requests.

What an endpoint replies is untrusted text. Before any of it is shown, `Client` removes the key (a server may echo it)
and control characters, and shortens it to one line.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from alignbench.errors import AlignbenchError
from alignbench.models.remote.replies import Choice, read_choices

if TYPE_CHECKING:
    import httpx

KEY, OPENAI_KEY, OPENAI_HOST = "ALIGNBENCH_API_KEY", "OPENAI_API_KEY", "api.openai.com"
LONGEST_MESSAGE = 200  # characters shown of a server's message
LARGEST_BODY = 64 * 2**20  # bytes of a reply; an endpoint does not send more
RETRIED = {408, 409, 425, 429}  # and 5xx: statuses for which a retry may succeed
NOT_A_URL = "endpoint: its address is not a URL; write https://host/v1#model-name"
T = TypeVar("T")


class RequestFailed(Exception):  # noqa: N818
    """A request without a usable reply.

    status: HTTP status of the last try, None if there was no reply
    permanent: the server refused the request, and the same request would fail again
    retry_after: seconds that the server asks to wait
    not_found: there is no such path or model
    """

    def __init__(self, reason: str, status: int | None = None, permanent: bool = False, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.status, self.permanent, self.retry_after = status, permanent, retry_after
        self.not_found = status in (404, 405)


def parse_endpoint(spec: str) -> tuple[str, str]:
    """URL up to and including the version, and model, of `https://host[:port]/v1#model-name`.

    Raises AlignbenchError in one line that never shows a password.
    """
    if not spec.isprintable() or " " in spec:
        raise AlignbenchError("endpoint: its address has spaces or control characters")
    try:
        parts = urlsplit(spec)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise AlignbenchError(NOT_A_URL) from error
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise AlignbenchError(f"endpoint {host}: no name or password in the address; set {KEY} in the environment")
    if parts.query or "?" in spec.partition("#")[0]:
        raise AlignbenchError(f"endpoint {host}: the address must not have a query (?…); put the key into {KEY}")
    if parts.scheme not in ("http", "https") or not host:
        raise AlignbenchError(f"endpoint {spec}: not an address; write https://host/v1#model-name")
    if not parts.fragment:
        raise AlignbenchError(f"endpoint {spec}: no model; add its name after a #, as in https://host/v1#model-name")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", parts.fragment


def find_key(url: str) -> str | None:
    """The key for an address, from the environment. OpenAI's own key is sent to OpenAI only, encrypted."""
    parts = urlsplit(url)
    name = KEY
    if not os.environ.get(KEY) and parts.hostname == OPENAI_HOST and parts.scheme == "https":
        name = OPENAI_KEY
    key = os.environ.get(name, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise AlignbenchError(f"{name}: not a key, since it contains a space, a line break or a non-ASCII character")
    return key or None


def is_local(url: str) -> bool:
    """Whether the address is this machine or in a private network."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host
    return address.is_private or address.is_loopback


@dataclass(repr=False, eq=False)
class Client:
    """Posts JSON, and retries requests that may succeed later.

    concurrency: maximum number of requests at once, over all threads
    timeout: seconds for a whole reply
    retries: after a 429, a 5xx, a timeout, a broken connection or an unreadable reply
    first_wait, longest_wait: seconds before the first retry, doubled each time, and their limit (also of Retry-After)
    """

    url: str
    key: str | None
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        import httpx

        logging.getLogger("httpcore").setLevel(logging.INFO)  # its debug lines show the headers of replies
        if self.concurrency < 1:
            raise AlignbenchError(f"concurrency {self.concurrency}: must be at least 1")
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise AlignbenchError(NOT_A_URL) from error
        self.sent = self.repeated = 0
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}  # as counted by the server
        self.reported = {"model": "", "system_fingerprint": ""}  # names in the last reply
        self._slots = threading.BoundedSemaphore(self.concurrency)
        self._lock = threading.Lock()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            limits=httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency),
            follow_redirects=False,  # a redirect would send the key to another address
        )

    def close(self) -> None:
        self._http.close()

    def ask(
        self, path: str, body: dict[str, Any], *, retries: int | None = None, stop: threading.Event | None = None
    ) -> list[Choice]:
        """Post `body` until there is a reply with choices.

        Raises RequestFailed if the server refuses it or all tries failed, CancelledError once `stop` is set, and
        AlignbenchError if no request can succeed: a wrong key, a redirect.
        """
        stop = stop or threading.Event()
        retries = self.retries if retries is None else retries
        for attempt in itertools.count():
            if stop.is_set():
                raise CancelledError
            try:
                return self._try(path, body)
            except RequestFailed as failure:
                if failure.permanent:
                    raise
                if attempt >= retries:
                    times = f", {attempt + 1} times" if attempt else ""
                    raise RequestFailed(f"{failure}{times}", failure.status) from failure
                wait = min(self.longest_wait, self.first_wait * 2 ** min(attempt, 30)) * random.uniform(0.5, 1.0)
                wait = min(self.longest_wait, max(wait, failure.retry_after))
            if stop.wait(wait):
                raise CancelledError
            with self._lock:
                self.repeated += 1
        raise AssertionError("unreachable")

    def clean(self, text: str) -> str:
        """A server's text as one short line of printable characters, without the key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if self.key:
            line = line.replace(self.key, "***")
        return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"

    def _try(self, path: str, body: dict[str, Any]) -> list[Choice]:
        import httpx

        status = None
        try:
            status, headers, text = self._post(path, body)
            if 200 <= status < 300:
                return self._read(_json_object(text))
        except httpx.TimeoutException:
            raise RequestFailed(f"no reply within {self.timeout:g} s", status) from None
        except httpx.HTTPError as error:
            reason = self.clean(str(error)) or type(error).__name__
            raise RequestFailed(f"the connection failed ({reason})", status) from None
        except ValueError as error:
            raise RequestFailed(f"the reply is not valid ({self.clean(str(error))})", status) from None
        reason = f"{status} {self._message(text)}".strip()
        if status in (401, 403):
            advice = f"the key in the environment is not accepted; set {KEY}" if self.key else f"set the key in {KEY}"
            raise AlignbenchError(f"endpoint {self.url}: {reason}: {advice}")
        if 300 <= status < 400:
            target = self.clean(headers.get("location", "another address"))
            raise AlignbenchError(f"endpoint {self.url}: it redirects to {target}; give that address instead")
        permanent = 400 <= status < 500 and status not in RETRIED
        raise RequestFailed(reason, status, permanent, _retry_after(headers.get("retry-after", "")))

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, httpx.Headers, str]:
        """Status, headers and text of a reply. The timeout also covers a server that sends a few bytes at a time."""
        import httpx

        with self._slots:
            with self._lock:
                self.sent += 1
            deadline = time.monotonic() + self.timeout
            content = bytearray()
            with self._http.stream("POST", self.url + path, json=body) as response:
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("")
                    if len(content) > LARGEST_BODY:
                        raise ValueError(f"more than {LARGEST_BODY // 2**20} MiB")
        text = content.decode("utf-8", "replace")
        # a short key ("none") could be a word of a correct answer
        if self.key and (len(self.key) >= 16 or response.status_code >= 300):
            text = text.replace(self.key, "***")
        return response.status_code, response.headers, text

    def _read(self, reply: dict[str, Any]) -> list[Choice]:
        """The choices of a reply, whose usage is recorded. Raises ValueError if there are none."""
        choices = read_choices(reply)
        usage = reply.get("usage")
        with self._lock:
            for name in self.tokens:
                tokens = usage.get(name) if isinstance(usage, dict) else None
                self.tokens[name] += tokens if isinstance(tokens, int) else 0
            for name in self.reported:
                if isinstance(reply.get(name), str):
                    self.reported[name] = self.clean(reply[name])
        return choices

    def _message(self, text: str) -> str:
        """The message in the body of an error: in OpenAI's form, in that of other servers, or plain text."""
        try:
            found = json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else found
            if isinstance(error, dict):
                error = error.get("message") or error.get("detail") or error
            return self.clean(error if isinstance(error, str) else json.dumps(error))
        except (ValueError, RecursionError):
            return self.clean(re.sub(r"<[^>]*>", " ", text[:10_000]))


def in_parallel(
    indices: Sequence[int], work: Callable[[int], T], workers: int, stop: threading.Event
) -> Iterator[tuple[int, T]]:
    """Yield `work(index)` of each index, computed in several threads, in the order of completion.

    At most 2 × `workers` indices are started ahead of the consumer. Closing the generator sets `stop` and starts no
    more. An exception of `work` is raised here.
    """
    todo: SimpleQueue[int | None] = SimpleQueue()
    done: SimpleQueue[Future[tuple[int, T]]] = SimpleQueue()

    def serve() -> None:
        for index in iter(todo.get, None):
            if stop.is_set():
                return
            future: Future[tuple[int, T]] = Future()
            try:
                future.set_result((index, work(index)))
            except BaseException as error:
                future.set_exception(error)
            done.put(future)

    workers = min(workers, len(indices))
    for _ in range(workers):  # daemons, so that Ctrl-C does not wait for requests in progress
        threading.Thread(target=serve, daemon=True).start()
    try:
        for started, index in enumerate(indices):
            todo.put(index)
            if started >= 2 * workers - 1:
                yield done.get().result()
        for _ in range(min(len(indices), 2 * workers - 1)):
            yield done.get().result()
    finally:
        stop.set()
        for _ in range(workers):
            todo.put(None)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        raise ValueError("not JSON" if text else "empty") from error
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if wrong := found.get("error"):  # some gateways send errors with status 200
        raise ValueError(str(wrong.get("message", wrong) if isinstance(wrong, dict) else wrong))
    return found


def _retry_after(value: str) -> float:
    """Seconds to wait according to a Retry-After header: a number or a date (RFC 9110, section 10.2.3)."""
    try:
        if value.strip()[:1].isdigit():
            seconds = float(value)
        else:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, seconds) if seconds == seconds else 0.0
