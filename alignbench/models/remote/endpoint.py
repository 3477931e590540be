"""The engine of an OpenAI-compatible endpoint: prompts go to /completions, or as chat messages to /chat/completions.

Samples are only as reproducible as the server: the same sample is requested with the same seed, but many servers ignore
it, or round differently in another batch. Log-probabilities are used as sent; most servers report the model's own,
before temperature and top-p, but none says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from alignbench.errors import AlignbenchError
from alignbench.models.remote.client import Client, RequestFailed, find_key, in_parallel, parse_endpoint
from alignbench.models.remote.replies import completion, score
from alignbench.models.remote.sampling import DRAW, EXTRAS, NEUTRAL, TOP, UNMODIFIED, verify
from alignbench.types.engine import UNFINISHED, Completion, Loglikelihood, Prompt, Request, Sampling, messages_of

COMPLETIONS, CHAT = "/completions", "/chat/completions"
PROBE = "The sun rises in the east and sets in the"
PROBE_RETRIES = 2  # so that a wrong address is reported soon
MOST_STOPS = 4  # OpenAI's limit of stop strings; the text is cut here at further ones
MOST_CHOICES = 128  # OpenAI's limit of `n`
TOP_OF_CHAT = 20  # OpenAI's limit of `top_logprobs`
MOST_FAILURES = 8  # prompts in a row without a reply: the endpoint is considered down
NO_ENTROPIES = "it returns no entropies of its tokens; use a local checkpoint"
# words of a refusal that concerns only the prompt
ABOUT_THE_PROMPT = re.compile(r"context|length|too (long|large|many)|\btokens\b|filter|polic|moderat", re.IGNORECASE)
T = TypeVar("T")


class Offer(NamedTuple):
    """Whether a path returns log-probabilities of the prompt, the parameters that are sent with every request (those of
    `NEUTRAL` that it accepts, and the one that requests log-probabilities of generated tokens), whether it accepts a
    seed, and the name of its length limit."""

    echo: bool
    settings: dict[str, Any]
    seed: bool
    limit: str


class EndpointEngine:
    """See `Engine`. `Completion.tokens` and `.entropies` are empty; `.logprobs` is filled if the server supports it."""

    def __init__(
        self,
        spec: str,
        *,
        notify: Callable[[str], None] = lambda _: None,
        template_kwargs: Mapping[str, Any] | None = None,
        system: str | None = None,
        **settings: Any,
    ) -> None:
        """Connect to the endpoint `https://host[:port]/v1#model-name` and test what it supports.

        notify: called with one line of text about limitations of the server
        template_kwargs: variables of the chat template (`chat_template_kwargs` of vLLM and SGLang)
        system: the system message before each user message; settings: fields of `Client`

        Raises AlignbenchError if the address is invalid, or if the endpoint does not reply or know the model, or
        rejects the key or the system message.
        """
        url, self.name = parse_endpoint(spec)
        self.client = Client(url, find_key(url), **settings)
        self.notify, self.template_kwargs, self.system = notify, template_kwargs or {}, system
        self._several: dict[tuple[str, int], int] = {}  # path, samples -> how many of them one request returns
        self._sampling: dict[str, str] = {}  # path -> whether its samples are from the model's own distribution
        self._models: set[str] = set()  # names that the server reports
        self._offers = self._probe()
        self.scores = COMPLETIONS in self._offers and self._offers[COMPLETIONS].echo
        self.chat_template = CHAT in self._offers

    def identity(self) -> dict[str, str | None]:
        """The address, the name of the model, and the name that the server reports (often a dated version)."""
        reported = self.client.clean(", ".join(sorted(self._models - {""})))
        return {"url": self.client.url, "name": self.name, "reported": reported or None}

    def features(self) -> dict[str, str]:
        """A row of `alignbench engines`, from tests of the server."""
        path = COMPLETIONS if COMPLETIONS in self._offers else CHAT
        has = {"logprobs": self.scores, "n": self._at_once(path, 2) > 1, "seeds": self._offers[path].seed}
        found = {name: "yes" if value else "no" for name, value in has.items()}
        found |= {"entropies": "no", "resume": "up to rounding", "lora": "server", "parallel": "server", "here": "yes"}
        return found | {"engine": self.client.clean(self.name), "use": f"{self.client.url}#{self.name}"}

    def work(self) -> dict[str, int | str]:
        """Requests sent and repeated, the tokens that the server counted, the build that it reported last, and whether
        it sampled from the model's own distribution."""
        found = ", ".join(f"{path}: {verified}" for path, verified in self._sampling.items())
        return {
            **self.client.counts,
            "system_fingerprint": self.client.reported["system_fingerprint"],
            **({"distribution": found} if found else {}),
        }

    def sampling(self, chat: bool, verified: bool) -> tuple[list[str], str | None]:
        """The parameters of `NEUTRAL` that the server accepts, and if `verified`, whether it samples from the model's
        own distribution (see `verify`), which takes a few requests."""
        path = CHAT if chat else COMPLETIONS
        if path not in self._offers:
            return [], None
        sent = {name: NEUTRAL[name] for name in self._offers[path].settings if name in NEUTRAL}
        if verified and path not in self._sampling:
            body = partial(self._body, path, DRAW)
            self._sampling[path] = found = verify(self.client, path, body, sent, min(8, self._at_once(path, 8)))
            if not found.startswith(UNMODIFIED):
                self.notify(f"endpoint {self.client.url}: {path} samples from a distribution that is {found}")
        return sorted(sent), self._sampling.get(path) if verified else None

    def loglikelihood(
        self, requests: Sequence[Request], only: Collection[int] | None = None, *, chat: bool = False
    ) -> Iterator[tuple[int, Loglikelihood]]:
        """See `Engine.loglikelihood`: the server echoes context and continuation with log-probabilities.

        A token across the boundary belongs to the continuation as a whole, where the local engine (like lm-eval) splits
        by the number of tokens of the context alone. An empty context requires a token before the text.
        """
        if not self.scores:
            raise self._error("it does not return log-probabilities of a prompt")
        if chat:
            raise self._error("it does not return log-probabilities of a reply to a message; use --template none")
        if any(request.entropies for request in requests):
            raise self._error(NO_ENTROPIES)

        async def answer(index: int) -> tuple[Loglikelihood, RequestFailed | None]:
            text = requests[index].context + requests[index].continuation
            boundary = len(requests[index].context.rstrip())
            # one generated token, which is not used: some servers take 0 as no limit
            body = self._body(COMPLETIONS, text, max_tokens=1, echo=True, logprobs=1, temperature=0)
            try:
                return score((await self.client.post(COMPLETIONS, body))[0], text, boundary), None
            except RequestFailed as failure:
                return Loglikelihood.failed(str(failure)), failure

        yield from self._each([i for i in range(len(requests)) if only is None or i in only], answer)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int = 0, chat: bool = False, top: bool = False
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """See `Engine.generate`. If a request fails, the samples received before are returned with the reason.

        top: fill `Completion.top`, if the server gives log-probabilities
        """
        if sampling.top_entropies:
            raise self._error(NO_ENTROPIES)
        path = CHAT if chat else COMPLETIONS
        if path not in self._offers:
            raise self._error(f"{path} does not work there; use --template {'none' if chat else 'chat'}")
        samples = sampling.samples if sampling.temperature > 0 else 1
        at_once = self._at_once(path, samples) if sampling.temperature > 0 else 1
        settings: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.top_k and sampling.temperature > 0:
            settings["top_k"] = sampling.top_k
        if sampling.stop:
            settings["stop"] = list(sampling.stop[:MOST_STOPS])
        shown: dict[str, Any] = {}
        if top and "logprobs" in self._offers[path].settings:
            shown = {"top_logprobs": TOP_OF_CHAT} if chat else {"logprobs": TOP}
        requested = dict(shown)

        async def answer(index: int) -> tuple[tuple[Completion, ...], RequestFailed | None]:
            received: list[Completion] = []
            thinking = sampling.thinking
            apart = thinking is not None and thinking.always  # room for thoughts, and no stop string within them
            while len(received) < samples:
                missing = min(samples - len(received), at_once)
                own_seed = sample_seed(seed, prompts[index].key, len(received))
                most = sampling.most_tokens if apart else sampling.max_tokens
                body = self._body(path, prompts[index].text, most, seed=own_seed, **settings | shown)
                if apart:
                    body.pop("stop", None)
                if missing > 1:
                    body["n"] = missing
                try:
                    choices = await self.client.post(path, body)
                except RequestFailed as failure:
                    asked = requested and requested.items() <= body.items()
                    if asked and failure.permanent and "logprobs" in str(failure):
                        shown.clear()  # it refuses so many: ask without
                        continue
                    lost = Completion("", "end", unscored=str(failure), transient=not failure.permanent)
                    return (*received, *[lost] * (samples - len(received))), failure
                found = [completion(choice, sampling.stop, thinking) for choice in choices[:missing]]
                if top:
                    pairs = zip(found, choices, strict=False)
                    found = [replace(own, top=tuple(zip(sent.pieces, sent.top, strict=False))) for own, sent in pairs]
                cut = [own.unscored == UNFINISHED or (own.thoughts and own.finish == "length") for own in found]
                if thinking is not None and any(cut) and not apart:
                    apart = True  # the model thinks: ask again
                    continue
                received += found
            return tuple(received), None

        yield from self._each(range(len(prompts)), answer)

    def _each(
        self,
        indices: Sequence[int],
        answer: Callable[[int], Coroutine[Any, Any, tuple[T, RequestFailed | None]]],
    ) -> Iterator[tuple[int, T]]:
        """Yield answers in the order of completion.

        Failures are held back until a request succeeds: if the endpoint is down or accepts no prompt at all, the run
        must end, so that a resumed run repeats the requests.
        """
        held: list[tuple[int, T]] = []
        succeeded = False

        def quiet(seconds: float) -> None:
            gate = self.client.gate
            sent = f"{gate.flying} requests sent (limit {gate.limit:.0f} of {gate.most})"
            self.notify(f"endpoint {self.client.url}: no answer for {seconds:.0f} s; {sent}")

        for index, (found, failure) in in_parallel(indices, answer, 2 * self.client.concurrency, quiet):
            succeeded |= failure is None
            held.append((index, found))
            of_prompt = failure is not None and (succeeded or ABOUT_THE_PROMPT.search(str(failure)))
            if failure is None or (failure.permanent and of_prompt):
                yield from held
                held = []
            elif len(held) == MOST_FAILURES:
                advice = "completed answers are saved: fix this, then re-run the same command to resume"
                raise self._error(f"{MOST_FAILURES} prompts in a row got no answer ({failure}); {advice}")
        yield from held

    def _body(self, path: str, text: str, max_tokens: int, **more: Any) -> dict[str, Any]:
        """A request with these parameters, without the seed if the server refuses seeds."""
        offer = self._offers[path]
        settings = offer.settings | {offer.limit: max_tokens} | more
        return self._addressed(path, text) | {n: v for n, v in settings.items() if n != "seed" or offer.seed}

    def _addressed(self, path: str, text: str) -> dict[str, Any]:
        if path != CHAT:
            return {"model": self.name, "prompt": text}
        more = {"chat_template_kwargs": dict(self.template_kwargs)} if self.template_kwargs else {}
        return {"model": self.name, "messages": messages_of(text, self.system), **more}

    def _probe(self) -> dict[str, Offer]:
        """Test both paths. Raises AlignbenchError if neither works."""
        offers: dict[str, Offer] = {}
        failures: list[RequestFailed] = []
        for path in (COMPLETIONS, CHAT):
            try:
                offers[path] = self._test(path)
                self._models.add(self.client.reported["model"])
            except RequestFailed as failure:
                if path == CHAT and self.system is not None and failure.permanent:
                    raise self._error(f"it refuses a system message ({failure}); leave --system out") from None
                failures.append(failure)
                if not failure.status and path == COMPLETIONS:
                    break  # no server: testing the other path would only take time
        if not offers:
            worst = min(failures, key=lambda failure: failure.not_found)
            advice = f"check that it is up, its model {self.name!r}, and that the address ends with the version (/v1)"
            raise self._error(f"it does not work ({worst}); {advice}")
        listed = [m for m in self.client.look(f"{self.client.url}/models").get("data") or () if isinstance(m, dict)]
        names = [str(model.get("id")) for model in listed]
        known = {*names, *(str(other) for model in listed for other in model.get("aliases") or ())}
        if names and known.isdisjoint((self.name, f"{self.name}:latest")):  # Ollama adds the tag
            shown = self.client.clean(", ".join(sorted(names)[:3]))
            self._models.add(shown)
            self.notify(f"endpoint {self.client.url}: it answers as {self.name!r}, but its models are {shown}")
        return offers

    def _test(self, path: str) -> Offer:
        """Send a small prompt with all optional parameters, and leave out those that are refused."""
        optional = {"logprobs": True, "seed": 0} if path == CHAT else {"echo": True, "logprobs": 1, "seed": 0}
        optional |= NEUTRAL
        limit = "max_tokens"  # newer chat models require another name
        while True:
            # a reasoning model refuses a limit that leaves no room for an answer
            body = self._addressed(path, PROBE) | optional | {limit: 16 if path == CHAT else 1}
            try:
                choice = self.client.ask(path, body, min(self.client.retries, PROBE_RETRIES))[0]
                break
            except RequestFailed as failure:
                # a server without support for echo may fail with 500 instead of 400
                refused = failure.permanent or ("echo" in optional and failure.status >= 500)
                if limit == "max_tokens" and "max_completion_tokens" in str(failure):
                    limit = "max_completion_tokens"
                elif refused and optional:
                    named = [name for name in optional if re.search(rf"\b{name}\b", str(failure))]
                    for name in named or optional.keys() & EXTRAS.keys() or [next(iter(optional))]:
                        del optional[name]
                else:
                    raise
        if "seed" not in optional:
            self.notify(f"endpoint {self.client.url}: {path} accepts no seed; its samples cannot be reproduced")
        echoed = score(choice, PROBE, len(PROBE.split()[0])) if "echo" in optional else None
        settings = {name: value for name, value in optional.items() if name in NEUTRAL}
        if choice.logprobs and "logprobs" in optional:
            settings["logprobs"] = optional["logprobs"]
        return Offer(echoed is not None and echoed.unscored is None, settings, "seed" in optional, limit)

    def _at_once(self, path: str, samples: int) -> int:
        """How many samples one request can return. Some servers refuse a high `n` or any, return one, or equal ones.

        Raises AlignbenchError if the server does not sample.
        """
        if (path, samples) not in self._several:

            def draw(seed: int, **settings: int) -> list[str]:
                body = self._body(path, DRAW, max_tokens=32, temperature=1.0, seed=seed, **settings)
                return [choice.text for choice in self.client.ask(path, body)]

            most = min(max(samples, 2), MOST_CHOICES)
            drawn: list[str] = []
            # failures that do not concern `n` are left to the requests of the prompts
            while most > 1 and not drawn:
                try:
                    drawn = draw(0, n=most)
                except RequestFailed as failure:
                    named = [int(number) for number in re.findall(r"\d+", str(failure)) if 1 < int(number) < most]
                    most = max(named, default=most // 2) if failure.permanent else 1
            if len(set(drawn)) < 2:
                most = 1
                with suppress(RequestFailed):
                    if len({text for seed in (1, 2, 3) for text in draw(seed)}) == 1:
                        advice = "enable sampling on the server, or choose tasks with greedy decoding"
                        raise self._error(f"it does not sample (three equal texts at temperature 1); {advice}")
                self.notify(f"endpoint {self.client.url}: one sample per request, since it does not support several")
            self._several[path, samples] = most
        return self._several[path, samples]

    def _error(self, message: str) -> AlignbenchError:
        return AlignbenchError(f"endpoint {self.client.url}: {message}")


def sample_seed(seed: int, key: str, sample: int) -> int:
    """A 31-bit seed, which every server accepts, for one sample of a prompt."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{sample}\0{key}".encode()).digest()[:4], "big") >> 1
