"""The main path of the audit: runs in, gains and costs out.

`compare` finds the runs and who is whose reference, pairs their task folders like with like, measures every metric on
the common documents, and sums up: verdicts, taxes, and the reward-tax front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from alignbench.audit.audit import Audit, Contrast, Row, Verdict
from alignbench.audit.comparable import Match, match, packages_differ, unlike_metrics
from alignbench.audit.references import chosen_run, find, find_runs, references
from alignbench.audit.reward import REWARD, reward_front
from alignbench.audit.rows import Rows, measure
from alignbench.audit.tax import cards, macro, taxed
from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, TaskRun, read_runs
from alignbench.stats.significance import LEVEL, holm

ENTROPY, PER_CHARACTER = "entropy", "_per_character"


@dataclass(frozen=True)
class Plan:
    """A contrast to make: which folders, what cannot be compared, what else is to be told."""

    reference: Run
    aligned: Run
    role: str
    templates: Literal["same", "own"]
    matches: tuple[Match, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def identity(self) -> tuple[Path, Path, str]:
        """What the rows depend on."""
        return self.reference.path, self.aligned.path, self.templates


def compare(
    models: Sequence[str],
    *,
    runs: str | Path = "runs",
    reference: str | None = None,
    tasks: Sequence[str] = (),
    across_templates: bool = False,
    reward: str | None = None,
    reference_point: tuple[float, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Audit:
    """Compare models on the tasks that they have in common, each aligned one with its references.

    models: run folders, names of runs below `runs` or beginnings of them, or checkpoint folders; the first is the
        reference, unless the lineages of the others say which of them they were made from
    reference: the name of the reference for all, in place of that
    tasks: of these alone
    across_templates: also compare each model as it would be asked, with its own chat template where it has one, and
        what was asked in both ways with itself: NAME -> NAME (chat)
    reward: TASK.METRIC that the reward-tax front sets against the tax (default: the win rate, where it is there)
    reference_point: (reward, tax in percent) that its hypervolume is measured from

    Raises AlignbenchError where a model is not found, or where two have nothing comparable.
    """
    return compare_with(
        models,
        [reference],
        runs=runs,
        tasks=tasks,
        across_templates=across_templates,
        reward=reward,
        reference_point=reference_point,
        resamples=resamples,
        seed=seed,
    )[reference]


def compare_with(
    models: Sequence[str],
    chosen: Sequence[str | None],
    *,
    runs: str | Path = "runs",
    tasks: Sequence[str] = (),
    across_templates: bool = False,
    reward: str | None = None,
    reference_point: tuple[float, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str | None, Audit]:
    """As `compare`, once for each reference that is chosen (None: as the lineages say); each contrast is measured once.

    Left out are references to which nothing can be compared; AlignbenchError where that is so for all.
    """
    alone = len(models) == 1 and across_templates  # with itself
    found = (read_runs if alone else find_runs)(models, Path(runs))
    plans = {}
    for reference in chosen:
        pairs = references(found, reference)
        plans[reference] = [_plan(*contrast, tasks, across=False) for contrast in pairs]
        if across_templates:
            own = [_plan(*contrast, tasks, across=True) for contrast in pairs]
            plans[reference] += [plan for plan in own if any(match.across_templates for match in plan.matches)]
            both = found if reference is None else [chosen_run(found, reference)]
            plans[reference] += [plan for run in both for plan in _plain_and_chat(run, tasks)]
    made = {plan.identity: plan for own in plans.values() for plan in own if plan.matches}
    measured = measure([plan.matches for plan in made.values()], seed=seed, resamples=resamples)
    rows = dict(zip(made, measured, strict=True))
    unfinished = [
        f"{run.name}: not finished, and left out: {', '.join(run.unfinished)}" for run in found if run.unfinished
    ]
    audits: dict[str | None, Audit] = {}
    reasons = []
    for reference, own in plans.items():
        notes = [_nothing(plan, across_templates) for plan in own if not plan.matches] + unfinished
        contrasts = [_contrast(plan, rows[plan.identity], reward or REWARD) for plan in own if plan.matches]
        bare = [
            f"{contrast.reference} and {contrast.aligned} have no document in common that both were scored on"
            for contrast in contrasts
            if not contrast.rows
        ]
        told = tuple(contrast for contrast in contrasts if contrast.rows)
        if not told:
            reasons.append((*bare, *notes, f"{found[0].name}: one model alone, asked in one way")[0])
            continue
        front, why_not = reward_front(told, found, reward, reference_point, across_templates)
        audits[reference] = Audit(told, front, (*notes, *bare, *why_not), resamples, seed)
    if not audits:
        raise AlignbenchError(reasons[0])
    return audits


def _plan(reference: Run, aligned: Run, role: str, tasks: Sequence[str], *, across: bool) -> Plan:
    mine, theirs = _by_task(reference, tasks), _by_task(aligned, tasks)
    matches: list[Match] = []
    left_out: list[str] = []
    notes: list[str] = []
    for name in [name for name in mine if name in theirs]:
        task = find(name)
        if task is None:
            left_out.append(f"{name} (this alignbench has no such task)")
            continue
        found = match(mine[name], theirs[name], across_templates=across)
        if isinstance(found, list):
            matches += found
            left_out += [line for own in found for line in unlike_metrics(own)]
            notes += [note for note in map(packages_differ, found) if note]
        else:
            left_out.append(f"{name} ({found})")
    only = sorted(set(mine) ^ set(theirs))
    if only:
        notes.append(f"only one of the two has {', '.join(only)}")
    before, after = (run.description.get("engine", {}) for run in (reference, aligned))
    settings = [key for key in ("kind", "dtype") if before.get(key) != after.get(key)]
    notes += [f"engine {key}: {before.get(key)} / {after.get(key)}" for key in settings]
    return Plan(reference, aligned, role, "own" if across else "same", tuple(matches), tuple(left_out), tuple(notes))


def _plain_and_chat(run: Run, tasks: Sequence[str]) -> list[Plan]:
    """A model without its template against itself with it, on the tasks that it was asked in both ways."""
    plain, chat = ([own for own in run.tasks if own.result.template == how] for how in ("none", "chat"))
    both = {own.task for own in plain} & {own.task for own in chat}
    before, after = (tuple(own for own in asked if own.task in both) for asked in (plain, chat))
    other = replace(run, name=f"{run.name} (chat)", tasks=after)
    plan = _plan(replace(run, tasks=before), other, "reference", tasks, across=True)
    return [plan] if plan.matches else []


def _by_task(run: Run, tasks: Sequence[str]) -> dict[str, list[TaskRun]]:
    found: dict[str, list[TaskRun]] = {}
    for own in run.tasks:
        if not tasks or own.task in tasks:
            found.setdefault(own.task, []).append(own)
    return found


def _nothing(plan: Plan, across: bool) -> str:
    """Why two runs cannot be compared, in a line."""
    names = f"{plan.reference.name} and {plan.aligned.name}"
    if not plan.left_out:
        return f"{names} have no finished task in common; evaluate both with the same --tasks"
    hint = "" if across or not any("template:" in line for line in plan.left_out) else "; see --across-templates"
    return f"{names} have nothing comparable: {'; '.join(plan.left_out)}{hint}"


def _contrast(plan: Plan, measured: Rows, reward: str) -> Contrast:
    """Judge the headline metrics, correct for their number, and average the taxes."""
    rows = [_of_one_tokenizer(plan, row) for row in measured.rows]
    family = [row for row in rows if row.headline and row.gain is not None and row.p is not None]
    adjusted = dict(zip(map(id, family), holm([row.p for row in family if row.p is not None]), strict=True))
    judged = [_judged(row, adjusted.get(id(row))) for row in rows]
    judged.sort(key=_evidence)
    groups, mean = macro(taxed(judged, reward), cards(judged))
    outside = [row.task for row in judged if row.headline and row.gain is not None and row.tax_of_range is None]
    notes = list(plan.notes)
    if any(row.task == reward.partition(".")[0] for row in judged):
        notes.append(f"not in the mean tax, since it is the reward: {reward}")
    if outside:
        notes.append(f"not in the mean tax, since their metrics have no finite range: {', '.join(outside)}")
    return Contrast(
        plan.reference.name, plan.aligned.name, plan.role, plan.templates, tuple(judged), groups, mean,
        (*plan.left_out, *measured.left_out), tuple(notes),
    )  # fmt: skip


def _vocabulary(described: Mapping[str, Any]) -> str | None:
    """What tells tokenizers apart: their tokens; of a run that did not note these, their files."""
    found: str | None = described.get("vocabulary_sha256") or described["model"].get("tokenizer_sha256")
    return found


def _of_one_tokenizer(plan: Plan, row: Row) -> Row:
    """A row of the entropy of tokens is only told where two tokenizers cut the text into other tokens."""
    before, after = (_vocabulary(run.description) for run in (plan.reference, plan.aligned))
    if row.group != ENTROPY or row.metric.endswith(PER_CHARACTER) or row.unit == "words" or before == after:
        return row
    return row.told("tokens of different tokenizers")


def _judged(row: Row, p_holm: float | None) -> Row:
    if not row.headline or row.gain is None:
        return row
    verdict: Verdict = "inconclusive"
    if p_holm is not None and p_holm < LEVEL:
        verdict = "gain" if row.gain > 0 else "loss"
    return replace(row, p_holm=p_holm, verdict=verdict)


def _evidence(row: Row) -> tuple[float, float, float]:
    """Rows with the strongest evidence first: by adjusted p, by p, by standard errors."""
    size = row.delta if row.gain is None else row.gain
    z = abs(size) / row.standard_error if row.standard_error else 0.0
    return (2.0 if row.p_holm is None else row.p_holm, 2.0 if row.p is None else row.p, -z)
