"""Win rate: how often a judge prefers a model's answer to a baseline's (InstructGPT, arXiv 2203.02155, section 4.1).

Two tasks, since the writing does not depend on who judges it, or against what. `answers`: the model answers each
instruction once, greedily. `win_rate`: the answers of two systems to the same prompts, and a judge's verdicts
(alignbench/win_rate.py brings them together; the baseline's answer is the document's reference).

Prompts: Self-Instruct's 252 user-oriented instructions, or a file (`--prompts`).
Length-controlled: what the win rate would be at equal lengths (AlpacaEval 2, arXiv 2404.04475).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError
from alignbench.stats.estimates import Estimate
from alignbench.stats.length_control import at_equal_lengths, fit, length_controlled, scaled
from alignbench.tasks.instructgpt import ANSWER_RATE, WORDS, words
from alignbench.tasks.prompts import load_prompts
from alignbench.types.engine import Sampling
from alignbench.types.task import (
    CorpusMetrics,
    Document,
    Estimates,
    Generation,
    Metric,
    Options,
    Output,
    Record,
    Task,
    TaskData,
)

MAX_TOKENS = 256
LENGTH_CONTROLLED = Metric("win_rate_length_controlled", "share", "higher", bounds=(0, 1), scorer="preference")


def load_answers(options: Options) -> TaskData:
    return load_prompts(options, "answers")


def load_battles(options: Options) -> TaskData:
    raise AlignbenchError("task win_rate: name what to compare with, as --baseline CHECKPOINT (or FILE for `score`)")


def score_answer(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = outputs[0].text
    return {"answer_rate": float(bool(text.strip())), "words": words(text)}


def score_battle(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """The verdict, and what stands beside it: would a judge have said so who always takes the longer one?"""
    verdict = outputs[0].scores.get("preference", {})
    own, other = outputs[0].text, document.references[0] if document.references else ""
    win, longer = verdict.get("win", math.nan), 0.5 + 0.5 * ((len(own) > len(other)) - (len(own) < len(other)))
    found = {
        "win_rate": win,
        "tie": math.nan if math.isnan(win) else float(win == 0.5),
        "longer": longer,
        "agrees_with_longer": 1 - abs(win - longer),
        "words": words(own),
        "baseline_words": words(other),
        "length_difference": float(len(own) - len(other)),
    }
    if math.isnan(win):  # what stands beside the verdicts is of the same prompts
        return dict.fromkeys(found, math.nan)
    if win == 0.5:
        del found["agrees_with_longer"]  # a tie agrees with nobody
    if "consistent" in verdict:
        found["position_consistency"] = verdict["consistent"]
    return found


def length_controlled_win_rate(records: Sequence[Record], intervals: bool) -> Estimates:
    judged = [record.values for record in records if _judged(record)]
    if not judged:
        return []
    if not intervals:
        (rate,) = resampled_win_rates(records, np.ones((1, len(records))))[LENGTH_CONTROLLED.name]
        return [(LENGTH_CONTROLLED, Estimate(float(rate), None, None, None, len(judged), len(judged)))]
    wins = [values["win_rate"] for values in judged]
    differences = [values["length_difference"] for values in judged]
    return [(LENGTH_CONTROLLED, length_controlled(wins, differences))]


def resampled_win_rates(records: Sequence[Record], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Length-controlled win rate of each resample, (resamples,); weights: (resamples, n)."""
    values = [record.values for record in records]
    preferred = np.array([2 * own["win_rate"] - 1 for own in values])
    lengths = scaled([own["length_difference"] for own in values])
    return {LENGTH_CONTROLLED.name: at_equal_lengths(fit(preferred, lengths, weights)[0])}


def _judged(record: Record) -> bool:
    return "win_rate" in record.values


LENGTH_CONTROL = CorpusMetrics(
    length_controlled_win_rate,
    usable=_judged,
    resample=resampled_win_rates,
    outcome=lambda record: record.values["win_rate"],
)


TASKS = (
    Task(
        name="answers",
        version=1,
        title="Answers to instructions, to be judged",
        card="self_instruct",
        metrics=(ANSWER_RATE, WORDS),
        group="instructions",
        headline="answer_rate",
        load=load_answers,
        generation=Generation(Sampling(MAX_TOKENS), score_answer),
        takes_prompts=True,
    ),
    Task(
        name="win_rate",
        version=1,
        title="Win rate against a baseline (--baseline)",
        card="self_instruct",
        metrics=(
            Metric("win_rate", "share", "higher", bounds=(0, 1), chance=0.5, scorer="preference", ties=True),
            Metric("tie", "share", "–", binary=True, scorer="preference"),
            Metric("position_consistency", "share", "higher", binary=True, scorer="preference"),
            Metric("longer", "share", "–", bounds=(0, 1), chance=0.5, ties=True),
            Metric("agrees_with_longer", "share", "–", bounds=(0, 1), scorer="preference", ties=True),
            WORDS,
            Metric("baseline_words", "words", "–", bounds=(0, None)),
            Metric("length_difference", "characters", "–"),
        ),
        group="preference",
        headline="win_rate",
        load=load_battles,
        generation=Generation(Sampling(MAX_TOKENS), score_battle, scorers=("preference",)),
        corpus=LENGTH_CONTROL,
        takes_prompts=True,
    ),
)
