"""Win rate: how often a judge prefers a model's answer to a baseline's (InstructGPT, arXiv 2203.02155, section 4.1).

`answers`: one greedy answer to each instruction. `win_rate`: the answers of two systems to the same prompts, and a
judge's verdicts (alignbench/evaluation/win_rate.py; the baseline's answer is the document's reference).
Length-controlled: the win rate that is expected at equal lengths (AlpacaEval 2, arXiv 2404.04475).
"""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.stats.estimates import Estimate
from alignbench.stats.win_rate import at_equal_lengths, fit, length_controlled, scaled
from alignbench.tasks.common import load_prompts
from alignbench.tasks.declare import generation_task, words
from alignbench.types.record import Document, Output, Record
from alignbench.types.task import CorpusMetrics, Estimates, Metric, Options, Resampled, TaskData

# number of a judge that gives it -> metric
OF_JUDGES = {"probability": "probability", "consistent": "position_consistency"}
OF_JUDGES |= {name: name for name in ("disagreement", "score", "baseline_score", "expected_scores")}
LENGTH_CONTROLLED = Metric("win_rate_length_controlled", "proportion", "higher", bounds=(0, 1), scorer="preference")


def load_win_rate(options: Options) -> TaskData:
    raise AlignbenchError("task win_rate: name the baseline, as --baseline CHECKPOINT (or FILE for `score`)")


def score_answer(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    text = outputs[0].text
    return {"answer_rate": float(bool(text.strip())), "words": words(text)}


def score_verdict(document: Document, outputs: Sequence[Output]) -> dict[str, float]:
    """The verdict, and its agreement with a judge that always prefers the longer answer."""
    verdict = outputs[0].scores.get("preference", {})
    own, other = outputs[0].text, document.references[0] if document.references else ""
    win, longer = verdict.get("win", math.nan), 0.5 + 0.5 * ((len(own) > len(other)) - (len(own) < len(other)))
    found = {
        "win_rate": verdict.get("preference", win),
        "tie": float(win == 0.5),
        "longer": longer,
        "agrees_with_longer": 1 - abs(win - longer),
        "words": words(own),
        "baseline_words": words(other),
        "length_difference": float(len(own) - len(other)),
    }
    if math.isnan(win):  # all metrics are of the same prompts
        return dict.fromkeys(found, math.nan)
    if win == 0.5:
        del found["agrees_with_longer"]
    if "preference" in verdict:  # graded: few are exactly one half
        del found["tie"]
        found["win_rate_discrete"] = win
    return found | {metric: verdict[name] for name, metric in OF_JUDGES.items() if name in verdict}


def graded(record: Record) -> float:
    """The preference that length control is fitted on: graded if the judge gave one so."""
    return record.values.get("probability", record.values["win_rate"])


def length_controlled_win_rate(records: Sequence[Record], intervals: bool) -> Estimates:
    judged = [record for record in records if "win_rate" in record.values]
    n = len(judged)
    if not judged:
        return []
    if intervals:
        differences = [record.values["length_difference"] for record in judged]
        return [(LENGTH_CONTROLLED, length_controlled(list(map(graded, judged)), differences))]
    (rate,) = resampled_win_rates(judged)(np.ones((1, n)))[LENGTH_CONTROLLED.name]
    return [(LENGTH_CONTROLLED, Estimate(float(rate), n=n, clusters=n))]


def resampled_win_rates(records: Sequence[Record]) -> Resampled:
    """Length-controlled win rate of each resample, (resamples,), given how often each document was drawn."""
    preferred = np.array([2 * graded(record) - 1 for record in records])
    lengths = scaled([record.values["length_difference"] for record in records])
    return lambda weights: {LENGTH_CONTROLLED.name: at_equal_lengths(fit(preferred, lengths, weights)[0])}


_LENGTH_CONTROL = CorpusMetrics(
    length_controlled_win_rate,
    usable=lambda record: "win_rate" in record.values,
    resample=resampled_win_rates,
    outcome=graded,
)
TASKS = (
    generation_task("answers", partial(load_prompts, "answers"), score_answer),
    generation_task("win_rate", load_win_rate, score_verdict, _LENGTH_CONTROL),
)
