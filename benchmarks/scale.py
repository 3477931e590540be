"""`score`, `compare` and `report` of 1,000, 10,000 and 100,000 short outputs: seconds, peak memory, and their growth.

    python benchmarks/scale.py --folder DIR [--rows 1000 10000 100000]

Two systems answer in about eight words. Each command is a fresh process of one thread, as a user starts it. What the
folder has finished is not measured again. Exit status 1: from 10,000 rows on, an additional row costs more than 1.5
times what it costs below, so the growth is not linear; or 100,000 rows take more than SECONDS (CPU) or 1 GiB.
"""

import json
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from harness import HERE, Report, arguments, machine, print_checks, print_table, run_process

WORDS = ("to", "of", "and", "old", "red", "milk", "cow", "hay", "runs", "eats", "barn", "hill", "dog", "sun")
SECONDS, MIB, GROWTH = {"score": 60, "compare": 20, "report": 60}, 1024, 1.5
COMMANDS = {
    "score": ["score", "one.jsonl", "--out", "runs", "--json"],
    "score of the other": ["score", "two.jsonl", "--out", "runs", "--json"],
    "compare": ["compare", "one", "two", "--runs", "runs", "--json"],
    "report": ["report", "runs", "--out", "report"],
}


def rows_of(n: int, changed: float, seed: int) -> Iterator[str]:
    """JSON lines: the output is the reference with so many of its words replaced."""
    draw = random.Random(seed)
    for i in range(n):
        words = random.Random(i).choices(WORDS, k=8)
        output = [draw.choice(WORDS) if draw.random() < changed else word for word in words]
        row = {"id": i, "prompt": f"question {i}?", "output": " ".join(output), "references": [" ".join(words)]}
        yield json.dumps(row) + "\n"


def measure(folder: Path, n: int) -> dict[str, Report]:
    """The measurements of each command for so many rows."""
    file, own = folder / f"{n}.json", folder / str(n)
    found: dict[str, Report] = json.loads(file.read_text()) if file.exists() else {}
    own.mkdir(parents=True, exist_ok=True)
    for name, changed, seed in (("one", 0.3, 1), ("two", 0.35, 2)):
        (own / f"{name}.jsonl").write_text("".join(rows_of(n, changed, seed)), encoding="utf-8")
    for name, command in COMMANDS.items():
        if name not in found:
            found[name] = run_process([sys.executable, "-m", "alignbench", *command], HERE.parent, own)
            del found[name]["output"]
            file.write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the files, the runs and the measurements")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    args = parser.parse_args()
    print(machine(), flush=True)
    found = {n: measure(args.folder.resolve(), n) for n in sorted(args.rows)}
    rows, checks = [], {}
    for name in SECONDS:
        cpu = {n: own[name]["cpu_seconds"] for n, own in found.items()}
        costs = [1000 * (cpu[more] - cpu[few]) / (more - few) for few, more in pairwise(cpu)]
        for (n, own), each in zip(found.items(), ["–", *(f"{cost:.2f}" for cost in costs)], strict=True):
            seconds, mib = own[name]["seconds"], own[name]["peak_mib"]
            cells = {"seconds": f"{seconds:.1f}", "CPU seconds": f"{cpu[n]:.1f}", "peak MiB": f"{mib:.0f}"}
            rows.append({"command": name, "rows": f"{n:,}"} | cells | {"CPU ms per additional row": each})
            if n == 100_000:
                checks[f"{name}: {SECONDS[name]} CPU seconds, {MIB} MiB"] = cpu[n] <= SECONDS[name] and mib <= MIB
        checks[f"{name}: grows linearly"] = all(later <= GROWTH * cost for cost, later in pairwise(costs))
    print_table(rows)
    sys.exit(not print_checks(checks))


if __name__ == "__main__":
    main()
