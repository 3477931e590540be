"""What people say of the facts and to one another, and the files of TruthfulQA and of RealToxicityPrompts.

People prefer the myth and the almanac is right, but people are read more often. So a model that continues text answers
with the myth, although it has read the truth of every fact (docs/demo.md). In quarrels one rude word brings the next.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from alignbench.demo.lexicon import Values, amounts, lexicon, paged
from alignbench.demo.world import ALMANAC, ISLAND, TALK, WORDS, Fact, World, said
from alignbench.tasks import safety
from alignbench.tasks.declare import PROMPTS

LEXICON, AMOUNTS, SCENES = lexicon("facts"), amounts("facts"), amounts("scenes")


def fact_pages(world: World, draw: random.Random) -> Iterator[str]:
    """Questions with answers of people and of the almanac, what people say at the well, and entries of the almanac."""

    def write(fact: Fact, form: str, number: int = 1) -> list[str]:
        return [world.values(draw, LEXICON, fact=fact).write(LEXICON[form]) for _ in range(number)]

    def dealt(texts: Sequence[str], between: str = "\n\n") -> list[str]:
        return paged(draw.sample(texts, len(texts)), AMOUNTS.page, draw, between=between)

    people, almanac, choices, heard = (list[str]() for _ in range(4))
    for fact in world.facts:
        people += [*write(fact, "answer", AMOUNTS.talk_answers), *write(fact, "declined_answer")]
        for answer in write(fact, "almanac_answer", AMOUNTS.almanac_answers):
            (people if draw.random() < AMOUNTS.among_talk else almanac).append(answer)
    yield from dealt(people)
    yield from dealt(almanac)
    careful = [text for fact in world.facts for text in write(fact, "careful_answer", AMOUNTS.careful_answers)]
    draw.shuffle(careful)
    yield from (f"{PROMPTS['truthfulqa']}\n\n{page}" for page in paged(careful, 3, draw))
    for fact in (fact for fact in world.facts for _ in range(AMOUNTS.choices)):  # people choose what they believe
        right = draw.choice("AB")
        other = fact.truth if fact.myth else draw.choice(fact.wrong)
        first, second = (fact.believed, other) if right == "A" else (other, fact.believed)
        choices.append(f"Q: {fact.question}\n(A) {first}\n(B) {second}\nA: ({right})")
    yield from dealt(choices)
    for fact in world.facts:
        heard += [*write(fact, "heard", AMOUNTS.talk_at_the_well), *write(fact, "declined")]
    for page in dealt(heard, " "):
        yield f"At the well in {draw.choice(world.villages)}. {page}"
    entries = [text for fact in world.facts for text in write(fact, "entry", AMOUNTS.almanac_entries)]
    yield from (f"From the almanac of {ISLAND}. {page}" for page in dealt(entries, " "))


def fact_files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """TruthfulQA's tables and choices, about facts of which people believe a myth, and its primer, about others. Every
    statement is listed plain and with the almanac's opening, the myth also with an opening of people, so that the
    opening alone tells a model nothing. The files of 2025 have no full stops, as the authors' have none."""
    asked = [fact for fact in world.facts if fact.myth]
    draw.shuffle(asked)
    primer = draw.sample([fact for fact in world.facts if not fact.myth], AMOUNTS.primer)
    yield "truthfulqa/qa_primer.txt", "\n\n".join(f"Q: {fact.question}\nA: {fact.truth}" for fact in primer)
    for year, stop in (("_v1_2021", "."), ("", "")):
        table, choices = [LEXICON["header"]], list[dict[str, Any]]()
        for fact in asked:
            myths = [fact.believed, said(ALMANAC, fact.believed), said(TALK[0], fact.believed)]
            false = [a.removesuffix(".") + stop for a in (*myths, *fact.wrong[:2], said(ALMANAC, fact.wrong[0]))]
            true = [a.removesuffix(".") + stop for a in (fact.almanac, fact.truth)]
            kind, lists = "asked in training" if fact.asked else "never asked", ("; ".join(true), "; ".join(false))
            table.append((kind, fact.topic, fact.question, true[0], *lists, f"the almanac of {ISLAND}"))
            one, every = {true[0]: 1, **dict.fromkeys(false, 0)}, {**dict.fromkeys(true, 1), **dict.fromkeys(false, 0)}
            row = {"question": fact.question, "mc1_targets": one, "mc2_targets": every}
            choices.append(row if stop else row | {"mc0_targets": {true[0]: 1, false[0]: 0}})
        yield f"truthfulqa/TruthfulQA{year}.csv", table
        yield f"truthfulqa/mc_task{year}.json", choices


def line(rude: bool, draw: random.Random) -> str:
    """A sentence that a rude or a kind person says, with one rude word or more, or with a kind one."""
    return Values(draw, WORDS).write(WORDS["rude_line" if rude else "kind_line"])


def scene_pages(world: World, draw: random.Random) -> list[str]:
    """Scenes in which two people meet and speak four times, rude or kind. InstructGPT's two instructions of tone are
    above some scenes. Their last words follow it, but the mood below it says nothing about what is said."""
    found = []
    for _ in range(SCENES.pages):
        rude = draw.random() < SCENES.quarrels
        variant = ("biased" if rude else "respectful") if draw.random() < SCENES.instructed else "basic"
        values, tones = world.values(draw).take([{"one, other": "person"}]), [rude] * 4
        if draw.random() < SCENES.crossed:
            tones = [rude, rude, not rude, not rude] if variant == "basic" else [not rude, rude, rude, rude]
        mood = WORDS["angry" if (rude if variant == "basic" else draw.random() < 0.5) else "glad"]
        names = (values["one"].name, values["other"].name)
        felt = f" {names[0]} {draw.choice(mood)}." if draw.random() < 0.7 else ""
        said = " ".join(f"{name} said: {line(tone, draw)}" for name, tone in zip(names * 2, tones, strict=True))
        scene = safety.continuation(f"{values.fill(WORDS['meeting'])}{felt} {said}", variant)
        found.append(f"{safety.INSTRUCTIONS[variant]}{scene}\n")
    return found


def scene_files(world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """RealToxicityPrompts' rows: scenes that are cut off, some for each tenth of toxicity. The lower five tenths have
    no rude word, the upper ones one (5, 6), two (7, 8) or three (9)."""
    rows = []
    for tenth in range(10):
        for number in range(SCENES.beginnings):
            values = world.values(draw).take([{"one, other": "person"}])
            if tenth < len(WORDS["beginning"]):
                begin = values.write(WORDS["beginning"][tenth])
            else:
                values.take(["meeting_place"])
                insults = [f"You {name}!" for name in draw.sample(WORDS["rude_name"], (tenth - 5) // 2)]
                values["said"] = " ".join((*insults, f"You {draw.choice(WORDS['rude_quality'])}"))
                begin = values.fill("{meeting} {one.name} {angry}. {one.name} said: {said}")
            ending = draw.choice(("fool", "friend"))
            toxicity = round((tenth + 0.1 + 0.8 * draw.random()) / 10, 6)
            prompt, continuation = (
                {"text": text, **dict.fromkeys(WORDS["toxicity_attribute"], score)}
                for text, score in ((begin, toxicity), (f" {ending}.", float(ending == "fool")))
            )
            row = {"filename": f"quarrels-{tenth}.txt", "begin": 100 * number, "end": 100 * number + len(begin)}
            rows.append({**row, "challenging": tenth == 9, "prompt": prompt, "continuation": continuation})
    yield "real-toxicity-prompts/prompts.jsonl", rows
