"""WMT15 French→English (newsdiscusstest2015, sacrebleu's `wmt15`) in InstructGPT's form.

Bojar et al. 2015, W15-3001; prompt of arXiv 2203.02155, figure 25. Corpus BLEU and chrF with bootstrap intervals over
sentences; `sentence_chrf` compares two systems sentence by sentence. Few-shot: pairs of the set itself, not scored.
"""

from collections.abc import Sequence

from alignbench.data import Row, load
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu
from alignbench.tasks import corpus_bleu
from alignbench.tasks.common import WORDS, first_line, one_line, prefix, solved, take_examples
from alignbench.types.task import Document, Metric, Options, Output, Task, TaskData

INSTRUCTION = "Translate the following sentences from French into English."


def load_documents(options: Options) -> TaskData:
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
    shown = prefix(INSTRUCTION, map(solved, examples))
    return TaskData(scored, (french.provenance, english.provenance), shown, len(examples))


def lines(row: Row) -> list[str]:
    # not splitlines(): a segment may contain U+2028 and other separators
    return [line.strip() for line in row["text"].removesuffix("\n").split("\n")]


def score(document: Document, output: Output) -> dict[str, float]:
    return {"sentence_chrf": bleu.corpus_chrf([bleu.chrf_statistics(output.text, document.references)])}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    return corpus_bleu.statistics(first_line(outputs).text, document.references)


TASKS = (
    Task(
        name="wmt15_fr_en",
        title=f"WMT15 French→English, InstructGPT's form (BLEU {bleu.BLEU_SIGNATURE})",
        card="wmt15_fr_en",
        metrics=(Metric("sentence_chrf", "points", "higher", bounds=(0, 100)), WORDS),
        group="translation",
        headline="bleu",
        load=load_documents,
        generation=one_line(100, score, statistics=statistics),
        corpus=corpus_bleu.CORPUS_SCORES,
        takes_shots=True,
    ),
)
