"""WMT15 French→English (newsdiscusstest2015, sacrebleu's `wmt15`), as InstructGPT puts it.

Bojar et al. 2015, W15-3001; prompt of arXiv 2203.02155, figure 25. Corpus BLEU and chrF with sacrebleu's standard
signature, which the task's title names, and bootstrap intervals over sentences; `sentence_chrf` is there to compare two
systems sentence by sentence.

Few-shot: 15 pairs drawn with the seed from the set itself, and not scored; where InstructGPT's are from is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignbench.data import load
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu
from alignbench.tasks import corpus_bleu, instructgpt
from alignbench.tasks.instructgpt import WORDS
from alignbench.types.task import Document, Generation, Metric, Options, Output, Task, TaskData

INSTRUCTION = "Translate the following sentences from French into English."


def load_documents(options: Options) -> TaskData:
    french = load("wmt15_fr_en", "source", _lines, data_dir=options.data_dir)
    english = load("wmt15_fr_en", "reference", _lines, data_dir=options.data_dir)
    (sources,), (references,) = french.items, english.items
    if len(sources) != len(references):
        raise AlignbenchError(
            f"wmt15_fr_en: {len(sources)} lines of French and {len(references)} of English do not belong together"
        )
    pairs = list(enumerate(zip(sources, references, strict=True)))
    examples, scored = instructgpt.take_examples(pairs, options.shots or 0, options.seed, "wmt15_fr_en")
    documents = [Document(str(number), _prompt(fr), references=(en,)) for number, (fr, en) in scored]
    shown = [f"{_prompt(fr)} {en}" for _, (fr, en) in examples]
    provenance = (french.provenance, english.provenance)
    return TaskData(documents, provenance, instructgpt.prefix(INSTRUCTION, shown), len(examples))


def score(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = instructgpt.answer(outputs)
    chrf = bleu.corpus_chrf([bleu.chrf_statistics(text, document.references)])
    return {"sentence_chrf": chrf, "words": instructgpt.words(text)}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    return corpus_bleu.statistics(instructgpt.answer(outputs), document.references)


def _prompt(french: str) -> str:
    return f"French: {french}\nEnglish:"


def _lines(row: dict[str, Any], schema: str | None) -> list[str]:
    # not splitlines(): a segment may hold U+2028 and its like
    return [line.strip() for line in row["text"].removesuffix("\n").split("\n")]


TASKS = (
    Task(
        name="wmt15_fr_en",
        version=1,
        title=f"WMT15 French→English, InstructGPT's form (BLEU {bleu.BLEU_SIGNATURE})",
        card="wmt15_fr_en",
        metrics=(Metric("sentence_chrf", "points", "higher", bounds=(0, 100)), WORDS),
        group="translation",
        headline="bleu",
        load=load_documents,
        generation=Generation(instructgpt.greedy(max_tokens=100), score, statistics=statistics),
        corpus=corpus_bleu.CORPUS_SCORES,
        takes_shots=True,
    ),
)
