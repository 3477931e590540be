"""Models by their labels: preferences and battles between outputs, mean Likert marks, rates of flags, win rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from alignbench.errors import AlignbenchError
from alignbench.labels.table import LIKERT, Label, flag_names
from alignbench.stats import estimates
from alignbench.stats.bootstrap import RESAMPLES, interval
from alignbench.stats.estimates import Estimate

UNNAMED = "(no model named)"


@dataclass(frozen=True, slots=True)
class Battle:
    """Two models on one prompt. outcome: 1 the first wins, 0 the second, .5 a tie; the mean over `labelers`."""

    prompt_id: str
    first: str
    second: str
    outcome: float
    labelers: int


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
        # prompt -> output -> ranking -> label. One labeler's ranks under two prompt_ids are two rankings, which cannot
        # be compared.
        self._labels: dict[str, dict[str, dict[tuple[str, str], Label]]] = defaultdict(lambda: defaultdict(dict))
        for label in labels:
            if label.prompt is not None:
                ranking = (label.prompt_id, label.labeler)
                self._labels[label.prompt.strip()][label.output.strip()].setdefault(ranking, label)

    def verdict(self, prompt: str, first: str, second: str) -> float | None:
        """1 if the first output is preferred, 0 the second, .5 a tie: the mean over the labelers who compare both.

        None if nobody does. Two equal outputs that were labelled are a tie.
        """
        outputs = self._labels.get(prompt.strip(), {})
        one, other = outputs.get(first.strip(), {}), outputs.get(second.strip(), {})
        return _mean(preference(label, other[name]) for name, label in one.items() if name in other)


def preference(first: Label, second: Label) -> float | None:
    """One labeler's preference by ranks; if they are missing, by Likert marks; None without either."""
    if first.rank is not None and second.rank is not None:
        margin = second.rank - first.rank
    elif first.likert is not None and second.likert is not None:
        margin = first.likert - second.likert
    else:
        return None
    return 0.5 if margin == 0 else float(margin > 0)


def battles(labels: Sequence[Label]) -> list[Battle]:
    """One battle per prompt and pair of models, sorted; outputs without a model are ignored.

    If a labeler saw several outputs of a model to one prompt, each is compared with each, and their mean counts.
    """
    seen: dict[str, dict[str, dict[str, list[Label]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for label in labels:
        if label.model is not None:
            seen[label.prompt_id][label.model][label.labeler].append(label)
    found = []
    for prompt_id, models in sorted(seen.items()):
        for first, second in combinations(sorted(models), 2):
            one, other = models[first], models[second]
            both = sorted(one.keys() & other.keys())
            means = [_mean(preference(a, b) for a in one[who] for b in other[who]) for who in both]
            outcome = _mean(means)
            if outcome is not None:
                found.append(Battle(prompt_id, first, second, outcome, sum(mean is not None for mean in means)))
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summary(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> list[ModelFinding]:
    """Likert marks and flags with intervals clustered by prompt; win rates (ties half) with one over prompts."""
    found = []
    models: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: label.model or ""):
        models[label.model or UNNAMED].append(label)
    for model, own in models.items():
        marks = [(label.likert, label.prompt_id) for label in own if label.likert is not None]
        if marks:
            values, prompts = zip(*marks, strict=True)
            found.append(ModelFinding(model, "likert", None, estimates.mean(values, prompts, LIKERT)))
        for name in flag_names(labels):
            answers = [(label.flags[name], label.prompt_id) for label in own if name in label.flags]
            if answers:
                found.append(ModelFinding(model, name, None, estimates.share(*zip(*answers, strict=True))))
    outcomes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for battle in battles(labels):
        outcomes[battle.first, battle.second].append(battle.outcome)
    for (first, second), won in sorted(outcomes.items()):
        rate = interval(won, seed=seed, resamples=resamples, bounds=(0, 1))
        if rate.value in (0, 1):  # all resamples would be equal
            rate = estimates.share(won)
        found.append(ModelFinding(first, "win_rate", second, rate))
    if not found:
        raise AlignbenchError("nothing to summarise: no Likert marks, no flags, and no two models compared")
    return found
