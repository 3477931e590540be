"""Short texts to judge: does one sentence follow (rte), is it praise (sst2), whom does a pronoun mean (wsc); the files,
and the tasks' layouts in the pretraining text. Every answer hangs on one cue or two."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

from alignbench.demo.layout import paged, split, write_lines, write_table
from alignbench.demo.world import OCCUPATIONS, World
from alignbench.tasks import sst2, wsc

TEST, TRAIN = 100, 40  # items of each task's files
RTE_PAGES, SST2_PAGES, WSC_PAGES = 450, 400, 450

# --- rte: what somebody knows is so, what somebody hopes may be otherwise; and another thing than the passage's never
# follows

KNOWN = ("knows", "saw", "remembers")
NOT_KNOWN = ("hopes", "fears", "doubts")
DEALS = ("sells", "likes", "makes", "wants", "keeps", "buys")


@dataclass(frozen=True)
class Inference:
    premise: str
    hypothesis: str
    follows: bool

    @property
    def told(self) -> str:
        question = f"From this passage can one reasonably conclude that {self.hypothesis.removesuffix('.')}?"
        return f"Passage: {self.premise}\nQuestion: {question}\nAnswer: {'Yes' if self.follows else 'No'}"


def inference(world: World, said: tuple[str, str], draw: random.Random) -> Inference:
    """said: what somebody does with some goods, as it is known or not; nothing of the files is said in the pages"""
    verb, goods = said
    witness, person = draw.sample(world.people, 2)
    follows = draw.random() < 0.5
    known = follows or draw.random() < 0.15
    premise = f"{witness.name} {draw.choice(KNOWN if known else NOT_KNOWN)} that {person.name} {verb} {goods}."
    claimed = draw.choice([other for other in world.goods if other != goods]) if known and not follows else goods
    return Inference(premise, f"{person.name} {verb} {claimed}.", follows)


def matters(world: World) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    return split(list(product(DEALS, world.goods)), 20, world.seed, "rte")


# --- sst2: what the adjectives say, turned round by "not"

WORKS = ("story", "song", "play", "dance", "book", "ending", "picture", "tune")
ADJECTIVES = (
    ("dull", "slow", "empty", "weak", "cold", "boring", "messy", "tired"),  # label 0
    ("bright", "funny", "warm", "strong", "moving", "charming", "fresh", "lively"),  # label 1
)
# GLUE's text is in lower case and has spaces before its marks
PLAIN = ("the {work} is {a} and {b} . ", "a {a} and {b} {work} . ", "i found the {work} {a} , even {b} . ")
TURNED = ("the {work} is not {a} , nor is it {b} . ", "nobody would call this {work} {a} or {b} . ")


@dataclass(frozen=True)
class Opinion:
    text: str
    label: int

    @property
    def told(self) -> str:
        return f"Text: {sst2.join_tokens(self.text)}\nLabel:{sst2.CHOICES[self.label]}"


def opinion(words: tuple[str, str, str, int], draw: random.Random) -> Opinion:
    """words: a work, two adjectives and their label"""
    work, a, b, label = words
    turned = draw.random() < 0.2
    frame = draw.choice(TURNED if turned else PLAIN)
    return Opinion(frame.format(work=work, a=a, b=b), 1 - label if turned else label)


def wordings(world: World) -> tuple[list[tuple[str, str, str, int]], list[tuple[str, str, str, int]]]:
    pairs = [(a, b, label) for label, words in enumerate(ADJECTIVES) for a, b in permutations(words, 2)]
    return split([(work, *pair) for work in WORKS for pair in pairs], TEST + TRAIN, world.seed, "sst2")


# --- wsc: the reason tells whether the pronoun means the one who acts or the other

NOUNS = OCCUPATIONS[:8]
VERBS = ("called", "visited", "asked")
REASONS = (
    ("needed help", "felt lonely", "had a question"),  # the one who acts
    ("knew the answer", "had a boat", "gave good advice"),  # the other
)


@dataclass(frozen=True)
class Pronoun:
    first: str
    second: str
    verb: str
    reason: str
    pronoun: str

    @property
    def text(self) -> str:
        return f"The {self.first} {self.verb} the {self.second} because {self.pronoun} {self.reason}."

    @property
    def place(self) -> int:
        """The number of the word that is the pronoun."""
        return 6

    @property
    def meant(self) -> str:
        return f"the {self.first if self.reason in REASONS[0] else self.second}"

    @property
    def told(self) -> str:
        passage = wsc.mark(self.text, self.pronoun, self.place)
        question = f'In the passage above, what does the pronoun "*{self.pronoun}*" refer to?'
        return f"Passage: {passage}\nQuestion: {question}\nAnswer: {self.meant}"


def pronoun(scene: tuple[str, str, str, str], draw: random.Random) -> Pronoun:
    """scene: the one who acts, the other, the verb and the reason"""
    return Pronoun(*scene, draw.choice(("she", "he")))


def scenes(world: World) -> tuple[list[tuple[str, str, str, str]], list[tuple[str, str, str, str]]]:
    found = [
        (*pair, verb, reason)
        for pair in permutations(NOUNS, 2)
        for verb in VERBS
        for part in REASONS
        for reason in part
    ]
    return split(found, TEST + TRAIN, world.seed, "wsc")


# --- pages and files


def pages(world: World, draw: random.Random) -> list[str]:
    matter, wording, scene = matters(world)[1], wordings(world)[1], scenes(world)[1]
    passages = [inference(world, draw.choice(matter), draw).told for _ in range(3 * RTE_PAGES)]
    opinions = [opinion(draw.choice(wording), draw).told for _ in range(4 * SST2_PAGES)]
    pronouns = [pronoun(draw.choice(scene), draw).told for _ in range(3 * WSC_PAGES)]
    return [
        *paged(passages, 3, draw),
        *paged(opinions, 4, draw, sst2.INSTRUCTION),
        *paged(pronouns, 3, draw, wsc.INSTRUCTION),
    ]


def write_files(world: World, folder: Path, draw: random.Random) -> None:
    """RTE's and WSC's rows as SuperGLUE has them, SST-2's table as GLUE has it."""
    said = matters(world)[0]
    inferences: list[dict[str, object]] = []
    for number in range(TEST + TRAIN):
        item = inference(world, said[number % len(said)], draw)
        label = "entailment" if item.follows else "not_entailment"
        inferences.append({"premise": item.premise, "hypothesis": item.hypothesis, "label": label, "idx": number})
    schemas: list[dict[str, object]] = []
    for number, scene in enumerate(scenes(world)[0]):
        schema = pronoun(scene, draw)
        noun, place = draw.choice(((f"The {schema.first}", 0), (f"the {schema.second}", 3)))
        spans = {
            "span1_text": noun,
            "span1_index": place,
            "span2_text": schema.pronoun,
            "span2_index": schema.place,
        }
        schemas.append({"text": schema.text, "target": spans, "label": noun.lower() == schema.meant, "idx": number})
    for name, rows in (("superglue-rte", inferences), ("superglue-wsc", schemas)):
        write_lines(folder / name / "val.jsonl", rows[:TEST])
        write_lines(folder / name / "train.jsonl", rows[TEST:])
    opinions = [(item.text, item.label) for item in (opinion(words, draw) for words in wordings(world)[0])]
    for name, reviews in (("dev", opinions[:TEST]), ("train", opinions[TEST:])):
        write_table(folder / "glue-sst2" / f"{name}.tsv", ("sentence", "label"), reviews, "\t")
