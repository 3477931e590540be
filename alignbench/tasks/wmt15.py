"""WMT15 French→English (newsdiscusstest2015, sacrebleu's `wmt15`) in InstructGPT's form.

Bojar et al. 2015, W15-3001; prompt of arXiv 2203.02155, figure 25. Corpus BLEU and chrF with bootstrap intervals over
sentences; `sentence_chrf` compares two systems sentence by sentence. Few-shot: pairs of the set itself, not scored.
"""

from collections.abc import Sequence
from dataclasses import replace

from alignbench.data import Row, load
from alignbench.errors import AlignbenchError
from alignbench.scorers import bleu
from alignbench.tasks.common import prefix, solved, take_examples
from alignbench.tasks.declare import PROMPTS, first_line, one_line_task
from alignbench.tasks.outputs import CORPUS_SCORES, ngram_counts
from alignbench.types.task import Document, Options, Output, TaskData


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
    shown = prefix(PROMPTS["wmt15_fr_en"], map(solved, examples))
    return TaskData(scored, (french.provenance, english.provenance), shown, len(examples))


def lines(row: Row) -> list[str]:
    # not splitlines(): a segment may contain U+2028 and other separators
    return [line.strip() for line in row["text"].removesuffix("\n").split("\n")]


def score(document: Document, output: Output) -> dict[str, float]:
    return {"sentence_chrf": bleu.corpus_chrf([bleu.chrf_statistics(output.text, document.references)])}


def statistics(document: Document, outputs: Sequence[Output]) -> dict[str, list[float]]:
    return ngram_counts(first_line(outputs).text, document.references)


_WMT15 = one_line_task("wmt15_fr_en", load_documents, score, CORPUS_SCORES, statistics=statistics)
TASKS = (replace(_WMT15, title=f"{_WMT15.title} (BLEU {bleu.BLEU_SIGNATURE})"),)
