"""Exact match and F1 of a short answer, as in SQuAD 2.0's official script (Rajpurkar et al. 2018, arXiv 1806.03822;
evaluate-v2.0.py), but for references such as "A", of which its normalisation leaves nothing."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# ASCII only, as in the official script: “ ” and – are kept
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Compose letters with their accents (NFC), lower-case; remove ASCII punctuation, articles and repeated spaces."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return " ".join(ARTICLES.sub(" ", lowered.translate(NO_PUNCTUATION)).split())


@lru_cache(256)
def comparable(text: str) -> str:
    """The text after normalisation. Where that leaves nothing, articles are kept ("A."), or punctuation too ("+")."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return normalise(text) or " ".join((lowered.translate(NO_PUNCTUATION).strip() or lowered).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals one of the references after normalisation, else 0.

    references: right answers; () or ("",) for a question without an answer, to which only a prediction of which
        normalisation leaves nothing is right
    """
    return float(any(_words(prediction, right) == _words(right, right) for right in _usable(references)))


def f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words, 0..1; the best over the references, which are as for `exact_match`."""
    return max(word_f1(prediction, reference) for reference in _usable(references))


def word_f1(prediction: str, reference: str) -> float:
    """F1 of the bags of normalised words, 0..1. If one is empty: 1 if both are, else 0."""
    words, right = _words(prediction, reference), _words(reference, reference)
    if not words or not right:
        return float(words == right)
    same = (Counter(words) & Counter(right)).total()
    # the official script's order of operations, so that sums agree to the last digit
    precision, recall = same / len(words), same / len(right)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def _words(text: str, reference: str) -> list[str]:
    return (comparable if reference.strip() else normalise)(text).split()


def _usable(references: Sequence[str]) -> list[str]:
    """The references that are not blank; [""] if none is left."""
    return [reference for reference in references if reference.strip()] or [""]
