"""Logs of Inspect (inspect_ai), read without it: `.eval`, a zip archive with header.json and a JSON file per sample and
epoch, and `.json`, one object (EvalLog, version 2)."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.evaluation.score_file import UNKNOWN, Found
from alignbench.imports.foreign import declare, describe_metric, numeric, readable, scored, task_name, task_of
from alignbench.parse import LARGEST, find_path, parse_json, read_object
from alignbench.runs.folder import digest
from alignbench.types.record import Output, Record

VERSION = 2
VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
ZSTANDARD = 93  # method of compression in zip archives that Python reads from 3.14 on; inspect_ai's default
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "seed", "num_choices", "stop_seqs", "reasoning_effort")
ATTACHMENT = "attachment://"

Samples = Mapping[str, list[Mapping[str, Any]]]  # document -> its samples, one per epoch


def read_inspect(logs: Sequence[str | Path]) -> list[Found]:
    """The results of each log, or of every log in a folder, the newest first.

    Raises AlignbenchError, naming the file, for logs that are unfinished, without samples, or of another version.
    """
    files: dict[Path, None] = {}
    for path in map(find_path, logs):
        inside = sorted([*path.rglob("*.eval"), *path.rglob("*.json")]) if path.is_dir() else [path]
        if not inside:
            raise AlignbenchError(f"{path}: no .eval or .json logs in it")
        files |= dict.fromkeys(file for file in inside if file.name != "logs.json")
    read = [_read_log(file) for file in files]
    return [own for _, own in sorted(read, key=lambda pair: pair[0], reverse=True)]


def _read_log(file: Path) -> tuple[str, Found]:
    """(date, results) of a log."""
    with readable(file):
        header, samples = _open(file)
        if (version := header.get("version")) != VERSION or not isinstance(header.get("eval"), dict):
            raise AlignbenchError(f"{file}: not an Inspect log of version {VERSION} (its version is {version})")
        if (status := header.get("status")) != "success":
            raise AlignbenchError(f"{file}: status {status}, not success; finish it with `inspect eval-retry` first")
        of_document: dict[str, list[Mapping[str, Any]]] = {}
        for sample in samples:
            of_document.setdefault(str(sample["id"]), []).append(sample)
        if not of_document:
            raise AlignbenchError(f"{file}: no samples; name a log that has them")
        return str(header["eval"].get("created")), _task(file, header, of_document)


def _task(file: Path, header: Mapping[str, Any], samples: Samples) -> Found:
    spec, plan = header["eval"], header.get("plan") or {}
    name, config = task_name(str(spec["task"])), spec.get("config") or {}
    numbers = {document: list(map(_numbers, own)) for document, own in samples.items()}
    values: dict[str, list[float]] = {}
    for scores in chain.from_iterable(numbers.values()):
        for metric, value in scores.items():
            values.setdefault(metric, []).extend([] if value is None else [value])
    values = {metric: known for metric, known in values.items() if known}
    if not values:
        raise AlignbenchError(f"{file}: its samples have no scores; score them with `inspect score` first")
    records, documents = [], []
    for document, own in sorted(samples.items()):
        first, metrics = own[0], dict[str, float | None]()
        for metric in values:
            known = [value for scores in numbers[document] if (value := scores.get(metric)) is not None]
            metrics[metric] = sum(known) / len(known) if len(known) == len(own) else None  # mean over epochs
        targets = first["target"] if isinstance(first["target"], list) else [first["target"]]
        outputs = tuple(Output(_completion(sample)) for sample in sorted(own, key=lambda sample: int(sample["epoch"])))
        record = Record(document, _text(first["input"], first), references=tuple(map(str, targets)), outputs=outputs)
        error = next((sample["error"] for sample in own if sample.get("error")), None)
        why = error and f"an error in Inspect ({first_line(Exception(error['message']))})"
        records.append(scored(record, metrics, why))
        documents.append((document, record.prompt, record.references, first.get("choices")))
    single = all(len(own) == 1 for own in samples.values())
    described = [  # partial credit, or a mean over epochs, is not 0 or 1
        replace(describe_metric(metric, known), binary=single and set(known) <= {0.0, 1.0})
        for metric, known in values.items()
    ]
    generate = {**(spec.get("model_generate_config") or {}), **(plan.get("config") or {})}
    sampling = {key: generate.get(key) for key in SAMPLING} | {"epochs": config.get("epochs")}
    sampling |= {"version": spec.get("task_version"), "args": spec.get("task_args")}
    sampling |= {"solver": [step.get("solver") for step in plan.get("steps") or ()]}
    sampling |= {"scorers": [[own.get("name"), own.get("options")] for own in spec.get("scorers") or ()]}
    identity = {
        **UNKNOWN,
        **{"version": 1, "shots": 0, "seed": 0, "data": []},
        "limit": config["limit"] if isinstance(config.get("limit"), int) else None,
        "sampling": sampling,
        "documents_sha256": digest({"task": name, "documents": documents}),
        "imported": {file.name: sha256_of(file)},
    }
    settings = {key: spec.get(key) for key in ("model_args", "model_base_url")}
    model = {"model": {"name": str(spec["model"])}, "settings": settings, "engine": {"kind": "inspect"}}
    return task_of(model, name, declare(name, described), records, identity)


def _open(file: Path) -> tuple[Mapping[str, Any], Iterator[Mapping[str, Any]]]:
    """The header of a log, and its samples."""
    if not file.is_file():
        raise AlignbenchError(f"{file}: no such file")
    if file.suffix == ".json":
        log = read_object(file, number=float)
        return log, iter(log.get("samples") or ())
    try:
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise AlignbenchError(f"{file}: not an Inspect log ({first_line(error)})") from None
    names = archive.namelist()
    if "header.json" not in names:
        raise AlignbenchError(f"{file}: no header.json: the evaluation is not finished, or this is not an Inspect log")
    samples = (name for name in names if name.startswith("samples/") and name.endswith(".json"))
    return _entry(archive, "header.json"), (_entry(archive, name) for name in samples)


def _entry(archive: zipfile.ZipFile, name: str) -> Mapping[str, Any]:
    """A JSON object in the archive."""
    info, where = archive.getinfo(name), f"{archive.filename}: {name}"
    try:
        if info.file_size > LARGEST:
            raise ValueError(f"{info.file_size} bytes, more than {LARGEST}")
        content = _zstandard(archive, info) if info.compress_type == ZSTANDARD else archive.read(info)
        found = parse_json(content, number=float)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise AlignbenchError(f"{where}: cannot be read ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise AlignbenchError(f"{where}: not a JSON object")
    return found


def _zstandard(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of an entry that is compressed with Zstandard, read with pyarrow."""
    import pyarrow

    assert archive.fp is not None
    archive.fp.seek(info.header_offset)
    header = archive.fp.read(30)  # of fixed size; the lengths of the name and of the extra field are at its end
    archive.fp.read(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"))
    packed = archive.fp.read(info.compress_size)
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
        return bytes(stream.read(info.file_size))


def _numbers(sample: Mapping[str, Any]) -> dict[str, float | None]:
    """Score -> its value as a number, None for other text; lists are left out."""
    found: dict[str, float | None] = {}
    for name, score in (sample.get("scores") or {}).items():
        value = score["value"]
        for key, own in value.items() if isinstance(value, dict) else [("", value)]:
            if not isinstance(own, list | dict):
                found[f"{name}.{key}" if key else name] = _number(own)
    return found


def _number(value: Any) -> float | None:
    if not isinstance(value, str):
        return numeric(value)
    known = VALUES.get(value, VALUES.get(value.lower()))
    try:
        return numeric(float(value)) if known is None else known
    except ValueError:
        return None


def _completion(sample: Mapping[str, Any]) -> str:
    choices = (sample.get("output") or {}).get("choices") or []
    return _text(choices[0]["message"]["content"], sample) if choices else ""


def _text(content: Any, sample: Mapping[str, Any]) -> str:
    """The text of a message, of a list of its parts, or of several messages."""
    if isinstance(content, str):
        attached = (sample.get("attachments") or {}).get(content.removeprefix(ATTACHMENT))
        return str(attached) if content.startswith(ATTACHMENT) and attached is not None else content
    parts = [own.get("content") or own.get("text") for own in content]
    return "\n\n".join(_text(part, sample) for part in parts if part)
