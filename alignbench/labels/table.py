"""The label table: one row per prompt, output and labeler. docs/labels.md describes its columns."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from alignbench.console import write_text
from alignbench.data.tables import SourceRow, checked_text, read_source
from alignbench.errors import AlignbenchError
from alignbench.labels.study.read import is_study, qualification_rows, study_rows

WORDS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text("utf-8"))
FLAGS, NORMAL, RANKING_COLUMNS, PAIR_COLUMNS, YES, NO, MISSING = (
    tuple(WORDS[name]) for name in ("flags", "columns", "ranking_columns", "pair_columns", "yes", "no", "missing")
)
COLUMNS = (*NORMAL, *FLAGS)
VOTE = {"model_a", "model_b", "winner"}  # of a row of Chatbot Arena and MT-bench
LIKERT = (1, 7)


@dataclass(frozen=True, slots=True)
class Label:
    """One labeler's label of one output.
    prompt: None if the table identifies prompts by id only; model: the system that wrote the output
    group: of the labeler, e.g. training or held-out; rank: among the labeler's outputs of the prompt, 1 is the best
    likert: 1 to 7; flags: the questions that were answered
    comparison: names the pair if the labeler compares pairs, which may share an output
    preference: for this output against the pair's other one, from 0 to 1"""

    prompt_id: str
    prompt: str | None
    output: str
    labeler: str
    model: str | None = None
    group: str | None = None
    rank: float | None = None
    likert: int | None = None
    comparison: str | None = None
    preference: float | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)

    @property
    def item(self) -> tuple[str, str]:
        """The labelled item: the model and its output."""
        return self.model or "", self.output

    @property
    def ranking(self) -> tuple[str, str, str]:
        """What the labels that can be compared share: prompt, labeler, and the pair if the labeler compares pairs."""
        return self.prompt_id, self.labeler, self.comparison or ""


def read_labels(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    ignored: Sequence[str] = (),
    prompts: str | None = None,
) -> list[Label]:
    """Read a file, a study of `alignbench labels serve` or a hub split (`read_source`), and return its labels, sorted.

    columns: {column of the file: our name}; flags: further columns that are flags; ignored: columns to leave out
    prompts: a file of all prompts, rows {prompt, prompt_id or id}
    A row is a label, a ranking as the trainers take it: {prompt, responses, ranks, labeler}, or a pair: {prompt,
    output_1, output_2, preference}, also as AlpacaEval writes it, or a vote of Chatbot Arena and MT-bench.
    Raises AlignbenchError with file and line of the first invalid row.
    """
    found = study_rows(source) if is_study(source) else read_source(source)
    rows = [_vote(row) if row.fields.keys() >= VOTE else row for row in found]
    return _of_rows(rows, source, columns, flags, ignored, prompts)


def read_qualification(source: str) -> tuple[list[Label], str | None]:
    """The labels of a study's qualification items, with the reference's, and the reference's name; None without such
    items, or if the source is no study."""
    rows, reference = qualification_rows(source) if is_study(source) else ([], None)
    return _of_rows(rows, source), reference


def _of_rows(
    rows: Sequence[SourceRow],
    source: str,
    columns: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    ignored: Sequence[str] = (),
    prompts: str | None = None,
) -> list[Label]:
    """The labels of rows of a table, see `read_labels`."""
    names, graded_to = _names(rows, source, columns or {}, flags, ignored)
    known = _Prompts(prompts)
    seen: dict[tuple[object, ...], Any] = {}
    labels = []
    for row in rows:
        own = replace(row, fields={names[name]: value for name, value in row.fields.items() if name in names})
        with row.located():
            for label in _labels(own, flags, known, graded_to):
                _check_repeated(label, row.where, "responses" in own.fields, seen)
                labels.append(label)
    labels = [replace(label, prompt=known.texts.get(label.prompt_id)) for label in labels]
    return sorted(labels, key=lambda label: (label.prompt_id, *label.item, *label.ranking[1:]))


def write_labels(labels: Sequence[Label], file: Path) -> None:
    """Write labels in the normal form: JSON lines without missing values."""
    rows = ({name: getattr(label, name) for name in NORMAL} for label in labels)
    rows = (row | {"flags": {name: int(value) for name, value in row["flags"].items()} or None} for row in rows)
    write_lines([{name: value for name, value in row.items() if value is not None} for row in rows], file)


def write_lines(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write JSON lines."""
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), with_folder=True)


def of_group(labels: Sequence[Label], group: str | None) -> list[Label]:
    """The labels of one group of labelers, of all if it is None. Raises AlignbenchError if nobody is in it."""
    groups = {label.group for label in labels if label.group is not None}
    if group is not None and group not in groups:
        raise AlignbenchError(f"no labeler is in group {group!r} (groups: {', '.join(sorted(groups)) or 'none'})")
    return [label for label in labels if group in (None, label.group)]


def export(labels: Sequence[Label]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make rankings for the reward-model trainer, which takes neither ties only nor empty responses.
    Returns rows {prompt, responses, ranks, labeler}, the best response first, one per prompt and labeler; and counts of
    what was exported and left out. Raises AlignbenchError if there are none, or if a ranked prompt's text is unknown.
    """
    ranked = by_ranking(labels)
    if not ranked:
        raise AlignbenchError("no label has a rank: there are no rankings to export")
    rows: list[dict[str, Any]] = []
    tied = alone = empty = 0
    for (prompt_id, labeler, _), all_labels in sorted(ranked.items()):
        if all_labels[0].prompt is None:
            why = "has no text, which the trainer needs: import the labels with --prompts FILE"
            raise AlignbenchError(f"prompt {prompt_id!r} {why}")
        ranking = sorted((label for label in all_labels if label.output), key=lambda label: (label.rank, label.item))
        ranks, responses = [label.rank for label in ranking], [label.output for label in ranking]
        empty += len(all_labels) - len(ranking)
        alone += len(ranking) < 2
        tied += len(ranking) > 1 and len(set(ranks)) == 1
        if len(set(ranks)) > 1:
            rows.append({"prompt": ranking[0].prompt, "responses": responses, "ranks": ranks, "labeler": labeler})
    if not rows:
        raise AlignbenchError(f"no ranking to export: {tied} all tied, {alone} with fewer than two responses")
    return rows, {
        "written": len(rows),
        "pairs in them without ties": sum(a != b for row in rows for a, b in combinations(row["ranks"], 2)),
        "left out: all responses tied": tied,
        "left out: fewer than two responses": alone,
        "responses left out: empty": empty,
    }


def by_ranking(labels: Sequence[Label]) -> dict[tuple[str, str, str], list[Label]]:
    """The labels with a rank, by what those share that can be compared."""
    ranked: dict[tuple[str, str, str], list[Label]] = defaultdict(list)
    for label in labels:
        if label.rank is not None:
            ranked[label.ranking].append(label)
    return ranked


def counts(labels: Sequence[Label]) -> dict[str, int]:
    """Numbers of rows, prompts, outputs, labelers, …, and of rows with each kind of label."""
    fields = {"the prompt's text": "prompt", "a rank": "rank", "a Likert mark": "likert", "a preference": "preference"}
    return {
        "rows": len(labels),
        "prompts": len({label.prompt_id for label in labels}),
        "outputs": len({(label.prompt_id, label.item) for label in labels}),
        "labelers": len({label.labeler for label in labels}),
        "labeler groups": len({label.group for label in labels} - {None}),
        "models": len({label.model for label in labels} - {None}),
        **{f"rows with {kind}": sum(getattr(own, name) is not None for own in labels) for kind, name in fields.items()},
        **{f"rows with {name}": sum(name in label.flags for label in labels) for name in flag_names(labels)},
    }


def flag_names(labels: Sequence[Label]) -> list[str]:
    """The flags that any label answers: the paper's in its order, then further ones."""
    there = {name for label in labels for name in label.flags}
    return [name for name in FLAGS if name in there] + sorted(there - set(FLAGS))


def _names(
    rows: Sequence[SourceRow], source: str, columns: Mapping[str, str], flags: Sequence[str], ignored: Sequence[str]
) -> tuple[dict[str, str], int]:
    """{column of the file: our name} of the columns to read, and the preference that is entirely for output_2."""
    there: dict[str, str] = {}  # column -> where it occurs first
    for row in rows:
        there |= {name: row.where for name in row.fields if name not in there}
    for name in (*columns, *flags, *ignored):
        if name not in there and name not in columns.values():
            raise AlignbenchError(f"{source}: no column {name!r} (found: {', '.join(there)})")
    names = {name: columns.get(name, name) for name in there if name not in ignored}
    graded_to = 1
    if {"generator_1", "generator_2"} <= set(names.values()):  # AlpacaEval's annotations, with columns of its own
        names = {name: WORDS["alpaca_eval"].get(ours, ours) for name, ours in names.items()}
        names = {name: ours for name, ours in names.items() if ours in PAIR_COLUMNS}
        graded_to = 2
    form = PAIR_COLUMNS if "output_1" in names.values() else RANKING_COLUMNS
    allowed = form if {"output_1", "responses"} & set(names.values()) else (*COLUMNS, *flags)
    if unknown := [name for name, ours in names.items() if ours not in allowed]:
        first, ours = unknown[0], names[unknown[0]]
        hint = "".join(f" (did you mean {near}?)" for near in get_close_matches(ours, allowed, 1))
        also = f", also {', '.join(map(repr, unknown[1:]))}" if unknown[1:] else ""
        raise AlignbenchError(
            f"{there[first]}: unknown column {ours!r}{hint}{also}: name it with `alignbench labels import --map "
            f"{first}=OURS`, as a flag with --flag {first}, or leave it out with --ignore {first}"
        )
    places = {ours: name for name, ours in reversed(names.items())}
    for name, ours in names.items():
        if places[ours] != name:
            raise AlignbenchError(f"{there[name]}: columns {places[ours]!r} and {name!r} are both {ours}: --ignore one")
    return names, graded_to


def _vote(row: SourceRow) -> SourceRow:
    """A vote as a pair. The prompt is the user's messages up to the turn, an output is the assistant's."""
    with row.located():
        winner, judge, turn = checked_text(row.field("winner"), "winner"), row.field("judge"), row.fields.get("turn")
        if winner not in ("model_a", "model_b") and not winner.startswith("tie"):
            raise ValueError(f"winner is {_show(winner)}, not model_a, model_b or a tie")
        ids = [str(row.fields[name]) for name in ("question_id", "turn") if name in row.fields]
        found = {"prompt_id": " turn ".join(ids), "labeler": "-".join(judge) if isinstance(judge, list) else judge}
        found["preference"] = 0.5 if winner.startswith("tie") else float(winner == "model_b")
        for number, side in enumerate("ab", 1):
            said = row.list(f"conversation_{side}") if f"conversation_{side}" in row.fields else []
            if not all(isinstance(message, dict) for message in said):
                raise ValueError(f"conversation_{side} is not a list of messages {{role, content}}")
            shown = said[: 2 * turn] if isinstance(turn, int) else said
            texts: dict[str, list[str]] = {"user": [], "assistant": []}
            for message in shown:
                texts.setdefault(str(message.get("role")), []).append(checked_text(message.get("content"), "content"))
            found |= {
                f"output_{number}": "\n\n".join(texts["assistant"]),
                f"model_{number}": row.field(f"model_{side}"),
            }
            found |= {"prompt": "\n\n".join(texts["user"])} if texts["user"] else {}
    return replace(row, fields={name: value for name, value in found.items() if name != "prompt_id" or value})


class _Prompts:
    """Known prompts: those of a file if there is one, else those of the table, which must not contradict itself."""

    def __init__(self, file: str | None) -> None:
        self._file: str | None = None  # until its rows are read, they are checked like those of a table
        self.texts: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        for row in read_source(file) if file is not None else ():
            with row.located():
                text = row.text("prompt")
                id = self.find(_name(row.fields, "prompt_id") or _name(row.fields, "id"), text)
                self._ids.setdefault(text, id)
        self._file = file

    def find(self, id: str | None, text: str | None) -> str:
        """Return the prompt's id; at least one of id and text must be given."""
        if id is not None:
            if self._file is not None and id not in self.texts:
                raise ValueError(f"prompt_id {id!r} is not in {self._file}")
        elif text is None:
            raise ValueError("neither prompt_id nor prompt")
        elif self._file is not None and text not in self._ids:
            raise ValueError(f"the prompt {_short(text)!r} is not in {self._file}")
        else:
            id = self._ids.get(text) or hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        if text is not None and self.texts.setdefault(id, text) != text:
            where = f"in {self._file or 'an earlier row'}"
            raise ValueError(f"prompt_id {id!r} has another text {where}: {_short(self.texts[id])!r}")
        return id


def _labels(row: SourceRow, flags: Sequence[str], prompts: _Prompts, graded_to: int) -> Iterator[Label]:
    """The labels of a row, which is one label, a ranking or a pair."""
    labels = [row.fields]
    if pair := "output_1" in row.fields:
        labels = _pair(row.fields, graded_to)
    elif "responses" in row.fields:
        outputs, ranks = row.list("responses"), row.list("ranks")
        models = [None] * len(outputs) if _missing(row.fields.get("models")) else row.list("models")
        if not len(outputs) == len(ranks) == len(models):
            raise ValueError(f"{len(outputs)} responses, {len(ranks)} ranks and {len(models)} models")
        cells = zip(outputs, ranks, models, strict=True)
        labels = [dict(zip(("output", "rank", "model"), own, strict=True)) for own in cells]
    prompt = _text(row.fields, "prompt") or None
    prompt_id = prompts.find(_name(row.fields, "prompt_id"), prompt)
    labeler, group = _name(row.fields, "labeler") or ("unnamed" if pair else None), _name(row.fields, "group")
    if labeler is None:
        raise ValueError("no labeler")
    for fields in labels:
        if (output := _text(fields, "output")) is None:
            raise ValueError("no output")
        rank = _number(fields, "rank", lambda number: 0 < number < math.inf, "a positive number (1 is the best)")
        likert = _number(fields, "likert", range(LIKERT[0], LIKERT[1] + 1).__contains__, "a whole number from 1 to 7")
        preference = _number(fields, "preference", lambda number: 0 <= number <= 1, "a number from 0 to 1")
        model, comparison = _name(fields, "model"), _name(fields, "comparison")
        if preference is not None and comparison is None:
            raise ValueError("preference without comparison: write rows prompt, output_1, output_2, preference")
        mark, answers = None if likert is None else int(likert), _flags(fields, flags)
        yield Label(prompt_id, prompt, output, labeler, model, group, rank, mark, comparison, preference, answers)


def _pair(fields: Mapping[str, Any], graded_to: int) -> list[dict[str, Any]]:
    """The two outputs as fields of labels that rank them, with the preference for each.
    graded_to: 1, or 2 for AlpacaEval's preferences, from 1 (output_1) to 2 (output_2) with 0 also for a tie"""
    if "preference" not in fields:
        raise ValueError("no preference")
    low = graded_to - 1
    expected = f"a number from {low} (output_1) to {graded_to} (output_2)"
    value = _number(fields, "preference", lambda n: low <= n <= graded_to or n == 0, expected)
    items = [(_name(fields, f"model_{n}") or f"output_{n}", _text(fields, f"output_{n}")) for n in (1, 2)]
    comparison = hashlib.sha256(json.dumps(sorted(items, key=str)).encode()).hexdigest()[:12]
    graded: list[dict[str, Any]] = [{}, {}]
    if value is not None:
        second = 0.5 if low and value == 0 else value - low
        graded = [{"preference": own, "rank": 1 + (own < 0.5)} for own in (1 - second, second)]
    cells = zip(items, graded, strict=True)
    return [{"model": model, "output": output, "comparison": comparison, **own} for (model, output), own in cells]


def _check_repeated(label: Label, where: str, ranking: bool, seen: dict[tuple[object, ...], Any]) -> None:
    """ValueError if the label or ranking repeats one in `seen` (-> the place of the first), or the group changed."""
    key = (label.item, *label.ranking)
    if key in seen:
        output = f"this output{f' of {label.model}' if label.model else ''} to prompt {label.prompt_id!r}"
        raise ValueError(f"{label.labeler} labels {output} a second time (first: {seen[key]})")
    seen[key] = where
    if ranking and (first := seen.setdefault((label.prompt_id, label.labeler), where)) != where:
        raise ValueError(
            f"{label.labeler} ranks prompt {label.prompt_id!r} a second time (first: {first}), and ranks of two "
            "rankings cannot be compared: put them into one, or give them two prompt_ids"
        )
    group, first = seen.setdefault((label.labeler,), (label.group, where))
    if group != label.group:
        raise ValueError(f"{label.labeler} is in group {label.group}, but in {group} in an earlier row ({first})")


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(fields: Mapping[str, Any], name: str, kinds: tuple[type, ...] = (str,), what: str = "text") -> str | None:
    value = fields.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise ValueError(f"{name} is {type(value).__name__}, not {what}")
    return None if value is None else str(value)


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    """A name or a number that serves as one; None if it is empty."""
    return _text(fields, name, (str, int), "a name or a number") or None


def _number(fields: Mapping[str, Any], name: str, valid: Callable[[float], bool], expected: str) -> float | None:
    value: Any = fields.get(name)
    if _missing(value):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not valid(number):
        raise ValueError(f"{name} {_show(value)} is not {expected}")
    return number


def _flags(fields: Mapping[str, Any], further: Sequence[str]) -> dict[str, bool]:
    nested = fields.get("flags") or {}
    if not isinstance(nested, dict):
        raise ValueError("flags is not an object {name: 0 or 1}")
    values = {name: fields.get(name) for name in (*FLAGS, *further)} | nested
    answers = {name: str(value).strip().lower() for name, value in values.items() if not _missing(value)}
    for name, answer in answers.items():
        if answer not in (*YES, *NO):
            raise ValueError(f"{name} is {_show(values[name])}, which is neither 0/1, yes/no nor true/false")
    return {name: answer in YES for name, answer in answers.items()}


def _show(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False, default=str))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
