"""Outputs of several systems for the same prompts: read, checked, gated by scores, and brought to equal lengths."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignbench.audit.comparable import PROMPTING, differences, scorers_of
from alignbench.data.tables import read_source
from alignbench.diversity.lexical import LENGTH, cut, words
from alignbench.errors import AlignbenchError
from alignbench.evaluation.pipeline import outputs_key
from alignbench.evaluation.score_file import output_texts, row_ids
from alignbench.parse import find_path
from alignbench.runs.read import Run, TaskRun, read_runs
from alignbench.types.engine import Completion, Thinking
from alignbench.types.record import Output

TASKS = ("diversity", "diversity_across")
LEAST = 10  # words; shorter texts are too short to compare
_GATE = re.compile(r"\s*([\w-]+\.[\w-]+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", re.IGNORECASE)
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_RESUME = "not finished; re-run the command that started it to resume"

Documents = tuple[tuple[str, ...], ...]  # the outputs of each document


@dataclass(frozen=True)
class System:
    """documents: id -> outputs, in order; prompts: id -> prompt, if known; numbered: the file has no ids, they are row
    numbers; identity: the task.json of a task folder."""

    name: str
    documents: Mapping[str, tuple[Output, ...]]
    prompts: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Equal:
    """The same documents of two systems, with equal numbers of outputs each.

    whole: of each system, the outputs of each document
    short: the same, cut in pairs (first with first, second with second, …) by `cut_alike`, without documents that lose
        all pairs
    prompts: of the documents of `whole` and of `short`; "" where unknown
    notes: what was left out and what differs
    """

    names: tuple[str, str]
    whole: tuple[Documents, Documents]
    short: tuple[Documents, Documents]
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    notes: tuple[str, ...]


def read_system(
    source: str | Path,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    thinking: Thinking | None = None,
) -> System:
    """The outputs of a run folder (of its finished `task`, by default the first of TASKS), of a task folder, or of a
    file with the fields `output` or `outputs`, and optionally `id`, `prompt` and `scores` ({kind: {number: value}}).

    columns: the file's name of a column -> our name
    thinking: takes the thoughts out of a file's outputs; an output that ends within them is left out
    Raises AlignbenchError if there are no outputs, or more than one set of them.
    """
    path = find_path(source)
    folder = path.parent if (path / "task.json").is_file() else path
    if not path.is_dir():
        return _of_file(path, columns or {}, thinking)
    if not (folder / "run.json").is_file():
        raise AlignbenchError(f"{path}: neither a run folder nor a task folder in one (no run.json)")
    (run,) = read_runs([str(folder)], Path())
    if folder == path:
        own = _of_run(path, run, (task,) if task else TASKS)
    elif (found := next((own for own in run.tasks if own.path == path.resolve()), None)) is not None:
        own = found
    else:
        raise AlignbenchError(f"{path}: {_RESUME}")
    documents, prompts = {}, {}
    for record in own.records():
        if record.choices:
            raise AlignbenchError(f"{own.path}: the model generates no text in this task, so there are no outputs")
        documents[record.id] = tuple(output for output in record.outputs if not output.unscored)
        prompts[record.id] = record.prompt
    name, template = str(run.description["model"]["name"]), own.identity.get("template")
    return System(f"{name} ({template})" if template else name, documents, prompts, identity=own.identity)


def _of_run(path: Path, run: Run, names: tuple[str, ...]) -> TaskRun:
    same = next((found for name in names if (found := [own for own in run.tasks if own.task == name])), None)
    if same is None:
        why = _RESUME if set(names) & set(run.unfinished) else "no such task in it"
        raise AlignbenchError(f"{path}: {' or '.join(names)}: {why}")
    if len({outputs_key(own.identity) for own in same}) > 1:
        listed = " or ".join(f"{own.path} (template {own.identity.get('template')})" for own in same)
        raise AlignbenchError(f"{path}: several sets of outputs for {same[0].task}; name one folder: {listed}")
    return max(same, key=lambda own: len(own.identity.get("scorers") or ()))


def _of_file(path: Path, columns: Mapping[str, str], thinking: Thinking | None) -> System:
    rows = read_source(str(path), columns)
    documents: dict[str, tuple[Output, ...]] = {}
    prompts = {}
    numbered = all(row.fields.get("id") in (None, "") for row in rows)
    for identifier, row in zip(row_ids(rows, required=not numbered), rows, strict=True):
        if not isinstance(given := row.fields.get("scores") or {}, dict):
            raise AlignbenchError(f"{row.where}: scores is not an object {{kind: {{number: value}}}}")
        scores = {
            kind: {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}
            for kind, numbers in given.items()
            if isinstance(numbers, dict)
        }
        texts = [Completion(text, "end") for text in output_texts(row) if text is not None]
        apart = [thinking.apart(text) for text in texts] if thinking else texts
        outputs = tuple(Output(own.text, scores=scores) for own in apart if not own.unscored)
        documents[identifier] = documents.get(identifier, ()) + outputs
        if isinstance(row.fields.get("prompt"), str):
            prompts[identifier] = row.fields["prompt"]
    return System(path.name.partition(".jsonl")[0], documents, prompts, numbered)


def check_comparable(first: System, other: System) -> list[str]:
    """Notes on how the two systems were evaluated, a line each.

    Raises AlignbenchError if prompts differ, or if folders differ in other settings than template and scorers.
    """
    shared = [i for i in first.prompts if i in other.documents and i in other.prompts]
    for i in shared:
        if other.prompts[i].strip() != first.prompts[i].strip():
            raise AlignbenchError(f"{first.name} and {other.name}: their prompts differ, first that of {i}")
    notes = []
    if first.numbered and other.numbered and not shared:
        notes.append("rows are matched by their numbers: there are no ids, and no prompts to check them by")
    if not first.identity or not other.identity:
        return notes
    for name, unlike in differences(first.identity, other.identity).items():
        unknown = name in PROMPTING and None in (system.identity.get(name) for system in (first, other))
        if name == "template" or unknown:
            notes.append(f"different prompting: {unlike}")
        elif name != "scorers":  # the outputs are compared, not their scores
            raise AlignbenchError(f"{first.name} and {other.name} cannot be compared: {unlike}")
    return notes


def equalise(first: System, other: System) -> Equal:
    """The documents that both systems have outputs for, with the smaller number of outputs of each.

    Raises AlignbenchError if they are not comparable, have no document in common, or if one has only empty outputs.
    """
    notes = check_comparable(first, other)
    every = {**first.documents, **other.documents}
    both = [i for i in first.documents if i in other.documents]
    if not both:
        raise AlignbenchError(f"{first.name} and {other.name} have no documents in common: their ids differ")
    ids = [i for i in both if first.documents[i] and other.documents[i]]
    if not ids:
        raise AlignbenchError(f"no document has outputs of both {first.name} and {other.name}")
    if len(ids) < len(every):
        notes.append(f"{len(every) - len(ids)} of {len(every)} documents left out: one of the two has no outputs")
    texts = [[(a.text, b.text) for a, b in zip(first.documents[i], other.documents[i], strict=False)] for i in ids]
    total = sum(map(len, texts))
    if surplus := sum(len(system.documents[i]) for system in (first, other) for i in ids) - 2 * total:
        notes.append(f"{surplus} outputs left out: equal numbers of outputs of each document")
    for place, system in enumerate((first, other)):
        if not any(words(pair[place]) for own in texts for pair in own):
            raise AlignbenchError(f"{system.name}: all of its {total} outputs are empty")
    kept = [[short for pair in own if (short := cut_alike(*pair)) is not None] for own in texts]
    if (left := sum(map(len, kept))) < total:
        gone = sum(not own for own in kept)
        notes.append(
            f"{total - left} of {total} pairs of outputs, and with them {gone} of {len(ids)} documents, left out at "
            f"equal lengths: fewer than {LEAST} words would remain"
        )
    prompts = [first.prompts.get(i, other.prompts.get(i, "")) for i in ids]
    left_prompts = tuple(prompt for prompt, own in zip(prompts, kept, strict=True) if own)
    remaining = _split([own for own in kept if own])
    return Equal((first.name, other.name), _split(texts), remaining, (tuple(prompts), left_prompts), tuple(notes))


def cut_alike(one: str, other: str) -> tuple[str, str] | None:
    """Both texts cut to LENGTH words or to the length of the shorter; None if fewer than LEAST words would remain.

    An empty text stays as it is, and the other is cut to LENGTH.
    """
    lengths = [len(words(text)) for text in (one, other)]
    if 0 < min(lengths) < LEAST:
        return None
    n = min(LENGTH, *lengths) or LENGTH
    return cut(one, n), cut(other, n)


def _split(pairs: Sequence[Sequence[tuple[str, str]]]) -> tuple[Documents, Documents]:
    return tuple(tuple(one for one, _ in own) for own in pairs), tuple(tuple(two for _, two in own) for own in pairs)


def gated(systems: Sequence[System], gate: str) -> tuple[list[System], list[str]]:
    """Only the outputs whose score passes the gate, KIND.NUMBER>=X, and a line about each system.

    Raises AlignbenchError for a gate of another form, a system without such scores, scores of different scorers, and if
    no document has an output of the first and of another system that passes.
    """
    match = _GATE.fullmatch(gate)
    if match is None:
        raise AlignbenchError(f"gate {gate!r}: write KIND.NUMBER>=X, such as reward.reward>=0")
    (kind, _, name), passes, limit = match[1].partition("."), _COMPARE[match[2]], float(match[3])
    scorers = {s.name: str(own) for s in systems for own in scorers_of(s.identity) if own.kind == kind}
    if len(set(scorers.values())) > 1:
        listed = ", ".join(f"{name} with {scorer}" for name, scorer in scorers.items())
        raise AlignbenchError(f"gate {gate}: scored by different scorers ({listed}); `alignbench rescore` with one")
    found, notes = [], []
    for system in systems:
        outputs = [output for own in system.documents.values() for output in own]
        known = {f"{kind}.{number}" for output in outputs for kind, own in output.scores.items() for number in own}
        if match[1] not in known:
            raise AlignbenchError(
                f"gate {gate}: {system.name} has no scores {match[1]} (it has {', '.join(sorted(known)) or 'none'}); "
                f"`alignbench rescore` its run with a scorer of the kind {kind}"
            )
        passed = {
            i: tuple(output for output in own if passes(output.scores.get(kind, {}).get(name, math.nan), limit))
            for i, own in system.documents.items()
        }
        notes.append(f"gate {gate}: {sum(map(len, passed.values()))} of {len(outputs)} outputs of {system.name} pass")
        found.append(replace(system, documents={i: own for i, own in passed.items() if own}))
    for other in found[1:]:
        if not found[0].documents.keys() & other.documents.keys():
            both = f"both {found[0].name} and {other.name}"
            raise AlignbenchError(f"no document has an output of {both} that passes ({'; '.join(notes)})")
    return found, notes
