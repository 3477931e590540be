"""BLEU and chrF of a whole corpus: what a document adds to them stands in its record, and is summed over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignbench.scorers import bleu
from alignbench.stats.estimates import Estimate
from alignbench.types.task import Metric, Scored

BLEU = Metric("bleu", "points", "higher", bounds=(0, 100))
CHRF = Metric("chrf", "points", "higher", bounds=(0, 100))


def statistics(text: str, references: Sequence[str]) -> dict[str, list[float]]:
    """The columns of a document's record: its n-gram counts, and how many references they were made with."""
    return {
        "bleu_statistics": bleu.bleu_statistics(text, references),
        "chrf_statistics": bleu.chrf_statistics(text, references),
        "references_counted": [float(len(references))],
    }


def corpus_scores(scored: Sequence[Scored]) -> list[tuple[Metric, Estimate]]:
    """BLEU and chrF over all documents that have counts, with bootstrap intervals over documents."""
    counted = [document.details for document in scored if "references_counted" in document.details]
    numbers = {details["references_counted"][0] for details in counted}  # type: ignore[index]
    if not counted:
        return []
    references = int(numbers.pop()) if len(numbers) == 1 else "var"
    found = []
    for metric, column, score, signature in (
        (BLEU, "bleu_statistics", bleu.corpus_bleu, bleu.bleu_signature(references)),
        (CHRF, "chrf_statistics", bleu.corpus_chrf, bleu.chrf_signature(references)),
    ):
        counts = [details[column] for details in counted]
        found.append((replace(metric, signature=signature), bleu.corpus_interval(counts, score)))  # type: ignore[arg-type]
    return found
