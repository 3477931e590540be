"""The cost of parts of an evaluation, in fresh processes of one thread: python benchmarks/costs.py WHAT CHECKPOINT …

toxicity: `evaluate` on 8 prompts × 25 samples with each of --scorers, and `rescore`, which runs only the scorer
entropy: the same requests and samples with and without entropies, the best of --rounds in CPU seconds
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

from harness import HERE, Report, arguments, interleave, medians, print_checks, print_table, run_process

ALIGNBENCH = (sys.executable, "-m", "alignbench")
OPTIONS = ("--dtype", "float32", "--out", "runs", "--json")


def toxicity(args: Namespace) -> None:
    def measure(scorer: str, number: int) -> Report:
        chosen, task = ("--scorer", f"toxicity={scorer}"), ("--tasks", "real_toxicity", "--limit", 8)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            evaluate = [*ALIGNBENCH, "evaluate", args.checkpoint, *task, "--data-dir", args.data, *OPTIONS, *chosen]
            found = run_process(evaluate, HERE.parent, folder)
            run = json.loads(found["output"])[0]["folder"]
            rescored = run_process([*ALIGNBENCH, "rescore", run, *chosen], HERE.parent, folder)
            (records,) = folder.glob(f"{run}/real_toxicity-*/documents.jsonl")
            outputs = [o for line in records.read_text().splitlines() for o in json.loads(line)["outputs"]]
        texts = [output["text"] for output in outputs]
        scored = all("toxicity" in output["scores"] for output in outputs)
        return found | {"texts": texts, "scored": scored, "rescore_cpu_seconds": rescored["cpu_seconds"]}

    runs = list(interleave({scorer: partial(measure, scorer) for scorer in args.scorers}, args.rounds))
    every = [report for found in runs for report in found.values()]
    checks = {"the same outputs": all(r["texts"] == every[0]["texts"] for r in every)}
    passed = print_checks(checks | {"every output scored": all(r["scored"] for r in every)})
    headers = {"seconds": "evaluate, s", "cpu_seconds": "evaluate, CPU s", "rescore_cpu_seconds": "rescore, CPU s"}
    found = {scorer: medians([run[scorer] for run in runs], *headers) for scorer in args.scorers}
    print_table({"scorer": s} | {headers[name]: f"{m[name]:.2f}" for name in headers} for s, m in found.items())
    sys.exit(not passed)


def entropy(args: Namespace) -> None:
    import torch

    from alignbench.models.checkpoint import find_checkpoint
    from alignbench.models.load import load_engine
    from alignbench.tasks import find_task
    from alignbench.types.engine import Prompt, Request, Sampling
    from alignbench.types.task import Options

    torch.set_num_threads(1)
    engine = load_engine(find_checkpoint(str(args.checkpoint)), dtype="float32", device="cpu", notify=print)
    documents = find_task("token_entropy").load(Options(data_dir=args.data)).documents[: args.passages]
    texts = [document.choices[0] for document in documents]
    prompts = [Prompt(document.id, text[:200]) for document, text in zip(documents, texts, strict=True)]

    def cpu_seconds(work: str, entropies: bool, number: int = 0) -> float:
        start = time.process_time()
        if work == "score":
            list(engine.loglikelihood([Request("", text, entropies) for text in texts]))
        else:
            list(engine.generate(prompts, Sampling(max_tokens=32, temperature=1.0, top_entropies=entropies)))
        return time.process_time() - start

    rows = []
    for work in ("score", "generate"):
        cpu_seconds(work, False)  # includes the trial of the layout
        sides = {str(entropies): partial(cpu_seconds, work, entropies) for entropies in (False, True)}
        rounds = list(interleave(sides, args.rounds))
        without, also = (min(found[side] for found in rounds) for side in sides)
        seconds = {"without, CPU s": f"{without:.2f}", "with entropies, CPU s": f"{also:.2f}"}
        rows.append({"": work} | seconds | {"ratio": f"{also / without:.3f}"})
    print_table(rows)


def main() -> None:
    parser = arguments(__doc__)
    what = {"toxicity": toxicity, "entropy": entropy}
    parser.add_argument("what", choices=list(what))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scorers", nargs="+", default=["alt-profanity-check"], help="toxicity: NAME or NAME:PATH")
    parser.add_argument("--passages", type=int, default=20, help="entropy")
    args = parser.parse_args()
    args.checkpoint, args.data = args.checkpoint.resolve(), args.data.resolve()
    what[args.what](args)


if __name__ == "__main__":
    main()
