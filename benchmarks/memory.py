"""Peak memory follows the token budget, not the data set: HellaSwag at 1,000 and at 10,042 documents.

    python benchmarks/memory.py CHECKPOINT HELLASWAG_FILE [--sizes 1000,10042]

HELLASWAG_FILE is either layout of the data card. The larger sets repeat its items under new ids. Each size runs in a
process of its own, and its peak resident memory is what the operating system counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from alignbench.data.tables import read_rows
from alignbench.tasks.hellaswag import parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("hellaswag", type=Path)
    parser.add_argument("--sizes", default="1000,10042")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.checkpoint, arguments.measure)
        return
    peaks = {}
    for size in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write_documents(arguments.hellaswag, Path(folder) / "hellaswag", size)
            command = [sys.executable, __file__, str(arguments.checkpoint), "-", "--measure", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        peaks[size] = json.loads(done.stdout.splitlines()[-1])
        print(size, "documents:", peaks[size], flush=True)
    (small, large) = peaks.values()
    print(f"difference of the peaks: {large['peak_mib'] - small['peak_mib']:.0f} MiB")


def write_documents(source: Path, folder: Path, size: int) -> None:
    is_official = source.suffix == ".jsonl"
    rows = read_rows(source, "jsonl" if is_official else "json", None if is_official else "test")
    scenes = [parse(row) for _, row in rows]
    folder.mkdir()
    with (folder / "hellaswag_val.jsonl").open("w") as file:
        for number in range(size):
            scene = scenes[number % len(scenes)]
            # the number keeps the documents apart, so that none is a duplicate of another
            context = f"{number}. {scene.prompt}"
            row = {"ind": number, "activity_label": "Item", "ctx_a": context, "ctx_b": ""}
            endings = [choice.removeprefix(" ") for choice in scene.choices]
            file.write(json.dumps(row | {"endings": endings, "label": scene.target["label"]}) + "\n")


def measure(checkpoint: Path, data: Path) -> None:
    from alignbench import evaluate

    with tempfile.TemporaryDirectory() as out:
        (run,) = evaluate([str(checkpoint)], ["hellaswag"], out, data_dir=data, dtype="float32")
        (records,) = Path(out).glob("*/hellaswag-*/documents.jsonl")
        size = records.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"peak_mib": round(peak), "records_mib": round(size, 1), "scored": run.results[0].n_scored}))


if __name__ == "__main__":
    main()
