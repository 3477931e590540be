"""A judge's verdicts measured by those of people (docs/win_rate.md, "Validation"): agreement beside that of people with
each other (Zheng et al. 2023, arXiv 2306.05685, section 4.2), position and length, and rates corrected for its errors.

A unit is a pair of outputs of a prompt, or for a flag one output. Answers are 1 if the first output is preferred, or if
the flag is set, 0 if not, and ½ for a tie.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from alignbench.data.conversations import Conversation, read_conversations
from alignbench.data.tables import read_source
from alignbench.labels.agreement import QUIET, Floats, Statistic, agreeing_pairs, cohen_kappa, intervals, proportion
from alignbench.labels.study.read import is_study
from alignbench.labels.summary import preference
from alignbench.labels.table import VOTE, Label, read_labels
from alignbench.stats.bootstrap import RESAMPLES
from alignbench.stats.estimates import Estimate, cluster_numbers, share, wilson
from alignbench.stats.judges import corrected_rate, labels_needed, labels_without_judge, rate

PAIRS = "ranking"  # the question of pairs; others are flags
PEOPLE = "people"


@dataclass(frozen=True)
class Unit:
    """prompt: None if the labels have no texts; models: of the outputs, "" if unknown; verdict: the judge's numbers,
    with "win"; None where it gave none; repeated: its verdicts with other seeds"""

    prompt_id: str
    prompt: str | None
    outputs: tuple[str, ...]
    models: tuple[str, ...]
    votes: Mapping[str, float] = field(default_factory=dict)
    verdict: Mapping[str, float] | None = None
    repeated: tuple[float, ...] = ()

    @property
    def win(self) -> float:
        """The judge's verdict. Raises KeyError without one."""
        return (self.verdict or {})["win"]

    @property
    def people(self) -> float:
        """The answer of most people; a tie if no answer has the most votes, or nobody voted."""
        most = Counter(map(_side, self.votes.values())).most_common(2)
        return most[0][0] if most and len({count for _, count in most}) == len(most) else 0.5


@dataclass(frozen=True)
class JudgeFinding:
    """One number about a judge. who: people, a labeler, a model, or "" for the judge alone.
    estimate: n counts judgements or units; a number of labels has a value alone"""

    judge: str
    statistic: str
    who: str
    estimate: Estimate


Found = tuple[str, str, Estimate]  # the last three


def read_comparisons(source: str, question: str) -> list[Label]:
    """Labels of a study, of a table of labels, or of conversations with ranked responses."""
    if is_study(source):
        return read_labels(source)
    fields = read_source(source)[0].fields
    if {"output", "output_1", "labeler"} & fields.keys() or fields.keys() >= VOTE:
        return read_labels(source, flags=[question] if question in fields else ())
    return [label for own in read_conversations(source, "rankings") for label in _labels_of(own)]


def _labels_of(own: Conversation) -> list[Label]:
    turns = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in own.messages]
    prompt = own.messages[0]["content"] if len(turns) == 1 else "\n\n".join(turns)
    outputs = ["\n\n".join(turn["content"] for turn in answer) for answer in own.answers]
    ranked = dict(zip(outputs, own.ranks, strict=True))  # of two equal responses one
    return [Label(prompt, prompt, text, own.labeler or "unnamed", rank=rank) for text, rank in ranked.items()]


def units_of(labels: Sequence[Label], question: str = PAIRS) -> list[Unit]:
    """The units of a question, sorted, with everyone's votes. A pair that nobody compared has no votes."""
    votes: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, float]] = {}
    prompts = {label.prompt_id: label.prompt for label in labels}
    together: dict[tuple[str, str, str], list[Label]] = {}
    for label in labels:
        together.setdefault(label.ranking, []).append(label)
        if question in label.flags:
            votes.setdefault((label.prompt_id, (label.item,)), {})[label.labeler] = float(label.flags[question])
    for own in together.values() if question == PAIRS else ():
        for one, other in combinations(sorted(own, key=lambda label: label.item), 2):
            found = votes.setdefault((one.prompt_id, (one.item, other.item)), {})
            if (vote := preference(one, other)) is not None:
                found[one.labeler] = vote
    return [
        Unit(name, prompts[name], tuple(text for _, text in items), tuple(model for model, _ in items), own)
        for (name, items), own in sorted(votes.items(), key=lambda unit: unit[0])
    ]


def _side(vote: float) -> float:
    return 0.5 + 0.5 * ((vote > 0.5) - (vote < 0.5))


def validate(
    judge: str, units: Sequence[Unit], *, width: float = 0.1, seed: int = 0, resamples: int = RESAMPLES
) -> list[JudgeFinding]:
    """Compare the verdicts of a judge with the votes of people.

    width: of the interval of a corrected rate, for the number of labels that it needs
    Units with votes calibrate the judge; the rate of those with a verdict and without votes is corrected.
    Intervals resample prompts; those of single proportions are clustered Wilson intervals.
    """
    of_pairs = any(len(unit.outputs) == 2 for unit in units)
    judged = [unit for unit in units if unit.verdict is not None]
    labelled, others = ([unit for unit in judged if bool(unit.votes) == voted] for voted in (True, False))
    found = _agreement(labelled, of_pairs, seed, resamples) + (_habits(judged, labelled) if of_pairs else [])
    models = [*dict.fromkeys(model for unit in judged for model in unit.models if model)]
    models = models[:1] if len(models) == 2 else sorted(models) or [""]  # of two, one's win rate tells the other's
    for model in models if of_pairs else [None]:
        found += _rates(model, labelled, others, width)
    return [JudgeFinding(judge, *own) for own in found]


def _agreement(labelled: Sequence[Unit], of_pairs: bool, seed: int, resamples: int) -> list[Found]:
    """Ties are a third answer (setup S1 of the paper); `_ties_dropped` only counts two answers without a tie (S2)."""
    counts, here = np.zeros((len(labelled), 3)), np.arange(len(labelled))
    for number, unit in enumerate(labelled):
        for vote in unit.votes.values():
            counts[number, int(2 * _side(vote))] += 1
    own = np.array([int(2 * unit.win) for unit in labelled])
    statistics = []
    for name, answers in {"": [0, 1, 2], "_ties_dropped": [0, 2]}.items() if of_pairs else [("", [0, 2])]:
        known = np.isin(own, answers)
        with_people = np.column_stack([counts[here, own], counts[:, answers].sum(1)]) * known[:, None]
        people = agreeing_pairs(counts[:, answers])
        shared = np.column_stack([with_people, people]) * ((people[:, 1] > 0) & known)[:, None]
        statistics += [
            Statistic(f"agreement{name}", PEOPLE, with_people, proportion, int(with_people[:, 1].sum()), (0, 1)),
            Statistic(f"agreement_among_people{name}", PEOPLE, people, proportion, int(people[:, 1].sum()), (0, 1)),
            Statistic(f"relative_agreement{name}", PEOPLE, shared, _relative, int(shared[:, 1].sum()), (0, math.inf)),
        ]
    most = np.array([int(2 * unit.people) for unit in labelled])
    same = np.column_stack([own == most, here >= 0]).astype(np.float64)
    statistics.append(Statistic("agreement", "majority", same, proportion, len(labelled), (0, 1)))
    table = np.zeros((len(labelled), 3, 3))
    table[here, own, most] = 1
    table = (table + table[:, ::-1, ::-1]) / 2 if of_pairs else table  # the order of a pair is arbitrary
    statistics.append(Statistic("cohen_kappa", "majority", table.reshape(len(table), 9), _kappa, len(table)))
    prompts = cluster_numbers([unit.prompt_id for unit in labelled], len(labelled))
    estimates = intervals(statistics, prompts, seed, resamples)
    found = [(own.name, own.who, estimate) for own, estimate in zip(statistics, estimates, strict=True) if estimate.n]
    for labeler in sorted({name for unit in labelled for name in unit.votes}):
        mine = [(unit, _side(unit.votes[labeler])) for unit in labelled if labeler in unit.votes]
        decided = [(unit, vote) for unit, vote in mine if 0.5 not in (vote, unit.win)] if of_pairs else []
        for name, kept in {"": mine, "_ties_dropped": decided}.items():
            if kept:
                equal = _share([(unit, float(vote == unit.win)) for unit, vote in kept])
                found.append((f"agreement{name}", f"labeler {labeler}", equal))
    return found


@QUIET
def _relative(sums: Floats) -> Floats:
    return np.asarray(proportion(sums[..., :2]) / proportion(sums[..., 2:]))


def _kappa(sums: Floats) -> Floats:
    return cohen_kappa(sums.reshape(*sums.shape[:-1], 3, 3))


def _habits(judged: Sequence[Unit], labelled: Sequence[Unit]) -> list[Found]:
    """What a judge goes by besides quality, position and length, and whether it repeats its verdicts."""
    seen = [(unit, unit.verdict) for unit in judged if unit.verdict and "consistent" in unit.verdict]
    rows: list[tuple[str, str, list[tuple[Unit, float]]]] = [
        ("position_consistency", "", [(unit, own["consistent"]) for unit, own in seen]),
        # over both orders: ½ without a preference for a position
        ("first_position", "", [(unit, (own["first"] + 1 - own["second"]) / 2) for unit, own in seen]),
        ("repeatability", "", [(unit, _same(unit.repeated)) for unit in judged if len(unit.repeated) > 1]),
        ("tie", "", [(unit, float(unit.win == 0.5)) for unit in judged]),
        ("tie", PEOPLE, [(unit, float(unit.people == 0.5)) for unit in labelled]),
        ("prefers_longer", "", _longer([(unit, unit.win) for unit in judged])),
        ("prefers_longer", PEOPLE, _longer([(unit, unit.people) for unit in labelled])),
    ]
    return [(name, who, _share(own)) for name, who, own in rows if own]


def _share(values: Sequence[tuple[Unit, float]]) -> Estimate:
    return share([value for _, value in values], [unit.prompt_id for unit, _ in values])


def _same(verdicts: Sequence[float]) -> float:
    """The proportion of pairs that are equal."""
    return float(np.mean([one == other for one, other in combinations(verdicts, 2)]))


def _longer(verdicts: Sequence[tuple[Unit, float]]) -> list[tuple[Unit, float]]:
    """Whether the longer output won, where one is longer and one won."""
    lengths = [(unit, won, len(unit.outputs[0]) - len(unit.outputs[1])) for unit, won in verdicts if won != 0.5]
    return [(unit, float((won == 1) == (delta > 0))) for unit, won, delta in lengths if delta]


def _sides(units: Sequence[Unit], model: str | None) -> tuple[list[str], Floats, Floats]:
    """Prompts, the judge's verdicts and the majority's in favour of the outputs of a model (None: of all), of which a
    pair may have two."""
    rows = [
        (unit.prompt_id, abs(side - unit.win), abs(side - unit.people))
        for unit in units
        for side, own in enumerate(unit.models)
        if model in (own, None)
    ]
    return [row[0] for row in rows], np.array([row[1] for row in rows]), np.array([row[2] for row in rows])


def _rates(model: str | None, labelled: Sequence[Unit], others: Sequence[Unit], width: float) -> list[Found]:
    """Sensitivity, specificity, and the rates of people, of the judge, and corrected. A tie of people counts half as a
    positive and half as a negative. labelled: units with votes; others: without"""
    (prompts, verdicts, people), new = _sides(labelled, model), _sides(others, model)
    who, name = model or "", "rate" if model is None else "win_rate"
    sensitivity, specificity = rate(verdicts, prompts, people), rate(1 - verdicts, prompts, 1 - people)
    true, judged, test = rate(people, prompts), rate(verdicts, prompts), rate(new[1], new[0])
    rates = {f"{name}_people": true, f"{name}_judge": judged} if model != "" else {}
    rates |= {"sensitivity": sensitivity, "specificity": specificity}
    rates |= {f"{name}_judge_unlabelled": test} if model != "" else {}
    units = len(labelled) if model is None else sum(model in unit.models for unit in labelled)
    # without names of models both sides of a pair are counted, of which one is a win
    counts = {"sensitivity": round(people.sum()), "specificity": round((1 - people).sum())}
    found = [
        (what, who, Estimate(of.value, None, *wilson(*of), counts.get(what, len(new[0] if of is test else prompts))))
        for what, of in rates.items()
        if of is not None
    ]
    if true is None or judged is None or sensitivity is None or specificity is None:
        return found
    if test is not None and model != "":
        corrected = replace(corrected_rate(test, specificity, sensitivity), n=len(new[0]))
        found.append((f"{name}_corrected", who, corrected))
    needed = labels_needed(width, true.value, specificity, sensitivity, units)
    alone = labels_without_judge(width, true, units)
    return [*found, ("labels_needed", who, Estimate(needed)), ("labels_without_judge", who, Estimate(alone))]
