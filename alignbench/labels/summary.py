"""What labelers say of each model: mean Likert mark, share of each flag, win rate against each other model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from alignbench.errors import AlignbenchError
from alignbench.labels.table import LIKERT, Label, flag_names
from alignbench.labels.wins import battles
from alignbench.stats import estimates
from alignbench.stats.bootstrap import RESAMPLES, interval
from alignbench.stats.estimates import Estimate

UNNAMED = "(no model named)"


@dataclass(frozen=True)
class ModelFinding:
    """One number of a model's. against: the other model of a win rate; n counts labels, or prompts of a win rate."""

    model: str
    statistic: str
    against: str | None
    estimate: Estimate


def summary(labels: Sequence[Label], *, seed: int = 0, resamples: int = RESAMPLES) -> list[ModelFinding]:
    """Likert and flags with intervals clustered by prompt; win rates (ties half) with a bootstrap over prompts."""
    found = []
    models: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: label.model or ""):
        models[label.model or UNNAMED].append(label)
    for model, mine in models.items():
        marked = [label for label in mine if label.likert is not None]
        if marked:
            marks = [label.likert or 0 for label in marked]
            found.append(ModelFinding(model, "likert", None, estimates.mean(marks, _prompts(marked), LIKERT)))
        for name in flag_names(labels):
            asked = [label for label in mine if name in label.flags]
            if asked:
                share = estimates.share([label.flags[name] for label in asked], _prompts(asked))
                found.append(ModelFinding(model, name, None, share))
    outcomes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for battle in battles(labels):
        outcomes[battle.first, battle.second].append(battle.outcome)
    for (first, second), won in sorted(outcomes.items()):
        rate = interval(won, seed=seed, resamples=resamples, bounds=(0, 1))
        if rate.value in (0, 1):  # a resample of prompts that all went one way goes that way too
            rate = estimates.share(won)
        found.append(ModelFinding(first, "win_rate", second, rate))
    if not found:
        raise AlignbenchError("nothing to sum up: no Likert marks, no flags, and no two models compared")
    return found


def _prompts(labels: Sequence[Label]) -> list[str]:
    return [label.prompt_id for label in labels]
