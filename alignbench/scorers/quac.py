"""F1 of an answer in a conversation, as in QuAC's official scorer (Choi et al. 2018, arXiv 1808.07036, section 4.1)."""

from collections.abc import Sequence

from alignbench.scorers import squad

# the reference of a question that the passage does not answer, and the prediction of a system that does not answer
NO_ANSWER = "CANNOTANSWER"
AGREEMENT = 0.4  # questions with less agreement among annotators are left out of the official F1


def f1(prediction: str, references: Sequence[str]) -> float:
    """Word F1, 0..1. With several references: the mean, over leaving out each, of the best over the others, so that a
    system is measured like one annotator against the rest.

    references: the annotators' answers; () for a question without an answer. "CANNOTANSWER" replaces the others if it
    is at least as frequent, and is dropped otherwise.
    """
    each = [_single_f1(prediction, reference) for reference in _vote(references)]
    best = [max(each[:i] + each[i + 1 :], default=each[i]) for i in range(len(each))]
    return sum(best) / len(best)


def agreement(references: Sequence[str]) -> float:
    """F1 among the annotators, 0..1: the mean over answers of the best F1 with another; 1 with one answer."""
    answers = _vote(references)
    best = [max((_single_f1(a, b) for b in answers[:i] + answers[i + 1 :]), default=1.0) for i, a in enumerate(answers)]
    return sum(best) / len(best)


def _vote(references: Sequence[str]) -> list[str]:
    spans = [reference for reference in references if reference != NO_ANSWER]
    return spans if 2 * len(spans) > len(references) else [NO_ANSWER]


def _single_f1(prediction: str, reference: str) -> float:
    """As in SQuAD 1.1: 0 for two answers without words."""
    if reference == NO_ANSWER:
        return float(prediction == NO_ANSWER)
    return squad.word_f1(prediction, reference) if squad.normalise(prediction) else 0.0
