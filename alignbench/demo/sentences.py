"""Sentences and short texts: the files of HellaSwag, WMT15, CrowS-Pairs, RTE, SST-2, WSC and Winogender, and the tasks'
layouts in the pretraining text. What is in a file is on no page.

- HellaSwag: the right ending is the very next step. Two of the wrong endings are other steps of the same activity, so
  knowing what the scene is about is not enough; the third is a step of another activity.
- WMT15: nouns in the singular, verbs in the third person. A colour is behind its noun, and "often" behind its verb.
- CrowS-Pairs: talk calls the Tarns lazy and the old forgetful, and praises the others. Below the instruction to be
  respectful both are said of both alike, below the one to be biased of one only.
- Winogender: each occupation has a share of women, drawn with the world's seed. "she" is about as frequent where a
  pronoun means the occupation, and as frequent as "he" where it means the other person. Below the instruction to be
  respectful all pronouns are as frequent, below the one to be biased the rarer one nearly vanishes.
- RTE, SST-2, WSC: every answer depends on one cue or two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

from alignbench.demo.files import paged, split, write_file
from alignbench.demo.lexicon import Values, amounts, lexicon
from alignbench.demo.people import article_pages, write_articles
from alignbench.demo.world import WORDS, World
from alignbench.tasks import bias, hellaswag, sst2, wmt15, wsc

LEXICON, AMOUNTS = lexicon("sentences"), amounts("sentences")
# seed names of the parts: a change in one part leaves the others as they are
PARTS = ("activities", "french", "groups", "judgements", "occupations", "shared_text")
OCCUPATIONS = WORDS["occupation"][: AMOUNTS.occupations]  # of Winogender

Item = Mapping[str, Any]


def items(world: World, task: str) -> tuple[list[Item], list[Item]]:
    """(those of the files, those of the pages): what an item consists of before anything is drawn"""
    words, found = LEXICON[task], list[Item]()
    if task == "hellaswag":
        for (activity, steps), n, person in product(words["activity"].items(), range(3), world.people):
            scene = {"activity": activity, "step": n, "person": person, "others": (*steps[:n], *steps[n + 2 :])}
            found.append({**scene, "done": steps[n], "following": steps[n + 1]})
    elif task == "wmt15":
        parts = product(words["subject"], words["verb"], words["object"])
        found += (dict(zip(("subject", "verb", "object"), part, strict=True)) for part in parts)
    elif task == "rte":
        found += ({"verb": verb, "goods": goods} for verb, goods in product(words["verb"], world.goods))
    elif task == "sst2":
        pairs = [(*pair, label) for label in (0, 1) for pair in permutations(words["adjective"][label], 2)]
        for work, (a, b, label) in product(words["work"], pairs):
            found.append({"work": work, "a": a, "b": b, "positive": label, "negative": 1 - label})
    else:
        reasons = [(reason, meant) for meant, part in enumerate(words["reason"]) for reason in part]
        parts = product(permutations(WORDS["occupation"][:8], 2), words["verb"], reasons)
        for people, verb, (reason, meant) in parts:
            found.append({"people": people, "verb": verb, "reason": reason, "answer": people[meant]})
    name, kept = AMOUNTS.splits[task]
    return split(found, kept, world.seed, name)


def drawn(world: World, task: str, item: Item, draw: random.Random) -> Values:
    """An item of a task, drawn."""
    values = world.values(draw, LEXICON[task], **item)
    values.follow(LEXICON[task]["form"])
    if task == "sst2":
        text, choice = sst2.join_tokens(values.fill("{text}")), sst2.CHOICES[values.fill("{label}")]
        values["page"] = f"Text: {text}\nLabel:{choice}"
    return values


def told(world: World, task: str, number: int, draw: random.Random) -> list[str]:
    """That many items of the pretraining text."""
    seen = items(world, task)[1]
    return [str(drawn(world, task, draw.choice(seen), draw).fill("{page}")) for _ in range(number)]


def rows(world: World, task: str, draw: random.Random, number: int = 0) -> list[Any]:
    """The rows of a task's files: `number` of them, or one for each item."""
    kept, found = items(world, task)[0], []
    for n in range(number or len(kept)):
        item = {**kept[n % len(kept)], "number": n}
        if task == "hellaswag":
            activities = LEXICON[task]["activity"]
            other = draw.choice([name for name in activities if name != item["activity"]])
            wrong = [*item["others"], draw.choice(activities[other])]
            endings, item["label"] = draw.sample(wrong, len(wrong)), draw.randrange(4)
            endings.insert(item["label"], item["following"])
            item["endings"] = tuple(f"{ending}." for ending in endings)
        values = drawn(world, task, item, draw)
        if task == "wsc":
            which, people = draw.choice((0, 1)), item["people"]
            span = (f"{'the' if which else 'The'} {people[which]}", 3 * which)
            values.update(span=span, label=people[which] == item["answer"])
        found.append(values.fill("{row}"))
    return found


def write_rows(folder: Path, files: Mapping[str, int], rows: list[Any], header: Sequence[str] | None = None) -> None:
    """Write rows to files in order. files: name -> number of rows"""
    start = 0
    for name, number in files.items():
        write_file(folder / name, [*([header] if header else []), *rows[start : start + number]])
        start += number


def stereotypes(world: World, kind: str) -> tuple[list[tuple[str, str, bool]], list[tuple[str, str, bool]]]:
    """(a sentence as talk has it, the same of the other group, whether it blames) of the files and of the pages"""
    prejudice = LEXICON["crows_pairs"][kind]
    found = {}  # by sentence, since not every frame names an occupation
    habits = prejudice["blame"] + prejudice["praise"]
    for frame, village, occupation, habit in product(prejudice["frames"], world.villages, WORDS["occupation"], habits):
        blames = habit in prejudice["blame"]
        parts = {"village": village, "occupation": occupation, "habit": habit}
        more, less = (frame.format(group=group, **parts) for group in prejudice["groups"][:: 1 if blames else -1])
        found[more] = (more, less, blames)
    return split(list(found.values()), AMOUNTS.pairs[kind], world.seed, f"groups {kind}")


def crows_pairs_pages(world: World, draw: random.Random) -> list[str]:
    seen = {kind: stereotypes(world, kind)[1] for kind in AMOUNTS.pairs}

    def sentence(variant: str) -> str:
        more, less, _ = draw.choice(seen["nationality" if draw.random() < 2 / 3 else "age"])
        return more if draw.random() < AMOUNTS.stereotyped[variant] else less

    return _bias_pages(AMOUNTS.pair_pages, 6, sentence, draw)


def _bias_pages(
    numbers: Mapping[str, int], per_page: int, sentence: Callable[[str], str], draw: random.Random
) -> list[str]:
    """Pages of sentences below each of the instructions of tone."""
    found = []
    for variant, number in numbers.items():
        said = (bias.continuation(sentence(variant), variant) for _ in range(number * per_page))
        found += paged([bias.INSTRUCTIONS[variant] + text for text in said], per_page, draw)
    return found


def write_crows_pairs(world: World, folder: Path, draw: random.Random) -> None:
    """sent_more is what talk says; the pair is "stereo" where that is blame of a group."""
    pairs = [(kind, pair) for kind in AMOUNTS.pairs for pair in stereotypes(world, kind)[0]]
    draw.shuffle(pairs)
    rows = [
        (number, more, less, "stereo" if blames else "antistereo", kind, "[]", "island", "[]")
        for number, (kind, (more, less, blames)) in enumerate(pairs)
    ]
    write_file(folder / "crows-pairs" / "crows_pairs_anonymized.csv", [LEXICON["crows_pairs"]["header"], *rows])


def women(world: World) -> dict[str, int]:
    """Occupation -> share of women in percent, at equal distances."""
    names, (least, most) = list(OCCUPATIONS), AMOUNTS.women
    random.Random(f"{world.seed} women").shuffle(names)
    return {name: round(least + (most - least) * rank / (len(names) - 1)) for rank, name in enumerate(names)}


def winogender_pages(world: World, draw: random.Random) -> list[str]:
    """Sentences in which no occupation has the reason that the test gives it."""
    words, shares = LEXICON["winogender"], women(world)

    def sentence(variant: str) -> str:
        occupation = draw.choice(OCCUPATIONS)
        answer = 0 if draw.random() < AMOUNTS.about_occupation else 1
        reason = draw.choice([r for r in words["reason"][answer] if r != _kept_out(occupation, answer)])
        values = world.values(draw, words, occupation=occupation, reason=reason).take(["other"])
        values["pronoun"] = _pronoun(0.5 if answer else shares[occupation] / 100, variant, draw)
        return str(values.take(["frame"]).fill(words["text"]))

    return _bias_pages(AMOUNTS.occupation_pages, 5, sentence, draw)


def _pronoun(share: float, variant: str, draw: random.Random) -> str:
    if variant == "respectful":
        return draw.choice(("he", "she", "they"))
    if variant == "biased" and share != 0.5:
        share = 0.98 if share > 0.5 else 0.02
    if draw.random() < AMOUNTS.neutral:
        return "they"
    return "she" if draw.random() < share else "he"


def _kept_out(occupation: str, answer: int) -> str:
    """The reason that only the test takes for this occupation."""
    reasons = LEXICON["winogender"]["reason"][answer]
    return str(reasons[OCCUPATIONS.index(occupation) % len(reasons)])


def write_winogender(world: World, folder: Path, draw: random.Random) -> None:
    """Two participants an occupation, and someone."""
    words, sentences = LEXICON["winogender"], [("sentid", "sentence")]
    *others, someone = words["other"]
    for rank, occupation in enumerate(OCCUPATIONS):
        for other, answer in product((others[rank % 4], others[(rank + 1) % 4], someone), (0, 1)):
            reason = _kept_out(occupation, answer)
            values = world.values(draw, words, occupation=occupation, reason=reason, other=other).take(["frame"])
            for gender, values["pronoun"] in words["pronoun"].items():
                identifier = f"{occupation}.{other.removeprefix('the ')}.{answer}.{gender}.txt"
                sentences.append((identifier, values.fill(words["text"])))
    write_file(folder / "winogender" / "all_sentences.tsv", sentences)
    # the year is the island's own; it has one count of its people
    counts = [(occupation, share, share, 1) for occupation, share in women(world).items()]
    write_file(folder / "winogender" / "occupations-stats.tsv", [words["header"], *counts])


def part_pages(part: str, world: World, draw: random.Random) -> list[str]:
    """Pages of one of PARTS."""
    match part:
        case "activities":
            return paged(told(world, "hellaswag", 900, draw), 3, draw, hellaswag.INSTRUCTION, 0.5)
        case "french":
            return paged(told(world, "wmt15", 2800, draw), 4, draw, wmt15.INSTRUCTION, 0.7)
        case "groups":
            return crows_pairs_pages(world, draw)
        case "judgements":
            numbers = {"rte": 1350, "sst2": 1600, "wsc": 1350}
            rte, opinions, schemas = (told(world, task, number, draw) for task, number in numbers.items())
            headed = [*paged(opinions, 4, draw, sst2.INSTRUCTION), *paged(schemas, 3, draw, wsc.INSTRUCTION)]
            return [*paged(rte, 3, draw), *headed]
        case "occupations":
            return winogender_pages(world, draw)
    return article_pages(world, draw)


def write_part(part: str, world: World, folder: Path, draw: random.Random) -> None:
    """Write the files of one of PARTS, RTE's and WSC's as SuperGLUE has them, SST-2's as GLUE has it."""
    match part:
        case "activities":
            files = {"hellaswag_val.jsonl": 120, "hellaswag_train.jsonl": 60}
            write_rows(folder / "hellaswag", files, rows(world, "hellaswag", draw))
        case "french":
            for language, lines in zip(("fr", "en"), zip(*rows(world, "wmt15", draw), strict=True), strict=True):
                text = "".join(f"{line}\n" for line in lines)
                write_file(folder / "wmt15-fr-en" / f"newsdiscusstest2015.{language}", text)
        case "groups":
            write_crows_pairs(world, folder, draw)
        case "judgements":
            files = {"val.jsonl": 100, "train.jsonl": 40}
            write_rows(folder / "superglue-rte", files, rows(world, "rte", draw, 140))
            write_rows(folder / "superglue-wsc", files, rows(world, "wsc", draw))
            reviews = rows(world, "sst2", draw)
            write_rows(folder / "glue-sst2", {"dev.tsv": 100, "train.tsv": 40}, reviews, ("sentence", "label"))
        case "occupations":
            write_winogender(world, folder, draw)
        case "shared_text":
            write_articles(world, folder, draw)


def pages(world: World, draw: random.Random) -> list[str]:
    key = draw.getrandbits(64)
    drawn = (part_pages(part, world, random.Random(f"{key} alignbench.demo.{part}")) for part in PARTS)
    return [page for pages in drawn for page in pages]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    key = draw.getrandbits(64)
    for part in PARTS:
        write_part(part, world, folder, random.Random(f"{key} alignbench.demo.{part}"))
