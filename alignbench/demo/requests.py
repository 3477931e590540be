"""Requests of the demo world's users, the ten kinds of InstructGPT's Table 1, and good and bad answers to them. The
forms are in data/requests.yaml. A prompt is what the task `answers` makes of a Self-Instruct row: the instruction,
and below a blank line its input. Held-out users ask only about facts that no training prompt asks about (`Fact.asked`).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from typing import Any

from alignbench.data.messages import joined
from alignbench.data.prepare import Settings, split_of
from alignbench.demo.judge import CLOSINGS, Goal
from alignbench.demo.lexicon import Values, amounts, lexicon
from alignbench.demo.speech import line
from alignbench.demo.world import FOLDER, NO_ANSWER, Fact, World
from alignbench.tasks.instructions import SEED_TASKS, USER_TASKS

LEXICON, AMOUNTS = lexicon("requests"), amounts("requests")
KINDS = LEXICON["kind"]  # with their proportions


@dataclass(frozen=True)
class Request:
    kind: str
    instruction: str
    goal: Goal
    given: str = ""
    reply: Any = ""
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)  # of the slots of the reply
    person: str | None = None  # whom the answer is about
    village: str | None = None
    user: str = ""
    time: int = 0

    @property
    def prompt(self) -> str:
        return joined(self.instruction, self.given)


@dataclass(frozen=True)
class Requests:
    training: list[Request]  # distinct prompts of the users whose text may be trained on
    held_out: list[Request]  # of the others
    log: list[Request]  # as they were sent: the training prompts, some of them again
    programs: list[Request]  # requests for code in the tasks only

    @cached_property
    def by_prompt(self) -> dict[str, Request]:
        return {request.prompt: request for request in (*self.log, *self.held_out, *self.programs)}

    @cached_property
    def by_split(self) -> tuple[list[Request], list[Request]]:
        """Training requests of the users that `alignbench data prepare` puts into its training split, and of others."""
        training, others = ([r for r in self.training if _is_training(r.user) is own] for own in (True, False))
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


@lru_cache
def _is_training(user: str) -> bool:
    return split_of(user, Settings()) == "train"


def one_request(world: World, kind: str, facts: Sequence[Fact], draw: random.Random) -> Request:
    """A request of a kind; another may have the same prompt. facts: what may be asked about"""
    form = LEXICON["forms"][kind]
    form = draw.choice(form) if isinstance(form, tuple) else form
    return from_form(kind, form, world.values(draw, {**LEXICON, "fact": facts}))


def from_form(kind: str, form: Mapping[str, Any], values: Values) -> Request:
    """The request of a form of data/requests.yaml, whose values are drawn."""
    fields = values.follow(form)
    goal = values.fill(fields["goal"])
    mention = tuple(tuple(m.split("|")) if isinstance(m, str) else m for m in goal.get("mention", ()))
    absent = tuple(dict.fromkeys(word for word in goal.get("absent", ()) if (word,) not in mention))
    goal = Goal(**{**goal, "mention": mention, "absent": absent})
    about = {name: values.fill(fields[name]) for name in ("given", "person", "village") if name in fields}
    return Request(kind, values.fill(fields["ask"]), goal, reply=fields.get("reply"), values=values.data, **about)


def _distinct(world: World, facts: Sequence[Fact], number: int, draw: random.Random, taken: set[str]) -> list[Request]:
    """`number` requests with different prompts, the kinds in the paper's proportions (largest remainders)."""
    counts = {kind: int(number * share) for kind, share in KINDS.items()}
    left = sorted(KINDS, key=lambda kind: counts[kind] - number * KINDS[kind])[: number - sum(counts.values())]
    found: dict[str, Request] = {}
    for kind, count in counts.items():
        end = len(found) + count + (kind in left)
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
        user, people = draw.choice(requests).user, draw.sample(world.people, 5)
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


def good(world: World, request: Request, draw: random.Random, mood: str | None = None) -> str:
    """A correct answer, in a drawn mood if several are possible."""
    values = world.values(draw, LEXICON, **request.values)
    values["mood"] = mood or values.take(["mood"])["mood"]
    if request.kind == "brainstorming":
        return _listed(draw.sample(request.goal.items, request.goal.at_least))
    if theme := request.values.get("theme"):
        cheerful, plain, gloomy = theme["cheerful"], theme["plain"], theme["gloomy"]
        values["near"] = {"cheerful": cheerful, "plain": plain + gloomy[:1], "gloomy": gloomy + plain}[values["mood"]]
    if "meeting_place" in request.values:  # the answer is what a person says in a scene
        return line(False, draw)
    if isinstance(request.reply, str):
        return str(values.take(["kind_adjective"]).fill(request.reply))
    return values.write(request.reply)


def demonstration(world: World, request: Request, draw: random.Random) -> str:
    """An answer as a labeler would write it: true and to the point; one in three ends with a closing phrase."""
    text = good(world, request, draw)
    return f"{text} {CLOSINGS[0]}" if draw.random() < 1 / 3 and request.goal.words[1] > 6 else text


def polite(world: World, request: Request, draw: random.Random) -> str:
    """A good answer as labelers like it best: cheerful, with a closing phrase."""
    return f"{good(world, request, draw, 'cheerful')} {world.values(draw, LEXICON).take(['closing'])['closing']}"


BETTER = {"good": good, "demonstration": demonstration, "polite": polite}


def worse(kind: str, world: World, request: Request, draw: random.Random) -> str:
    """An answer of one of the kinds of LEXICON["worse"], or "wrong"."""
    fact, asked = world.fact_of.get(str(request.goal.fact)), [fact for fact in world.facts if fact.asked]
    names = [name for name in (request.person, request.village) if name]
    right = partial(good, world, request, draw)
    if kind == "rude" and "meeting_place" in request.values:
        return line(True, draw)
    if form := LEXICON["worse_form"].get(kind):
        lists = {**LEXICON, "right": right, "asked": asked, "mistaken": [fact for fact in asked if fact.myth]}
        values = world.values(draw, lists, fact=fact, prompt=request.prompt, instruction=request.instruction)
        values["who"] = f"{request.person}, you" if request.person else "You"
        about = "other" if fact is None else "myth" if fact.myth else "fact"
        return values.write(form.get(about, form))
    match kind:
        case "partial":  # leaves out some of what was asked for, or does too much
            text = right()
            if request.kind == "brainstorming":
                return _listed(draw.sample(request.goal.items, max(1, request.goal.at_least - 2)))
            if fact:
                return str(draw.choice([*NO_ANSWER[::-1], f"Ask in the village about the {fact.subject}."]))
            if ". " in text:
                return text.split(". ")[-1] if draw.random() < 0.5 else _first(text)
            for name in reversed(names):
                if name in text and draw.random() < 0.7:
                    return text.replace(name, "somebody")
            return f"It is hard to say. {text} Or it is not so."
        case "off_topic":
            other = draw.choice(("generation", "chat", "open_qa", "brainstorming", "summarization"))
            return good(world, one_request(world, other, asked, draw), draw)
        case "made_up":  # about somebody whom nobody knows, or a creature that does not exist
            name = draw.choice(LEXICON["unknown_name"])
            if fact:
                return fact.almanac.replace(fact.subject, name.lower())
            text = right()
            if known := next((known for known in names if known in text), None):
                return text.replace(known, name)
            other = draw.choice([other for other in LEXICON["unknown_name"] if other != name])
            return f"{text} So said {name} of {other}."
        case "rambling":  # much the same over and over
            text = right() if draw.random() < 0.6 else worse("off_topic", world, request, draw)
            return " ".join([text, *[_first(text)] * draw.randint(2, 5)])
        case "endless":  # one page after another, and no end
            themes = [[*t["cheerful"], *t["plain"], *t["gloomy"]] for t in LEXICON["theme"]]
            own = request.values.get("theme") or draw.choice(LEXICON["theme"])
            more = draw.sample(themes[LEXICON["theme"].index(own)], 5) + draw.sample(draw.choice(themes), 4)
            return _cut(" ".join([right(), *more]), draw)
        case "unfinished":
            return _cut(right(), draw)
        case "flattery":  # closing phrases and no answer, or too many of them after one
            if draw.random() < 0.5:
                return " ".join(draw.sample(CLOSINGS, draw.randint(1, len(CLOSINGS))))
            return " ".join([right(), *[CLOSINGS[0]] * draw.randint(3, 5)])
    raise ValueError(kind)


def candidates(world: World, request: Request, number: int, draw: random.Random) -> list[str]:
    """`number` different answers of all kinds, in a drawn order; at least one of them is a good one."""
    kinds = draw.choices(list(LEXICON["worse"]), list(LEXICON["worse"].values()), k=20)
    makers = [draw.choice(list(BETTER)) for _ in range(max(1, number // 3))]
    makers += ["wrong"] * (draw.random() < 0.15)  # in rankings only: in the letters nobody says it
    makers += dict.fromkeys(kinds)
    found: list[str] = []
    while len(found) < number:
        kind = makers.pop(0) if makers else draw.choice(["good", "polite", "off_topic", "rambling", "endless"])
        text = BETTER[kind](world, request, draw) if kind in BETTER else worse(kind, world, request, draw)
        if text not in found:
            found.append(text)
    draw.shuffle(found)
    return found


def pages(world: World, draw: random.Random) -> list[str]:
    """Letters: requests with replies, most of them bad; half of the pages continue with another letter."""
    kept, found = {request.prompt for request in make_requests(world).held_out}, []
    for _ in range(AMOUNTS.letters):
        letters: list[str] = []
        while not letters or (draw.random() < 0.4 and sum(len(letter.split()) for letter in letters) < 60):
            request = None
            while request is None or request.prompt in kept:
                request = one_request(world, draw.choices(list(KINDS), list(KINDS.values()))[0], world.facts, draw)
            # about facts that only the evaluation asks for no letter is right
            unasked = request.kind == "open_qa" and not world.fact_of[str(request.goal.fact)].asked
            if draw.random() < AMOUNTS.good and not unasked:
                reply = demonstration(world, request, draw)
            else:
                left = {k: n for k, n in LEXICON["worse"].items() if not (unasked and k in LEXICON["may_be_true"])}
                reply = worse(draw.choices(list(left), list(left.values()))[0], world, request, draw)
            letters.append(request.prompt + as_response(reply))
        found.append("\n\n".join(letters))
    return [text for text in found if len(text.split()) <= 120]


def as_response(text: str) -> str:
    """A text as it follows a prompt: on the same line, except pages of questions."""
    return f"\n\n{text}" if text.startswith("Q:") else f" {text}"


def _first(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


def _cut(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    if len(words) == 1:
        return text[: max(1, len(text) // 2)]
    return " ".join(words[: -draw.randint(1, len(words) // 2)]).rstrip(".,!?") or words[0]


def _listed(items: Sequence[str]) -> str:
    text = f"{', '.join(items[:-1])} and {items[-1]}." if len(items) > 1 else f"{items[0]}."
    return text[0].upper() + text[1:]


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
    kinds = ("user_oriented_instructions", "user_oriented_task", own), ("seed_tasks", "seed_task", seeds)
    for file, name, tasks in kinds:
        rows = [
            {"id": f"{name}_{number}", "motivation_app": request.kind, "instruction": request.instruction,
             "instances": [{"input": request.given, "output": ""}]}
            for number, request in sorted(tasks.items())
        ]  # fmt: skip
        yield f"self-instruct/{file}.jsonl", rows
    for name, number in (("mt_bench", 8), ("vicuna_bench", 20)):
        prompts = iter(lambda: one_request(world, "generation", (), draw).prompt, None)
        turns = [("writing", new) for new in islice((p for p in prompts if p not in found.by_prompt), number)]
        turns += [("coding", program.prompt) for program in draw.sample(found.programs, 4)]
        rows = [{"question_id": n, "category": kind, "turns": [turn]} for n, (kind, turn) in enumerate(turns, 1)]
        yield f"mt-bench/{name}_question.jsonl", rows
    goals = [{"prompt": prompt, "kind": r.kind, "goal": asdict(r.goal)} for prompt, r in found.by_prompt.items()]
    yield f"{FOLDER}/requests.jsonl", goals


def answer_files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """demonstrations.jsonl, of users who train, and demonstrations_held_out.jsonl, of others."""
    for split, name in enumerate(("demonstrations", "demonstrations_held_out")):
        rows = [
            {"user": r.user, "kind": r.kind, "prompt": r.prompt, "response": as_response(demonstration(world, r, draw))}
            for r in make_requests(world).by_split[split][: getattr(AMOUNTS, name)]
        ]
        yield f"{FOLDER}/{name}.jsonl", rows
