"""Logs of lm-evaluation-harness with samples: results_DATE.json and samples_TASK_DATE.jsonl (written by 0.4.13 with
--log_samples and --output_path; EvaluationTracker in lm_eval/loggers/evaluation_tracker.py)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.data.tables import read_rows
from alignbench.errors import AlignbenchError
from alignbench.evaluation.score_file import Found
from alignbench.imports.foreign import declare, describe_metric, numeric, readable, scored, task_name, task_of
from alignbench.models.lineage import recorded_lineage
from alignbench.parse import find_path, read_object
from alignbench.runs.folder import digest
from alignbench.types.record import Output, Record

# lm-eval's task -> ours, and its metrics -> ours
OURS: dict[str, tuple[str, dict[str, str]]] = {
    "hellaswag": ("hellaswag", {"acc": "acc", "acc_norm": "acc_norm"}),
    "truthfulqa_mc1": ("truthfulqa_mc", {"acc": "mc1"}),
    "truthfulqa_mc2": ("truthfulqa_mc", {"acc": "mc2"}),
    "crows_pairs_english": (
        "crows_pairs", {"pct_stereotype": "pct_stereotype", "likelihood_diff": "likelihood_difference"},
    ),
    "drop": ("drop", {"em": "em", "f1": "f1"}),
    "sst2": ("sst2", {"acc": "acc"}),
    "rte": ("rte", {"acc": "acc"}),
}  # fmt: skip
PREFERRED = ("acc_norm", "acc", "exact_match", "f1", "em")  # headlines of tasks for which declared.yaml names none
FIELDS = ("results", "configs", "versions", "n-shot", "higher_is_better", "config")
NEEDED = ("doc_id", "doc", "target", "arguments", "resps", "filter", "metrics", "doc_hash", "target_hash")

Rows = Mapping[str, list[dict[str, Any]]]  # document -> its samples, one per filter


def read_lm_eval(folders: Sequence[str | Path], notify: Callable[[str], None] = lambda _: None) -> list[Found]:
    """The results of every log in the folders and the folders in them, the newest first.

    notify: told which tasks are left out
    Raises AlignbenchError, naming the file, for logs without samples and logs of another format.
    """
    logs: dict[Path, None] = {}
    for folder in map(find_path, folders):
        inside = [file for file in folder.rglob("*.json") if _samples_of(file)]
        if not inside:
            why = ", only results without them" if any(folder.rglob("results_*.json")) else ""
            raise AlignbenchError(f"{folder}: no lm-eval logs with samples{why}; use lm_eval's --log_samples")
        logs |= dict.fromkeys(inside)
    found: list[Found] = []
    for file in sorted(logs, key=_date, reverse=True):
        with readable(file):
            found += _read_log(file, notify)
    if not found:
        raise AlignbenchError(f"{folders[0]}: no task has a metric with a number for each document")
    return found


def _date(file: Path) -> str:
    return file.stem.rpartition("_")[2]


def _samples_of(file: Path) -> dict[str, Path]:
    """Task -> the file of its samples that belongs to a file of results."""
    ending = f"_{_date(file)}.jsonl"
    files = sorted(file.parent.glob(f"samples_*{ending}"))
    return {own.name.removeprefix("samples_").removesuffix(ending): own for own in files}


def _read_log(file: Path, notify: Callable[[str], None]) -> Iterator[Found]:
    log, files = read_object(file, number=float), _samples_of(file)
    version = str(log.get("lm_eval_version", "unknown"))
    if missing := [name for name in FIELDS if not isinstance(log.get(name), dict)]:
        raise AlignbenchError(f"{file}: not a log of lm-eval 0.4.13 (its version is {version}): no {missing[0]}")
    rows = {task: _read_samples(path, version) for task, path in files.items()}
    config, name = log["config"], str(log.get("model_name") or log["config"].get("model"))
    local = Path(name) if Path(name).is_absolute() or name.startswith(".") else None
    model = {
        "model": {"name": local.name if local else name, "revision": config.get("model_sha") or None},
        "settings": {key: config.get(key) for key in ("model", "model_args", "gen_kwargs")},
        "engine": {"kind": "lm-eval", "dtype": str(config.get("model_dtype", "unknown")).removeprefix("torch.")},
    }
    about: dict[str, Any] = {"parameters": config.get("model_num_parameters")}
    about |= {"lineage": [vars(entry) for entry in recorded_lineage(local, local.name)]} if local else {}
    limit = config.get("limit")
    for name, parts in _groups(log, rows).items():
        task, renamed = OURS.get(name, (task_name(name), None))
        records, hashes, values = _records(name, {part: rows[part] for part in parts}, renamed)
        if not values:
            notify(f"{name}: left out: none of its metrics has a number for each document")
            continue
        declared: dict[str, Any] = {}
        if renamed is None:
            higher: dict[str, Any] = {}
            for part in parts:
                higher |= log["higher_is_better"].get(part) or {}
            metrics = []
            for key, numbers in values.items():
                base = key.partition(",")[0]
                better = {"True": "higher", "False": "lower"}.get(str(higher.get(base)))
                metrics.append(describe_metric(key, numbers, better, base))
            metrics.sort(key=lambda own: [own.name.partition(",")[0] != one for one in PREFERRED])
            declared = declare(task, metrics)
        identity: dict[str, Any] = {
            "version": 1,
            "shots": int(log["n-shot"].get(parts[0]) or 0),
            "limit": int(limit) if isinstance(limit, int | float) and limit >= 1 else None,
            "seed": int(config.get("random_seed") or 0),
            "data": [],
            "template": "chat" if log.get("chat_template") else "none",
            "prefix": log.get("system_instruction"),
            "sampling": {
                "versions": sorted({str(log["versions"].get(part)) for part in parts}),
                "fewshot_seed": config.get("fewshot_seed"),
                "multiturn": log.get("fewshot_as_multiturn"),
            },
            "documents_sha256": digest({"task": name, "documents": hashes}),
            "imported": {files[part].name: sha256_of(files[part]) for part in parts},
        }
        yield task_of(model, task, declared, records, identity, about)


def _groups(log: Mapping[str, Any], rows: Mapping[str, Rows]) -> dict[str, list[str]]:
    """Task -> the files of samples that it consists of: one, or all subtasks GROUP_… of a group such as mmlu."""
    groups = log.get("group_subtasks") or {}
    inner = {name for members in groups.values() for name in members}
    found: dict[str, list[str]] = {}
    for group in [name for name in groups if name not in inner]:
        leaves, waiting = [], [group]
        while waiting:
            members = groups.get(name := waiting.pop(0), [])
            waiting += members
            leaves += [name] if name in rows and not members else []
        alike = {tuple(next(iter(rows[leaf].values()))[0]["metrics"]) for leaf in leaves}
        if len(leaves) > 1 and len(alike) == 1 and all(leaf.startswith(f"{group}_") for leaf in leaves):
            found[group] = leaves
    grouped = {leaf for leaves in found.values() for leaf in leaves}
    return {**{name: [name] for name in rows if name not in grouped}, **found}


def _records(
    name: str, parts: Mapping[str, Rows], renamed: Mapping[str, str] | None
) -> tuple[list[Record], list[tuple[str, Any, Any]], dict[str, list[float]]]:
    """The records, what identifies their documents, and metric -> its values. renamed: metric -> ours"""
    records, hashes, values = [], [], dict[str, list[float]]()
    for part, rows in parts.items():
        several = len({row["filter"] for own in rows.values() for row in own}) > 1
        for number, own in rows.items():
            metrics: dict[str, float | None] = {}
            for row in own:
                for metric in row["metrics"]:
                    ours = metric if renamed is None else renamed.get(metric)
                    # corpus metrics (BLEU, perplexity) have lists that only lm-eval aggregates
                    if ours is not None and not isinstance(row.get(metric), list | dict | str):
                        key = f"{ours},{row['filter']}" if several else ours
                        metrics[key] = value = numeric(row.get(metric))
                        values.setdefault(key, []).extend([] if value is None else [value])
            whole = len(parts) == 1
            identifier = number if whole else f"{part}/{number}"
            record = _record(identifier, None if whole else part.removeprefix(f"{name}_"), own[0])
            records.append(scored(record, metrics))
            hashes.append((identifier, own[0]["doc_hash"], own[0]["target_hash"]))
    return records, hashes, values


def _record(name: str, category: str | None, row: Mapping[str, Any]) -> Record:
    """The record of a document without metrics."""
    given = row["arguments"].values() if isinstance(row["arguments"], dict) else row["arguments"]
    arguments = [list(own.values()) if isinstance(own, dict) else own for own in given]
    prompt = str(arguments[0][0]) if arguments and arguments[0] else ""
    texts = [str(own[1]) for own in arguments if len(own) > 1 and isinstance(own[1], str)]
    answers = [own[0] if own else None for own in row["resps"]]  # of the first of several repeats
    pairs = [own for own in answers if isinstance(own, list) and len(own) == 2]
    if texts and len(texts) == len(pairs) == len(answers):
        logprobs = tuple(float(own[0]) if str(own[0]).lstrip("-")[:1].isdigit() else None for own in pairs)
        return Record(
            name, prompt, tuple(texts), category=category, target={"target": row["target"]}, logprobs=logprobs
        )
    outputs = tuple(Output(str(text)) for own in row["resps"][:1] for text in own if not isinstance(text, list))
    return Record(name, prompt, references=(str(row["target"]),), category=category, outputs=outputs)


def _read_samples(file: Path, version: str) -> Rows:
    found: dict[str, list[dict[str, Any]]] = {}
    for line, row in read_rows(file, "jsonl", number=float):
        if missing := [name for name in NEEDED if name not in row]:
            raise AlignbenchError(f"{file}:{line}: not a sample of lm-eval 0.4.13 ({version}): no {missing[0]}")
        found.setdefault(str(row["doc_id"]), []).append(row)
    if not found:
        raise AlignbenchError(f"{file}: no samples")
    return found
