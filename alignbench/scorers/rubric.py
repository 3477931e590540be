"""Pointwise ratings of answers from 1 to 10: by one criterion (`score`), or by a file of weighted criteria (`rubric`).

A judge that generates text is asked for each answer and each criterion by itself. It gives its reason, and then a whole
number. The score is the expected value of that number under the judge's log-probabilities (Liu et al. 2023, G-Eval,
arXiv 2303.16634, section 3), which takes more than ten values, so that fewer answers are tied.
"""

import hashlib
import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.special import softmax

from alignbench.errors import AlignbenchError
from alignbench.parse import find_path, read_bytes, read_yaml
from alignbench.scorers.preference import (
    PROMPTS,
    SAMPLING,
    EndpointJudge,
    LanguageModelJudge,
    again,
    each_once,
    no_verdict,
    pair,
    replies,
    sanitise,
    win,
)
from alignbench.types.engine import THINKING, Completion, Request, Thinking
from alignbench.types.scorer import Explained, Item, Numbers

RATING, RATE = PROMPTS["rating"], PROMPTS["rate"]
SCALE = range(1, 11)
BEFORE = "Rating: [["
WRITTEN = re.compile(r"\[\[\s*(\d{1,2})\s*\]\]")
MARKS = r"<\s*/?\s*(?:instruction|answer)\b|\[\[\s*\d{1,2}\s*\]\]|<\|[^<>|\s]*\|>"
NEGLIGIBLE = 0.01  # of the probability of all numbers


@dataclass(frozen=True)
class Criterion:
    """weight: relative to those of the others"""

    name: str
    text: str
    weight: float = 1.0


class Rating(NamedTuple):
    """expected: the score is the expected value; else the number that the judge wrote"""

    score: float
    expected: bool
    reason: str


def load_score(path: str, device: str, trust_remote_code: bool, thinking: Thinking | None = THINKING) -> "Rubric":
    """`preference=score:JUDGE`"""
    judge = _generating(f"score:{path}", path, device, trust_remote_code, thinking)
    return Rubric("score", "", [Criterion("overall", PROMPTS["overall"])], judge)


def load_rubric(path: str, device: str, trust_remote_code: bool, thinking: Thinking | None = THINKING) -> "Rubric":
    """`preference=rubric:FILE@JUDGE`"""
    file, at, judge = path.partition("@lm:") if "@lm:" in path else path.partition("@endpoint:")
    if not at:
        raise AlignbenchError(f"rubric:{path}: write rubric:FILE@lm:MODEL or rubric:FILE@endpoint:URL#MODEL")
    criteria, sha256 = read_rubric(find_path(file))
    spec = f"{at[1:]}{judge}"
    loaded = _generating(f"rubric:{path}", spec, device, trust_remote_code, thinking)
    return Rubric(f"rubric:{Path(file).name}@", sha256, criteria, loaded)


def _generating(
    spec: str, judge: str, device: str, trust_remote_code: bool, thinking: Thinking | None
) -> LanguageModelJudge | EndpointJudge:
    kind, _, path = judge.partition(":")
    if kind == "lm" and path:
        return LanguageModelJudge(path, device, trust_remote_code, thinking)
    if kind == "endpoint" and path:
        return EndpointJudge(path, thinking)
    raise AlignbenchError(f"{spec}: {judge} writes no reasons; name lm:MODEL or endpoint:URL#MODEL")


def read_rubric(file: Path) -> tuple[list[Criterion], str]:
    """The criteria of a YAML or JSON file, `criteria: [{name, text, weight}]`, and its sha256.

    Raises AlignbenchError if it cannot be read, and for a criterion that is not complete.
    """
    try:
        found = read_yaml(file)
        sha256 = hashlib.sha256(read_bytes(file)).hexdigest()
    except FileNotFoundError:
        raise AlignbenchError(f"rubric {file}: no such file") from None
    entries = found.get("criteria")
    if set(found) != {"criteria"} or not isinstance(entries, list) or not entries:
        raise AlignbenchError(f"{file}: write criteria: and a list of {{name, text, weight}}, and nothing else")
    criteria = [_criterion(f"{file}: criterion {number}", own) for number, own in enumerate(entries, 1)]
    names = [criterion.name for criterion in criteria]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AlignbenchError(f"{file}: two criteria are named {twice!r}")
    return criteria, sha256


def _criterion(where: str, fields: Any) -> Criterion:
    if not isinstance(fields, dict) or not set(fields) <= {"name", "text", "weight"}:
        raise AlignbenchError(f"{where}: not {{name, text, weight}}")
    for key in ("name", "text"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise AlignbenchError(f"{where}: no {key}, or it is no text")
    weight = fields.get("weight", 1)
    if type(weight) not in (int, float) or not 0 < weight < math.inf:
        raise AlignbenchError(f"{where}: weight is {weight!r}, not a positive number")
    return Criterion(fields["name"].strip(), fields["text"].strip(), float(weight))


class Rubric:
    """Rates both answers; the higher weighted mean wins.

    Numbers: "win", "score" and "baseline_score" (1 to 10), "expected_scores" (the proportion of ratings that are
    expected values), and of several criteria "score.NAME" and "baseline_score.NAME". Reasons: of each rating.
    """

    kind = "preference"

    def __init__(
        self, name: str, sha256: str, criteria: Sequence[Criterion], judge: LanguageModelJudge | EndpointJudge
    ) -> None:
        """sha256: of the file of criteria, if there is one"""
        self.criteria, self.judge = criteria, judge
        self.name = f"{name}{'' if name.endswith('@') else ':'}{judge.name}"
        thinking = judge.revision.partition("+")[2]  # the judge's own prompt and settings
        asked = hashlib.sha256(f"{RATING}{RATE}{PROMPTS['overall']}{BEFORE}{thinking}".encode()).hexdigest()[:8]
        self.revision = f"{judge.model}+{asked}" + (f"+{sha256}" if sha256 else "")
        self.weights_sha256 = getattr(judge, "weights_sha256", None)
        self._sampling, self._seed = SAMPLING, 0

    def again(self, seed: int, temperature: float) -> Self:
        """The rubric with sampled reasons, for repeatability."""
        return again(self, seed, temperature)

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        pairs = [pair(item) for item in items]
        asked = [(prompt, text, own.text) for prompt, *both in pairs for text in both for own in self.criteria]
        ratings, count = each_once(self._ask, asked), len(self.criteria)
        return [self._numbers(ratings[at : at + 2 * count]) for at in range(0, len(ratings), 2 * count)]

    def _numbers(self, ratings: Sequence[Rating | str]) -> Numbers | str:
        """ratings: of the output by each criterion, then of the baseline's answer"""
        known = [rating for rating in ratings if not isinstance(rating, str)]
        if len(known) < len(ratings):
            return next(rating for rating in ratings if isinstance(rating, str))
        names, weights = zip(*((own.name, own.weight) for own in self.criteria), strict=True)
        labelled = list(zip([f"{who}.{name}" for who in ("score", "baseline_score") for name in names], known))  # noqa: B905
        both = np.array([rating.score for rating in known]).reshape(2, -1)
        own, other = np.average(both, axis=1, weights=weights).tolist()
        numbers = {"win": win(own, other), "score": own, "baseline_score": other}
        numbers["expected_scores"] = sum(rating.expected for rating in known) / len(known)
        numbers |= {name: rating.score for name, rating in labelled} if len(names) > 1 else {}
        return Explained(numbers, {name: rating.reason for name, rating in labelled})

    def _ask(self, questions: list[tuple[str, str, str]]) -> list[Rating | str]:
        """Rate each (prompt, answer, criterion)."""
        special = self.judge.special if isinstance(self.judge, LanguageModelJudge) else ()
        asked = [
            RATING.format(*(sanitise(text, special, MARKS) for text in own[:2]), own[2]) + RATE for own in questions
        ]
        if isinstance(self.judge, EndpointJudge):
            sampling = replace(self._sampling, thinking=self.judge.thinking)
            answers = replies(self.judge.engine, asked, sampling, self._seed, self.name, top=True)
            return [read_rating(answer) for answer in answers]
        return self._by_logprobs(self.judge, asked)

    def _by_logprobs(self, judge: LanguageModelJudge, asked: Sequence[str]) -> list[Rating | str]:
        """The reasons are generated, and all ten numbers after each are scored: exact, however they are tokenised."""
        chat, closing = judge.engine.chat_template, judge.closing
        asked = asked if chat else [f"{text}\nExplanation:" for text in asked]
        sampling = replace(self._sampling, stop=(BEFORE, "[["), thinking=judge.thinking)
        found = replies(judge.engine, asked, sampling, self._seed, self.name)
        reasons = [answer.text.strip() for answer in found]
        requests = [
            Request(text, f"{closing if chat else ' '}{reason}\n\n{BEFORE}{number}]]")
            for text, reason in zip(asked, reasons, strict=True)
            for number in SCALE
        ]
        scored = dict(judge.engine.loglikelihood(requests, chat=chat))
        ratings = list[Rating | str]()
        for at, (answer, reason) in enumerate(zip(found, reasons, strict=True)):
            own = [scored[at * len(SCALE) + number] for number in range(len(SCALE))]
            failed = answer.unscored or next((one.unscored for one in own if one.unscored), None)
            expected = float(softmax([one.logprob for one in own]) @ np.array(SCALE)) if not failed else math.nan
            ratings.append(f"the judge gave no rating: {failed}" if failed else Rating(expected, True, reason))
        return ratings


def read_rating(answer: Completion) -> Rating | str:
    """The last [[N]] of an answer, as the expected value where the log-probabilities determine it."""
    written = [number for number in WRITTEN.findall(answer.text) if int(number) in SCALE]
    if (reason := no_verdict(answer, bool(written))) is not None:
        return reason
    reason = answer.text[: answer.text.rindex("[[")].removesuffix(BEFORE[:-2]).strip()
    expected = expected_rating(answer, int(written[-1]))
    return Rating(float(written[-1]) if expected is None else expected, expected is not None, reason)


def expected_rating(answer: Completion, written: int) -> float | None:
    """Σ n p(n) / Σ p(n) over the numbers among the most likely tokens where the judge wrote its rating; None if they do
    not determine it: "1" may be the beginning of "10" if the server's tokens are single digits.
    """
    pieces = [piece for piece, _ in answer.top]
    found = list(WRITTEN.finditer("".join(pieces)))
    if not found or int(found[-1][1]) != written:
        return None
    ends = list(itertools.accumulate(map(len, pieces)))
    at = bisect_right(ends, found[-1].start(1))
    lead = pieces[at][: found[-1].start(1) - ends[at] + len(pieces[at])]
    mass, ones = dict.fromkeys(SCALE, 0.0), 0.0  # of a token "1", which may go on
    for token, logprob in answer.top[at][1]:
        digits = re.fullmatch(r"(\d{1,2})(\D*)", token[len(lead) :]) if token.startswith(lead) else None
        if digits is None or int(digits[1]) not in SCALE:
            continue
        if digits[1] == "1" and not digits[2]:
            ones += math.exp(logprob)
        else:
            mass[int(digits[1])] += math.exp(logprob)
    if not mass[10] and ones > NEGLIGIBLE * (ones + sum(mass.values())):
        if written not in (1, 10) or at + 1 >= len(answer.top):
            return None
        after = [math.exp(logprob) for token, logprob in answer.top[at + 1][1] if token.startswith("0")]
        mass[10], ones = ones * sum(after), ones * (1 - min(sum(after), 1.0))
    mass[1] += ones
    total = sum(mass.values())
    return sum(number * own for number, own in mass.items()) / total if mass[written] and total else None
