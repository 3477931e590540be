"""An engine behind an OpenAI-compatible endpoint: prompts go to /completions, or to /chat/completions as messages.

What a server offers is found out when it is connected: whether it echoes a prompt with log-probabilities (and so can
score given text), gives those of what it wrote, takes a seed, talks in chats. Its samples are only as reproducible as
the server itself: the same seed is sent for the same sample, and many servers ignore it, or round otherwise in another
batch. Log-probabilities are passed on as they come; most servers give the model's own, before temperature and top-p,
but none says so.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from alignbench.errors import AlignbenchError
from alignbench.models.choices import Choice, completion, read_choices, score
from alignbench.models.client import (
    Client,
    Endpoint,
    GaveUp,
    NotThere,
    Refused,
    find_key,
    in_parallel,
    is_local,
    parse_endpoint,
)
from alignbench.types.engine import Completion, Loglikelihood, Prompt, Request, Sampling

__all__ = ["Endpoint", "EndpointEngine", "connect", "parse_endpoint"]

COMPLETIONS, CHAT = "/completions", "/chat/completions"
PROBE = "The sun rises in the east and sets in the"
DRAW = "Twenty random words:"  # hardly ever continued twice in the same way
PROBE_RETRIES = 2  # a wrong address should be told soon
MOST_STOPS = 4  # OpenAI's limit; at further ones the text is cut here
MOST_CHOICES = 128  # OpenAI's limit of `n`
SILENT = 8  # prompts in a row without an answer: the endpoint is not there any more
# how servers word a refusal that says nothing of other prompts
ABOUT_THE_PROMPT = re.compile(r"context|length|too (long|large|many)|\btokens\b|filter|polic|moderat", re.IGNORECASE)
T = TypeVar("T")


@dataclass(frozen=True)
class Offer:
    """What a path takes and gives, as found out by trying.

    echo: it gives the log-probabilities of the prompt's own tokens
    logprobs: the parameter that asks for those of what is written; empty where they are not offered
    seed: it takes one
    max_tokens: how it calls the limit; newer chat models want `max_completion_tokens`
    model: the name that it gives itself
    """

    echo: bool
    logprobs: dict[str, Any]
    seed: bool
    max_tokens: str
    model: str | None


def connect(
    spec: str,
    *,
    concurrency: int = 8,
    timeout: float = 60.0,
    retries: int = 6,
    first_wait: float = 1.0,
    longest_wait: float = 60.0,
    notify: Callable[[str], None] | None = None,
) -> EndpointEngine:
    """Reach the endpoint `https://host[:port]/v1#model-name` and find out what it offers.

    concurrency: requests under way at once
    timeout: seconds for one whole answer, all samples of the prompt included
    retries, first_wait, longest_wait: further tries, and the seconds between them (see `Client`)
    notify: called with a line of text when something is worth telling

    The key comes from ALIGNBENCH_API_KEY, or for api.openai.com from OPENAI_API_KEY. Raises AlignbenchError where the
    address is wrong, the endpoint does not answer, refuses the key, or does not know the model.
    """
    endpoint = parse_endpoint(spec)
    notify = notify or (lambda _: None)
    if concurrency < 1:
        raise AlignbenchError(f"concurrency {concurrency}: it must be at least 1")
    key = find_key(endpoint.url)
    if key and endpoint.url.startswith("http://") and not is_local(endpoint.url):
        notify(f"endpoint {endpoint.url}: the key goes there unencrypted (http, not https)")
    client = Client(
        endpoint.url,
        key,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        first_wait=first_wait,
        longest_wait=longest_wait,
    )
    try:
        return EndpointEngine(endpoint, client, concurrency=concurrency, notify=notify)
    except BaseException:
        client.close()
        raise


class EndpointEngine:
    """See `Engine`. Made by `connect`.

    This interface offers neither the tokens' ids nor their entropies: `Completion.tokens` and `.entropies` are empty,
    and `.logprobs` is filled where the server gives them.
    """

    def __init__(self, endpoint: Endpoint, client: Client, *, concurrency: int, notify: Callable[[str], None]) -> None:
        self.endpoint = endpoint
        self.client = client
        self.concurrency = concurrency
        self.notify = notify
        self.name = endpoint.model
        self._tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        self._fingerprint = ""
        self._counting = threading.Lock()
        self._several: dict[str, bool] = {}  # path -> whether one request may ask for several samples
        self._offers = self._probe()
        self.scores = COMPLETIONS in self._offers and self._offers[COMPLETIONS].echo
        self.chat_template = CHAT in self._offers

    def identity(self) -> dict[str, str | None]:
        """What is known of the model: the address, the name asked for, and the name that the server gives itself
        (often a dated version). The server's build (`system_fingerprint`) changes at will and is in `work()`."""
        reported = sorted({offer.model for offer in self._offers.values() if offer.model})
        return {
            "url": self.endpoint.url,
            "name": self.endpoint.model,
            "reported": self.client.clean(", ".join(reported)) or None,
        }

    def work(self) -> dict[str, int | str]:
        """Requests sent and repeated, the tokens that the server counted, and its build as it last named it."""
        requests: dict[str, int | str] = {"requests": self.client.sent, "repeated": self.client.repeated}
        return requests | self._tokens | {"system_fingerprint": self._fingerprint}

    def close(self) -> None:
        self.client.close()

    def loglikelihood(
        self, requests: Sequence[Request], wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`: the server echoes context and continuation with log-probabilities.

        White space at the end of a context counts to the continuation, as in the local engine. A token that reaches
        over the boundary is counted to the continuation whole, where the local engine (as lm-eval) cuts by the number
        of the context's own tokens. An empty context works only where the server puts a token before the text.
        """
        if not self.scores:
            raise AlignbenchError(f"endpoint {self.endpoint.url}: it gives no log-probabilities of a prompt")
        self._refuse_entropies(any(request.entropies for request in requests))
        stop = threading.Event()

        def answer(index: int) -> tuple[Loglikelihood, Exception | None]:
            text = requests[index].context + requests[index].continuation
            boundary = len(requests[index].context.rstrip())
            # one token, which is thrown away: to some servers 0 means no limit
            body = self._body(COMPLETIONS, text, max_tokens=1) | {"echo": True, "logprobs": 1, "temperature": 0}
            try:
                return score(self._ask(COMPLETIONS, body, stop)[0], text, boundary), None
            except (Refused, GaveUp) as failure:
                return Loglikelihood(math.nan, 0, str(failure)), failure

        indices = [i for i in range(len(requests)) if wanted is None or i in wanted]
        yield from self._each(indices, answer, stop)

    def _refuse_entropies(self, asked: bool) -> None:
        if asked:
            raise AlignbenchError(
                f"endpoint {self.endpoint.url}: it tells no entropies of its tokens; use a local checkpoint"
            )

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. A prompt that the server refuses, or does not answer after all tries, comes back with
        the reason in `unscored`; samples that it had answered by then are kept."""
        self._refuse_entropies(sampling.top_entropies)
        path = CHAT if chat else COMPLETIONS
        if path not in self._offers:
            other = "without a chat template" if chat else "with --template chat"
            raise AlignbenchError(f"endpoint {self.endpoint.url}: {path} does not work there; ask it {other}")
        samples = sampling.samples if sampling.temperature > 0 else 1
        at_once = MOST_CHOICES if sampling.temperature > 0 and self._draws_several(path) else 1
        settings: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.stop:
            settings["stop"] = list(sampling.stop[:MOST_STOPS])
        stop = threading.Event()

        def answer(index: int) -> tuple[tuple[Completion, ...], Exception | None]:
            prompt = prompts[index]
            written: list[Completion] = []
            while len(written) < samples:
                missing = min(samples - len(written), at_once)
                body = self._body(path, prompt.text, sampling.max_tokens) | settings
                if missing > 1:
                    body["n"] = missing
                if self._offers[path].seed:
                    body["seed"] = sample_seed(seed, prompt.key, len(written))
                try:
                    choices = self._ask(path, body, stop)
                except (Refused, GaveUp) as failure:
                    lost = Completion("", "end", unscored=str(failure), transient=isinstance(failure, GaveUp))
                    return (*written, *[lost] * (samples - len(written))), failure
                written += [completion(choice, sampling.stop) for choice in choices[:missing]]
            return tuple(written), None

        yield from self._each(range(len(prompts)), answer, stop)

    def _each(
        self, indices: Sequence[int], answer: Callable[[int], tuple[T, Exception | None]], stop: threading.Event
    ) -> Iterator[tuple[int, T]]:
        """Answers as they come. Failures are held back until something succeeds: an endpoint that has gone, or takes
        no prompt at all, must end the run, so that a resumed one asks again, and not fill it with unscored ones."""
        held: list[tuple[int, T]] = []
        succeeded = False
        for index, (found, failure) in in_parallel(indices, answer, self.concurrency, stop):
            about_prompt = isinstance(failure, Refused) and (succeeded or ABOUT_THE_PROMPT.search(str(failure)))
            if failure is None or about_prompt:
                succeeded = succeeded or failure is None
                yield from held
                held = []
                yield index, found
                continue
            held.append((index, found))
            if len(held) == SILENT:
                raise AlignbenchError(
                    f"endpoint {self.endpoint.url}: {SILENT} prompts in a row got no answer ({failure}); "
                    "what was answered is kept: start the same command again when this is mended"
                )
        yield from held

    def _body(self, path: str, text: str, max_tokens: int) -> dict[str, Any]:
        offer = self._offers[path]
        return self._addressed(path, text) | offer.logprobs | {offer.max_tokens: max_tokens}

    def _addressed(self, path: str, text: str) -> dict[str, Any]:
        prompt = {"messages": [{"role": "user", "content": text}]} if path == CHAT else {"prompt": text}
        return {"model": self.endpoint.model, **prompt}

    def _ask(self, path: str, body: dict[str, Any], stop: threading.Event) -> list[Choice]:
        try:
            return self.client.ask(path, body, self._read, stop=stop)
        except NotThere as error:
            raise self._not_there(error) from error

    def _read(self, reply: dict[str, Any]) -> list[Choice]:
        """The choices of an answer, its tokens counted. Raises ValueError where there is none."""
        choices = read_choices(reply)
        usage = reply.get("usage")
        with self._counting:
            for name in self._tokens:
                tokens = usage.get(name) if isinstance(usage, dict) else None
                self._tokens[name] += tokens if isinstance(tokens, int) else 0
            if isinstance(reply.get("system_fingerprint"), str):
                self._fingerprint = self.client.clean(reply["system_fingerprint"])
        return choices

    # ---- what a server offers ------------------------------------------------------------------------------

    def _probe(self) -> dict[str, Offer]:
        """Try both paths. Raises AlignbenchError where neither works."""
        offers: dict[str, Offer] = {}
        failures: list[Exception] = []
        for path in (COMPLETIONS, CHAT):
            try:
                offers[path] = self._try(path)
            except GaveUp as failure:
                failures.append(failure)
                if failure.status is None and path == COMPLETIONS:
                    break  # nobody there: the other path would only take time
            except Refused as failure:
                failures.append(failure)
        if offers:
            return offers
        telling = next((failure for failure in failures if not isinstance(failure, NotThere)), None)
        if telling is None:
            raise self._not_there(failures[0])
        raise AlignbenchError(
            f"endpoint {self.endpoint.url}: it does not work ({telling}); is it up, and the address right?"
        ) from telling

    def _try(self, path: str) -> Offer:
        """Send a small prompt with all that is optional, and leave out what is refused."""
        optional: dict[str, Any] = {"echo": True, "logprobs": 1, "seed": 0}
        limit, max_tokens = "max_tokens", 1
        if path == CHAT:
            optional = {"logprobs": True, "seed": 0}
            max_tokens = 16  # a model that thinks refuses a limit that leaves no room for an answer

        def read(reply: dict[str, Any]) -> tuple[Choice, str | None]:
            model = reply.get("model")
            return self._read(reply)[0], model if isinstance(model, str) else None

        while True:
            body = self._addressed(path, PROBE) | optional | {limit: max_tokens}
            try:
                choice, model = self.client.ask(path, body, read, retries=min(self.client.retries, PROBE_RETRIES))
                break
            except NotThere:
                raise
            except (Refused, GaveUp) as failure:
                # a server that knows no echo may fall over it (500), and not say so (400)
                fell_over = isinstance(failure, GaveUp) and "echo" in optional and (failure.status or 0) >= 500
                if limit == "max_tokens" and "max_completion_tokens" in str(failure):
                    limit = "max_completion_tokens"
                elif optional and (fell_over or isinstance(failure, Refused)):
                    del optional[next((name for name in optional if name in str(failure)), next(iter(optional)))]
                else:
                    raise
        if "seed" not in optional:
            self.notify(f"endpoint {self.endpoint.url}: {path} takes no seed; its samples cannot be drawn again")
        echoed = score(choice, PROBE, len(PROBE.split()[0])) if "echo" in optional else None
        return Offer(
            echo=echoed is not None and echoed.unscored is None,
            logprobs={"logprobs": optional["logprobs"]} if "logprobs" in optional and choice.logprobs else {},
            seed="seed" in optional,
            max_tokens=limit,
            model=model,
        )

    def _draws_several(self, path: str) -> bool:
        """Whether one request may ask for several samples. Some servers refuse `n`, some give one choice all the same,
        and some draw all choices with one seed, which makes them equal.

        Raises AlignbenchError where the server does not sample at all: `transformers serve` (5.23) writes greedily,
        whatever temperature it is sent, unless the checkpoint's own configuration says otherwise.
        """
        if path not in self._several:

            def draw(seed: int, settings: dict[str, Any]) -> list[str]:
                seeded = {"seed": seed} if self._offers[path].seed else {}
                body = self._body(path, DRAW, max_tokens=32) | {"temperature": 1.0} | seeded | settings
                return [choice.text for choice in self.client.ask(path, body, self._read)]

            try:
                several = len(set(draw(0, {"n": 2}))) > 1
            except (Refused, GaveUp):
                several = False
            try:
                drawn = several or len({draw(seed, {})[0] for seed in (1, 2, 3)}) > 1
            except (Refused, GaveUp):
                drawn = True  # not known: the prompts' own requests will tell what is wrong
            if not drawn:
                raise AlignbenchError(
                    f"endpoint {self.endpoint.url}: it does not sample (three equal texts at temperature 1 and "
                    "different seeds); let the server sample, or choose tasks that are greedy"
                )
            self._several[path] = several
            if not several:
                self.notify(f"endpoint {self.endpoint.url}: it does not draw several samples at once; one a request")
        return self._several[path]

    def _not_there(self, error: Exception) -> AlignbenchError:
        return AlignbenchError(
            f"endpoint {self.endpoint.url}: {error}; is there a model {self.endpoint.model!r}, and does the address "
            "end with the version, as in https://host/v1?"
        )


def sample_seed(seed: int, key: str, sample: int) -> int:
    """A seed of 31 bits, which every server takes, for one sample of one prompt."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{sample}\0{key}".encode()).digest()[:4], "big") >> 1
