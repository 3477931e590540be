"""Every sample of a task, side by side for all systems, as the page holds it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.audit.read import TaskRun
from alignbench.audit.tax import improvement
from alignbench.results import MetricResult
from reports.evidence import Evidence, System, documents
from reports.page.blocks import number

MOST_DOCUMENTS = 20_000  # of one task; beyond, the page says that it shows a part
MOST_CHARACTERS = 40_000_000  # of prompts and outputs of one task
DOCUMENT = ("id", "group", "category", "prompt", "choices", "references", "source")
OF_AN_ANSWER = ("logprobs", "tokens", "entropies", "top_entropies", "outputs", "chance", "unscored", "pending")
Answers = Mapping[int, Mapping[str, Any]]  # place of a document -> what one system answered
RIGHT = ("label", "best_choice", "true_answers")


@dataclass(frozen=True)
class TaskSet:
    """Task folders that stand side by side: one a system, with the same shots, scorers and baseline.

    number: 0 for what most systems have; note: what tells it from the other sets of its task, else empty
    """

    task: str
    number: int
    note: str
    folders: tuple[tuple[System, TaskRun], ...]


def sets_of(evidence: Evidence, task: str) -> list[TaskSet]:
    """All folders of a task. A second folder of one system, of other documents for example, is in a further set."""
    groups: dict[tuple[str, ...], list[tuple[System, TaskRun]]] = {}
    for system, own in evidence.every_run_of(task):
        settings, lap = _settings(own), 0
        while any(system is other for other, _ in groups.get((*settings.values(), str(lap)), ())):
            lap += 1
        groups.setdefault((*settings.values(), str(lap)), []).append((system, own))
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    unlike = [place for place in range(len(next(iter(groups), ()))) if len({key[place] for key in groups}) > 1]
    return [
        TaskSet(task, place, _note(key, unlike, folders), tuple(folders))
        for place, (key, folders) in enumerate(ordered)
    ]


def _settings(own: TaskRun) -> dict[str, str]:
    scorers = own.identity.get("scorers") or ()
    return {
        "version": str(own.result.version),
        "shots": str(own.result.shots),
        "scorers": ", ".join(sorted(f"{entry['kind']}={entry['name']}" for entry in scorers)),
        "revisions": ", ".join(sorted(str(entry["revision"])[:12] for entry in scorers)),
        "against": str((own.identity.get("baseline") or {}).get("name") or ""),
    }


def _note(key: Sequence[str], unlike: Sequence[int], folders: Sequence[tuple[System, TaskRun]]) -> str:
    names = [*_settings(folders[0][1]), "folders"]
    parts = [f"{names[place]} {key[place] or 'none'}" for place in unlike if names[place] != "folders"]
    if names.index("folders") in unlike and key[-1] != "0":
        parts.append(f"other documents: {', '.join(own.path.name for _, own in folders)}")
    return "; ".join(parts)


def block_of(chosen: TaskSet) -> dict[str, Any]:
    """What the page needs of a set of task folders: results, documents, and each system's answers to them.

    Documents are the same where id, prompt and choices are. `answers` has for each system one entry a document, None
    where it has none. Heavy columns (tokens, log-probabilities and entropies of each token) stay in the run folders.
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
    from alignbench.audit.read import find

    every = {m.metric: m for _, own in chosen.folders for m in own.result.metrics if m.category is None}
    task = find(chosen.task)
    headline = None if task is None else task.headline
    return sorted(every.values(), key=lambda m: (m.metric != headline, m.better == "–"))  # stable: the task's order


def _has_values(answers: Sequence[Answers], column: int) -> bool:
    return any(one["values"][column] is not None for mine in answers for one in mine.values())


def _document(record: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    found = {
        "id": str(record["id"]),
        "category": record.get("category"),
        "prompt": str(record.get("prompt") or ""),
        "choices": record.get("choices"),
        "right": _right(record),
        "references": record.get("references"),
        "source": record.get("source"),
        "about": dict(_about(record, metrics)),
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
    found = {"text": str(output.get("text") or ""), "cut": output.get("finish") == "length", "scores": scores}
    found["unscored"] = output.get("unscored")
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
    room = min(MOST_DOCUMENTS, math.floor(len(found) * MOST_CHARACTERS / max(size, MOST_CHARACTERS)))
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
