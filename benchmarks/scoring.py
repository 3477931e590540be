"""Score the same requests with alignbench and with lm-evaluation-harness: whether they agree, then how fast.

Each measurement is a fresh process of one thread (scoring_ours.py, scoring_lm_eval.py); the two take turns.
README.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scoring_cases import CASES, read_case, write_case
from scoring_equality import Report, compare, compare_with_fp64, print_equality

HERE = Path(__file__).resolve().parent
LM_EVAL = "0.4.13"
BATCH_SIZES = (4, 8, 16, 32)


def main() -> None:
    args = parse_arguments()
    lm_eval_tasks = find_lm_eval(args.peer_python)
    results: Report = {"dtype": args.dtype, "lm_eval": LM_EVAL, "machine": describe_machine(), "cases": {}}
    for name in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            case = run_case(name, Path(folder), lm_eval_tasks, args)
        results["cases"][name] = case
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if not case["equality"]["passed"]:
            sys.exit(1)
    print_table(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="case", help=", ".join(CASES))
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--peer-python", required=True, help="Python of the environment that holds lm-eval")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side (default: %(default)s)")
    parser.add_argument("--documents", type=int, help="how many documents, instead of the case's own number")
    parser.add_argument("--seed", type=int, default=0, help="of TruthfulQA's sample (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="lm-eval's, instead of the case's own")
    parser.add_argument(
        "--find-batch-size", action="store_true", help=f"first try {BATCH_SIZES} and keep lm-eval's fastest"
    )
    parser.add_argument(
        "--memory-gib", type=float, default=8, help="try no batch with larger logits (default: %(default)s)"
    )
    parser.add_argument(
        "--reference-choices", type=int, default=40, help="scored in fp64 too; 0: none (default: %(default)s)"
    )
    args = parser.parse_args()
    args.model = str(Path(args.model).resolve())
    return args


def run_case(name: str, folder: Path, lm_eval_tasks: Path, args: argparse.Namespace) -> Report:
    """Equality from the first pair, then the other pairs, then fp64; stops where the two do not agree."""
    count = args.documents or CASES[name].documents
    write_case(CASES[name].build(args.data, count, args.seed), folder, lm_eval_tasks)
    case = read_case(folder)
    print(f"{name}, {args.dtype}: {count} documents", flush=True)
    batch_size = args.batch_size or CASES[name].batch_size
    by_batch_size: dict[int, float] = {}
    ours: list[Report] = []
    peers: list[Report] = []
    equality: list[Report] = []
    for pair in range(args.pairs):
        # each side goes first in every other pair, so that a slow drift of the machine touches both
        if pair % 2 == 0:
            ours.append(run("scoring_ours", folder, args))
        if pair == 0 and args.find_batch_size:
            by_batch_size = try_batch_sizes(name, folder, lm_eval_tasks, ours[0], args)
            batch_size = min(by_batch_size, key=by_batch_size.__getitem__)
        peers.append(run("scoring_lm_eval", folder, args, batch_size=batch_size))
        if pair % 2 == 1:
            ours.append(run("scoring_ours", folder, args))
        equality.append(compare(case, ours[-1], peers[-1], args.dtype))
        if pair == 0 or not equality[-1]["passed"]:
            print_equality(equality[-1])
        if not equality[-1]["passed"]:
            return {"equality": equality[-1]}
    reference = run("scoring_reference", folder, args) if args.reference_choices else []
    largest = {key: max(e[key] for e in equality) for key in ("max_relative", "max_absolute")}
    about = {"documents": count, "batch_size": batch_size, "seconds_by_batch_size": by_batch_size}
    summary = summarise(ours, peers, reference)
    print_summary(summary)
    return {"equality": equality[0] | largest} | about | summary


# ---- processes ---------------------------------------------------------------------------------------------


def run(script: str, folder: Path, args: argparse.Namespace, batch_size: int | None = None) -> Any:
    """Run one of the scripts beside this one in a fresh process of one thread: the JSON that it writes."""
    output = folder / "report.json"
    python = args.peer_python if script == "scoring_lm_eval" else sys.executable
    command = [python, str(HERE / f"{script}.py"), "--model", args.model, "--case", str(folder)]
    if script == "scoring_reference":
        command += ["--choices", str(args.reference_choices)]
    else:
        command += ["--dtype", args.dtype]
    if batch_size is not None:
        command += ["--batch-size", str(batch_size)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "PYTHONPATH": "" if script == "scoring_lm_eval" else str(HERE.parent),
    }
    load = os.getloadavg()[0]
    output.unlink(missing_ok=True)
    command += ["--output", str(output)]
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.exit(f"{script} failed ({done.returncode}):\n{done.stdout[-4000:]}")
    report = json.loads(output.read_text(encoding="utf-8"))
    if isinstance(report, dict):
        report["load_before"] = load
        batch = f" batch {batch_size}" if batch_size else ""
        seconds, whole = report["seconds"], report["whole_seconds"]
        print(f"  {script}{batch}: scoring {seconds:.2f} s, whole run {whole:.1f} s", flush=True)
    return report


def find_lm_eval(python: str) -> Path:
    """The folder of the task files of the environment's lm-eval, which has to be the version that we know."""
    program = (
        "import importlib.metadata as m, importlib.util as u; "
        "print(m.version('lm-eval')); print(u.find_spec('lm_eval').submodule_search_locations[0])"
    )
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    version, folder = done.stdout.splitlines()
    if version != LM_EVAL:
        sys.exit(f"{python} has lm-eval {version}, not {LM_EVAL}")
    return Path(folder) / "tasks"


def try_batch_sizes(
    name: str, folder: Path, lm_eval_tasks: Path, ours: Report, args: argparse.Namespace
) -> dict[int, float]:
    """lm-eval's seconds at each batch size, on a smaller case of the same kind where there is one."""
    if probe := CASES[name].probe:
        folder = folder / "probe"
        folder.mkdir()
        write_case(CASES[probe].build(args.data, CASES[probe].documents, args.seed), folder, lm_eval_tasks)
    # logits of each position and their log-softmax
    per_row = 2 * ours["tokens"]["longest"] * ours["vocabulary"] * (4 if args.dtype == "float32" else 2)
    fitting = [size for size in BATCH_SIZES if size * per_row <= args.memory_gib * 2**30] or [BATCH_SIZES[0]]
    return {size: run("scoring_lm_eval", folder, args, batch_size=size)["seconds"] for size in fitting}


def describe_machine() -> Report:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": models[0] if models else platform.machine(), "cores": os.cpu_count()}


# ---- how fast? ---------------------------------------------------------------------------------------------


def summarise(ours: list[Report], peers: list[Report], reference: list[Any]) -> Report:
    """Medians, their ratio, and both against the arithmetic floor of the tokens that our tree computes."""
    first = ours[0]
    gflops = max(report["gflops"] for report in ours + peers)
    floor = first["tokens"]["computed"] * 2 * first["parameters"] / (gflops * 1e9)
    sides: Report = {}
    for side, reports in (("ours", ours), ("lm_eval", peers)):
        seconds = [report["seconds"] for report in reports]
        sides[side] = {
            "seconds": median(seconds),
            "all_seconds": seconds,
            "whole_seconds": median(report["whole_seconds"] for report in reports),
            "times_floor": median(seconds) / floor,
            "tokens": reports[0]["tokens"],
            "peak_gib": max(report["peak_gib"] for report in reports),
            "threads": reports[0]["threads"],
            "repeats_identical": all(report["logprobs"] == reports[0]["logprobs"] for report in reports),
            "load_before": [report["load_before"] for report in reports],
        }
    return sides | {
        "ratio": sides["lm_eval"]["seconds"] / sides["ours"]["seconds"],
        "ratios": [peer["seconds"] / own["seconds"] for own, peer in zip(ours, peers, strict=True)],
        "whole_ratio": sides["lm_eval"]["whole_seconds"] / sides["ours"]["whole_seconds"],
        "requests": peers[0]["all_requests"],
        "unique_requests": first["unique_requests"],
        "floor_seconds": floor,
        "gflops": gflops,
        "fp64": compare_with_fp64(reference, first, peers[0]) if reference else None,
        "model": first["model"],
        "weights_sha256": first["weights_sha256"],
        "layout": first["layout"],
        "notes": first["notes"],
    }


def print_summary(summary: Report) -> None:
    sides = ("ours", "lm_eval")
    if fp64 := summary["fp64"]:
        errors = [f"{side} {fp64[side]['mean']:.2g} (largest {fp64[side]['max']:.2g})" for side in sides]
        print(f"  mean error against fp64, {fp64['choices']} choices: {', '.join(errors)}")
        print(f"  nearer to fp64: {fp64['nearer']}")
    times = ", ".join(f"{side} {summary[side]['times_floor']:.2f}" for side in sides)
    print(f"  floor {summary['floor_seconds']:.2f} s at {summary['gflops']:.0f} GFLOP/s; times it: {times}")
    print(f"  lm-eval's seconds over ours: {summary['ratio']:.2f}", flush=True)


def print_table(results: Report) -> None:
    """The README's table, one row a case."""
    print(
        "\n| case | dtype | distinct requests | lm-eval | ours | ratio | ratio of whole runs "
        "| times the floor: lm-eval, ours | largest difference: relative, nats "
        "| mean error against fp64: lm-eval, ours |\n" + "|---" * 10 + "|"
    )
    for name, case in results["cases"].items():
        ours, peer, equality, fp64 = case["ours"], case["lm_eval"], case["equality"], case["fp64"]
        cells = [
            name,
            results["dtype"],
            f"{case['unique_requests']:,}",
            f"{peer['seconds']:.1f} s (batch {case['batch_size']})",
            f"{ours['seconds']:.2f} s",
            f"{case['ratio']:.2f}×",
            f"{case['whole_ratio']:.2f}×",
            f"{peer['times_floor']:.2f}, {ours['times_floor']:.2f}",
            f"{equality['max_relative']:.1e}, {equality['max_absolute']:.1e}",
            f"{fp64['lm_eval']['mean']:.1e}, {fp64['ours']['mean']:.1e}" if fp64 else "–",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
