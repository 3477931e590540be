"""Requests of the demo world's users: the ten kinds of InstructGPT's Table 1, each request with a goal to check.

The forms are in data/requests.yaml. A prompt is what the task `answers` makes of a Self-Instruct row: the instruction,
and below a blank line its input. Held-out users ask only about facts that no training prompt asks about (`Fact.asked`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from alignbench.data.prepare import Settings, split_of
from alignbench.demo.lexicon import Values, amounts, lexicon
from alignbench.demo.utility import Goal
from alignbench.demo.world import FOLDER, Fact, World
from alignbench.tasks.common import joined
from alignbench.tasks.instructions import SEED_TASKS, USER_TASKS

LEXICON, AMOUNTS = lexicon("requests"), amounts("requests")
KINDS, FORMS = LEXICON["kind"], LEXICON["forms"]


@dataclass(frozen=True)
class Request:
    """A request with what its answers are made of. values: of the slots of its reply; person, village: names that the
    answer is about"""

    kind: str
    instruction: str
    goal: Goal
    given: str = ""
    reply: Any = ""
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)
    person: str | None = None
    village: str | None = None
    user: str = ""
    time: int = 0

    @property
    def prompt(self) -> str:
        return joined(self.instruction, self.given)

    @property
    def is_speech(self) -> bool:
        """Whether the answer is what a person says in a scene."""
        return "meeting_place" in self.values


@dataclass(frozen=True)
class Requests:
    training: list[Request]  # distinct prompts of the users whose text may be trained on
    held_out: list[Request]  # of the others
    log: list[Request]  # as they were sent: the training prompts, some of them again
    programs: list[Request]  # requests for code in the tasks only

    @property
    def all(self) -> list[Request]:
        return [*self.log, *self.held_out, *self.programs]

    @cached_property
    def by_split(self) -> tuple[list[Request], list[Request]]:
        """Training requests of the users that `alignbench data prepare` puts into its training split, and of others."""
        trains = {request.user: _is_training(request.user) for request in self.training}
        training, others = ([r for r in self.training if trains[r.user] is wanted] for wanted in (True, False))
        return training, others


@lru_cache(maxsize=4)
def make_requests(world: World) -> Requests:
    """All requests of a world; they follow from it."""
    draw = random.Random(f"{world.seed} requests")
    asked, unasked = ([fact for fact in world.facts if fact.asked is wanted] for wanted in (True, False))
    held_out = _distinct(world, unasked, AMOUNTS.held_out, draw, set())
    training = _distinct(world, asked, AMOUNTS.training, draw, {request.prompt for request in held_out})
    training = _with_users(training, "user", AMOUNTS.users, draw)
    held_out = _with_users(held_out, "held-out", AMOUNTS.held_out_users, draw)
    log = _log(training, world, draw)
    programs = [from_form("other", LEXICON["program"], world.values(draw, LEXICON, goods=g)) for g in world.goods]
    return Requests(training, held_out, log, programs)


def _is_training(user: str) -> bool:
    return split_of(user, Settings()) == "train"


def one_request(world: World, kind: str, facts: Sequence[Fact], draw: random.Random) -> Request:
    """A request of a kind; another may have the same prompt. facts: what may be asked about"""
    form = FORMS[kind]
    chosen = draw.choice(form) if isinstance(form, tuple) else form
    return from_form(kind, chosen, world.values(draw, {**LEXICON, "fact": facts}))


def from_form(kind: str, form: Mapping[str, Any], values: Values) -> Request:
    """The request of a form of data/requests.yaml, whose values are drawn."""
    fields = values.follow(form)
    goal = values.fill(fields["goal"])
    mention = tuple(tuple(m.split("|")) if isinstance(m, str) else m for m in goal.get("mention", ()))
    absent = tuple(dict.fromkeys(word for word in goal.get("absent", ()) if (word,) not in mention))
    goal = Goal(**{**goal, "mention": mention, "absent": absent})
    about = {name: values.fill(fields[name]) for name in ("given", "person", "village") if name in fields}
    return Request(kind, values.fill(fields["ask"]), goal, reply=fields.get("reply"), values=values.data, **about)


def files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """The log of prompts, every prompt's goal, and the prompts of Self-Instruct and MT-Bench."""
    found = make_requests(world)
    rows = [{"user": r.user, "time": r.time, "kind": r.kind, "prompt": r.prompt} for r in found.log]
    yield f"{FOLDER}/prompts.jsonl", rows
    programs = draw.sample(found.programs, len(USER_TASKS) + len(SEED_TASKS))
    user_tasks, seed_tasks = ([int(name.rsplit("_", 1)[1]) for name in names] for names in (USER_TASKS, SEED_TASKS))
    own = dict(zip(user_tasks, programs, strict=False))
    own |= zip((n for n in range(1000) if n not in own), found.held_out, strict=False)
    seeds = dict(zip(seed_tasks, programs[len(user_tasks) :], strict=True))
    for file, name, tasks in (
        ("user_oriented_instructions", "user_oriented_task", own), ("seed_tasks", "seed_task", seeds),
    ):  # fmt: skip
        rows = []
        for number, request in sorted(tasks.items()):
            instances = [{"input": request.given, "output": ""}]
            row = {"id": f"{name}_{number}", "motivation_app": request.kind, "instruction": request.instruction}
            rows.append({**row, "instances": instances})
        yield f"self-instruct/{file}.jsonl", rows
    known = {request.prompt: request for request in found.all}
    for name, number in (("mt_bench", 8), ("vicuna_bench", 20)):
        turns: list[tuple[str, str]] = []
        while len(turns) < number:
            if (prompt := one_request(world, "generation", (), draw).prompt) not in known:
                turns.append(("writing", prompt))
        turns += [("coding", program.prompt) for program in draw.sample(found.programs, 4)]
        rows = [{"question_id": n, "category": kind, "turns": [turn]} for n, (kind, turn) in enumerate(turns, 1)]
        yield f"mt-bench/{name}_question.jsonl", rows
    goals = [{"prompt": prompt, "kind": r.kind, "goal": asdict(r.goal)} for prompt, r in known.items()]
    yield f"{FOLDER}/requests.jsonl", goals


def _distinct(world: World, facts: Sequence[Fact], number: int, draw: random.Random, taken: set[str]) -> list[Request]:
    """`number` requests with different prompts, the kinds in the paper's proportions (largest remainders)."""
    counts = {kind: int(number * share) for kind, share in KINDS.items()}
    left = sorted(KINDS, key=lambda kind: counts[kind] - number * KINDS[kind])
    for kind in left[: number - sum(counts.values())]:
        counts[kind] += 1
    found: dict[str, Request] = {}
    for kind, count in counts.items():
        end = len(found) + count
        while len(found) < end:
            request = one_request(world, kind, facts, draw)
            if request.prompt not in taken:
                found.setdefault(request.prompt, request)
    requests = list(found.values())
    draw.shuffle(requests)
    return requests


def _with_users(requests: Sequence[Request], name: str, number: int, draw: random.Random) -> list[Request]:
    """Assign users, of whom some ask a lot: the n-th has a weight of 1 / (n + 3)."""
    users = draw.choices(range(1, number + 1), [1 / (n + 4) for n in range(number)], k=len(requests))
    return [replace(request, user=f"{name}-{users[n]:02}", time=n) for n, request in enumerate(requests)]


def _log(requests: Sequence[Request], world: World, draw: random.Random) -> list[Request]:
    """The requests as they were sent: some again, some with nearly the same pasted text, some with an address."""
    sent = [*requests, *draw.sample(requests, round(AMOUNTS.again * len(requests)))]
    for _ in range(AMOUNTS.pasted):
        user = draw.choice(requests).user
        people = draw.sample(world.people, 5)
        page = " ".join(draw.choice((f"{p.works} {p.lives}", f"{p.lives} {p.works}")) for p in people)
        goal = Goal(mention=(world.villages,), sentences=(1, 2), words=(3, 30), source=page)
        for last in ("", " That is all."):
            sent.append(Request("summarization", "Sum this up in one sentence.", goal, page + last, user=user))
    for person in draw.sample(world.people, AMOUNTS.private):
        request = from_form("generation", LEXICON["thanks"], world.values(draw, LEXICON))
        address = f"{person.name.lower()}@{person.village.lower()}.example.org"
        user = draw.choice([request.user for request in requests if _is_training(request.user)])
        sent.append(replace(request, given=f"Send it to {address}.", user=user))
    draw.shuffle(sent)
    return [replace(request, time=time) for time, request in enumerate(sent)]
