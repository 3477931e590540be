"""ROUGE from Google's rouge-score (Lin 2004, W04-1013): F-measures, 0..1.

ROUGE-1.5.5 and the literature on summaries use Porter's stemmer. t5's evaluation (whose ROUGE TruthfulQA and lm-eval
use) and Hugging Face's `rouge` metric do not. InstructGPT (arXiv 2203.02155) does not say.

rouge-score drops all but ASCII letters and digits. Where most words of a text are of another script than Latin, the
tokens are words of any script, and single characters in the scripts that do not separate words.
"""

import unicodedata
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import regex

from alignbench.scorers.sentences import sentences

# written without spaces between words
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# a letter with its marks (vowel signs), or a run of letters, marks and digits
TOKEN = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+", regex.VERSION1)
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
LATIN_WORD = regex.compile(r"\p{Latin}+")
# a tokenizer for rouge-score: words in lower case, and single characters of scripts without spaces
ANY_SCRIPT = SimpleNamespace(tokenize=lambda text: TOKEN.findall(text.lower()))
OTHER_WORD = regex.compile(rf"[{_UNSPACED}]|[\p{{L}}--\p{{Latin}}--[{_UNSPACED}]]+", regex.VERSION1)


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L alone, as in `rouge`."""
    from rapidfuzz.distance import LCSseq
    from rouge_score.scoring import fmeasure

    prediction, reference, tokenizer = _prepared(prediction, reference, stemmer=True)
    words, right = tokenizer.tokenize(prediction), tokenizer.tokenize(reference)
    common = LCSseq.similarity(words, right)
    return float(fmeasure(common / len(words), common / len(right))) if common else 0.0


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """rouge1, rouge2, rougeL and rougeLsum of a summary, with Porter's stemmer; rougeLsum is computed by sentence."""
    return _score("\n".join(sentences(prediction)), "\n".join(sentences(reference)), stemmer=True)


def truthfulqa_rouge(prediction: str, reference: str) -> dict[str, float]:
    """The same as in TruthfulQA: without a stemmer; for rougeLsum, which the authors report as ROUGE-L, only line
    breaks and " . " end a sentence (arXiv 2109.07958; t5's evaluation/metrics.py)."""
    return _score(prediction.replace(" . ", " .\n"), reference.replace(" . ", " .\n"), stemmer=False)


def _score(prediction: str, reference: str, *, stemmer: bool) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    prediction, reference, tokenizer = _prepared(prediction, reference, stemmer)
    scores = RougeScorer(KINDS, tokenizer=tokenizer).score(reference, prediction)
    return {name: float(score.fmeasure) for name, score in scores.items()}


def _prepared(prediction: str, reference: str, stemmer: bool) -> tuple[str, str, Any]:
    """The texts in NFC, and a tokenizer that suits their script."""
    prediction, reference = (unicodedata.normalize("NFC", text) for text in (prediction, reference))
    other = _is_other_script(prediction) or _is_other_script(reference)
    return prediction, reference, ANY_SCRIPT if other else _latin(stemmer)


def _is_other_script(text: str) -> bool:
    return not text.isascii() and len(OTHER_WORD.findall(text)) > len(LATIN_WORD.findall(text))


@cache
def _latin(stemmer: bool) -> Any:
    """rouge-score's own tokenizer, which remembers the stem of each word."""
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(stemmer)
    if stemmer:
        tokenizer._stemmer.stem = lru_cache(2**16)(tokenizer._stemmer.stem)
    return tokenizer
