"""Verdicts on abilities: one tested variant of each benchmark, and a sentence for each ability. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from alignbench.audit.audit import AbilityVerdict, MeanTax, Row, Verdict
from alignbench.audit.tax import CAPABILITY
from alignbench.console import interval, number
from alignbench.stats.significance import LEVEL, holm, minimum_detectable_effect
from alignbench.types.task import Ability

MARGIN = 1.0  # percent of a metric's range
DIGITS = {"points": 2, "tokens": 1, "words": 1, "characters": 1}  # of a unit; 3 for the others
ABILITIES: tuple[str, ...] = get_args(Ability)
WORST_FIRST = ("loss", "gain", "inconclusive", "retained")  # the first of them that a row has is the ability's


def judge(rows: Sequence[Row], margin: float = MARGIN) -> list[Row]:
    """The rows with verdicts, p-values corrected for the number of tests, and minimum detectable effects.

    Of each family the first variant with a comparable headline metric is primary; the others are not tested.
    margin: percent of the metric's range
    """
    last_first = sorted((row for row in rows if row.headline and row.gain is not None), key=lambda row: row.order)[::-1]
    chosen = {id(row) for row in {row.family: row for row in last_first}.values()}
    p_values = [row.p for row in rows if id(row) in chosen and row.p is not None]
    adjusted, tests = iter(holm(p_values)), len(p_values)
    found = []
    for row in rows:
        primary, error = id(row) in chosen, None if row.gain is None else row.standard_error
        detectable = minimum_detectable_effect(error, LEVEL / max(1, tests if primary else 1)) if error else None
        row = replace(row, primary=primary, detectable=detectable)
        if primary:
            p_holm = None if row.p is None else next(adjusted)
            within = row.span is not None and row.gain_low is not None and row.gain_low >= -margin / 100 * row.span
            verdict: Verdict = "retained" if within else "inconclusive"
            if p_holm is not None and p_holm < LEVEL and row.gain is not None:
                verdict = "gain" if row.gain > 0 else "loss"
            elif row.p is not None and row.p < LEVEL:
                row = replace(row, note=f"p is below {LEVEL} only before the correction for {tests} tests")
            row = replace(row, p_holm=p_holm, verdict=verdict)
        found.append(row)
    return found


def abilities(rows: Sequence[Row], mean: MeanTax | None, margin: float = MARGIN) -> tuple[AbilityVerdict, ...]:
    """A verdict on each ability that has a primary row, in the order of `Ability`."""
    found = []
    for ability in ABILITIES:
        own = [row for row in rows if row.ability == ability and row.primary]
        if not own:
            continue
        verdicts, parts = {row.verdict for row in own}, [_clause(row, margin) for row in own]
        overall: Verdict | Literal["mixed"] = min(verdicts, key=WORST_FIRST.index)
        if ability == CAPABILITY and mean is not None:
            overall, tasks = mean.verdict, f"{len(mean.tasks)} task{'s' * (len(mean.tasks) > 1)}"
            size = f"The mean tax is {number(mean.value, '+.2f')} % of the range of a metric ({tasks}"
            parts.insert(0, f"{size}; 95 % interval {interval(mean.low, mean.high, '+.2f')})")
        elif {"gain", "loss"} <= verdicts:
            overall = "mixed"
        shown = "gains and losses" if overall == "mixed" else overall
        sentence = f"{ability.capitalize()}: {shown}. {'; '.join(parts)}."
        found.append(AbilityVerdict(ability, overall, sentence, tuple(parts), tuple(row.family for row in own)))
    return tuple(found)


def name_of(row: Row) -> str:
    return title_of(f"{row.task}.{row.metric}") + (f" [{row.variant}]" if row.variant else "")


def title_of(name: str) -> str:
    """TASK.METRIC as a title: "win rate" for "win_rate.win_rate"."""
    task, _, metric = name.partition(".")
    return task.replace("_", " ") if task == metric else name


def _clause(row: Row, margin: float) -> str:
    """What happened to one metric, for example "rte.acc rose by 0.052 from 0.600 to 0.652 (95 % interval
    +0.021 … +0.083), a gain (adjusted p = 0.002)"."""
    form = f".{DIGITS.get(row.unit, 3)}f"
    unit = "" if row.unit in ("proportion", "r", "number") else f" {row.unit}"
    before, after = number(row.reference, form), number(row.aligned, form)
    moved = f"{'rose' if row.delta > 0 else 'fell'} by {number(abs(row.delta), form)}{unit} from {before} to {after}"
    if before == after:
        moved = f"stayed at {'about ' * (row.delta != 0)}{after}{unit}"
    size = f"{'The ' * (row.task == row.metric)}{name_of(row)} {moved}"  # "The win rate"
    if row.low is not None and row.high is not None:
        size += f" (95 % interval {interval(row.low, row.high, '+' + form)})"
    if row.verdict in ("gain", "loss"):
        return f"{size}, a {row.verdict} (adjusted p {_p(row.p_holm)})"
    if row.verdict == "retained":
        return f"{size}, retained: a loss of more than {margin:g} % of the range is unlikely"
    if row.p_holm is None:
        return f"{size}, inconclusive: there is no test"
    limit = "" if row.detectable is None else f"; changes below {number(row.detectable, form)} are often missed"
    return f"{size}, inconclusive (adjusted p {_p(row.p_holm)}{limit})"


def _p(value: float | None) -> str:
    return "< .001" if value is not None and value < 0.001 else f"= {number(value)}"
