"""The samples of a task, side by side for all systems, as the page contains them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignbench.audit.comparable import baseline_of
from alignbench.audit.tax import improvement
from alignbench.types.record import Record
from reports.page.data import TaskSet
from reports.page.format import number

MOST_DOCUMENTS = 20_000  # of a task in a page that must be a single file, which has some of the documents, and says so
MOST_CHARACTERS = 40_000_000  # of prompts and outputs of a task in it
MOST_TEXT = 200_000  # characters of one text in it: longer ones are cut, and their length is shown
PART = 1_000_000  # characters of texts in one part, which the page reads as a whole
CORRECT = ("label", "best_choice", "true_answers")  # of a record's target
FIELDS = ("metric", "category", "scorer", "unit", "better", "chance")  # of a metric, in the table of results
Answers = Mapping[int, Mapping[str, Any]]  # place of a document -> the answer of one system
Values = Mapping[int, Sequence[float | int | None]]  # place of a document -> the metrics of one system


def blocks_of(chosen: TaskSet, cut: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the page needs of a set of task folders: a table of its documents, and their texts in parts.

    The table has results, and for each document what filters and orders need: `ids`, `categories`, and per system
    `values`, None without an answer; `starts` has the place of the first document of each part. Documents are the same
    if id, prompt and choices are. Numbers per token stay in the run folders.

    A part has `documents`, and `answers`: per system a list with an entry per document, None if it has none.
    cut: keep only as much as a single file can hold; `cut` of a document (text -> length) and `length` of an output
    are the lengths of cut texts
    """
    every_metric, most = chosen.metrics, MOST_TEXT if cut else None
    names = [metric.metric for metric in every_metric]
    places: dict[tuple[object, ...], int] = {}
    found: list[dict[str, Any]] = []
    answers: list[dict[int, dict[str, Any]]] = []
    values: list[dict[int, list[float | int | None]]] = []
    for _, own in chosen.folders:
        mine: dict[int, dict[str, Any]] = {}
        numbers: dict[int, list[float | int | None]] = {}
        for record in own.records():
            key = (record.id, record.prompt, *record.choices)
            if key not in places:
                places[key] = len(found)
                found.append(_document(record, most))
            mine[places[key]] = _answer(record, most)
            numbers[places[key]] = [number(record.metrics.get(name)) for name in names]
        answers.append(mine)
        values.append(numbers)
    used = [at for at in range(len(names)) if any(one[at] is not None for own in values for one in own.values())]
    values = [{place: [one[at] for at in used] for place, one in own.items()} for own in values]
    metrics = [every_metric[at] for at in used]
    sizes = [_size(one, [mine[place] for mine in answers if place in mine]) for place, one in enumerate(found)]
    kept = _kept(sizes, values, [metric.better for metric in metrics]) if cut else range(len(found))
    starts, room = [], 0
    for at, place in enumerate(kept):
        if room <= 0:
            starts.append(at)
            room = PART
        room -= sizes[place]
    identities = [own.identity for _, own in chosen.folders]
    table = {
        "task": chosen.task,
        "note": chosen.note,
        "systems": [system.name for system, _ in chosen.folders],
        "prefix": next((own["prefix"] for own in identities if own.get("prefix")), ""),
        "baseline": baseline_of(identities[0]),
        "metrics": [{"name": m.metric, "unit": m.unit, "better": m.better} for m in metrics],
        "results": _results(chosen),
        "generated": any("outputs" in one for mine in answers for one in mine.values()),
        "total": len(found),
        "ids": [found[place].pop("id") for place in kept],
        "categories": [found[place].pop("category", None) for place in kept],
        "values": [[own.get(place) for place in kept] for own in values],
        "starts": starts,
    }
    parts = [kept[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return table, [
        {"documents": [found[place] for place in part],
         "answers": [[mine.get(place) for place in part] for mine in answers]}
        for part in parts
    ]  # fmt: skip


def _document(record: Record, most: int | None) -> dict[str, Any]:
    target, choices, cut = record.target, len(record.choices), {}

    def kept(name: str, text: Any) -> Any:
        if most and isinstance(text, str) and len(text) > most:
            cut[name] = len(text)
            return text[:most]
        return text

    listed = {name: " · ".join(map(str, own)) if isinstance(own, list | tuple) else own for name, own in target.items()}
    label, several = target.get("label", target.get("best_choice")), target.get("true_answers")
    right = [label] if isinstance(label, int) and 0 <= label < choices else []
    found = {
        "id": kept("id", str(record.id)),
        "category": record.category,
        "prompt": kept("prompt", record.prompt),
        "choices": [kept(f"choice {place}", text) for place, text in enumerate(record.choices, 1)],
        "right": list(range(min(several, choices))) if isinstance(several, int) else right,
        "references": [kept(f"reference {place}", text) for place, text in enumerate(record.references, 1)],
        "source": kept("source text", record.source),
        "about": {
            name.replace("_", " "): kept(name, own)
            for name, own in listed.items()
            if name not in CORRECT and (isinstance(own, str) or number(own) is not None)
        },
        "cut": cut,
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _answer(record: Record, most: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if record.unscored:
        found["unscored"] = record.unscored
    if record.choices:
        found["logprobs"] = [None if (x := number(y)) is None else round(x, 3) for y in record.logprobs]
    if record.outputs:
        found["outputs"] = []
    for output in record.outputs:
        scores = {name: number(score) for own in output.scores.values() for name, score in own.items()}
        own = {
            "text": output.text[:most],
            "thoughts": output.thoughts[:most],
            "cut": output.finish == "length",
            "scores": {name: score for name, score in scores.items() if score is not None},
            "unscored": output.unscored,
            "length": len(output.text) if most and len(output.text) > most else None,
        }
        found["outputs"].append({key: value for key, value in own.items() if key == "text" or value})
    return found


def _size(document: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> int:
    """Return the characters of a document's texts and of the answers to it."""
    texts = [document.get("prompt"), document.get("source")]
    texts += [*document.get("choices", ()), *document.get("references", ())]
    texts += [own.get(part) for one in answers for own in one.get("outputs", ()) for part in ("text", "thoughts")]
    return sum(len(text or "") for text in texts)


def _results(chosen: TaskSet) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}
    for place, (_, own) in enumerate(chosen.folders):
        for m in own.result.metrics:
            row = {name: getattr(m, name) for name in FIELDS} | {"values": [None] * len(chosen.folders)}
            row = rows.setdefault((m.metric, m.category, m.scorer), row)
            row["values"][place] = [m.value, m.low, m.high, m.n, m.n_unscored]
    order = [metric.metric for metric in chosen.metrics]
    order += sorted({row["metric"] for row in rows.values()} - set(order))
    return sorted(rows.values(), key=lambda r: (r["category"] or "", order.index(r["metric"]), r["scorer"] or ""))


def _kept(sizes: Sequence[int], values: Sequence[Values], better: Sequence[str]) -> list[int]:
    """Return the places of the documents in a single file: all, or half the worst regressions and half evenly spaced.

    better: of each metric; regressions are those of the first with a direction, against the first system with a value
    """
    most = math.floor(len(sizes) * MOST_CHARACTERS / max(sum(sizes), MOST_CHARACTERS))
    room = min(MOST_DOCUMENTS, max(most, 1))
    if len(sizes) <= room:
        return list(range(len(sizes)))
    worst_gain = [0.0] * len(sizes)
    for column in [column for column, direction in enumerate(better) if direction != "–"][:1]:
        for place in range(len(sizes)):
            known = [float(x) for own in values if place in own and (x := own[place][column]) is not None]
            gains = [improvement(known[0], value, better[column]) for value in known[1:]]
            worst_gain[place] = min((gain for gain in gains if gain is not None), default=0.0)
    worst = sorted(range(len(sizes)), key=lambda place: (worst_gain[place], place))[: room // 2]
    rest = sorted({*range(len(sizes))} - {*worst})
    even = [rest[math.floor(step * len(rest) / (room - len(worst)))] for step in range(room - len(worst))]
    return sorted({*worst, *even})
