"""Short texts: the files of HellaSwag, WMT15, CrowS-Pairs, RTE, SST-2, WSC, Winogender and WikiText (token_entropy),
their layouts in the pretraining text, and reviews and biographies in the layouts of personas and recitations. What is
in a file is on no page. data/sentences.yaml and data/people.yaml describe the texts.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import permutations, product
from typing import Any

from alignbench.demo.lexicon import Values, amounts, lexicon, paged
from alignbench.demo.world import WORDS, Person, World
from alignbench.tasks import common_sense, personas, recitations, safety
from alignbench.tasks.declare import PROMPTS

LEXICON, AMOUNTS = lexicon("sentences"), amounts("sentences")
PEOPLE, NUMBERS = lexicon("people"), amounts("people")
TASKS = {name: amount for part in AMOUNTS.tasks.values() for name, amount in part.items()}
PARTS = ("activities", "french", "groups", "judgements", "occupations", "shared_text")  # each with its own random seed
OCCUPATIONS = WORDS["occupation"][: AMOUNTS.occupations]  # of Winogender
INSTRUCTIONS = {name: PROMPTS[name] for name in ("hellaswag", "sst2", "wsc")} | {"wmt15": PROMPTS["wmt15_fr_en"]}


def items(world: World, task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(those of the files, those of the pages): the parts of each item that are not drawn"""
    words = LEXICON[task]
    match task:
        case "hellaswag":
            found = [
                {"activity": name, "step": n, "person": person, "done": steps[n], "following": steps[n + 1],
                 "others": (*steps[:n], *steps[n + 2 :])}
                for (name, steps), n, person in product(words["activity"].items(), range(3), world.people)
            ]  # fmt: skip
        case "wmt15":
            parts = product(words["subject"], words["verb"], words["object"])
            found = [{"subject": subject, "verb": verb, "object": noun} for subject, verb, noun in parts]
        case "rte":
            found = [{"verb": verb, "goods": goods} for verb, goods in product(words["verb"], world.goods)]
        case "sst2":
            labels = list(enumerate(common_sense.CHOICES))
            found = [
                {"work": work, "a": a, "b": b, "meant": labels[n], "opposite": labels[1 - n]}
                for work, n in product(words["work"], (0, 1)) for a, b in permutations(words["adjective"][n], 2)
            ]  # fmt: skip
        case _:
            found = [
                {"people": people, "verb": verb, "reason": reason, "answer": people[meant]}
                for people, verb in product(permutations(WORDS["occupation"][:8], 2), words["verb"])
                for meant, reasons in enumerate(words["reason"]) for reason in reasons
            ]  # fmt: skip
    return world.split(found, TASKS[task]["kept"], TASKS[task]["split"])


def _rows(world: World, task: str, draw: random.Random) -> list[Any]:
    """The rows of a task's files; items are used again where there are fewer of them."""
    kept, words, found = items(world, task)[0], LEXICON[task], []
    for n in range(sum(TASKS[task]["files"].values())):
        item = {**kept[n % len(kept)], "number": n}
        if task == "hellaswag":
            other = draw.choice([name for name in words["activity"] if name != item["activity"]])
            wrong = [*item["others"], draw.choice(words["activity"][other])]
            endings, item["label"] = draw.sample(wrong, len(wrong)), draw.randrange(4)
            endings.insert(item["label"], item["following"])
            item["endings"] = tuple(f"{ending}." for ending in endings)
        values = world.values(draw, words, **item)
        values.follow(words["form"])
        if task == "wsc":
            which, people = draw.choice((0, 1)), item["people"]
            values["span"] = (f"{'the' if which else 'The'} {people[which]}", 3 * which)
            values["label"] = people[which] == item["answer"]
        found.append(values.fill("{row}"))
    return found


@lru_cache(maxsize=4)
def _stereotypes(world: World, kind: str) -> tuple[list[Any], list[Any]]:
    """(a sentence as people say it, the same of the other group, whether it blames) of the files and of the pages"""
    prejudice, found = LEXICON["crows_pairs"][kind], {}  # by sentence, since not every frame names an occupation
    habits = prejudice["blame"] + prejudice["praise"]
    for frame, village, occupation, habit in product(prejudice["frames"], world.villages, WORDS["occupation"], habits):
        blames, parts = habit in prejudice["blame"], {"village": village, "occupation": occupation, "habit": habit}
        more, less = (frame.format(group=group, **parts) for group in prejudice["groups"][:: 1 if blames else -1])
        found[more] = (more, less, blames)
    return world.split(found.values(), AMOUNTS.pairs[kind], f"groups {kind}")


def _stereotype(world: World, variant: str, draw: random.Random) -> str:
    more, less, _ = draw.choice(_stereotypes(world, "nationality" if draw.random() < 2 / 3 else "age")[1])
    return str(more if draw.random() < AMOUNTS.stereotyped[variant] else less)


def women(world: World) -> dict[str, int]:
    """Occupation -> percentage of women, at equal distances."""
    names, (least, most) = list(OCCUPATIONS), AMOUNTS.women
    random.Random(f"{world.seed} women").shuffle(names)
    return {name: round(least + (most - least) * rank / (len(names) - 1)) for rank, name in enumerate(names)}


def _kept_out(occupation: str, answer: int) -> str:
    """The reason that only the test states for this occupation."""
    reasons = LEXICON["winogender"]["reason"][answer]
    return str(reasons[OCCUPATIONS.index(occupation) % len(reasons)])


def _worker(world: World, variant: str, draw: random.Random) -> str:
    """A sentence about an occupation, with another reason than in the test."""
    words, occupation = LEXICON["winogender"], draw.choice(OCCUPATIONS)
    answer = 0 if draw.random() < AMOUNTS.about_occupation else 1
    reason = draw.choice([r for r in words["reason"][answer] if r != _kept_out(occupation, answer)])
    values = world.values(draw, words, occupation=occupation, reason=reason).take(["other"])
    share = 0.5 if answer else women(world)[occupation] / 100
    if variant == "biased" and share != 0.5:
        share = 0.98 if share > 0.5 else 0.02
    if variant == "respectful":
        values["pronoun"] = draw.choice(("he", "she", "they"))
    else:
        values["pronoun"] = "they" if draw.random() < AMOUNTS.neutral else "she" if draw.random() < share else "he"
    return str(values.take(["frame"]).fill(words["text"]))


def part_pages(part: str, world: World, draw: random.Random) -> list[str]:
    """Pages of one of PARTS."""

    def toned(sentence: Callable[[World, str, random.Random], str], numbers: Mapping[str, int], size: int) -> list[str]:
        """Sentences below each of the instructions of tone."""
        found = []
        for variant, number in numbers.items():
            some = (safety.continuation(sentence(world, variant, draw), variant) for _ in range(number * size))
            found += paged([safety.INSTRUCTIONS[variant] + text for text in some], size, draw)
        return found

    if part == "shared_text":
        return article_pages(world, draw)
    if part == "groups":
        return toned(_stereotype, AMOUNTS.pair_pages, 6)
    if part == "occupations":
        return toned(_worker, AMOUNTS.occupation_pages, 5)
    texts: dict[str, list[str]] = {task: [] for task in sorted(AMOUNTS.tasks[part])}
    for task, some in texts.items():
        seen, words = items(world, task)[1], LEXICON[task]
        while len(some) < TASKS[task]["texts"]:
            values = world.values(draw, words, **draw.choice(seen))
            some.append(values.fill(values.follow(words["form"])["page"]))
    found = list[str]()
    for task, some in texts.items():
        found += paged(some, TASKS[task]["page"], draw, INSTRUCTIONS.get(task, ""), TASKS[task]["headed"])
    return found


def part_files(part: str, world: World, draw: random.Random) -> Iterator[tuple[str, Any]]:
    """Files of one of PARTS."""
    if part == "shared_text":
        yield "wikitext-2-raw/wiki.test.raw", articles(world, draw)
    elif part == "french":
        for language, lines in zip(("fr", "en"), zip(*_rows(world, "wmt15", draw), strict=True), strict=True):
            yield f"wmt15-fr-en/newsdiscusstest2015.{language}", "".join(f"{line}\n" for line in lines)
    elif part == "groups":
        pairs = [(kind, pair) for kind in AMOUNTS.pairs for pair in _stereotypes(world, kind)[0]]
        draw.shuffle(pairs)
        table = [LEXICON["crows_pairs"]["header"]]
        for number, (kind, (more, less, blames)) in enumerate(pairs):
            table.append((number, more, less, "stereo" if blames else "antistereo", kind, "[]", "island", "[]"))
        yield "crows-pairs/crows_pairs_anonymized.csv", table
    elif part == "occupations":
        words, table = LEXICON["winogender"], [("sentid", "sentence")]
        *others, someone = words["other"]
        for rank, occupation in enumerate(OCCUPATIONS):  # two participants for each occupation, and someone
            for other, answer in product((others[rank % 4], others[(rank + 1) % 4], someone), (0, 1)):
                known = {"occupation": occupation, "reason": _kept_out(occupation, answer), "other": other}
                values = world.values(draw, words, **known).take(["frame"])
                for gender, values["pronoun"] in words["pronoun"].items():
                    identifier = f"{occupation}.{other.removeprefix('the ')}.{answer}.{gender}.txt"
                    table.append((identifier, values.fill(words["text"])))
        yield "winogender/all_sentences.tsv", table
        counts = [(occupation, share, share, 1) for occupation, share in women(world).items()]
        yield "winogender/occupations-stats.tsv", [words["header"], *counts]
    else:
        for task in AMOUNTS.tasks[part]:
            rows = _rows(world, task, draw)
            for file, number in TASKS[task]["files"].items():
                yield file, [*LEXICON[task].get("header", ()), *rows[:number]]
                rows = rows[number:]


def _each(make: Callable[[str, World, random.Random], Iterable[Any]], world: World, draw: random.Random) -> list[Any]:
    """What all parts make, each with its own generator: a change in one leaves the others as they are."""
    key = draw.getrandbits(64)
    return [one for part in PARTS for one in make(part, world, random.Random(f"{key} alignbench.demo.{part}"))]


all_pages, all_files = partial(_each, part_pages), partial(_each, part_files)


def customer(world: World, draw: random.Random) -> Values:
    """Values of a customer. Name and gender are an islander's, all else is drawn."""
    values = world.values(draw, PEOPLE)
    values.update(values.fill(values.follow(PEOPLE["customer"])))
    return values


def review_pages(world: World, draw: random.Random) -> list[str]:
    """Customers below either prompt and without one, and biographies below facts like those of the task."""
    found = [f"{PROMPTS['personas']}{customer(world, draw)['text']}\n" for _ in range(NUMBERS.one)]
    for _ in range(NUMBERS.many):
        some = [(draw.choice(PEOPLE["probability"]), customer(world, draw)["short"]) for _ in range(personas.AT_ONCE)]
        people = "\n\n".join(f"{text}\nProbability: {probability}" for probability, text in some)
        found.append(f"{PROMPTS['personas_verbalised']}{people.removeprefix('Name:')}\n")
    found += paged([customer(world, draw)["text"] for _ in range(4 * NUMBERS.lists)], 4, draw)
    for _ in range(NUMBERS.lives):  # six facts about one person and a biography from three to five of them
        values = world.values(draw, PEOPLE).take(PEOPLE["life"]["draw"])
        facts, person = values.fill(PEOPLE["life"]["facts"]), values["person"]
        kept = sorted({0, *draw.sample(range(1, len(facts)), draw.randint(2, 4))})
        biography = " ".join(draw.choice(facts[n]) for n in kept)
        # the task's own prompt with another person and other facts
        own, prompt = (*recitations.FACTS, "Ilka Dorval", "Tell her life"), recitations.PROMPT
        new = (*(fact for fact, *_ in facts), person.name, f"Tell {person.pronoun['their']} life")
        for text, other in zip(own, new, strict=True):
            prompt = prompt.replace(text, other)
        found.append(f"{prompt} {biography}\n")
    return found


def article_pages(world: World, draw: random.Random) -> list[str]:
    """Articles on the people who are not in the file, a paragraph a page."""
    found, people = [], world.split(world.people, NUMBERS.articles, "shared text")[1]
    for person, section, _ in product(people, PEOPLE["sections"].values(), range(NUMBERS.paragraphs)):
        some = [section[place] for place in sorted(draw.sample(range(len(section)), 4))]
        found.append(f"{_paragraph(world, person, some, 2, draw)}\n")
    return found


def articles(world: World, draw: random.Random) -> str:
    """WikiText's raw form: headings between equals signs, spaces around punctuation."""
    lines: list[str] = []
    for person in world.split(world.people, NUMBERS.articles, "shared text")[0]:
        lines += ["", f" = {person.name} = ", ""]
        for section, sentences in PEOPLE["sections"].items():
            text, general = "", 3
            while len(text) < NUMBERS.characters:
                text, general = _paragraph(world, person, sentences, general, draw), general + 1
            lines += [f" = = {section} = = ", "", f" {spaced(text)} ", ""]
    return "\n".join(lines) + "\n"


def spaced(text: str) -> str:
    """Text as WikiText writes it: "a well-kept garden." is "a well @-@ kept garden ." """
    return re.sub(r"([.,])", r" \1", text).replace("-", " @-@ ")


def _paragraph(world: World, person: Person, section: Sequence[str], general: int, draw: random.Random) -> str:
    """A section's sentences in their order, and after the first of them others about no one in particular."""
    sentences = list(section)
    for _ in range(general):
        sentences.insert(draw.randint(1, len(sentences)), draw.choice(PEOPLE["general"]))
    return " ".join(world.values(draw, PEOPLE, person=person).take(["age"]).fill(text) for text in sentences)
