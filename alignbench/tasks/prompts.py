"""Instructions as prompts: Self-Instruct's 252 user-oriented ones (arXiv 2212.10560), or a user's file."""

from alignbench.data import Provenance, Row, load
from alignbench.data.tables import SourceRow, checked_text, fingerprint, read_source
from alignbench.errors import AlignbenchError
from alignbench.types.task import Document, Options, TaskData


def load_prompts(task: str, options: Options) -> TaskData:
    """A document per prompt of `options.prompts`, or of the card `self_instruct`.

    The rows of a file have `prompt`, or `instruction` and `input`; `id` (default: "row N") and `category` are optional.
    Raises AlignbenchError with task, file and line for a row without a prompt and for a repeated id.
    """
    if options.prompts is None:
        loaded = load("self_instruct", "user_oriented", parse, options.data_dir)
        return TaskData(loaded.items, (loaded.provenance,))
    source = str(options.prompts)
    rows = read_source(source)
    documents: dict[str, Document] = {}
    for number, row in enumerate(rows, start=1):
        try:
            document = _document(row, number)
            if document.id in documents:
                raise ValueError(f"id {document.id!r} is used by an earlier row")
        except ValueError as error:
            raise AlignbenchError(f"task {task}, {row.where}: {error}") from None
        documents[document.id] = document
    mark = fingerprint(source, len(rows))
    revision = mark.get("sha256") or mark.get("revision") or "unknown"
    return TaskData(list(documents.values()), (Provenance("", "", mark["source"], revision, len(rows), pinned=False),))


def parse(row: Row) -> Document:
    return Document(row["id"], joined(row["instruction"], row["instances"][0]["input"]))


def joined(instruction: str, given: str) -> str:
    """An instruction and its input, if it has one, separated by a blank line."""
    return "\n\n".join(part for part in (instruction.strip(), given.strip()) if part)


def _document(row: SourceRow, number: int) -> Document:
    if "prompt" in row.fields:
        prompt = row.text("prompt").rstrip()
    else:
        instruction = checked_text(row.field("prompt", "instruction"), "instruction")
        prompt = joined(instruction, checked_text(row.fields.get("input") or "", "input"))
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    identifier, category = (None if (x := row.fields.get(key)) in (None, "") else str(x) for key in ("id", "category"))
    return Document(identifier or f"row {number}", prompt, category=category)
