"""Instructions to put to a model: Self-Instruct's 252 user-oriented ones (arXiv 2212.10560), or a user's file."""

from __future__ import annotations

from typing import Any

from alignbench.data import Provenance, load
from alignbench.data.sources import SourceRow, checked_text, fingerprint, read_source
from alignbench.errors import AlignbenchError
from alignbench.types.task import Document, Options, TaskData


def load_prompts(options: Options, task: str) -> TaskData:
    """A document a prompt: those of `options.prompts`, or of the card `self_instruct`, which keep their ids.

    A file has rows with `prompt`, or `instruction` and `input`; with `id` (else it is "row N") and `category` or not.
    Raises AlignbenchError, naming task, file and line, for a row without a prompt and for an id that comes twice.
    """
    if options.prompts is None:
        loaded = load("self_instruct", "user_oriented", _parse, data_dir=options.data_dir)
        return TaskData(loaded.items, (loaded.provenance,))
    source = str(options.prompts)
    rows = read_source(source)
    documents: dict[str, Document] = {}
    for number, row in enumerate(rows, start=1):
        try:
            document = _document(row, number)
            if document.id in documents:
                raise ValueError(f"id {document.id!r} stands above already")
        except ValueError as error:
            raise AlignbenchError(f"task {task}, {row.where}: {error}") from None
        documents[document.id] = document
    mark = fingerprint(source, len(rows))
    revision = mark.get("sha256") or mark.get("revision") or "unknown"
    return TaskData(list(documents.values()), (Provenance("", "", mark["source"], revision, len(rows), pinned=False),))


def joined(instruction: str, given: str) -> str:
    """An instruction, and below a blank line what it is to be carried out on, where there is something."""
    return "\n\n".join(part for part in (instruction.strip(), given.strip()) if part)


def _document(row: SourceRow, number: int) -> Document:
    if "prompt" in row.fields:
        prompt = row.text("prompt").rstrip()
    else:
        instruction = checked_text(row.field("prompt", "instruction"), "instruction")
        prompt = joined(instruction, checked_text(row.fields.get("input") or "", "input"))
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    identifier, category = row.fields.get("id"), row.fields.get("category")
    return Document(
        f"row {number}" if identifier in (None, "") else str(identifier),
        prompt,
        category=None if category in (None, "") else str(category),
    )


def _parse(row: dict[str, Any], schema: str | None) -> Document:
    return Document(row["id"], joined(row["instruction"], row["instances"][0]["input"]))
