"""The main path of the audit: runs and their references, comparable task folders, every metric on the common documents,
and a summary: verdicts, taxes, and the reward-tax front."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from alignbench.audit.abilities import MARGIN, abilities, judge
from alignbench.audit.audit import Audit, Contrast, Row
from alignbench.audit.calibration import with_calibration
from alignbench.audit.comparable import Match, match, packages_differ, unlike_metrics
from alignbench.audit.front import REWARD, reward_front
from alignbench.audit.labels import label_rows, labels_of
from alignbench.audit.references import chosen_run, references, task_of
from alignbench.audit.rows import measure
from alignbench.audit.tax import CAPABILITY, macro, taxed
from alignbench.errors import AlignbenchError
from alignbench.labels.summary import UNNAMED
from alignbench.labels.table import Label
from alignbench.progress import Progress
from alignbench.runs.read import Run, read_runs, with_lineages
from alignbench.tasks.calibration import SUFFIX

SYNTHETIC_DATA = "the data are synthetic: they were written by `alignbench demo`, under the names of real benchmarks"
TOKEN_ENTROPY, PER_CHARACTER = "token_entropy", "_per_character"
SILENT = Progress()


@dataclass(frozen=True)
class Plan:
    """A contrast before it is measured, see `Contrast`. matches: its comparable folders"""

    reference: Run
    aligned: Run
    role: str
    templates: Literal["same", "own"]
    matches: Sequence[Match]
    left_out: Sequence[str]
    notes: Sequence[str]

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
    lineage: str | Path | None = None,
    tasks: Sequence[str] = (),
    across_templates: bool = False,
    reward: str | None = None,
    reference_point: tuple[float, float] | None = None,
    margin: float = MARGIN,
    resamples: int = 10_000,
    seed: int = 0,
    labels: Sequence[Label] = (),
    progress: Progress = SILENT,
) -> dict[str | None, Audit]:
    """One audit for each chosen reference (None: from the lineages); each contrast is measured once.

    runs: folder of the run folders; tasks: restrict the comparison to these
    lineage: file that says which model was trained from which, where that is not recorded (see `read_lineages`)
    across_templates: also compare each model with its own chat template, if it has one, and models that were evaluated
        with and without it with themselves: NAME -> NAME (chat)
    reward: TASK.METRIC of the reward-tax front (default: the win rate, if there is one)
    reference_point: (reward, tax in percent) that bounds the hypervolume of the front
    margin: the largest loss, in percent of a metric's range, that counts as retained
    labels: of the models' answers; what labelers said of two models is part of their contrast

    References with nothing comparable are left out. Raises AlignbenchError if that is so for all.
    """
    if len(models) < 2 and not across_templates:  # one model can be compared with itself
        raise AlignbenchError("compare needs two models or more: the reference first, then models derived from it")
    found = [with_calibration(run, tasks) for run in with_lineages(read_runs(models, Path(runs)), lineage)]
    plans: dict[str | None, list[Plan]] = {}
    for reference in chosen:
        pairs = references(found, reference)
        plans[reference] = [_plan(*contrast, tasks) for contrast in pairs]
        if across_templates:
            themselves = found if reference is None else [chosen_run(found, reference)]
            own = [_plan(*contrast, tasks, across=True) for contrast in [*pairs, *map(_with_chat_template, themselves)]]
            plans[reference] += [plan for plan in own if any("->" in match.template for match in plan.matches)]
    made = {plan.identity: plan.matches for own in plans.values() for plan in own if plan.matches}
    rows = dict(zip(made, measure(list(made.values()), seed=seed, resamples=resamples, progress=progress), strict=True))
    labelled = {run.path: labels_of(run, labels) for run in found}
    for path, other, templates in made:
        if templates == "same" and labelled[path][0] and labelled[other][0]:
            own_rows = label_rows(labelled[path][0], labelled[other][0], seed=seed, resamples=resamples)
            rows[path, other, templates][0].extend(own_rows)
        elif templates == "same" and (labelled[path][0] or labelled[other][0]):
            rows[path, other, templates][1].append("labels (of one of the two models only)")
    unfinished = [f"{run.name}: unfinished, left out: {', '.join(run.unfinished)}" for run in found if run.unfinished]
    unfinished += [note for _, note in labelled.values() if note]
    if labels and not any(own or note for own, note in labelled.values()):
        named = ", ".join(sorted({label.model or UNNAMED for label in labels}))
        unfinished.append(
            f"labels: none is of these models ({', '.join(run.name for run in found)}); they name {named}"
        )
    audits: dict[str | None, Audit] = {}
    reasons = []
    for reference, own in plans.items():
        contrasts = [_contrast(plan, *rows[plan.identity], reward or REWARD, margin) for plan in own if plan.matches]
        without = "have no document in common that both have values for"
        empty = [
            f"{contrast.reference} and {contrast.aligned} {without}" for contrast in contrasts if not contrast.rows
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


def _with_chat_template(run: Run) -> tuple[Run, Run, str]:
    """A model without its chat template against itself with it, on the tasks that were evaluated in both ways."""
    plain, chat = ([own for own in run.tasks if own.result.template == kind] for kind in ("none", "chat"))
    both = {own.task for own in plain} & {own.task for own in chat}
    before, after = (tuple(own for own in folders if own.task in both) for folders in (plain, chat))
    return replace(run, tasks=before), replace(run, name=f"{run.name} (chat)", tasks=after), "reference"


def _plan(reference: Run, aligned: Run, role: str, tasks: Sequence[str], *, across: bool = False) -> Plan:
    mine, theirs = (
        {own.task: None for own in run.tasks if not tasks or own.task in tasks} for run in (reference, aligned)
    )
    matches: list[Match] = []
    left_out: list[str] = []
    notes: list[str] = []
    for name in [name for name in mine if name in theirs]:
        before, after = ([own for own in run.tasks if own.task == name] for run in (reference, aligned))
        known = task_of(before[0]) is not None
        found = match(before, after, across_templates=across) if known else "no such task in this version of alignbench"
        if isinstance(found, str):
            left_out.append(f"{name} ({found})")
            continue
        matches += found
        left_out += [line for own in found for line in unlike_metrics(own)]
        notes += [note for note in map(packages_differ, found) if note]
    if only := sorted(name for name in mine.keys() ^ theirs.keys() if not name.endswith(SUFFIX)):
        notes.append(f"only one of the two has {', '.join(only)}")
    if any(own.synthetic for own in (*reference.tasks, *aligned.tasks)):
        notes.append(SYNTHETIC_DATA)
    for key in ("kind", "dtype"):
        one, other = (run.description.get("engine", {}).get(key) for run in (reference, aligned))
        notes += [f"engine {key}: {one} / {other}"] if one != other else []
    return Plan(reference, aligned, role, "own" if across else "same", matches, left_out, notes)


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
    notes, tests = list(plan.notes), sum(row.p_holm is not None for row in rows)
    if any(row.task == reward.partition(".")[0] for row in rows):
        notes.append(f"not in the mean tax because it is the reward: {reward}")
    if outside := [row.task for row in rows if row.primary and row.ability == CAPABILITY and row.tax_of_range is None]:
        notes.append(f"not in the mean tax because their metrics have no finite range: {', '.join(outside)}")
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
