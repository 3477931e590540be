"""The cases of the generation benchmark and their prompts.

Standard library only, since both environments import it.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Work:
    """Prompts and how they are continued.

    samples: continuations of each prompt at temperature 1 and `top_p`; 1: one greedy continuation
    stop: where a continuation ends; None: after exactly `max_tokens` tokens, and the end-of-sequence token is an
        ordinary token
    """

    prompts: list[str]
    max_tokens: int
    samples: int = 1
    top_p: float = 1.0
    stop: str | None = None

    @property
    def sampled(self) -> bool:
        return self.samples > 1


@dataclass(frozen=True)
class Case:
    """prompts: the default number; batch_size: lm-eval's default
    hf: ways of calling transformers' generate: all are tried, the fastest is kept
    """

    build: Callable[[Path, int, int], Work]
    prompts: int
    batch_size: int
    hf: tuple[str, ...] = ()


def real_toxicity(data: Path, count: int, seed: int) -> Work:
    """The first prompts, 25 continuations of 20 tokens, top-p .9."""
    lines = (data / "real-toxicity-prompts/rtp_5000.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["prompt"]["text"].rstrip() for line in lines[:count]]
    return Work(prompts, max_tokens=20, samples=25, top_p=0.9)


def greedy_stop(data: Path, count: int, seed: int, characters: range = range(10**6)) -> Work:
    """User-oriented instructions of Self-Instruct, to the first blank line. They share no prefix, so the stops make
    the difference."""
    lines = (data / "self-instruct/user_oriented_instructions.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = []
    for row in map(json.loads, lines):
        given = f"{row['instruction'].strip()}\n{row['instances'][0]['input'].strip()}".strip()
        if len(given) in characters:
            prompts.append(f"User: {given}\nAssistant:")
    return Work(random.Random(seed).sample(prompts, count), max_tokens=64, stop="\n\n")


def greedy_stop_long(data: Path, count: int, seed: int) -> Work:
    """The longer ones, about 80 to 170 tokens of SmolLM2's."""
    return greedy_stop(data, count, seed, range(300, 800))


def few_shot_squad(data: Path, count: int, seed: int) -> Work:
    """Four paragraphs with four questions each, then questions on other articles' paragraphs after up to three
    earlier ones, in the form of our task `squad2`; to the first newline."""
    articles = json.loads((data / "squad2/cs224n-dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    draw = random.Random(seed)
    draw.shuffle(articles)

    def shown(title: str, paragraph: dict, asked: int) -> str:  # type: ignore[type-arg]
        text = f"Title: {title}\n\nBackground: {paragraph['context']}"
        for question in paragraph["qas"][:asked]:
            answer = question["answers"][0]["text"] if question["answers"] else "Not in background."
            text += f"\n\nQ: {question['question'].strip()}\n\nA: {answer}"
        return text

    prefix = (
        "Answer each question using information in the preceding background paragraph."
        ' If there is not enough information provided, answer with "Not in background."\n\n'
    )
    for article in articles[:4]:
        prefix += shown(article["title"], draw.choice(article["paragraphs"]), 4) + "\n\n"
    others = [(article["title"], paragraph) for article in articles[4:] for paragraph in article["paragraphs"]]
    prompts = []
    for number, (title, paragraph) in enumerate(draw.sample([o for o in others if len(o[1]["qas"]) > 3], count)):
        earlier = number % 4
        question = paragraph["qas"][earlier]["question"].strip()
        prompts.append(f"{prefix}{shown(title, paragraph, earlier)}\n\nQ: {question}\n\nA:")
    return Work(prompts, max_tokens=50, stop="\n")


def few_shot_wmt(data: Path, count: int, seed: int) -> Work:
    """Fifteen translated sentences, then others to translate, in the form of our task `wmt15_fr_en`; to the newline."""
    folder = data / "wmt15-fr-en"
    french, english = (
        (folder / f"newsdiscusstest2015.{language}").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        for language in ("fr", "en")
    )
    pairs = random.Random(seed).sample(list(zip(french, english, strict=True)), 15 + count)
    prefix = "Translate the following sentences from French into English.\n\n"
    prefix += "".join(f"French: {fr.strip()}\nEnglish: {en.strip()}\n\n" for fr, en in pairs[:15])
    return Work([f"{prefix}French: {fr.strip()}\nEnglish:" for fr, _ in pairs[15:]], max_tokens=100, stop="\n")


CASES = {
    "rtp_4x25": Case(real_toxicity, 4, batch_size=32, hf=("each", "together")),
    "greedy_stop": Case(greedy_stop, 32, batch_size=16, hf=("stop_strings", "no_stop")),
    "greedy_stop_long": Case(greedy_stop_long, 32, batch_size=16, hf=("stop_strings", "no_stop")),
    "few_shot_squad": Case(few_shot_squad, 16, batch_size=4),
    "few_shot_wmt": Case(few_shot_wmt, 16, batch_size=8),
}


def write_case(work: Work, folder: Path) -> None:
    assert len(set(work.prompts)) == len(work.prompts)
    (folder / "case.json").write_text(json.dumps(asdict(work)), encoding="utf-8")


def read_case(folder: Path) -> Work:
    return Work(**json.loads((folder / "case.json").read_text(encoding="utf-8")))
