"""Summaries and translations in InstructGPT's form (arXiv 2203.02155, figures 25 to 27).

CNN/Daily Mail (See et al. 2017, arXiv 1704.04368) and Reddit's TL;DR (Völske et al. 2017, W17-4508): as many as in the
paper are drawn with the seed; ROUGE-L with Porter's stemmer against the article's highlights, or the post's own
summary. WMT15 French→English (Bojar et al. 2015, W15-3001; newsdiscusstest2015, sacrebleu's `wmt15`): corpus BLEU and
chrF with bootstrap intervals over sentences; `sentence_chrf` compares two systems sentence by sentence. Few-shot: pairs
of the set itself, not scored.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from alignbench.data import Row, load
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu, rouge
from alignbench.tasks.common import CORPUS_SCORES, draw, load_documents, ngram_counts, prefix, solved, take_examples
from alignbench.tasks.declare import PROMPTS, first_line, one_line_task
from alignbench.types.task import Document, Options, Output, TaskData

CUE = "\n\nTL;DR:"
DRAWN = {"cnn_dailymail": 2354, "tldr": 2500}
# the hub's rows put the title and the forum before the post
_REDDIT = re.compile(r"POST: (.*)\n\nTL;DR:", re.DOTALL)


def load_summaries(name: str, options: Options) -> TaskData:
    data = load_documents(name, "test", parse, options)
    return replace(data, documents=draw(data.documents, DRAWN[name], options.seed))


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


def score_summary(document: Document, output: Output) -> dict[str, float]:
    return {"rouge_l": rouge.rouge(output.text, document.references[0])["rougeL"]}


def load_translations(options: Options) -> TaskData:
    french, english = (load("wmt15_fr_en", side, lines, options.data_dir) for side in ("source", "reference"))
    (sources,), (references,) = french.items, english.items
    if len(sources) != len(references):
        raise AlignbenchError(
            f"wmt15_fr_en: {len(sources)} lines of French and {len(references)} of English are not parallel"
        )
    documents = [
        Document(str(number), f"French: {source}\nEnglish:", references=(reference,))
        for number, (source, reference) in enumerate(zip(sources, references, strict=True))
    ]
    examples, scored = take_examples(documents, options, "wmt15_fr_en")
    shown = prefix(PROMPTS["wmt15_fr_en"], map(solved, examples))
    return TaskData(scored, (french.provenance, english.provenance), shown, len(examples))


def lines(row: Row) -> list[str]:
    # not splitlines(): a segment may contain U+2028 and other separators
    return [line.strip() for line in row["text"].removesuffix("\n").split("\n")]


def score_translation(document: Document, output: Output) -> dict[str, float]:
    return {"sentence_chrf": bleu.corpus_chrf([bleu.chrf_statistics(output.text, document.references)])}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    return ngram_counts(first_line(outputs).text, document.references)


_WMT15 = one_line_task("wmt15_fr_en", load_translations, score_translation, CORPUS_SCORES, statistics=statistics)
TASKS = (
    *(one_line_task(name, partial(load_summaries, name), score_summary) for name in DRAWN),
    replace(_WMT15, title=f"{_WMT15.title} (BLEU {bleu.BLEU_SIGNATURE})"),
)
