"""A judge's verdicts measured by those of people (docs/win_rate.md, "Validation"): agreement beside that of people with
each other (Zheng et al. 2023, arXiv 2306.05685, section 4.2), position and length, and rates corrected for its errors.

A unit is a pair of outputs of a prompt, or for a flag one output. Answers are 1 if the first output is preferred, or if
the flag is set, 0 if not, and ½ for a tie.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from alignbench.data.conversations import Conversation, read_conversations
from alignbench.data.tables import read_source
from alignbench.labels.agreement import (
    QUIET,
    Floats,
    Statistic,
    agreeing_pairs,
    cohen_kappa,
    intervals,
    proportion,
)
from alignbench.labels.summary import preference
from alignbench.labels.table import VOTE, Label, read_labels
from alignbench.stats.bootstrap import RESAMPLES
from alignbench.stats.estimates import Estimate, share, wilson
from alignbench.stats.judges import Rate, corrected_rate, labels_needed, labels_without_judge, rate

PAIRS = "ranking"  # the question of pairs; others are flags
PEOPLE = "people"
UNNAMED = "unnamed"
MANY = 1e9  # verdicts, if there are no units without labels: a judge costs little
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Unit:
    """prompt: None if the labels have no texts; models: of the outputs, "" if unknown; verdict: the judge's numbers,
    with "win"; None where it gave none; repeated: its verdicts with other seeds"""

    prompt_id: str
    prompt: str | None
    outputs: tuple[str, ...]
    models: tuple[str, ...]
    votes: Mapping[str, float] = field(default_factory=dict)
    verdict: Numbers | None = None
    repeated: tuple[float, ...] = ()

    @property
    def win(self) -> float:
        """The judge's verdict. Raises KeyError without one."""
        return (self.verdict or {})["win"]

    @property
    def people(self) -> float:
        """The majority's vote."""
        return _side(0.5 + sum(_side(vote) - 0.5 for vote in self.votes.values()))


@dataclass(frozen=True)
class JudgeFinding:
    """One number about a judge. who: people, a labeler, a model, or "" for the judge alone.
    estimate: n counts judgements or units; clusters are prompts; of a number of labels it has a value alone"""

    judge: str
    statistic: str
    who: str
    estimate: Estimate


def read_comparisons(source: str, question: str, judges: Mapping[str, str]) -> list[Label]:
    """Labels of a table of labels, or of conversations with ranked responses. judges: see `read_labels`"""
    fields = read_source(source)[0].fields
    if judges or {"output", "output_1", "labeler"} & fields.keys() or fields.keys() >= VOTE:
        known = question == PAIRS or "flags" in fields
        return read_labels(source, flags=() if known else [question], judges=judges)
    return [label for own in read_conversations(source, "rankings") for label in _labels_of(own)]


def _labels_of(own: Conversation) -> list[Label]:
    turns = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in own.messages]
    prompt = own.messages[0]["content"] if len(turns) == 1 else "\n\n".join(turns)
    outputs = ["\n\n".join(turn["content"] for turn in answer) for answer in own.answers]
    ranked = dict(zip(outputs, own.ranks, strict=True))  # of two equal responses one
    return [Label(prompt, prompt, text, own.labeler or UNNAMED, rank=rank) for text, rank in ranked.items()]


def units_of(labels: Sequence[Label], question: str = PAIRS) -> list[Unit]:
    """The units of a question, in the order of their texts, with everyone's votes. A pair is in the order of its items;
    one that nobody judged has no votes."""
    votes: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, float]] = {}
    prompts = {label.prompt_id: label.prompt for label in labels}
    together: dict[tuple[str, str, str], list[Label]] = {}
    for label in labels:
        together.setdefault(label.ranking, []).append(label)
    for own in together.values():
        for group in combinations(sorted(own, key=lambda label: label.item), 2) if question == PAIRS else ():
            found = votes.setdefault((group[0].prompt_id, tuple(label.item for label in group)), {})
            if (vote := preference(*group)) is not None:
                found[group[0].labeler] = vote
        for label in own if question != PAIRS else ():
            if question in label.flags:
                found = votes.setdefault((label.prompt_id, (label.item,)), {})
                found[label.labeler] = float(label.flags[question])
    return [
        Unit(name, prompts[name], tuple(text for _, text in items), tuple(model for model, _ in items), own)
        for (name, items), own in sorted(votes.items(), key=lambda unit: unit[0])
    ]


def take(units: Sequence[Unit], labeler: str) -> list[Unit]:
    """The units with a labeler as the judge."""
    found = []
    for unit in units:
        rest = {name: vote for name, vote in unit.votes.items() if name != labeler}
        own = unit.votes.get(labeler)
        found.append(replace(unit, votes=rest, verdict=None if own is None else {"win": _side(own)}))
    return found


def _side(vote: float) -> float:
    return 0.5 + 0.5 * ((vote > 0.5) - (vote < 0.5))


def validate(
    judge: str, units: Sequence[Unit], *, width: float = 0.1, seed: int = 0, resamples: int = RESAMPLES
) -> list[JudgeFinding]:
    """Compare the verdicts of a judge with the votes of people.

    width: of the interval of a corrected rate, for the number of labels that it needs
    Units with a verdict and without votes are those whose rate is corrected; the others calibrate the judge.
    Intervals resample prompts; those of proportions of one labeler are clustered Wilson intervals.
    """
    judged = [unit for unit in units if unit.verdict is not None]
    both = [unit for unit in judged if unit.votes]
    of_pairs = any(len(unit.outputs) == 2 for unit in units)
    found = _agreement(both, of_pairs, seed, resamples) if both else []
    found += _habits(judged, both) if of_pairs else []
    found += _rates(judged, both, of_pairs, width)
    return [JudgeFinding(judge, *own) for own in found]


Found = tuple[str, str, Estimate]


def _agreement(both: Sequence[Unit], of_pairs: bool, seed: int, resamples: int) -> list[Found]:
    """Ties are a third answer (setup S1 of the paper); `_ties_dropped` only counts two answers without a tie (S2)."""
    counts = np.zeros((len(both), 3))
    for number, unit in enumerate(both):
        for vote in unit.votes.values():
            counts[number, int(2 * _side(vote))] += 1
    own = np.array([int(2 * unit.win) for unit in both])
    here = np.arange(len(both))
    confusion = np.zeros((len(both), 3, 3))
    confusion[here, own, [int(2 * unit.people) for unit in both]] = 1
    if of_pairs:  # the order of a pair is arbitrary
        confusion = (confusion + confusion[:, ::-1, ::-1]) / 2
    statistics = []
    for name, answers in {"": [0, 1, 2], "_ties_dropped": [0, 2]}.items():
        if name and not of_pairs:
            continue
        known = np.isin(own, answers)
        votes = counts[:, answers].sum(1) * known
        with_people = np.column_stack([counts[here, own] * known, votes])
        people = agreeing_pairs(counts[:, answers])
        shared = np.column_stack([with_people, people]) * (people[:, 1:] > 0) * known[:, None]
        statistics += [
            Statistic(f"agreement{name}", PEOPLE, with_people, proportion, int(votes.sum()), (0, 1)),
            Statistic(f"agreement_among_people{name}", PEOPLE, people, proportion, int(people[:, 1].sum()), (0, 1)),
            Statistic(f"relative_agreement{name}", PEOPLE, shared, _relative, int(shared[:, 1].sum()), (0, math.inf)),
        ]
    flat = confusion.reshape(len(both), -1)
    statistics.append(
        Statistic(
            "cohen_kappa", "majority", flat, lambda sums: cohen_kappa(sums.reshape(*sums.shape[:-1], 3, 3)), len(both)
        )
    )
    prompts = np.unique([unit.prompt_id for unit in both], return_inverse=True)[1]
    estimates = intervals(statistics, prompts, seed, resamples)
    found = [(own.name, own.who, estimate) for own, estimate in zip(statistics, estimates, strict=True) if estimate.n]
    for labeler in sorted({name for unit in both for name in unit.votes}):
        mine = [(unit, _side(unit.votes[labeler])) for unit in both if labeler in unit.votes]
        decided = [(unit, vote) for unit, vote in mine if 0.5 not in (vote, unit.win)] if of_pairs else []
        for name, kept in {"": mine, "_ties_dropped": decided}.items():
            if kept:
                same = _share([(unit, float(vote == unit.win)) for unit, vote in kept])
                found.append((f"agreement{name}", f"labeler {labeler}", same))
    return found


@QUIET
def _relative(sums: Floats) -> Floats:
    return np.asarray(proportion(sums[..., :2]) / proportion(sums[..., 2:]))


def _habits(judged: Sequence[Unit], both: Sequence[Unit]) -> list[Found]:
    """What a judge goes by besides quality: position and length; and whether it repeats itself."""
    seen = [(unit, unit.verdict) for unit in judged if unit.verdict and "consistent" in unit.verdict]
    repeated = [unit for unit in judged if len(unit.repeated) > 1]
    rows: list[tuple[str, str, list[tuple[Unit, float]]]] = [
        ("position_consistency", "", [(unit, own["consistent"]) for unit, own in seen]),
        # over both orders: ½ without a preference for a position
        ("first_position", "", [(unit, (own["first"] + 1 - own["second"]) / 2) for unit, own in seen]),
        ("repeatability", "", [(unit, _same(unit.repeated)) for unit in repeated]),
        ("tie", "", [(unit, float(unit.win == 0.5)) for unit in judged]),
        ("tie", PEOPLE, [(unit, float(unit.people == 0.5)) for unit in both]),
        ("prefers_longer", "", _longer([(unit, unit.win) for unit in judged])),
        ("prefers_longer", PEOPLE, _longer([(unit, unit.people) for unit in both])),
    ]
    return [(name, who, _share(own)) for name, who, own in rows if own]


def _share(values: Sequence[tuple[Unit, float]]) -> Estimate:
    return share([value for _, value in values], [unit.prompt_id for unit, _ in values])


def _same(verdicts: Sequence[float]) -> float:
    """The proportion of pairs that are equal."""
    pairs = [one == other for one, other in combinations(verdicts, 2)]
    return sum(pairs) / len(pairs)


def _longer(verdicts: Sequence[tuple[Unit, float]]) -> list[tuple[Unit, float]]:
    """Whether the longer output won, where one is longer and one won."""
    lengths = [(unit, won, len(unit.outputs[0]) - len(unit.outputs[1])) for unit, won in verdicts if won != 0.5]
    return [(unit, float((won == 1) == (delta > 0))) for unit, won, delta in lengths if delta]


def _rates(judged: Sequence[Unit], both: Sequence[Unit], of_pairs: bool, width: float) -> list[Found]:
    """Sensitivity, specificity and win rates of each model against all others; of a flag its rates."""
    models = sorted({model for unit in judged for model in unit.models} - {""})
    models = models[:1] if len(models) == 2 else models or [""]  # of two, one's win rate is the other's complement
    unlabelled = [unit for unit in judged if not unit.votes]
    found = list[Found]()
    for model in models if of_pairs else [None]:
        own, new = (_sides(units, model) for units in (both, unlabelled))
        found += _of_model(model or "", own, new, "rate" if model is None else "win_rate" if model else "", width)
    return found


def _sides(units: Sequence[Unit], model: str | None) -> list[tuple[str, float, float]]:
    """The prompt, the judge's verdict and the majority's, in favour of a model's outputs (None: of all). Both outputs of
    a pair may be its."""
    return [
        (unit.prompt_id, *((1 - unit.win, 1 - unit.people) if side else (unit.win, unit.people)))
        for unit in units
        for side, own in enumerate(unit.models)
        if model in (own, None)
    ]


def _of_model(
    model: str,
    own: Sequence[tuple[str, float, float]],
    new: Sequence[tuple[str, float, float]],
    name: str,
    width: float,
) -> list[Found]:
    """own: prompt, verdict and people's majority of units with votes; new: of units without
    name: of the rate, "" if it is not of interest. A tie of people counts half as a positive, half as a negative."""
    if not own:
        return []
    prompts, tests = ([prompt for prompt, *_ in units] for units in (own, new))
    verdicts, people, test = (
        np.array(x) for x in ([v for _, v, _ in own], [t for *_, t in own], [v for _, v, _ in new])
    )
    rates = {
        f"{name}_people": rate(people, prompts),
        f"{name}_judge": rate(verdicts, prompts),
        "sensitivity": rate(verdicts, prompts, people),
        "specificity": rate(1 - verdicts, prompts, 1 - people),
        f"{name}_judge_unlabelled": rate(test, tests),
    }
    found = [
        (what, model, _estimate(of, len(test) if "unlabelled" in what else len(own)))
        for what, of in rates.items()
        if of is not None and (name or not what.startswith("_"))
    ]
    true, judged, sensitivity, specificity, new_rate = rates.values()
    if true is None or judged is None or sensitivity is None or specificity is None:
        return found
    if new_rate is not None and name:
        found.append(
            (f"{name}_corrected", model, replace(corrected_rate(new_rate, specificity, sensitivity), n=len(new)))
        )
    many = new_rate or judged._replace(size=MANY)
    needed = {"labels_needed": labels_needed(width, many, specificity, sensitivity)}
    needed["labels_without_judge"] = labels_without_judge(width, true.value)
    return found + [(what, model, Estimate(None if n is None else float(n))) for what, n in needed.items()]


def _estimate(of: Rate, n: int) -> Estimate:
    return Estimate(of.value, None, *wilson(of.value, of.size), n)
