"""Summaries of news articles and Reddit posts in InstructGPT's form (arXiv 2203.02155, figures 26 and 27).

CNN/Daily Mail (See et al. 2017, arXiv 1704.04368) and TL;DR (Völske et al. 2017, W17-4508); as many as in the paper are
drawn with the seed. ROUGE-L with Porter's stemmer against the article's highlights, or the post's own summary.
"""

import re
from dataclasses import replace
from functools import partial

from alignbench.data import Row
from alignbench.scorers import rouge
from alignbench.tasks import common
from alignbench.tasks.declare import one_line_task
from alignbench.types.task import Document, Options, Output, TaskData

CUE = "\n\nTL;DR:"
DRAWN = {"cnn_dailymail": 2354, "tldr": 2500}
# the hub's rows put the title and the forum before the post
_REDDIT = re.compile(r"POST: (.*)\n\nTL;DR:", re.DOTALL)


def load_documents(name: str, options: Options) -> TaskData:
    data = common.load_documents(name, "test", parse, options)
    return replace(data, documents=common.draw(data.documents, DRAWN[name], options.seed))


def parse(row: Row) -> Document:
    """Parse an article, or a post in this project's layout or in the hub's {prompt, completion}."""
    if "article" in row:
        return _document(row["id"], row["article"], row["highlights"])
    if "prompt" not in row:
        return _document(row["id"], row["post"], row["summary"])
    match = _REDDIT.search(row["prompt"])
    if match is None:
        raise ValueError('no post between "POST:" and "TL;DR:"')
    return _document("", match[1], row["completion"])


def _document(identifier: str, text: str, summary: str) -> Document:
    text, summary = text.strip(), summary.strip()
    if not text or not summary:
        raise ValueError("an empty text or summary")
    return Document(identifier, text + CUE, references=(summary,), source=text)


def score(document: Document, output: Output) -> dict[str, float]:
    return {"rouge_l": rouge.rouge(output.text, document.references[0])["rougeL"]}


TASKS = tuple(one_line_task(name, partial(load_documents, name), score) for name in DRAWN)
