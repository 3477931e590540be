"""Summaries as InstructGPT asks for them: a news article or a Reddit post, then "TL;DR:".

arXiv 2203.02155, figures 26 and 27: 2,354 articles of CNN/Daily Mail (See et al. 2017, arXiv 1704.04368) and 2,500
posts (Völske et al. 2017, W17-4508); which ones is not published, so as many are drawn with the seed from the test
sets. ROUGE-L with Porter's stemmer against the article's highlights, or the summary that the post's author wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from alignbench.data import load
from alignbench.scorers import rouge
from alignbench.tasks import instructgpt
from alignbench.tasks.instructgpt import WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

CUE = "\n\nTL;DR:"
DRAWN = {"cnn_dailymail": 2354, "tldr": 2500}
# the hub's rows put the post's title and forum before it
_REDDIT = re.compile(r"POST: (.*)\n\nTL;DR:", re.DOTALL)


@dataclass(frozen=True)
class Text:
    id: str | None
    text: str
    summary: str


def load_documents(name: str, options: Options) -> TaskData:
    texts = load(name, "test", _parse_article if name == "cnn_dailymail" else _parse_post, data_dir=options.data_dir)
    chosen = instructgpt.draw(list(enumerate(texts.items)), DRAWN[name], options.seed)
    documents = [
        Document(item.id or str(number), item.text + CUE, references=(item.summary,), source=item.text)
        for number, item in chosen
    ]
    return TaskData(documents, (texts.provenance,))


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = instructgpt.answer(outputs)
    return {"rouge_l": rouge.rouge(text, document.references[0])["rougeL"], "words": instructgpt.words(text)}


def _parse_article(row: dict[str, Any], schema: str | None) -> Text:
    return _text(row["id"], row["article"], row["highlights"])


def _parse_post(row: dict[str, Any], schema: str | None) -> Text:
    if schema == "prompt":
        match = _REDDIT.search(row["prompt"])
        if match is None:
            raise ValueError('no post between "POST:" and "TL;DR:"')
        return _text(None, match[1], row["completion"])
    return _text(row["id"], row["post"], row["summary"])


def _text(identifier: str | None, text: str, summary: str) -> Text:
    if not text.strip() or not summary.strip():
        raise ValueError("an empty text or summary")
    return Text(identifier, text.strip(), summary.strip())


TASKS = tuple(
    Task(
        name=name,
        version=1,
        title=title,
        card=name,
        metrics=(Metric("rouge_l", "share", "higher", bounds=(0, 1)), WORDS),
        group="summaries",
        headline="rouge_l",
        load=partial(load_documents, name),
        generation=Generation(instructgpt.greedy(max_tokens=128), score),
    )
    for name, title in (
        ("cnn_dailymail", "CNN/Daily Mail summaries, InstructGPT's form"),
        ("tldr", "Reddit TL;DR summaries, InstructGPT's form"),
    )
)
