"""The samples of a task, side by side for all systems, as the page contains them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignbench.audit.comparable import baseline_of
from alignbench.audit.tax import improvement
from alignbench.types.record import Record
from reports.page.data import TaskSet
from reports.page.format import number

MOST_DOCUMENTS = 20_000  # of a task: beyond these limits, the page has some of the documents, and says so
MOST_CHARACTERS = 40_000_000  # of prompts and outputs of a task
MOST_TEXT = 200_000  # characters of one text: longer ones are cut, and their length is shown
CORRECT = ("label", "best_choice", "true_answers")  # of a record's target
FIELDS = ("metric", "category", "scorer", "unit", "better", "chance")  # of a metric, in the table of results
Answers = Mapping[int, Mapping[str, Any]]  # place of a document -> the answer of one system


def block_of(chosen: TaskSet) -> dict[str, Any]:
    """Return what the page needs of a set of task folders: results, documents, and each system's answers to them.

    Documents are the same if id, prompt and choices are. `answers`: per system a list with an entry per document, None
    if it has none. `cut` of a document (text -> length) and `length` of an output are the lengths of cut texts. Numbers
    per token stay in the run folders.
    """
    every_metric = chosen.metrics
    names = [metric.metric for metric in every_metric]
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
    every = [one for mine in answers for one in mine.values()]
    used = [place for place in range(len(names)) if any(one["values"][place] is not None for one in every)]
    for one in every:
        one["values"] = [one["values"][place] for place in used]
    metrics = [every_metric[place] for place in used]
    kept = _kept(found, answers, [metric.better for metric in metrics])
    identities = [own.identity for _, own in chosen.folders]
    return {
        "task": chosen.task,
        "systems": [system.name for system, _ in chosen.folders],
        "prefix": next((own["prefix"] for own in identities if own.get("prefix")), ""),
        "baseline": baseline_of(identities[0]),
        "metrics": [{"name": m.metric, "unit": m.unit, "better": m.better} for m in metrics],
        "results": _results(chosen),
        "total": len(found),
        "documents": [found[place] for place in kept],
        "answers": [[mine.get(place) for place in kept] for mine in answers],
    }


def _document(record: Record) -> dict[str, Any]:
    target, choices, cut = record.target, len(record.choices), {}

    def kept(name: str, text: Any) -> Any:
        if isinstance(text, str) and len(text) > MOST_TEXT:
            cut[name] = len(text)
            return text[:MOST_TEXT]
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


def _answer(record: Record, metrics: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"values": [number(record.metrics.get(name)) for name in metrics]}
    if record.unscored:
        found["unscored"] = record.unscored
    if record.choices:
        found["logprobs"] = [None if (x := number(y)) is None else round(x, 3) for y in record.logprobs]
    if record.outputs:
        found["outputs"] = []
    for output in record.outputs:
        scores = {name: number(score) for own in output.scores.values() for name, score in own.items()}
        own = {
            "text": output.text[:MOST_TEXT],
            "cut": output.finish == "length",
            "scores": {name: score for name, score in scores.items() if score is not None},
            "unscored": output.unscored,
            "length": len(output.text) if len(output.text) > MOST_TEXT else None,
        }
        found["outputs"].append({key: value for key, value in own.items() if key == "text" or value})
    return found


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


def _kept(found: Sequence[Mapping[str, Any]], answers: Sequence[Answers], better: Sequence[str]) -> list[int]:
    """Return the places of the documents in the page: all, or half the worst regressions and half evenly spaced.

    better: of each metric; regressions are those of the first with a direction, against the first system with a value
    """
    texts = [text for one in found for text in (one.get("prompt"), one.get("source"))]
    texts += [text for one in found for text in (*one.get("choices", ()), *one.get("references", ()))]
    texts += [own["text"] for mine in answers for one in mine.values() for own in one.get("outputs", ())]
    size = sum(len(text or "") for text in texts)
    room = min(MOST_DOCUMENTS, max(math.floor(len(found) * MOST_CHARACTERS / max(size, MOST_CHARACTERS)), 1))
    if len(found) <= room:
        return list(range(len(found)))
    worst_gain = [0.0] * len(found)
    for column in [column for column, direction in enumerate(better) if direction != "–"][:1]:
        for place in range(len(found)):
            values = [mine[place]["values"][column] for mine in answers if place in mine]
            known = [float(value) for value in values if value is not None]
            gains = [improvement(known[0], value, better[column]) for value in known[1:]]
            worst_gain[place] = min((gain for gain in gains if gain is not None), default=0.0)
    worst = sorted(range(len(found)), key=lambda place: (worst_gain[place], place))[: room // 2]
    rest = sorted({*range(len(found))} - {*worst})
    even = [rest[math.floor(step * len(rest) / (room - len(worst)))] for step in range(room - len(worst))]
    return sorted({*worst, *even})
