"""Peak memory depends on the token budget, not on the data set: HellaSwag with 1,000 and with 10,042 documents.

    python benchmarks/memory.py CHECKPOINT HELLASWAG_FILE [--sizes 1000,10042]

HELLASWAG_FILE is hellaswag_val.jsonl, or a list of {question, choices, answer} by split. The larger sets repeat its
items with new ids. Each size is one `alignbench evaluate` in a fresh process; its peak resident memory is the operating
system's count.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import HERE, arguments, run_process


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("hellaswag", type=Path)
    parser.add_argument("--sizes", default="1000,10042")
    args = parser.parse_args()
    command = [sys.executable, "-m", "alignbench", "evaluate", args.checkpoint.resolve(), "--tasks", "hellaswag"]
    peaks = []
    for size in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_documents(args.hellaswag, folder / "hellaswag", size)
            options = ["--data-dir", folder, "--dtype", "float32", "--out", "runs", "--json"]
            found = run_process([*command, *options], HERE.parent, folder)
            (records,) = folder.glob("runs/*/hellaswag-*/documents.jsonl")
            scored = json.loads(found["output"])[0]["results"][0]["n_scored"]
            print(f"{size} documents, {scored} scored: peak {found['peak_mib']:.0f} MiB, ", end="")
            print(f"records {records.stat().st_size / 2**20:.1f} MiB, {found['seconds']:.0f} s", flush=True)
        peaks.append(found["peak_mib"])
    print(f"difference of the peaks: {peaks[-1] - peaks[0]:.0f} MiB")


def scenes(source: Path) -> Iterator[tuple[str, list[str], int]]:
    """Context, endings and the right ending's index."""
    if source.suffix == ".jsonl":
        for line in source.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["ctx_a"], row["endings"], int(row["label"])
    else:
        for item in json.loads(source.read_text(encoding="utf-8"))["test"]:
            yield item["question"], list(item["choices"].values()), list(item["choices"]).index(item["answer"])


def write_documents(source: Path, folder: Path, size: int) -> None:
    items = list(scenes(source))
    folder.mkdir()
    with (folder / "hellaswag_val.jsonl").open("w") as file:
        for number in range(size):
            text, endings, label = items[number % len(items)]
            # the number makes all documents distinct
            row = {"ind": number, "activity_label": "Item", "ctx_a": f"{number}. {text}", "ctx_b": ""}
            file.write(json.dumps(row | {"endings": endings, "label": label}) + "\n")


if __name__ == "__main__":
    main()
