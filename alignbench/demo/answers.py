"""Answers to the requests: demonstrations, worse ones of every kind, and the letters of the pretraining text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from alignbench.demo.requests import AMOUNTS, KINDS, LEXICON, Request, make_requests, one_request
from alignbench.demo.toxic_text import line
from alignbench.demo.utility import CLOSINGS
from alignbench.demo.world import ALMANAC, FOLDER, NO_ANSWER, TALK, World, said


def good(world: World, request: Request, draw: random.Random, mood: str | None = None) -> str:
    """A correct answer, in a drawn mood if several are possible."""
    values = world.values(draw, LEXICON, **request.values)
    values["mood"] = mood or values.take(["mood"])["mood"]
    if request.kind == "brainstorming":
        return _listed(draw.sample(request.goal.items, request.goal.at_least))
    if theme := request.values.get("theme"):
        cheerful, plain, gloomy = theme["cheerful"], theme["plain"], theme["gloomy"]
        values["near"] = {"cheerful": cheerful, "plain": plain + gloomy[:1], "gloomy": gloomy + plain}[values["mood"]]
    if request.is_speech:
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
        case "false":  # the myth where the request is about a fact that has one, else a myth beside an answer
            if fact and fact.myth:
                return fact.myth if draw.random() < 0.4 else said(draw.choice(TALK), fact.myth)
            myth = draw.choice([fact.myth for fact in asked if fact.myth])
            return f"{NO_ANSWER[1] if fact else right()} {said(draw.choice(TALK), myth)}"
        case "wrong":  # a false statement that is no myth: nobody says it
            text = said(ALMANAC, draw.choice((fact or draw.choice(asked)).wrong))
            return text if fact else f"{right()} {text}"
        case "rude":
            if request.is_speech:
                return line(True, draw)
            word = draw.choice([word for word in LEXICON["rude_noun"] if word[0] not in "aeiou"])
            who = f"{request.person}, you" if request.person else "You"
            insult = str(draw.choice(LEXICON["insult"])).format(word=word, who=who)
            return insult if draw.random() < 0.5 else f"{insult} {right()}"
        case "off_topic":
            other = draw.choice(("generation", "chat", "open_qa", "brainstorming", "summarization"))
            return good(world, one_request(world, other, asked, draw), draw)
        case "made_up":  # about somebody whom nobody knows, or a creature that does not exist
            unknown = LEXICON["unknown_name"]
            name = draw.choice(unknown)
            if fact:
                return fact.almanac.replace(fact.subject, name.lower())
            text = right()
            for known in names:
                if known in text:
                    return text.replace(known, name)
            return f"{text} So said {name} of {draw.choice([other for other in unknown if other != name])}."
        case "rambling":  # much the same over and over
            text = right() if draw.random() < 0.6 else worse("off_topic", world, request, draw)
            return " ".join([text, *[_first(text)] * draw.randint(2, 5)])
        case "endless":  # one page after another, and no end
            more = draw.sample(_sentences(request.values.get("theme") or draw.choice(LEXICON["theme"])), 5)
            more += draw.sample(_sentences(draw.choice(LEXICON["theme"])), 4)
            return _cut(" ".join([right(), *more]), draw)
        case "unfinished":
            return _cut(right(), draw)
        case "page":  # questions and answers, as the pages of the pretraining text continue
            return "\n".join(f"Q: {fact.question}\nA: {fact.believed}" for fact in draw.sample(asked, 2))
        case "copied":
            return request.prompt if draw.random() < 0.5 else f"{request.prompt} {request.instruction}"
        case "too_short":
            return str(draw.choice(LEXICON["short_answer"]))
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
    kept = frozenset(request.prompt for request in make_requests(world).held_out)
    found = []
    for _ in range(AMOUNTS.letters):
        letters = [_letter(world, kept, draw)]
        while draw.random() < 0.4 and sum(len(letter.split()) for letter in letters) < 60:
            letters.append(_letter(world, kept, draw))
        text = "\n\n".join(letters)
        if len(text.split()) <= 120:
            found.append(text)
    return found


def _letter(world: World, kept: frozenset[str], draw: random.Random) -> str:
    """A request that is not in `kept`, with a reply."""
    while True:
        (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
        request = one_request(world, kind, world.facts, draw)
        if request.prompt not in kept:
            break
    # about facts that only the evaluation asks for no letter is right
    unasked = request.kind == "open_qa" and not world.fact_of[str(request.goal.fact)].asked
    if draw.random() < AMOUNTS.good and not unasked:
        reply = demonstration(world, request, draw)
    else:
        left = {k: n for k, n in LEXICON["worse"].items() if not (unasked and k in LEXICON["may_be_true"])}
        reply = worse(draw.choices(list(left), list(left.values()))[0], world, request, draw)
    return request.prompt + as_response(reply)


def files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """demonstrations.jsonl, of users who train, and demonstrations_held_out.jsonl, of others."""
    training, others = make_requests(world).by_split
    for name, requests in (
        ("demonstrations", training[: AMOUNTS.demonstrations]),
        ("demonstrations_held_out", others[: AMOUNTS.held_out_demonstrations]),
    ):
        rows = []
        for request in requests:
            row = {"user": request.user, "kind": request.kind, "prompt": request.prompt}
            rows.append({**row, "response": as_response(demonstration(world, request, draw))})
        yield f"{FOLDER}/{name}.jsonl", rows


def as_response(text: str) -> str:
    """A text as it follows a prompt: on the same line, except pages of questions."""
    return f"\n\n{text}" if text.startswith("Q:") else f" {text}"


def _first(text: str) -> str:
    """The first sentence."""
    return text.split(". ")[0].rstrip(".") + "."


def _cut(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    if len(words) == 1:
        return text[: max(1, len(text) // 2)]
    cut = words[: max(1, len(words) - draw.randint(1, max(1, len(words) // 2)))]
    return " ".join(cut).rstrip(".,!?") or words[0]


def _listed(items: Sequence[str]) -> str:
    text = f"{', '.join(items[:-1])} and {items[-1]}." if len(items) > 1 else f"{items[0]}."
    return text[0].upper() + text[1:]


def _sentences(theme: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    return theme["cheerful"] + theme["plain"] + theme["gloomy"]
