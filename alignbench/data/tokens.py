"""Text for language modelling as token ids in a memory-mapped file."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from filelock import FileLock

from alignbench.data.tables import fingerprint, read_source
from alignbench.errors import AlignbenchError

if TYPE_CHECKING:
    from datasets import Dataset

CHUNK = 1000  # documents that are encoded at once
SCHEMA = pa.schema({"ids": pa.list_(pa.int32())})


def read_texts(source: str) -> list[str]:
    """Documents: rows {text}, or a .txt file with blank lines between documents; blank ones are skipped."""
    texts = []
    for row in read_source(source):
        with row.located():
            texts.append(row.text("text"))
    if found := [text for text in texts if text.strip()]:
        return found
    raise AlignbenchError(f"{source}: every text is blank")


def token_pieces(source: str, encode: Callable[[list[str]], list[list[int]]], tokenizer: str, length: int) -> "Dataset":
    """Rows {ids} of 2 to `length` tokens, cut from each document, in a file in the cache of `datasets`.

    The file is written once for a text, a tokenizer and a length; the processes of a machine wait for the one that
    writes. tokenizer: what identifies it, such as its JSON
    Raises AlignbenchError for a wrong row, and if there is no document of two tokens.
    """
    import datasets

    identity = json.dumps([fingerprint(source, 0), tokenizer, length])
    file = Path(datasets.config.HF_DATASETS_CACHE, "alignbench", hashlib.sha256(identity.encode()).hexdigest())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                _write(file, source, encode, length)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise AlignbenchError(f"{file.parent}: {reason}; set HF_DATASETS_CACHE to another folder") from error
    return datasets.Dataset.from_file(str(file))


def _write(file: Path, source: str, encode: Callable[[list[str]], list[list[int]]], length: int) -> None:
    documents, part, count = read_texts(source), Path(f"{file}.part"), 0
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            for start in range(0, len(documents), CHUNK):
                encoded = encode(documents[start : start + CHUNK])
                pieces = [ids[at : at + length] for ids in encoded for at in range(0, len(ids), length)]
                pieces = [piece for piece in pieces if len(piece) > 1]
                count += len(pieces)
                writer.write_batch(pa.record_batch([pa.array(pieces, SCHEMA.field("ids").type)], schema=SCHEMA))
        if not count:
            raise AlignbenchError(f"{source}: no pretraining text of two tokens or more")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
