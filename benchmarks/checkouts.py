"""Two checkouts of alignbench, before and after a change: equal results, then seconds and peak memory of commands.

    python benchmarks/checkouts.py BEFORE [AFTER] --model DIR --data DIR [--demo DIR] [--cases …] [--rounds 3]

Each run is a fresh process of one thread with the checkout as PYTHONPATH; the two take turns. The commands are those of
a user, so imports and loading are part of the times. Exit status 1: a number differs by more than 5e-4 of itself.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness import HERE, Report, arguments, interleave, machine, medians, print_checks, print_table, run_process

CASES = ("truthfulqa_16", "hellaswag_48", "rtp", "ppo", "sft", "diversity_10000", "report")
STORIES = [f"Once upon a time there was a {who} who" for who in ("dog", "cat", "girl", "boy", "bird", "frog", "king")]


def command(case: str, folder: Path, args: Any) -> list[object]:
    """The arguments of `alignbench` for a case, after its input files are written into the folder."""
    evaluate = ["evaluate", args.model, "--data-dir", args.data, "--dtype", "float32", "--out", "runs", "--json"]
    train = ["train", case, f"model={args.model}", "out=run", "cpu=true", "trackers=[]"]
    if case == "truthfulqa_16":
        return [*evaluate, "--tasks", "truthfulqa_mc", "--limit", 16]
    if case == "hellaswag_48":
        return [*evaluate, "--tasks", "hellaswag", "--limit", 48]
    if case == "rtp":
        return [*evaluate, "--tasks", "real_toxicity", "--limit", 4, "--scorer", "toxicity=alt-profanity-check"]
    if case == "report":
        return ["report", args.demo, "--out", "report"]
    if case == "diversity_10000":
        from diversity import make_texts

        for name, seed in (("one", 0), ("two", 1)):
            rows = [{"id": str(i), "output": text} for i, text in enumerate(make_texts(10_000, seed))]
            write_rows(folder / f"{name}.jsonl", rows)
        return ["diversity", "one.jsonl", "two.jsonl", "--json"]
    rows = [{"prompt": story, "response": f" lived in {place}."} for story in STORIES for place in ("a house", "Rome")]
    write_rows(folder / "rows.jsonl", rows * 4)
    if case == "sft":
        return [*train, "data=rows.jsonl", "epochs=2", "batch=28"]
    (folder / "length.py").write_text("def score(prompts, responses): return [len(r) / 100 for r in responses]\n")
    sizes = ("episodes=192", "batch=64", "minibatch=16", "max_tokens=32")
    return [*train, "prompts=rows.jsonl", "reward=length:score", *sizes]


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(case: str, checkout: Path, args: Any, number: int) -> Report:
    """One run of the command: its times, memory and numbers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = run_process([sys.executable, "-m", "alignbench", *command(case, folder, args)], checkout, folder)
        output = found.pop("output")
        if case in ("ppo", "sft"):
            found["numbers"] = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        elif case == "report":
            found["numbers"] = {"figures": len(list((folder / "report").rglob("*.svg")))}
        else:
            found["numbers"] = json.loads(output)
    print(f"  {checkout}, run {number + 1}: {found['seconds']:.2f} s", flush=True)
    return found


def numbers_of(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a JSON value, by their path."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_of(inner, f"{path}/{name}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def same(before: Any, after: Any) -> bool:
    one, other = dict(numbers_of(before)), dict(numbers_of(after))
    shared = one.keys() & other.keys()
    return bool(shared) and all(math.isclose(one[k], other[k], rel_tol=5e-4, abs_tol=5e-5) for k in shared)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=HERE.parent)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--demo", type=Path, help="folder of a finished demo, for the case report")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for name in ("model", "data", "demo"):
        if value := getattr(args, name):
            setattr(args, name, value.resolve())
    print(machine(), flush=True)
    rows, passed = [], True
    for case in [own for own in args.cases if own != "report" or args.demo]:
        print(case, flush=True)
        sides = {name: partial(measure, case, getattr(args, name).resolve(), args) for name in ("before", "after")}
        runs = list(interleave(sides, args.rounds))
        passed &= print_checks({"the same numbers": same(runs[0]["before"]["numbers"], runs[0]["after"]["numbers"])})
        before, after = (medians([run[side] for run in runs], "seconds", "cpu_seconds", "peak_mib") for side in sides)
        headers = {"seconds": "seconds: before, after", "cpu_seconds": "CPU seconds", "peak_mib": "peak MiB"}
        cells = {header: f"{before[name]:.1f}, {after[name]:.1f}" for name, header in headers.items()}
        rows.append({"case": case} | cells | {"after ÷ before": f"{after['seconds'] / before['seconds']:.2f}"})
    print_table(rows)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
