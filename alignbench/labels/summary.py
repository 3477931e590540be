"""Models by their labels: preferences and battles between outputs, mean Likert marks, rates of flags, win rates."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from alignbench.errors import AlignbenchError
from alignbench.labels.table import LIKERT, Label, flag_names
from alignbench.stats import estimates
from alignbench.stats.bootstrap import RESAMPLES, interval
from alignbench.stats.estimates import Estimate
from alignbench.stats.significance import few_changed, rare_changes, usual_change
from alignbench.stats.two_way import two_way, wider

TWO_LABELERS = "two labelers: intervals for other labelers are too narrow, they cover about 90 %"
UNNAMED = "(no model named)"


@dataclass(frozen=True)
class ModelFinding:
    """One number about a model. against: the other model of a win rate; n counts labels, or prompts of a win rate."""

    model: str
    statistic: str
    against: str | None
    estimate: Estimate


class Verdicts:
    """Labelers' preferences between two outputs of a prompt, found by their texts without surrounding white space."""

    def __init__(self, labels: Sequence[Label]) -> None:
        # (prompt, output) -> ranking -> label. One labeler's ranks under two prompt_ids are two rankings, which cannot
        # be compared.
        self._labels: dict[tuple[str, str], dict[tuple[str, str, str], Label]] = defaultdict(dict)
        for label in labels:
            if label.prompt is not None:
                place = label.prompt.strip(), label.output.strip()
                self._labels[place].setdefault(label.ranking, label)

    def verdict(self, prompt: str, first: str, second: str) -> float | None:
        """1 if the first output is preferred, 0 the second, .5 a tie, or between: the mean of all who compare both.
        None if nobody does. Two equal outputs that were labelled are a tie."""
        one, other = (self._labels.get((prompt.strip(), output.strip()), {}) for output in (first, second))
        return _mean(preference(label, other[ranking]) for ranking, label in one.items() if ranking in other)


def preference(first: Label, second: Label) -> float | None:
    """One labeler's preference: graded if given so, else by ranks, else by Likert marks; None if not compared."""
    if first.comparison != second.comparison:
        return None
    if first.preference is not None and second.preference is not None:
        return (first.preference + 1 - second.preference) / 2
    if first.rank is not None and second.rank is not None:
        margin = second.rank - first.rank
    elif first.likert is not None and second.likert is not None:
        margin = first.likert - second.likert
    else:
        return None
    return 0.5 if margin == 0 else float(margin > 0)


def battles(labels: Sequence[Label]) -> dict[tuple[str, str], list[float]]:
    """Two models -> one outcome per prompt: 1 the first wins, 0 the second, .5 a tie, or between, graded; the mean over
    labelers.
    Outputs without a model are ignored. If a labeler saw several outputs of a model to one prompt, each is compared
    with each, and their mean counts."""
    seen: dict[str, dict[str, dict[str, list[Label]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for label in labels:
        if label.model is not None:
            seen[label.prompt_id][label.model][label.labeler].append(label)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, models in sorted(seen.items()):
        for pair in combinations(sorted(models), 2):
            one, other = (models[model] for model in pair)
            both = sorted(one.keys() & other.keys())
            outcome = _mean(_mean(preference(a, b) for a in one[who] for b in other[who]) for who in both)
            if outcome is not None:
                found[pair].append(outcome)
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def comparisons(labels: Sequence[Label], first: str, second: str) -> tuple[list[float], list[str], list[str]]:
    """Preferences for the first model against the second, each with its prompt and labeler."""
    seen: dict[tuple[str, str, str], dict[str, list[Label]]] = defaultdict(lambda: defaultdict(list))
    for label in labels:
        if label.model in (first, second):
            seen[label.ranking][label.model or ""].append(label)
    found = [
        (won, prompt, labeler)
        for (prompt, labeler, _), models in seen.items()
        if (won := _mean(preference(a, b) for a in models[first] for b in models[second])) is not None
    ]
    return tuple(map(list, zip(*found, strict=True))) if found else ([], [], [])  # type: ignore[return-value]


def win_rates(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> list[ModelFinding]:
    """The mean preference over prompts of each two models that a labeler compared."""
    found = []
    for (first, second), won in sorted(battles(labels).items()):
        rate = interval(won, seed=seed, resamples=resamples, bounds=(0, 1))
        x, prompt = np.asarray(won) - 0.5, np.arange(len(won))
        usual = usual_change(x, prompt)
        if rate.value in (0, 1):  # all resamples would be equal
            rate = estimates.share(won)
        elif few_changed(x - usual, prompt):  # nearly all would be
            rate = rare_changes(x, prompt, 0.5, usual)[0].moved(0.5, (0, 1))
        crossed, _ = two_way(*comparisons(labels, first, second), seed=seed, resamples=resamples, bounds=(0, 1))
        found.append(ModelFinding(first, "win_rate", second, wider(rate, crossed)))
    return found


def summary(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> list[ModelFinding]:
    """Likert marks, rates of flags, and win rates. Intervals are for other prompts and other labelers (`two_way`), and
    never narrower than those for other prompts; with one labeler, those for other prompts."""
    found = []

    def add(model: str, name: str, plain: Estimate, answered: Sequence[Label], values: Sequence[float]) -> None:
        prompts, labelers = [own.prompt_id for own in answered], [own.labeler for own in answered]
        settings = {"seed": seed, "resamples": resamples, "by_prompt": False}
        bounds = LIKERT if name == "likert" else (0, 1)
        crossed, _ = two_way(values, prompts, labelers, bounds=bounds, **settings)  # type: ignore[arg-type]
        found.append(ModelFinding(model or UNNAMED, name, None, wider(plain, crossed)))

    for model in sorted({label.model or "" for label in labels}):
        own = [label for label in labels if (label.model or "") == model]
        if marked := [label for label in own if label.likert is not None]:
            marks, prompts = [label.likert or 0 for label in marked], [label.prompt_id for label in marked]
            add(model, "likert", estimates.mean(marks, prompts, LIKERT), marked, marks)
        for name in flag_names(own):
            answered = [label for label in own if name in label.flags]
            answers = [float(label.flags[name]) for label in answered]
            add(model, name, estimates.share(answers, [label.prompt_id for label in answered]), answered, answers)
    found += win_rates(labels, seed=seed, resamples=resamples)
    if not found:
        raise AlignbenchError("nothing to summarise: no Likert marks, no flags, and no two models compared")
    return found
