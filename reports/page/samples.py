"""The samples of a task, side by side for all systems, as the page contains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignbench.audit.tax import improvement
from alignbench.types.record import Output, Record
from alignbench.types.result import MetricResult
from reports.page.format import number
from reports.page.sets import TaskSet

MOST_DOCUMENTS = 20_000  # of a task: beyond these limits, the page has some of the documents, and says so
MOST_CHARACTERS = 40_000_000  # of prompts and outputs of a task
MOST_TEXT = 200_000  # characters of one text: longer ones are cut, and their length is shown
CORRECT = ("label", "best_choice", "true_answers")  # of a record's target
Answers = Mapping[int, Mapping[str, Any]]  # place of a document -> the answer of one system


def block_of(chosen: TaskSet) -> dict[str, Any]:
    """Return what the page needs of a set of task folders: results, documents, and each system's answers to them.

    Documents are the same if id, prompt and choices are. `answers`: per system a list with an entry per document, None
    if it has none. `cut` of a document (text -> length) and `length` of an output are the lengths of cut texts. Numbers
    per token stay in the run folders.
    """
    names = [metric.metric for metric in chosen.metrics]
    places: dict[tuple[object, ...], int] = {}
    found: list[dict[str, Any]] = []
    answers: list[dict[int, dict[str, Any]]] = []
    for _, own in chosen.folders:
        mine: dict[int, dict[str, Any]] = {}
        for record in own.records():
            key = (record.id, record.prompt, *record.choices)
            if key not in places:
                places[key] = len(found)
                found.append(_document(record))
            mine[places[key]] = _answer(record, names)
        answers.append(mine)
    given = [[one["values"][column] for mine in answers for one in mine.values()] for column in range(len(names))]
    used = [column for column, values in enumerate(given) if any(value is not None for value in values)]
    for one in (one for mine in answers for one in mine.values()):
        one["values"] = [one["values"][column] for column in used]
    metrics = [chosen.metrics[column] for column in used]
    kept = _kept(found, answers, metrics)
    identities = [own.identity for _, own in chosen.folders]
    return {
        "task": chosen.task,
        "systems": [system.name for system, _ in chosen.folders],
        "prefix": next((own["prefix"] for own in identities if own.get("prefix")), ""),
        "baseline": (identities[0].get("baseline") or {}).get("name"),
        "metrics": [{"name": m.metric, "unit": m.unit, "better": m.better} for m in metrics],
        "results": _results(chosen),
        "total": len(found),
        "documents": [found[place] for place in kept],
        "answers": [[mine.get(place) for place in kept] for mine in answers],
    }


def _document(record: Record) -> dict[str, Any]:
    cut: dict[str, int] = {}

    def kept(name: str, text: Any) -> Any:
        if isinstance(text, str) and len(text) > MOST_TEXT:
            cut[name] = len(text)
            return text[:MOST_TEXT]
        return text

    about = {}
    for name, own in record.target.items():
        shown = " · ".join(map(str, own)) if isinstance(own, list | tuple) else own
        if name not in CORRECT and (isinstance(shown, str) or number(shown) is not None):
            about[name.replace("_", " ")] = kept(name, shown)
    found = {
        "id": kept("id", str(record.id)),
        "category": record.category,
        "prompt": kept("prompt", record.prompt),
        "choices": [kept(f"choice {place}", text) for place, text in enumerate(record.choices, 1)],
        "right": _correct(record),
        "references": [kept(f"reference {place}", text) for place, text in enumerate(record.references, 1)],
        "source": kept("source text", record.source),
        "about": about,
        "cut": cut,
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _correct(record: Record) -> list[int]:
    """Return which choices are correct, if the task says so."""
    choices, target = len(record.choices), record.target
    if isinstance(target.get("true_answers"), int):
        return list(range(min(target["true_answers"], choices)))
    label = target.get("label", target.get("best_choice"))
    return [label] if isinstance(label, int) and 0 <= label < choices else []


def _answer(record: Record, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"values": [number(record.metrics.get(name)) for name in metrics]}
    if record.unscored:
        found["unscored"] = record.unscored
    if record.choices:
        found["logprobs"] = [None if (x := number(y)) is None else round(x, 3) for y in record.logprobs]
    if record.outputs:
        found["outputs"] = [_output(output) for output in record.outputs]
    return found


def _output(output: Output) -> dict[str, Any]:
    scores = {name: number(score) for own in output.scores.values() for name, score in own.items()}
    text = output.text
    found = {
        "text": text[:MOST_TEXT],
        "cut": output.finish == "length",
        "scores": {name: score for name, score in scores.items() if score is not None},
        "unscored": output.unscored,
        "length": len(text) if len(text) > MOST_TEXT else None,
    }
    return {key: value for key, value in found.items() if key == "text" or value}


def _results(chosen: TaskSet) -> list[dict[str, Any]]:
    """Return every metric and category with its value for each system, None if it has none."""
    rows: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}
    for place, (_, own) in enumerate(chosen.folders):
        for m in own.result.metrics:
            fields = ("metric", "category", "scorer", "unit", "better", "chance")
            row = {name: getattr(m, name) for name in fields} | {"values": [None] * len(chosen.folders)}
            row = rows.setdefault((m.metric, m.category, m.scorer), row)
            row["values"][place] = [m.value, m.low, m.high, m.n, m.n_unscored]
    order = [metric.metric for metric in chosen.metrics]
    order += sorted({row["metric"] for row in rows.values()} - set(order))
    return sorted(rows.values(), key=lambda r: (r["category"] or "", order.index(r["metric"]), r["scorer"] or ""))


def _kept(found: Sequence[Mapping[str, Any]], answers: Sequence[Answers], metrics: Sequence[MetricResult]) -> list[int]:
    """Return the places of the documents in the page: all, or half the worst regressions and half evenly spaced."""
    texts = [
        (one.get("prompt"), one.get("source"), *one.get("choices", ()), *one.get("references", ())) for one in found
    ]
    size = sum(len(text or "") for own in texts for text in own)
    size += sum(len(output["text"]) for mine in answers for one in mine.values() for output in one.get("outputs", ()))
    room = math.floor(len(found) * MOST_CHARACTERS / max(size, MOST_CHARACTERS))
    room = min(MOST_DOCUMENTS, max(room, 1))
    if len(found) <= room:
        return list(range(len(found)))
    directed = next((place for place, metric in enumerate(metrics) if metric.better != "–"), None)
    gains = [0.0] * len(found)
    if directed is not None:
        gains = [_worst(place, answers, directed, metrics[directed].better) for place in range(len(found))]
    worst = sorted(range(len(found)), key=lambda place: (gains[place], place))[: room // 2]
    rest = sorted({*range(len(found))} - {*worst})
    even = [rest[math.floor(step * len(rest) / (room - len(worst)))] for step in range(room - len(worst))]
    return sorted({*worst, *even})


def _worst(place: int, answers: Sequence[Answers], column: int, better: str) -> float:
    """Return the smallest gain on a document, against the first system with a value."""
    values = [mine[place]["values"][column] for mine in answers if place in mine]
    known = [value for value in values if value is not None]
    gains = [improvement(float(known[0]), float(value), better) for value in known[1:]]
    return min((gain for gain in gains if gain is not None), default=0.0)
