"""What several systems wrote for the same prompts: from run folders, task folders, and files of outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignbench.audit.comparable import HOW_ASKED, differences
from alignbench.data.sources import SourceRow, checked_text, read_source
from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import same_outputs
from alignbench.runs.folder import RunFolder, TaskFolder, read_object

TASKS = ("diversity", "diversity_across")


@dataclass(frozen=True)
class Sample:
    """One output. scores: "kind.number" -> what a scorer said of it."""

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """documents: id -> its samples, in order; prompts: id -> its prompt, where known; numbered: the ids are the rows'
    numbers, for want of others; identity: the task.json of a task's folder."""

    name: str
    documents: Mapping[str, tuple[Sample, ...]]
    prompts: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)


def check_comparable(first: System, other: System) -> list[str]:
    """What to tell of how the two were made, a line each.

    Raises AlignbenchError for prompts that differ, and for folders that differ in anything but template and scorers.
    """
    asked = 0
    for i, prompt in first.prompts.items():
        if i not in other.documents or i not in other.prompts:
            continue
        asked += 1
        if other.prompts[i].strip() != prompt.strip():
            raise AlignbenchError(f"{first.name} and {other.name}: their prompts differ, first that of {i}")
    notes = []
    if first.numbered and other.numbered and not asked:
        notes.append("rows are matched by their numbers: there are no ids, and no prompts to check them by")
    if not first.identity or not other.identity:
        return notes
    for unlike in differences(first.identity, other.identity):
        unknown = unlike.field in HOW_ASKED and None in (s.identity.get(unlike.field) for s in (first, other))
        if unlike.field == "template" or unknown:
            notes.append(f"asked in different ways: {unlike}")
        elif unlike.field != "scorers":  # of outputs, which are what is compared
            raise AlignbenchError(f"{first.name} and {other.name} cannot be compared: {unlike}")
    return notes


def read_system(source: str | Path, task: str | None = None, columns: Mapping[str, str] | None = None) -> System:
    """The outputs in a run folder (of its finished `task`, by default the first of TASKS), in a task's folder, or in a
    file with rows of `output` or `outputs`, `id` and `prompt` or not, and `scores` ({kind: {number: value}}) or not.

    columns: the file's name of a column -> the name that it has here
    Raises AlignbenchError where there is nothing to read, or more than one set of outputs.
    """
    path = Path(source)
    if (path / "task.json").is_file():
        return _of_folder(TaskFolder(path), read_object(path.parent / "run.json"))
    if path.is_dir():
        described = read_object(path / "run.json")
        if described is None:
            raise AlignbenchError(f"{path}: neither a run folder (no run.json) nor a task's folder (no task.json)")
        return _of_folder(_folder(path, (task,) if task else TASKS), described)
    return _of_file(path, columns or {})


def _folder(run: Path, names: tuple[str, ...]) -> TaskFolder:
    folders = [folder for folder in RunFolder(run).tasks() if folder.identity()["task"] in names]
    finished = [folder for folder in folders if folder.result() is not None]
    if not finished:
        why = "not finished; the command that began it goes on" if folders else "no such task in it"
        raise AlignbenchError(f"{run}: {' or '.join(names)}: {why}")
    first = next(name for name in names if any(folder.identity()["task"] == name for folder in finished))
    alike = [folder for folder in finished if folder.identity()["task"] == first]
    if not all(same_outputs(alike[0].identity(), folder.identity()) for folder in alike):
        listed = " or ".join(f"{folder.path} (template {folder.identity().get('template')})" for folder in alike)
        raise AlignbenchError(f"{run}: several sets of outputs for {first}; give the folder of one: {listed}")
    return max(alike, key=lambda folder: len(folder.identity().get("scorers", [])))


def _of_folder(folder: TaskFolder, described: Mapping[str, Any] | None) -> System:
    if folder.result() is None:
        raise AlignbenchError(f"{folder.path}: not finished; the command that began it goes on")
    documents, prompts = {}, {}
    for record in folder.records():
        if record.choices:
            raise AlignbenchError(f"{folder.path}: the model generates no text in this task, so there are no outputs")
        documents[record.id] = tuple(
            Sample(output.text, _flat(output.scores)) for output in record.outputs if not output.unscored
        )
        prompts[record.id] = record.prompt
    model = (described or {}).get("model", {}).get("name", folder.path.parent.name)
    identity = folder.identity()
    template = identity.get("template")
    return System(f"{model} ({template})" if template else str(model), documents, prompts, identity=identity)


def _of_file(path: Path, columns: Mapping[str, str]) -> System:
    documents: dict[str, tuple[Sample, ...]] = {}
    prompts = {}
    rows = read_source(str(path))
    wanted = _of_this_file(path, rows, columns)
    rows = [row.renamed(wanted) for row in rows]
    numbered = all(row.fields.get("id") in (None, "") for row in rows)
    for number, row in enumerate(rows, start=1):
        try:
            identifier = f"row {number}" if numbered else str(row.field("id"))
            documents[identifier] = documents.get(identifier, ()) + _samples(row)
            if isinstance(row.fields.get("prompt"), str):
                prompts[identifier] = row.fields["prompt"]
        except ValueError as error:
            raise AlignbenchError(f"{row.where}: {error}") from None
    return System(path.name.partition(".jsonl")[0], documents, prompts, numbered)


def _of_this_file(path: Path, rows: Sequence[SourceRow], columns: Mapping[str, str]) -> dict[str, str]:
    """`columns` without those for other files: this one has not theirs, but ours."""
    there = {name for row in rows for name in row.fields}
    given = {theirs: ours for theirs, ours in columns.items() if theirs in there}
    if len(set(given.values())) < len(given):
        raise AlignbenchError(f"{path}: --map names several of its columns ({', '.join(given)}) for one of ours")
    reached = there | set(given.values())
    return {theirs: ours for theirs, ours in columns.items() if theirs in there or ours not in reached}


def _samples(row: SourceRow) -> tuple[Sample, ...]:
    texts = row.list("outputs") if "outputs" in row.fields else [row.field("output")]
    scores = row.fields.get("scores") or {}
    if not isinstance(scores, dict):
        raise ValueError("scores is not an object {kind: {number: value}}")
    return tuple(Sample(checked_text(text, "an output"), _flat(scores)) for text in texts)


def _flat(scores: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{kind}.{name}": float(value)
        for kind, numbers in scores.items()
        if isinstance(numbers, dict)
        for name, value in numbers.items()
        if isinstance(value, int | float)
    }
