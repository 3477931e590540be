"""Exact match and F1 of a short answer, as in SQuAD 2.0's official script (Rajpurkar et al. 2018, arXiv 1806.03822;
evaluate-v2.0.py)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# ASCII only, as in the official script: “ ” and – are kept
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-case; remove ASCII punctuation, articles and repeated spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals one of the references after normalisation, else 0.

    references: right answers; () or ("",) for a question without an answer, to which only an empty answer is right
    """
    return float(normalise(prediction) in _usable(references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words, 0..1; the best over the references, which are as for `exact_match`."""
    return max(word_f1(prediction, reference) for reference in _usable(references))


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the bags of normalised words, 0..1. If one is empty: 1 if both are, else 0."""
    words, right = normalise(prediction).split(), normalise(reference).split()
    if not words or not right:
        return float(words == right)
    same = (Counter(words) & Counter(right)).total()
    # the official script's order of operations, so that sums agree to the last digit
    precision, recall = same / len(words), same / len(right)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def _usable(references: Sequence[str]) -> list[str]:
    """The references after normalisation, without empty ones; [""] if none is left."""
    return [normal for normal in map(normalise, references) if normal] or [""]
