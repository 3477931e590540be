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
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from pydantic import BaseModel, Field, ValidationError
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

SCALE = range(1, 11)
BEFORE = "Rating: [["
WRITTEN = re.compile(r"\[\[\s*([^\[\]]*?)\s*\]\]")  # the last one counts, whatever it is
MARKS = r"<\s*/?\s*(?:instruction|answer)\b|\[\[\s*\d{1,2}\s*\]\]|<\|[^<>|\s]*\|>"
NEGLIGIBLE = 0.01  # of the probability of all numbers
Judge = LanguageModelJudge | EndpointJudge


class Criterion(BaseModel, extra="forbid"):
    """weight: relative to those of the others"""

    name: str = Field(min_length=1)
    text: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class RubricFile(BaseModel, extra="forbid"):
    criteria: list[Criterion] = Field(min_length=1)


class Rating(NamedTuple):
    """expected: the score is the expected value; else the number that the judge wrote"""

    score: float
    expected: bool
    reason: str


def load_rubric(
    name: str, path: str, device: str, trust_remote_code: bool, thinking: Thinking | None = THINKING
) -> "Rubric":
    """`preference=score:JUDGE` and `preference=rubric:FILE@JUDGE`. The judge is lm:MODEL or endpoint:URL#MODEL."""
    found = re.fullmatch(r"(?:(?P<file>.+)@)?(?P<kind>lm|endpoint):(?P<path>.+)", path)
    if found is None or bool(found["file"]) != (name == "rubric"):
        form = "rubric:FILE@JUDGE" if name == "rubric" else "score:JUDGE"
        raise AlignbenchError(f"{name}:{path}: write {form}; the judge is lm:MODEL or endpoint:URL#MODEL")
    criteria, sha256 = [Criterion(name="overall", text=PROMPTS["overall"])], ""
    if found["file"]:
        name = f"rubric:{Path(found['file']).name}@"
        criteria, sha256 = read_rubric(find_path(found["file"]))
    if found["kind"] == "lm":
        return Rubric(name, sha256, criteria, LanguageModelJudge(found["path"], device, trust_remote_code, thinking))
    return Rubric(name, sha256, criteria, EndpointJudge(found["path"], thinking))


def read_rubric(file: Path) -> tuple[list[Criterion], str]:
    """The criteria of a YAML or JSON file and its sha256. Raises AlignbenchError if it cannot be read or used."""
    try:
        criteria = RubricFile.model_validate(read_yaml(file)).criteria
    except FileNotFoundError:
        raise AlignbenchError(f"rubric {file}: no such file") from None
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        raise AlignbenchError(f"rubric {file}: {reason}; write criteria: [{{name, text, weight}}, …]") from None
    names = [criterion.name for criterion in criteria]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise AlignbenchError(f"rubric {file}: two criteria are named {twice!r}")
    return criteria, hashlib.sha256(read_bytes(file)).hexdigest()


class Rubric:
    """Rates both answers; the higher weighted mean wins.

    Numbers: "win", "score" and "baseline_score" (1 to 10), "expected_scores" (the proportion of ratings that are
    expected values), and of several criteria "score.NAME" and "baseline_score.NAME". Reasons: of each rating.
    """

    kind = "preference"

    def __init__(self, name: str, sha256: str, criteria: Sequence[Criterion], judge: Judge) -> None:
        """sha256: of the file of criteria, if there is one"""
        self.criteria, self._judge, self._sampling, self._seed = criteria, judge, SAMPLING, 0
        self.name = f"{name}{judge.name}" if sha256 else f"{name}:{judge.name}"
        texts = [PROMPTS[part] for part in ("rating", "rate", "overall")]
        own = "".join([*texts, BEFORE, WRITTEN.pattern, judge.revision])
        self.revision = "+".join([judge.model, hashlib.sha256(own.encode()).hexdigest()[:8], *[sha256] * bool(sha256)])
        self.weights_sha256 = getattr(judge, "weights_sha256", None)

    def again(self, seed: int, temperature: float) -> Self:
        return again(self, seed, temperature)

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        pairs = [pair(item) for item in items]
        asked = [(prompt, text, own.text) for prompt, *both in pairs for text in both for own in self.criteria]
        ratings, count = each_once(self._ask, asked), 2 * len(self.criteria)
        return [self._numbers(ratings[at : at + count]) for at in range(0, len(ratings), count)]

    def _numbers(self, ratings: Sequence[Rating | str]) -> Numbers | str:
        """ratings: of the output by each criterion, then of the baseline's answer"""
        known = [rating for rating in ratings if not isinstance(rating, str)]
        if len(known) < len(ratings):
            return next(rating for rating in ratings if isinstance(rating, str))
        names = [f"{of}.{own.name}" for of in ("score", "baseline_score") for own in self.criteria]
        both = np.array([rating.score for rating in known]).reshape(2, -1)
        own, other = np.average(both, axis=1, weights=[criterion.weight for criterion in self.criteria]).tolist()
        numbers = {"win": win(own, other), "score": own, "baseline_score": other}
        numbers["expected_scores"] = sum(rating.expected for rating in known) / len(known)
        if len(self.criteria) > 1:
            numbers |= {name: rating.score for name, rating in zip(names, known, strict=True)}
        return Explained(numbers, {name: rating.reason for name, rating in zip(names, known, strict=True)})

    def _ask(self, questions: list[tuple[str, str, str]]) -> list[Rating | str]:
        """Rate each (prompt, answer, criterion)."""
        special = () if isinstance(self._judge, EndpointJudge) else self._judge.special
        texts = [(*(sanitise(text, special, MARKS) for text in shown), by) for *shown, by in questions]
        asked = [PROMPTS["rating"].format(*own) + PROMPTS["rate"] for own in texts]
        if not isinstance(self._judge, EndpointJudge):
            return self._by_logprobs(self._judge, asked)
        sampling = replace(self._sampling, thinking=self._judge.thinking)
        return list(map(read_rating, replies(self._judge.engine, asked, sampling, self._seed, self.name, top=True)))

    def _by_logprobs(self, judge: LanguageModelJudge, asked: Sequence[str]) -> list[Rating | str]:
        """Reasons are generated, and all ten numbers after each are scored: exact, however they are tokenised."""
        engine, chat = judge.engine, judge.engine.chat_template
        asked, before = (asked, judge.closing) if chat else ([f"{text}\nExplanation:" for text in asked], " ")
        sampling = replace(self._sampling, stop=(BEFORE, "[["), thinking=judge.thinking)
        found = replies(engine, asked, sampling, self._seed, self.name)
        begun = [f"{before}{answer.text.strip()}\n\n{BEFORE}" for answer in found]
        requests = [Request(text, f"{own}{n}]]") for text, own in zip(asked, begun, strict=True) for n in SCALE]
        scored = dict(engine.loglikelihood(requests, chat=chat))
        ratings = list[Rating | str]()
        for at, answer in enumerate(found):
            own = [scored[at * len(SCALE) + place] for place in range(len(SCALE))]
            if failed := answer.unscored or next((one.unscored for one in own if one.unscored), None):
                ratings.append(f"the judge gave no rating: {failed}")
            else:
                expected = float(softmax([one.logprob for one in own]) @ np.array(SCALE))
                ratings.append(Rating(expected, True, answer.text.strip()))
        return ratings


def read_rating(answer: Completion) -> Rating | str:
    """The last [[N]] of an answer, as the expected value where the log-probabilities determine it."""
    last = "".join(WRITTEN.findall(answer.text)[-1:])
    written = int(last) if re.fullmatch(r"\d{1,2}", last) else 0
    if (why := no_verdict(answer, written in SCALE)) is not None:
        return why
    expected = expected_rating(answer, written)
    reason = answer.text[: answer.text.rindex("[[")].removesuffix(BEFORE[:-2]).strip()
    return Rating(float(written) if expected is None else expected, expected is not None, reason)


def expected_rating(answer: Completion, written: int) -> float | None:
    """Σ n p(n) / Σ p(n) over the numbers among the most likely tokens where the judge wrote its rating. None if they do
    not determine it: "1" may be the beginning of "10" if each digit is a token of its own."""
    pieces = [piece for piece, _ in answer.top]
    found = list(WRITTEN.finditer("".join(pieces)))
    if not found or not found[-1][1].isdecimal() or int(found[-1][1]) != written:
        return None
    ends = list(itertools.accumulate(map(len, pieces)))
    at = bisect_right(ends, found[-1].start(1))
    lead = pieces[at][: found[-1].start(1) - ends[at] + len(pieces[at])]
    mass = dict.fromkeys(SCALE, 0.0)
    for token, logprob in answer.top[at][1]:
        digits = re.fullmatch(rf"{re.escape(lead)}(\d{{1,2}})\D*", token)
        if digits is not None and int(digits[1]) in SCALE:
            mass[int(digits[1])] += math.exp(logprob)
    total = sum(mass.values())
    if not mass[written] or (not mass[10] and mass[1] > NEGLIGIBLE * total):
        return None
    return sum(number * own for number, own in mass.items()) / total
