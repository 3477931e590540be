"""The verdict in sentences: what a comparison gained and lost, how certain that is, and which samples show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from alignbench.audit.audit import Contrast, MeanTax, Row
from alignbench.audit.render import BETTER
from alignbench.audit.tax import CAPABILITY
from reports.page.data import Sets, TaskSet, sets_by_folder
from reports.page.format import interval, value

HEADS = {  # verdict -> heading of the abilities with it, and what a sentence says of one
    "gain": ("Improved", " improved"),
    "loss": ("Got worse", " got worse"),
    "mixed": ("Gains and losses", ": gains and losses"),
    "retained": ("Retained", ": retained"),
    "inconclusive": ("Inconclusive", ": inconclusive"),
}
NARROW = "\u00a0"  # no line break
FIRST = {"gain": "best", "loss": "worst"}  # order of the samples
UNNAMED = ("proportion", "r", "number")  # units that are not written after a number
UNSURE = "length may explain it: inconclusive at equal lengths"
EQUAL = {1: "above ½ at equal lengths", -1: "below ½ at equal lengths", 0: UNSURE}


@dataclass(frozen=True)
class Sentence:
    """link: to the samples that show it, "" without"""

    text: str
    link: str = ""


@dataclass(frozen=True)
class Verdict:
    """What happened to an ability: the first `shown` sentences at once, the others folded."""

    ability: str
    verdict: str
    sentences: tuple[Sentence, ...]
    shown: int = 1

    @property
    def head(self) -> str:
        """Return "Toxicity improved", "Bias: inconclusive"."""
        return self.ability.capitalize() + HEADS[self.verdict][1]


def abstract(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """Return (heading, abilities) for each kind of verdict: [("Improved", "preference, truthfulness"), …]."""
    names = {kind: [own.ability for own in verdicts if own.verdict == kind] for kind in HEADS}
    return [(HEADS[kind][0], ", ".join(dict.fromkeys(own))) for kind, own in names.items() if own]


def verdicts_on(
    contrast: Contrast, sets: Sets, titles: Mapping[str, str], wins: Sequence[tuple[str, dict[str, Any]]], margin: float
) -> list[Verdict]:
    """Return the verdict on each ability of a contrast.

    titles: task -> title; wins: see `reports.page.data.preferences`; margin: percent of the range that is retained
    """
    of_folder = sets_by_folder(sets)
    both = any(own.ability == "preference" for own in contrast.abilities)  # such as judgements of labelers
    found = on_preference(wins, "win rate" if both else "preference")
    for own in contrast.abilities:
        rows = [row for row in contrast.rows if row.primary and row.ability == own.ability]
        rows.sort(key=lambda row: row.verdict != own.verdict)  # stable: the strongest evidence first
        if own.verdict == "mixed":  # the strongest gain and the strongest loss
            first = [next(row for row in rows if row.verdict == verdict) for verdict in ("gain", "loss")]
            rows = first + [row for row in rows if row not in first]
        sentences = [
            Sentence(
                _change(row, titles.get(row.task, row.task), margin), _link(of_folder.get(row.aligned_folder), row)
            )
            for row in rows
        ]
        shown = 2 if own.verdict == "mixed" else 1
        if own.ability == CAPABILITY and contrast.mean:
            sentences.insert(0, Sentence(_mean(contrast.mean)))
            shown = 2
        found.append(Verdict(own.ability, own.verdict, tuple(sentences), shown))
    return found


def on_preference(wins: Sequence[tuple[str, dict[str, Any]]], name: str = "preference") -> list[Verdict]:
    return [Verdict(name, verdict, (_win(one),)) for verdict, one in wins]


def _link(samples: TaskSet | None, row: Row) -> str:
    """Return the address of the samples that a row compares, those that show a gain or a loss first; "" without."""
    if samples is None:
        return ""
    systems = {own.path: system.name for system, own in samples.folders}  # "ppo (chat)", where a contrast has "ppo"
    if row.reference_folder not in systems or row.aligned_folder not in systems:
        return samples.link
    names = systems[row.reference_folder], systems[row.aligned_folder]
    parts = (samples.task, str(samples.number + 1), "show", FIRST.get(row.verdict, "change"), *names)
    return "#task/" + "/".join(quote(part, safe="") for part in parts)


def _moved(change: float, before: str, after: str) -> str:
    if before == after:
        return f"stayed at {'about ' * (change != 0)}{after}"
    return f"{'rose' if change > 0 else 'fell'} from {before} to {after}"


def _change(row: Row, title: str, margin: float) -> str:
    """Return, for example, "TruthfulQA MC1, MC2, MC3: mc2 ↑ rose from 0.200 to 0.410 (change …)"."""
    unit = "" if row.unit in UNNAMED else f" {row.unit}"
    moved = _moved(row.delta, value(row.reference, row.unit), value(row.aligned, row.unit))
    ends = interval(row, row.unit, True)
    facts = [f"change {value(row.delta, row.unit, True)}", f"95 % interval {ends}" if ends else "no interval"]
    if row.verdict in ("gain", "loss") and row.p_holm is not None:
        size = "< .001" if row.p_holm < 0.001 else f"= {row.p_holm:.3f}".replace("0.", ".")
        facts.append(f"corrected p {size}")
    elif row.verdict == "retained":
        facts.append(f"a loss of more than {margin:g} % of the range is unlikely")
    elif row.p_holm is None:
        facts.append("not tested")
    else:
        facts.append(f"may be chance: corrected p = {row.p_holm:.2f}".replace("0.", "."))
        if row.detectable is not None:
            facts.append(f"changes below {value(row.detectable, row.unit)} are often missed")
    return f"{title}: {row.metric}{BETTER[row.better].replace(' ', NARROW)} {moved}{unit} ({'; '.join(facts)})"


def _mean(mean: MeanTax) -> str:
    """Return the mean change of capabilities; a positive tax is a loss."""
    moved = f"{'fell' if mean.value > 0 else 'rose'} by {value(abs(mean.value), 'points')} % of a metric’s range"
    text = f"On average over {len(mean.tasks)} benchmark{'s' * (len(mean.tasks) > 1)}, scores {moved}"
    if mean.low is None or mean.high is None:
        return f"{text} (no interval)"
    return f"{text} (95 % interval [{value(-mean.high, 'points', True)}, {value(-mean.low, 'points', True)}] %)"


def _win(one: Mapping[str, Any]) -> Sentence:
    rate, equal = one["metrics"]["win_rate"], one["equal"]
    ends = [f"{100 * end:.1f}" for end in (rate.low, rate.high) if end is not None]
    facts = [f"95 % interval [{', '.join(ends)}] %" if ends else "no interval", "ties count half"]
    facts.append("lengths not controlled" if equal is None else EQUAL[equal])
    text = f"{one['system']} is preferred to {one['baseline']} on {100 * rate.value:.1f} % of {rate.n:,} prompts"
    # the baseline's answers are references of the documents: no system whose samples could be chosen
    return Sentence(f"{text} ({'; '.join(facts)})", one["samples"].link)
