"""Every sample of a task, side by side for all systems, as the page holds it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignbench.audit.tax import improvement
from alignbench.types.result import MetricResult
from reports.evidence import documents
from reports.page.blocks import number
from reports.page.sets import TaskSet

MOST_DOCUMENTS = 20_000  # of one task; beyond, the page says that it shows a part
MOST_CHARACTERS = 40_000_000  # of prompts and outputs of one task
MOST_TEXT = 200_000  # characters of any one text; what is longer is cut, and its sample says how long it was
DOCUMENT = ("id", "group", "category", "prompt", "choices", "references", "source")
OF_AN_ANSWER = ("logprobs", "tokens", "entropies", "top_entropies", "outputs", "chance", "unscored", "pending")
Answers = Mapping[int, Mapping[str, Any]]  # place of a document -> what one system answered
RIGHT = ("label", "best_choice", "true_answers")


def block_of(chosen: TaskSet) -> dict[str, Any]:
    """What the page needs of a set of task folders: results, documents, and each system's answers to them.

    Documents are the same where id, prompt and choices are. `answers` has for each system one entry a document, None
    where it has none. Texts are cut to `MOST_TEXT` characters: `cut` of a document (text -> length) and `length` of an
    output tell how long they were. Heavy columns (tokens, log-probabilities and entropies of each token) stay in the
    run folders.
    """
    metrics = _metrics(chosen)
    names = [metric.metric for metric in metrics]
    places: dict[tuple[object, ...], int] = {}
    found: list[dict[str, Any]] = []
    answers: list[dict[int, dict[str, Any]]] = []
    for _, own in chosen.folders:
        mine: dict[int, dict[str, Any]] = {}
        for record in documents(own):
            key = (record["id"], record.get("prompt"), *record.get("choices", ()))
            if key not in places:
                places[key] = len(found)
                found.append(_document(record, names))
            mine[places[key]] = _answer(record, names)
        answers.append(mine)
    used = [metric for metric in metrics if _has_values(answers, names.index(metric.metric))]
    columns = [names.index(metric.metric) for metric in used]
    for one in (one for mine in answers for one in mine.values()):
        one["values"] = [one["values"][column] for column in columns]
    kept = _kept(found, answers, used)
    return {
        "task": chosen.task,
        "systems": [system.name for system, _ in chosen.folders],
        "prefix": next((own.identity["prefix"] for _, own in chosen.folders if own.identity.get("prefix")), ""),
        "baseline": (chosen.folders[0][1].identity.get("baseline") or {}).get("name"),
        "metrics": [{"name": m.metric, "unit": m.unit, "better": m.better} for m in used],
        "results": _results(chosen),
        "total": len(found),
        "documents": [found[place] for place in kept],
        "answers": [[mine.get(place) for place in kept] for mine in answers],
    }


def _metrics(chosen: TaskSet) -> list[MetricResult]:
    """Metrics over all documents, each once: the headline first, then those with a direction, then the others."""
    from alignbench.audit.references import find

    every = {m.metric: m for _, own in chosen.folders for m in own.result.metrics if m.category is None}
    task = find(chosen.task)
    headline = None if task is None else task.headline
    return sorted(every.values(), key=lambda m: (m.metric != headline, m.better == "–"))  # stable: the task's order


def _has_values(answers: Sequence[Answers], column: int) -> bool:
    return any(one["values"][column] is not None for mine in answers for one in mine.values())


def _document(record: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    cut: dict[str, int] = {}

    def kept(name: str, text: Any) -> Any:
        if isinstance(text, str) and len(text) > MOST_TEXT:
            cut[name] = len(text)
            return text[:MOST_TEXT]
        return text

    found = {
        "id": kept("id", str(record["id"])),
        "category": record.get("category"),
        "prompt": kept("prompt", str(record.get("prompt") or "")),
        "choices": [kept(f"choice {place}", text) for place, text in enumerate(record.get("choices") or (), 1)],
        "right": _right(record),
        "references": [
            kept(f"right answer {place}", text) for place, text in enumerate(record.get("references") or (), 1)
        ],
        "source": kept("source text", record.get("source")),
        "about": {name: kept(name, value) for name, value in _about(record, metrics)},
        "cut": cut,
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _right(record: Mapping[str, Any]) -> list[int]:
    """Which of the choices are right, where the task says so."""
    choices = len(record.get("choices") or ())
    if isinstance(record.get("true_answers"), int):
        return list(range(min(record["true_answers"], choices)))
    label = record.get("label", record.get("best_choice"))
    return [label] if isinstance(label, int) and 0 <= label < choices else []


def _about(record: Mapping[str, Any], metrics: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What else the record tells of the document, such as an occupation, or wrong answers."""
    for key, value in record.items():
        if key in DOCUMENT or key in OF_AN_ANSWER or key in RIGHT or key in metrics:
            continue
        if isinstance(value, str) or (isinstance(value, int | float) and number(value) is not None):
            yield key, value
        elif key == "false_answers" and isinstance(value, list):
            yield "false answers", " · ".join(map(str, value))


def _answer(record: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"values": [number(record.get(name)) for name in metrics]}
    if record.get("unscored"):
        found["unscored"] = str(record["unscored"])
    if "choices" in record:
        found["logprobs"] = [None if (x := number(y)) is None else round(x, 3) for y in record.get("logprobs") or ()]
    if "outputs" in record:
        found["outputs"] = [_output(output) for output in record["outputs"]]
    return found


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    scores = {
        name: number(value)
        for numbers in (output.get("scores") or {}).values()
        for name, value in numbers.items()
        if number(value) is not None
    }
    text = str(output.get("text") or "")
    found = {"text": text[:MOST_TEXT], "cut": output.get("finish") == "length", "scores": scores}
    found |= {"unscored": output.get("unscored"), "length": len(text) if len(text) > MOST_TEXT else None}
    return {key: value for key, value in found.items() if key == "text" or value}


def _results(chosen: TaskSet) -> list[dict[str, Any]]:
    """Every metric and category with its value for each system; None where a system has none."""
    rows: dict[tuple[str, str | None, str | None], dict[str, Any]] = {}
    for place, (_, own) in enumerate(chosen.folders):
        for metric in own.result.metrics:
            row = rows.setdefault(
                (metric.metric, metric.category, metric.scorer),
                {
                    "metric": metric.metric, "category": metric.category, "scorer": metric.scorer, "unit": metric.unit,
                    "better": metric.better, "chance": metric.chance, "values": [None] * len(chosen.folders),
                },
            )  # fmt: skip
            row["values"][place] = [metric.value, metric.low, metric.high, metric.n, metric.n_unscored]
    every = {metric.metric for _, own in chosen.folders for metric in own.result.metrics}
    order = [metric.metric for metric in _metrics(chosen)]
    known = {name: place for place, name in enumerate([*order, *sorted(every - set(order))])}
    return sorted(rows.values(), key=lambda row: (row["category"] or "", known[row["metric"]], row["scorer"] or ""))


def _kept(found: Sequence[Mapping[str, Any]], answers: Sequence[Answers], metrics: Sequence[MetricResult]) -> list[int]:
    """Places of the documents that are shown: all of them, or half the worst regressions and half drawn evenly."""
    size = sum(_characters(document) for document in found)
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


def _characters(document: Mapping[str, Any]) -> int:
    texts = (document["prompt"], document.get("source") or "", *document.get("choices", ()))
    return sum(map(len, (*texts, *document.get("references", ()))))


def _worst(place: int, answers: Sequence[Answers], column: int, better: str) -> float:
    """The gain of the system that lost most on this document, against the first system that has a value."""
    values = [mine[place]["values"][column] for mine in answers if place in mine]
    known = [value for value in values if value is not None]
    gains = [improvement(float(known[0]), float(value), better) for value in known[1:]]
    return min((gain for gain in gains if gain is not None), default=0.0)
