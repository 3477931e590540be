"""The main path of the audit: runs in, gains and losses out.

`compare` finds the runs and their references, pairs their comparable task folders, measures every metric on the common
documents, and summarises: verdicts, taxes, and the reward-tax front.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from alignbench.audit.abilities import MARGIN, abilities, judge
from alignbench.audit.audit import Audit, Contrast, Row
from alignbench.audit.comparable import Match, match, packages_differ, unlike_metrics
from alignbench.audit.front import REWARD, reward_front
from alignbench.audit.references import chosen_run, find, references
from alignbench.audit.rows import measure
from alignbench.audit.tax import CAPABILITY, macro, taxed
from alignbench.errors import AlignbenchError
from alignbench.runs.read import Run, read_runs

SYNTHETIC_DATA = "the data are synthetic: they were written by `alignbench demo`, under the names of real benchmarks"
TOKEN_ENTROPY, PER_CHARACTER = "token_entropy", "_per_character"


@dataclass(frozen=True)
class Plan:
    """A contrast before measurement: its comparable folders, tasks that are not comparable, and notes."""

    reference: Run
    aligned: Run
    role: str
    templates: Literal["same", "own"]
    matches: tuple[Match, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def identity(self) -> tuple[Path, Path, str]:
        return self.reference.path, self.aligned.path, self.templates


def compare(models: Sequence[str], *, reference: str | None = None, **settings: Any) -> Audit:
    """Compare models on their common tasks, each aligned model with its references.

    models: run folders, names of runs or their beginnings, or checkpoint folders; the first is the reference, unless
        the lineages of the others name theirs
    reference: the name of one reference for all
    settings: see `compare_with`

    Raises AlignbenchError if a model is not found, or if no two have anything comparable.
    """
    return compare_with(models, [reference], **settings)[reference]


def compare_with(
    models: Sequence[str],
    chosen: Sequence[str | None],
    *,
    runs: str | Path = "runs",
    tasks: Sequence[str] = (),
    across_templates: bool = False,
    reward: str | None = None,
    reference_point: tuple[float, float] | None = None,
    margin: float = MARGIN,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str | None, Audit]:
    """One audit for each chosen reference (None: from the lineages); each contrast is measured once.

    runs: folder of the run folders; tasks: restrict the comparison to these
    across_templates: also compare each model with its own chat template, if it has one, and models that were evaluated
        with and without it with themselves: NAME -> NAME (chat)
    reward: TASK.METRIC of the reward-tax front (default: the win rate, if there is one)
    reference_point: (reward, tax in percent) that bounds the hypervolume of the front
    margin: the largest loss, in percent of a metric's range, that counts as retained

    References with nothing comparable are left out. Raises AlignbenchError if that is so for all.
    """
    if len(models) < 2 and not across_templates:  # one model can be compared with itself
        raise AlignbenchError("compare needs two models or more: the reference first, then models derived from it")
    found = read_runs(models, Path(runs))
    plans: dict[str | None, list[Plan]] = {}
    for reference in chosen:
        pairs = references(found, reference)
        plans[reference] = [_plan(*contrast, tasks, across=False) for contrast in pairs]
        if across_templates:
            own = [_plan(*contrast, tasks, across=True) for contrast in pairs]
            plans[reference] += [plan for plan in own if any(match.across_templates for match in plan.matches)]
            # a model without its chat template against itself with it, on the tasks that were evaluated in both ways
            for run in found if reference is None else [chosen_run(found, reference)]:
                plain, chat = ([own for own in run.tasks if own.result.template == kind] for kind in ("none", "chat"))
                both = {own.task for own in plain} & {own.task for own in chat}
                before, after = (tuple(own for own in folders if own.task in both) for folders in (plain, chat))
                other = replace(run, name=f"{run.name} (chat)", tasks=after)
                plan = _plan(replace(run, tasks=before), other, "reference", tasks, across=True)
                plans[reference] += [plan] if plan.matches else []
    made = {plan.identity: plan for own in plans.values() for plan in own if plan.matches}
    measured = measure([plan.matches for plan in made.values()], seed=seed, resamples=resamples)
    rows = dict(zip(made, measured, strict=True))
    unfinished = [f"{run.name}: unfinished, left out: {', '.join(run.unfinished)}" for run in found if run.unfinished]
    audits: dict[str | None, Audit] = {}
    reasons = []
    for reference, own in plans.items():
        contrasts = [_contrast(plan, *rows[plan.identity], reward or REWARD, margin) for plan in own if plan.matches]
        empty = [
            f"{contrast.reference} and {contrast.aligned} have no document in common that both have values for"
            for contrast in contrasts
            if not contrast.rows
        ]
        contrasts = [contrast for contrast in contrasts if contrast.rows]
        notes = [_nothing(plan, across_templates) for plan in own if not plan.matches] + unfinished
        if not contrasts:
            reasons.append((*empty, *notes, f"{found[0].name}: one model with one template: nothing to compare")[0])
            continue
        front, front_notes = reward_front(contrasts, found, reward, reference_point, across_templates, margin)
        audits[reference] = Audit(tuple(contrasts), front, (*notes, *empty, *front_notes), resamples, seed, margin)
    if not audits:
        raise AlignbenchError(reasons[0])
    return audits


def _plan(reference: Run, aligned: Run, role: str, tasks: Sequence[str], *, across: bool) -> Plan:
    mine, theirs = (
        {name: [own for own in run.tasks if own.task == name] for name in dict.fromkeys(own.task for own in run.tasks)}
        for run in (reference, aligned)
    )
    matches: list[Match] = []
    left_out: list[str] = []
    notes: list[str] = []
    for name in [name for name in mine if name in theirs and (not tasks or name in tasks)]:
        if find(name) is None:
            left_out.append(f"{name} (no such task in this version of alignbench)")
            continue
        found = match(mine[name], theirs[name], across_templates=across)
        if isinstance(found, list):
            matches += found
            left_out += [line for own in found for line in unlike_metrics(own)]
            notes += [note for note in map(packages_differ, found) if note]
        else:
            left_out.append(f"{name} ({found})")
    if only := [name for name in sorted(set(mine) ^ set(theirs)) if not tasks or name in tasks]:
        notes.append(f"only one of the two has {', '.join(only)}")
    if any(own.synthetic for own in (*reference.tasks, *aligned.tasks)):
        notes.append(SYNTHETIC_DATA)
    before, after = (run.description.get("engine", {}) for run in (reference, aligned))
    settings = [key for key in ("kind", "dtype") if before.get(key) != after.get(key)]
    notes += [f"engine {key}: {before.get(key)} / {after.get(key)}" for key in settings]
    return Plan(reference, aligned, role, "own" if across else "same", tuple(matches), tuple(left_out), tuple(notes))


def _nothing(plan: Plan, across: bool) -> str:
    """Why two runs are not comparable, in a line."""
    names = f"{plan.reference.name} and {plan.aligned.name}"
    if not plan.left_out:
        return f"{names} have no finished task in common; evaluate both with the same --tasks"
    hint = "" if across or not any("template:" in line for line in plan.left_out) else "; see --across-templates"
    return f"{names} have nothing comparable: {'; '.join(plan.left_out)}{hint}"


def _contrast(plan: Plan, measured: Sequence[Row], lacking: Sequence[str], reward: str, margin: float) -> Contrast:
    """Verdicts on rows and abilities, and mean taxes. lacking: a line for each metric that could not be compared"""
    rows = judge([_of_same_tokens(plan, row) for row in measured], margin)
    rows.sort(key=_evidence)
    families = list(dict.fromkeys(row.family for row in sorted(rows, key=lambda row: not row.primary)))
    rows.sort(key=lambda row: (families.index(row.family), not row.primary, not row.headline))
    groups, mean = macro(taxed(rows, reward), margin)
    notes = list(plan.notes)
    if any(row.task == reward.partition(".")[0] for row in rows):
        notes.append(f"not in the mean tax because it is the reward: {reward}")
    capabilities = [row for row in rows if row.primary and row.ability == CAPABILITY]
    if outside := [row.task for row in capabilities if row.tax_of_range is None]:
        notes.append(f"not in the mean tax because their metrics have no finite range: {', '.join(outside)}")
    tests = sum(row.p_holm is not None for row in rows)
    return Contrast(
        plan.reference.name, plan.aligned.name, plan.role, plan.templates, tuple(rows), groups, mean,
        abilities(rows, mean, margin), tests, (*plan.left_out, *lacking), tuple(notes),
    )  # fmt: skip


def _of_same_tokens(plan: Plan, row: Row) -> Row:
    """A row of token entropies is not tested if two tokenizers split the texts into different tokens."""
    if not row.task.startswith(TOKEN_ENTROPY) or row.metric.endswith(PER_CHARACTER) or row.unit == "words":
        return row
    # tokenizers are identified by their tokens, or by their files in runs without a hash of the tokens
    described = plan.reference.description, plan.aligned.description
    before, after = (own.get("vocabulary_sha256") or own["model"].get("tokenizer_sha256") for own in described)
    return row if before == after else row.untested("tokens of different tokenizers")


def _evidence(row: Row) -> tuple[float, float, float]:
    """Sort key, strongest evidence first: adjusted p, p, standard errors."""
    size = row.delta if row.gain is None else row.gain
    z = abs(size) / row.standard_error if row.standard_error else 0.0
    return (2.0 if row.p_holm is None else row.p_holm, 2.0 if row.p is None else row.p, -z)
