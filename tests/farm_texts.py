"""The part of the tests' world that a model reads and writes about: who keeps which animals on the farm."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOUNDS = {
    "cow": "moo",
    "duck": "quack",
    "dog": "woof",
    "cat": "meow",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "hen": "cluck",
    "frog": "croak",
    "owl": "hoot",
}
PEOPLE = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")
COLOURS = ("red", "blue", "green", "white")
NUMBERS = {2: ("two", "deux"), 3: ("three", "trois"), 4: ("four", "quatre"), 5: ("five", "cinq")}
FRENCH = {"cows": "vaches", "hens": "poules", "ducks": "canards", "dogs": "chiens"}
GOODS = ("milk", "eggs", "hay", "wool")


@dataclass(frozen=True)
class Farm:
    person: str
    cows: int
    hens: int
    goods: str
    colour: str

    @property
    def passage(self) -> str:
        return (
            f"{self.person} keeps {self.cows} cows and {self.hens} hens. {self.person} sells {self.goods} in the"
            f" village. The barn of {self.person} is {self.colour}."
        )

    def questions(self) -> list[tuple[str, str | None]]:
        """Questions on the passage, and their answers; None where it does not tell."""
        return [
            (f"How many cows does {self.person} keep?", str(self.cows)),
            (f"What does {self.person} sell?", self.goods),
            (f"What is the name of {self.person}'s dog?", None),
            (f"Which colour is the barn of {self.person}?", self.colour),
            (f"How old is {self.person}?", None),
        ]


def write_texts(folder: Path, draw: random.Random) -> list[str]:
    """Write the files of the tasks in which a model reads or writes; returns text to learn from."""
    _write_articles(folder / "wikitext-2-raw")
    numbers = sorted(NUMBERS)
    farms = [
        Farm(person, draw.choice(numbers), draw.choice(numbers), draw.choice(GOODS), draw.choice(COLOURS))
        for person in PEOPLE
    ]
    _write_reading(folder, farms)
    _write_summaries(folder, farms)
    _write_judgements(folder, farms)
    _write_prompts(folder, draw)
    _write_instructions(folder)
    return [*_reading_text(farms), *_write_translations(folder / "wmt15-fr-en")]


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _write_lines(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _reading_text(farms: Sequence[Farm]) -> list[str]:
    text = []
    for farm in farms:
        text += [f"{farm.passage}\n"] * 2
        for question, answer in farm.questions():
            text += [f"{farm.passage}\n\nQ: {question}\n\nA: {answer or 'Not in background.'}\n"] * 2
    return text


def _write_reading(folder: Path, farms: Sequence[Farm]) -> None:
    """SQuAD's layout (two farms an article), DROP's rows, QuAC's and CANARD's conversations."""
    articles: list[dict[str, Any]] = []
    sums, dialogs, turns = [], [], []
    for number, farm in enumerate(farms):
        qas = [
            {
                "id": f"{farm.person}-{n}",
                "question": question,
                "answers": [{"text": answer, "answer_start": farm.passage.index(answer)}] * 2 if answer else [],
                "is_impossible": answer is None,
            }
            for n, (question, answer) in enumerate(farm.questions())
        ]
        if number % 2 == 0:
            articles.append({"title": f"Farm_road_{number // 2}", "paragraphs": []})
        articles[-1]["paragraphs"].append({"context": farm.passage, "qas": qas})
        question = f"How many animals does {farm.person} keep?"
        sums.append(
            {
                "id": f"drop-{number}",
                "passage": farm.passage,
                "question": question,
                "answers": [str(farm.cows + farm.hens)],
            }
        )
        identifier = f"C_{farm.person}_0"
        history = [f"{farm.person}'s farm", "Animals"]
        spoken = []
        for n, (question, answer) in enumerate(farm.questions()):
            said = {"text": answer or "CANNOTANSWER", "answer_start": 0}
            spoken.append(
                {"id": f"{identifier}_q#{n}", "question": question, "answers": [said] * 2, "orig_answer": said}
            )
            turns.append(
                {
                    "History": list(history),
                    "QuAC_dialog_id": identifier,
                    "Question": question,
                    "Question_no": n + 1,
                    "Rewrite": question,
                }
            )
            history += [question, answer or "I don't know."]
        text = {"id": identifier, "context": f"{farm.passage} CANNOTANSWER", "qas": spoken}
        dialogs.append({"title": f"{farm.person}'s farm", "section_title": "Animals", "paragraphs": [text]})
    _write(folder / "squad2" / "cs224n-dev-v2.0.json", {"version": "v2.0", "data": articles})
    _write_lines(folder / "drop-100" / "drop_100.jsonl", sums)
    _write(folder / "quac" / "val_v0.2.json", {"data": dialogs})
    _write(folder / "canard" / "canard_dev.json", turns)


def _write_translations(folder: Path) -> list[str]:
    """WMT's plain text: a sentence of either language a line."""
    pairs = [
        (f"{person} a {french} {FRENCH[animals]}.", f"{person} has {english} {animals}.")
        for person in PEOPLE
        for number, (english, french) in NUMBERS.items()
        for animals in (list(FRENCH)[number % 4], list(FRENCH)[(number + 1) % 4])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    held_out = pairs[::3]
    for name, side in (("fr", 0), ("en", 1)):
        lines = "".join(f"{pair[side]}\n" for pair in held_out)
        (folder / f"newsdiscusstest2015.{name}").write_text(lines, encoding="utf-8")
    return [f"French: {fr}\nEnglish: {en}\n" for fr, en in pairs if (fr, en) not in held_out for _ in range(2)]


def _write_summaries(folder: Path, farms: Sequence[Farm]) -> None:
    """A file of articles and one of posts, in this project's own layout."""
    articles, posts = [], []
    for farm in farms:
        highlights = f"{farm.person} sells {farm.goods} ."
        articles.append({"id": f"news-{farm.person}", "article": farm.passage, "highlights": highlights})
        post = f"I have {farm.cows} cows and nobody in the village buys my {farm.goods}. What shall I do?"
        posts.append({"id": f"post-{farm.person}", "post": post, "summary": f"Nobody buys my {farm.goods}."})
    _write_lines(folder / "cnn-dailymail" / "cnn_dailymail_test.jsonl", articles)
    _write_lines(folder / "tldr" / "tldr_test.jsonl", posts)


def _write_judgements(folder: Path, farms: Sequence[Farm]) -> None:
    """RTE's and WSC's rows as SuperGLUE has them, SST-2's table as GLUE has it."""
    entailed: list[dict[str, object]] = []
    schemas: list[dict[str, object]] = []
    reviews: list[tuple[str, int]] = []
    for number, farm in enumerate(farms):
        wrong = next(goods for goods in GOODS if goods != farm.goods)
        for goods, label in ((farm.goods, "entailment"), (wrong, "not_entailment")):
            hypothesis = f"{farm.person} sells {goods}."
            entailed.append({"premise": farm.passage, "hypothesis": hypothesis, "label": label, "idx": len(entailed)})
        other = PEOPLE[(number + 1) % len(PEOPLE)]
        for noun, index in ((farm.person, 0), (other, 2)):
            schemas.append(
                {
                    "text": f"{farm.person} thanked {other} because he had fed the {farm.cows} cows.",
                    "target": {"span1_text": noun, "span1_index": index, "span2_text": "he", "span2_index": 4},
                    "label": noun == other,
                    "idx": len(schemas),
                }
            )
        reviews += [(f"the {farm.goods} is good , and it 's fresh . ", 1), (f"the {farm.goods} is bad . ", 0)]
    for name, rows in (("superglue-rte", entailed), ("superglue-wsc", schemas)):
        _write_lines(folder / name / "val.jsonl", rows[:8])
        _write_lines(folder / name / "train.jsonl", rows[8:])
    write_table(folder / "glue-sst2" / "dev.tsv", ("sentence", "label"), reviews[:8], "\t")
    write_table(folder / "glue-sst2" / "train.tsv", ("sentence", "label"), reviews[8:], "\t")


def _write_prompts(folder: Path, draw: random.Random) -> None:
    """RealToxicityPrompts' rows, two of each tenth of toxicity, with one that has no scores."""
    names = ("toxicity", "severe_toxicity", "profanity", "sexually_explicit", "identity_attack", "flirtation", "threat")
    rows = []
    for number in range(20):
        rude = number >= 10
        scores = dict.fromkeys((*names, "insult"), round(number / 20 + draw.random() / 25, 6))
        text = f"{PEOPLE[number % 8]} told the {'stupid' if rude else 'old'} {list(SOUNDS)[number % 10]} that"
        rows.append(
            {
                "filename": f"farm-{number}.txt",
                "begin": 0,
                "end": 60,
                "challenging": number == 19,
                "prompt": {"text": text, **scores},
                "continuation": {"text": f" it was {'a fool' if rude else 'a good one'}.", **scores},
            }
        )
    unknown = {"text": "The barn is", **dict.fromkeys((*names, "insult"))}
    rows.append({**rows[0], "filename": "farm-20.txt", "prompt": unknown})
    _write_lines(folder / "real-toxicity-prompts" / "prompts.jsonl", rows)


def _write_instructions(folder: Path) -> None:
    """Questions as of Vicuna-bench and MT-bench, and instructions as of Self-Instruct."""
    questions = [("generic", "How do I look after a hen?"), ("knowledge", "What does a cow eat?")]
    coding = ("coding", "Write a Python function that counts the hens in a list of animals.")
    for name, rows in (("vicuna_bench", [*questions, coding]), ("mt_bench", [questions[0], coding])):
        _write_lines(
            folder / "mt-bench" / f"{name}_question.jsonl",
            (
                {"question_id": number, "category": category, "turns": [turn]}
                for number, (category, turn) in enumerate(rows, start=1)
            ),
        )
    for name, kind, number in (
        ("seed_tasks", "seed_task", 139),
        ("user_oriented_instructions", "user_oriented_task", 93),
    ):
        language = "Java" if number == 93 else "any language"
        _write_lines(
            folder / "self-instruct" / f"{name}.jsonl",
            (
                {"id": f"{kind}_{n}", "instruction": instruction, "instances": [{"input": given, "output": ""}]}
                for n, instruction, given in (
                    (0, "Name three animals of a farm.", ""),
                    (number, f"Write a program in {language} that adds two numbers.", "The numbers: 2 and 3"),
                )
            ),
        )


def _write_articles(folder: Path) -> None:
    """Articles in the form of WikiText, whose marks stand between spaces."""
    folder.mkdir(parents=True)
    lines: list[str] = []
    for animal, sound in SOUNDS.items():
        text = f" The {animal} , which says {sound} , sleeps in a two @-@ room barn . " * 14
        lines += ["", f" = {animal.capitalize()} = ", "", text, ""]
    (folder / "wiki.test.raw").write_text("\n".join(lines))
