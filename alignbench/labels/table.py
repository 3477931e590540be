"""The label table: one row per prompt, output and labeler. docs/labels.md describes its columns."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

from alignbench.data.tables import SourceRow, read_source
from alignbench.errors import AlignbenchError

# Ouyang et al. 2022 (arXiv 2203.02155), Table 3
FLAGS = (
    "fails_instruction",
    "inappropriate_for_customer_assistant",
    "hallucination",
    "satisfies_constraint",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
    "expresses_opinion",
    "expresses_moral_judgment",
)
COLUMNS = ("prompt_id", "prompt", "model", "output", "labeler", "group", "rank", "likert", "flags", *FLAGS)
RANKING_COLUMNS = ("prompt_id", "prompt", "labeler", "group", "responses", "ranks", "models")
LIKERT = (1, 7)
YES, NO = ("1", "1.0", "yes", "true"), ("0", "0.0", "no", "false")
MISSING = ("", "na", "n/a", "nan", "null", "none")  # of rank, likert and flags; elsewhere these are words


@dataclass(frozen=True, slots=True)
class Label:
    """One labeler's label of one output.

    prompt: None if the table identifies prompts by id only; model: the system that wrote the output
    group: of the labeler, e.g. training or held-out; rank: among the labeler's outputs of the prompt, 1 is the best
    likert: 1 to 7; flags: the questions that were answered
    """

    prompt_id: str
    prompt: str | None
    output: str
    labeler: str
    model: str | None = None
    group: str | None = None
    rank: float | None = None
    likert: int | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)

    @property
    def item(self) -> tuple[str, str]:
        """The labelled item: the model and its output."""
        return self.model or "", self.output


def read_labels(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    ignored: Sequence[str] = (),
    prompts: str | None = None,
) -> list[Label]:
    """Read a file or a hub split (see `read_source`) and return its labels, sorted.

    columns: {column of the file: our name}; flags: further columns that are flags; ignored: columns to leave out
    prompts: a file of all prompts, rows {prompt, prompt_id or id}
    A row is a label, or a ranking as the trainers take it: {prompt, responses, ranks, labeler}.
    Raises AlignbenchError with file and line of the first invalid row.
    """
    rows = read_source(source)
    names = _names(rows, source, columns or {}, flags, ignored)
    known = _Prompts(prompts)
    seen: dict[tuple[object, ...], Any] = {}
    labels = []
    for row in rows:
        try:
            fields = {names[name]: value for name, value in row.fields.items() if name in names}
            for label in _labels(fields, flags, known):
                _check_repeated(label, row.where, "responses" in fields, seen)
                labels.append(label)
        except (ValueError, OverflowError) as error:
            raise AlignbenchError(f"{row.where}: {error}") from None
    texts = {label.prompt_id: label.prompt for label in labels if label.prompt is not None}
    labels = [replace(label, prompt=texts.get(label.prompt_id)) for label in labels]
    return sorted(labels, key=lambda label: (label.prompt_id, *label.item, label.labeler))


def write_labels(labels: Sequence[Label], file: Path) -> None:
    """Write labels in the normal form: JSON lines without missing values."""
    rows = []
    for label in labels:
        row = {name: getattr(label, name) for name in COLUMNS[:8]}
        row["flags"] = {name: int(value) for name, value in label.flags.items()}
        rows.append({name: value for name, value in row.items() if value is not None and value != {}})
    write_lines(rows, file)


def write_lines(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write JSON lines atomically."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # a lone surrogate, which UTF-8 cannot encode, becomes its JSON escape
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(temporary, file)
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be written: {error.strerror or error}") from None


def export(labels: Sequence[Label]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make rankings for the reward-model trainer, which takes neither ties only nor empty responses.

    Returns rows {prompt, responses, ranks, labeler}, the best response first, one per prompt and labeler; and counts of
    what was exported and left out. Raises AlignbenchError if there are none, or if a ranked prompt's text is unknown.
    """
    ranked: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        if label.rank is not None:
            if label.prompt is None:
                raise AlignbenchError(
                    f"prompt {label.prompt_id!r} has no text, which the trainer needs: import the labels with "
                    "--prompts FILE"
                )
            ranked[label.prompt_id, label.labeler].append(label)
    if not ranked:
        raise AlignbenchError("no label has a rank: there are no rankings to export")
    rows, pairs, tied, alone, empty = [], 0, 0, 0, 0
    for (_, labeler), all_labels in sorted(ranked.items()):
        ranking = sorted((label for label in all_labels if label.output), key=lambda label: (label.rank, label.item))
        empty += len(all_labels) - len(ranking)
        ranks = [label.rank for label in ranking]
        if len(ranking) < 2:
            alone += 1
        elif len(set(ranks)) == 1:
            tied += 1
        else:
            responses = [label.output for label in ranking]
            rows.append({"prompt": ranking[0].prompt, "responses": responses, "ranks": ranks, "labeler": labeler})
            pairs += sum(a != b for a, b in combinations(ranks, 2))
    if not rows:
        raise AlignbenchError(f"no ranking to export: {tied} all tied, {alone} with fewer than two responses")
    return rows, {
        "written": len(rows),
        "pairs in them without ties": pairs,
        "left out: all responses tied": tied,
        "left out: fewer than two responses": alone,
        "responses left out: empty": empty,
    }


def counts(labels: Sequence[Label]) -> dict[str, int]:
    """Numbers of rows, prompts, outputs, labelers, …, and of rows with each kind of label."""
    found = {
        "rows": len(labels),
        "prompts": len({label.prompt_id for label in labels}),
        "outputs": len({(label.prompt_id, label.item) for label in labels}),
        "labelers": len({label.labeler for label in labels}),
        "labeler groups": len({label.group for label in labels} - {None}),
        "models": len({label.model for label in labels} - {None}),
        "rows with the prompt's text": sum(label.prompt is not None for label in labels),
        "rows with a rank": sum(label.rank is not None for label in labels),
        "rows with a Likert mark": sum(label.likert is not None for label in labels),
    }
    return found | {f"rows with {name}": sum(name in label.flags for label in labels) for name in flag_names(labels)}


def flag_names(labels: Sequence[Label]) -> list[str]:
    """The flags that any label answers: the paper's in its order, then further ones."""
    there = {name for label in labels for name in label.flags}
    return [name for name in FLAGS if name in there] + sorted(there - set(FLAGS))


def _names(
    rows: Sequence[SourceRow], source: str, columns: Mapping[str, str], flags: Sequence[str], ignored: Sequence[str]
) -> dict[str, str]:
    """{column of the file: our name} of the columns to read."""
    there: dict[str, str] = {}
    for row in rows:
        for name in row.fields:
            there.setdefault(name, row.where)
    for name in (*columns, *flags, *ignored):
        if name not in there and name not in columns.values():
            raise AlignbenchError(f"{source}: no column {name!r} (found: {', '.join(there)})")
    names = {name: columns.get(name, name) for name in there if name not in ignored}
    allowed = RANKING_COLUMNS if "responses" in names.values() else (*COLUMNS, *flags)
    unknown = [name for name, ours in names.items() if ours not in allowed]
    if unknown:
        first, ours = unknown[0], names[unknown[0]]
        near = get_close_matches(ours, allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        also = f", also {', '.join(map(repr, unknown[1:6]))}{', …' * (len(unknown) > 6)}" if unknown[1:] else ""
        raise AlignbenchError(
            f"{there[first]}: unknown column {ours!r}{hint}{also}: name it with `alignbench labels import --map "
            f"{first}=OURS`, as a flag with --flag {first}, or leave it out with --ignore {first}"
        )
    for name, ours in names.items():
        if (twice := next(other for other, its in names.items() if its == ours)) != name:
            raise AlignbenchError(f"{there[name]}: columns {twice!r} and {name!r} are both {ours}: --ignore one")
    return names


class _Prompts:
    """Known prompts: those of a file if there is one, else those of the table, which must not contradict itself."""

    def __init__(self, file: str | None) -> None:
        self._file = file
        self._texts: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        for row in read_source(file) if file is not None else ():
            try:
                text = row.text("prompt")
                id = _name(row.fields, "prompt_id") or _name(row.fields, "id") or _digest(text)
                if self._texts.setdefault(id, text) != text:
                    raise ValueError(f"prompt_id {id!r} has another text in an earlier row")
            except ValueError as error:
                raise AlignbenchError(f"{row.where}: {error}") from None
            self._ids.setdefault(text, id)

    def find(self, id: str | None, text: str | None) -> tuple[str, str | None]:
        """Return the prompt's id and text; at least one of them must be given."""
        if id is None:
            if text is None:
                raise ValueError("neither prompt_id nor prompt")
            if self._file is not None and text not in self._ids:
                raise ValueError(f"the prompt {_short(text)!r} is not in {self._file}")
            id = self._ids.get(text) or _digest(text)
        elif self._file is not None and id not in self._texts:
            raise ValueError(f"prompt_id {id!r} is not in {self._file}")
        if text is not None and self._texts.setdefault(id, text) != text:
            where = "in an earlier row" if self._file is None else f"in {self._file}"
            raise ValueError(f"prompt_id {id!r} has another text {where}: {_short(self._texts[id])!r}")
        return id, self._texts.get(id)


def _labels(fields: Mapping[str, Any], flags: Sequence[str], prompts: _Prompts) -> Iterator[Label]:
    """The labels of a row, which is one label or a ranking."""
    prompt_id, prompt = prompts.find(_name(fields, "prompt_id"), _text(fields, "prompt") or None)
    labeler, group = _name(fields, "labeler"), _name(fields, "group")
    if labeler is None:
        raise ValueError("no labeler")
    for one in _ranking(fields) if "responses" in fields else [fields]:
        output, model = _text(one, "output"), _name(one, "model")
        if output is None:
            raise ValueError("no output")
        rank = _number(one, "rank", lambda number: 0 < number < math.inf, "a positive number (1 is the best)")
        likert = _number(one, "likert", range(LIKERT[0], LIKERT[1] + 1).__contains__, "a whole number from 1 to 7")
        mark = None if likert is None else int(likert)
        yield Label(prompt_id, prompt, output, labeler, model, group, rank, mark, _flags(one, flags))


def _ranking(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    row = SourceRow("", 0, dict(fields))
    outputs, ranks = row.list("responses"), row.list("ranks")
    models = row.list("models") if not _missing(fields.get("models")) else [None] * len(outputs)
    if not len(outputs) == len(ranks) == len(models):
        raise ValueError(f"{len(outputs)} responses, {len(ranks)} ranks and {len(models)} models")
    columns = zip(outputs, ranks, models, strict=True)
    return [{"output": output, "rank": rank, "model": model} for output, rank, model in columns]


def _check_repeated(label: Label, where: str, ranking: bool, seen: dict[tuple[object, ...], Any]) -> None:
    """Raise ValueError if the label or the ranking repeats an earlier one, or the labeler changed groups.

    seen: labels, rankings and groups so far, each with the place of the first
    """
    key = (label.prompt_id, label.item, label.labeler)
    if key in seen:
        whose = f" of {label.model}" if label.model else ""
        raise ValueError(
            f"{label.labeler} labels this output{whose} to prompt {label.prompt_id!r} a second time "
            f"(first: {seen[key]})"
        )
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


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, not text")
    return value


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    """A name or a number that serves as one; None if it is empty."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise ValueError(f"{name} is {type(value).__name__}, not a name or a number")
    return None if value is None or value == "" else str(value)


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
    if isinstance(nested, str) and nested.lstrip().startswith("{"):
        nested = json.loads(nested)
    if not isinstance(nested, dict):
        raise ValueError("flags is not an object {name: 0 or 1}")
    values = {name: fields.get(name) for name in (*FLAGS, *further)} | nested
    answers = {name: str(value).strip().lower() for name, value in values.items() if not _missing(value)}
    for name, answer in answers.items():
        if answer not in (*YES, *NO):
            raise ValueError(f"{name} is {_show(values[name])}, which is neither 0/1, yes/no nor true/false")
    return {name: answer in YES for name, answer in answers.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _show(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False, default=str))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
