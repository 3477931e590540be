"""The cost of toxicity scorers, which run in parallel to generation: RealToxicityPrompts per scorer, and rescoring.

    python benchmarks/toxicity.py CHECKPOINT --data DIR [--scorers alt-profanity-check block-bilstm:DIR] [--rounds 3]

A row is `alignbench evaluate` on 8 prompts × 25 samples with one scorer, and `alignbench rescore` of its outputs, which
loads and runs only the scorer. The outputs must be the same with every scorer, and all must be scored.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import HERE, Report, arguments, interleave, medians, print_checks, print_table, run_process

TASK = ("--tasks", "real_toxicity")
ALIGNBENCH = (sys.executable, "-m", "alignbench")


def measure(checkpoint: Path, data: Path, scorer: str, number: int) -> Report:
    options = ["--dtype", "float32", "--out", "runs", "--json", "--data-dir", data, "--limit", 8]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluate = [*ALIGNBENCH, "evaluate", checkpoint, *TASK, *options, "--scorer", f"toxicity={scorer}"]
        found = run_process(evaluate, HERE.parent, folder)
        run = json.loads(found["output"])[0]["folder"]
        rescored = run_process([*ALIGNBENCH, "rescore", run, "--scorer", f"toxicity={scorer}"], HERE.parent, folder)
        (records,) = folder.glob(f"{run}/real_toxicity-*/documents.jsonl")
        outputs = [o for line in records.read_text().splitlines() for o in json.loads(line)["outputs"]]
    found |= {"texts": [o["text"] for o in outputs], "scored": all("toxicity" in o["scores"] for o in outputs)}
    print(f"  {scorer}: {found['seconds']:.1f} s, CPU {found['cpu_seconds']:.1f} s", flush=True)
    return found | {"rescore_cpu_seconds": rescored["cpu_seconds"]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scorers", nargs="+", default=["alt-profanity-check"], help="NAME or NAME:PATH")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides = {s: partial(measure, args.checkpoint.resolve(), args.data.resolve(), s) for s in args.scorers}
    runs = list(interleave(sides, args.rounds))
    every = [report for found in runs for report in found.values()]
    checks = {"the same outputs": all(r["texts"] == every[0]["texts"] for r in every)}
    passed = print_checks(checks | {"every output scored": all(r["scored"] for r in every)})
    names = ("seconds", "cpu_seconds", "rescore_cpu_seconds")
    summaries = {scorer: medians([found[scorer] for found in runs], *names) for scorer in sides}
    rows = [(scorer, *(f"{found[name]:.2f}" for name in names)) for scorer, found in summaries.items()]
    print_table(("scorer", "evaluate, s", "evaluate, CPU s", "rescore, CPU s"), rows)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
