"""Exact match and F1 of DROP's answers, which are numbers, dates or several spans (Dua et al. 2019, arXiv 1903.00161,
section 5; the official rules are those of allennlp's drop_eval)."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from alignbench.scorers.squad import ARTICLES, NO_PUNCTUATION


def normalise(text: str) -> str:
    """Split at spaces and hyphens, lower-case, remove articles, and write numbers as Python writes a float.

    Punctuation is removed from a word unless the word is a number already: "1,000" and "$1000" are 1000.0, 1.5 is
    kept, and "-5" is 5.0, since the hyphen separates.
    """
    words = (_normalise_word(word) for word in re.split("[ -]", text.lower()))
    return " ".join(word for word in words if word)


def scores(prediction: str | Sequence[str], references: Sequence[str | Sequence[str]]) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 (0..1), each the best over the references.

    prediction: an answer, or its spans; references: right answers, each a string or its spans. A reference whose first
    span is blank is ignored; both scores are 0 if none is left.

    Spans are aligned one to one to maximise F1. The F1 of a pair is 0 if the reference has numbers and the prediction
    has none of them. A document's F1 is rounded to two decimals, as in the official script.
    """
    spans = [normalise(span) for span in _spans(prediction)]
    best_match, best_f1 = 0.0, 0.0
    for reference in map(_spans, references):
        if reference and reference[0].strip():
            gold = [normalise(span) for span in reference]
            best_match = max(best_match, float(set(spans) == set(gold) and len(spans) == len(gold)))
            best_f1 = max(best_f1, _aligned_f1(spans, gold))
    return best_match, best_f1


def _spans(answer: str | Sequence[str]) -> Sequence[str]:
    return [answer] if isinstance(answer, str) else answer


def _normalise_word(word: str) -> str:
    if not _is_number(word):
        word = word.translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", str(float(word)) if _is_number(word) else word).split())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _aligned_f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """The mean F1 of the aligned spans over the longer side's number of spans, to two decimals."""
    pairs = np.array([[_bag_f1(set(p.split()), set(g.split())) for p in prediction] for g in gold])
    best = pairs[linear_sum_assignment(pairs, maximize=True)]
    # numpy's rounding differs from Python's for some ties
    return float(np.round(best.sum() / max(pairs.shape), 2))


def _bag_f1(prediction: set[str], gold: set[str]) -> float:
    """F1 of two sets of words. The precision (recall) of an empty side is 1."""
    numbers, same = set(filter(_is_number, gold)), len(prediction & gold)
    if numbers and not numbers & prediction:
        return 0.0
    precision, recall = same / len(prediction) if prediction else 1.0, same / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
