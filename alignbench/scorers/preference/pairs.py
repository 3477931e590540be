"""What judges have in common: the pair in an item, one verdict from two orders, and no question asked twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from alignbench.types.scorer import Item

Question = TypeVar("Question", bound=Hashable)
Comparison = tuple[str, str, str]  # the prompt, the answer shown first, the answer shown second


class LastAsked(Generic[Question]):
    """Answers to questions, each asked once a call, and not again in the calls that follow it with some of the same.

    A scorer that fails on one document is asked again document by document (writing.py), and a judge's answers cost
    money or time. Only the last call's are kept: what a text is computed with must not depend on what was judged
    before it, so that a resumed run gives the same files.

    ask: distinct questions -> the answer to each, or why there is none
    """

    def __init__(self, ask: Callable[[list[Question]], list[float | str]]) -> None:
        self._ask = ask
        self._known: dict[Question, float | str] = {}

    def __call__(self, questions: Sequence[Question]) -> list[float]:
        """Raises ValueError with the reason of the first question that has no answer; all have been asked then."""
        distinct = list(dict.fromkeys(questions))
        if not self._known.keys() >= set(distinct):
            self._known = dict(zip(distinct, self._ask(distinct), strict=True))
        answers: list[float] = []
        for question in questions:
            answer = self._known[question]
            if isinstance(answer, str):
                raise ValueError(answer)
            answers.append(answer)
        return answers


def pair(item: Item) -> Comparison:
    """Prompt, output, and the baseline's answer."""
    if not item.references:
        raise ValueError("there is no answer of a baseline to compare with")
    return item.prompt, item.output, item.references[0]


def win(own: float, other: float) -> float:
    """1.0 where the own number is the higher one, 0.0 where the other is, else 0.5."""
    return 0.5 + 0.5 * ((own > other) - (own < other))


def both_orders(items: Sequence[Item], ask: LastAsked[Comparison]) -> list[tuple[float, float] | None]:
    """What `ask` gives the output when it is shown first, and when it is shown second; None for two equal answers,
    which are not asked about: no judge could tell their places apart.

    ask: how far the answer shown first is preferred: 1.0 wholly, 0.5 neither, 0.0 the other wholly
    """
    pairs = [pair(item) for item in items]
    differ = [own != other for _, own, other in pairs]
    shown = [
        order
        for (prompt, own, other), different in zip(pairs, differ, strict=True)
        if different
        for order in ((prompt, own, other), (prompt, other, own))
    ]
    preferred = iter(ask(shown))
    return [(next(preferred), 1 - next(preferred)) if different else None for different in differ]


def verdict(orders: tuple[float, float] | None) -> dict[str, float]:
    """Verdicts in the output's favour in the two orders -> win, consistent, first, second; of equal answers -> win.

    A win or a loss needs both orders; else it is a tie (MT-bench: Zheng et al. 2023, arXiv 2306.05685, section 3.4).
    """
    if orders is None:
        return {"win": 0.5}
    first, second = orders
    return {
        "win": first if first == second else 0.5,
        "consistent": float(first == second),
        "first": first,
        "second": second,
    }
