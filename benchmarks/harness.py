"""What the benchmarks share: fresh processes of one thread, interleaved runs, medians, checks, tables, the machine.

The Python environments of the peers import it too, so it needs the standard library only, and torch where a function
says so.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
LM_EVAL = "0.4.13"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
ONE_THREAD |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
Report = dict[str, Any]
T = TypeVar("T")


def arguments(description: str | None) -> ArgumentParser:
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


# Starting measurements


def machine() -> Report:
    """The processor, its cores, and the load before any measurement."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return {"processor": name, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def run_process(command: Sequence[object], path: Path | None = None, cwd: Path | None = None) -> Report:
    """Run a command in a fresh process of one thread: seconds, CPU seconds, peak MiB, standard output.

    path: the PYTHONPATH, such as a checkout; None: none, as for a peer's environment
    Exits with the end of its messages if it fails.
    """
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(path or "")}
    load, started = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=messages
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            messages.seek(0)
            said = (output + messages.read())[-4000:]
            sys.exit(f"{' '.join(map(str, command))}\nfailed ({process.returncode}):\n{said}")
    seconds = {"seconds": time.perf_counter() - started, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return seconds | {"peak_mib": usage.ru_maxrss / 2**10, "load_before": load, "output": output}


def run_side(args: Namespace, script: str, side: str, folder: Path, **options: Any) -> Any:
    """Run `script SIDE --OPTION VALUE …` in a fresh process, lm_eval's in its environment; the JSON that it writes."""
    peer, output = side == "lm_eval", folder / "report.json"
    output.unlink(missing_ok=True)
    options = {"case": folder, "output": output, "model": args.model.resolve(), "dtype": args.dtype} | options
    command: list[object] = [args.peer_python if peer else sys.executable, HERE / script, side]
    for name, value in ({"started": time.monotonic()} | options).items():
        command += [f"--{name}", value] if value is not None else []
    process = run_process(command, None if peer else HERE.parent)
    report = json.loads(output.read_text(encoding="utf-8"))
    if isinstance(report, dict) and "seconds" in report:
        report["load_before"] = process["load_before"]
        print(f"  {side} {options.get('way') or ''}: {report['seconds']} s", flush=True)
    return report


def interleave(sides: Mapping[str, Callable[[int], T]], rounds: int) -> Iterable[dict[str, T]]:
    """One result per side and round. Each side comes first in its turn, so a slow drift of the machine affects all."""
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        found = {name: sides[name](number) for name in names[first:] + names[:first]}
        yield {name: found[name] for name in names}


def compare_sides(
    run: Callable[..., Report], ways: Mapping[str, Sequence[str]], pairs: int, compare: Callable[..., Report]
) -> tuple[Report, dict[str, list[Report]]]:
    """The fastest way to run each peer, interleaved runs, and equality after each. Stops if the sides do not agree.

    run: (side, number, way=) -> report; ways: peer -> its ways; compare: (our report, peer -> report) -> equality
    """
    tried = {side: {way: run(side, way=way) for way in of if len(of) > 1} for side, of in ways.items()}
    times = {side: {way: report["seconds"] for way, report in of.items()} for side, of in tried.items()}
    best = {side: min(times[side] or of[:1], key=times[side].get) for side, of in ways.items() if of}
    sides = {side: partial(run, side, way=best.get(side)) for side in ("ours", *best)}
    rounds, equality = list[dict[str, Report]](), list[Report]()
    others = {f"{side} {way}": r for side, of in tried.items() for way, r in of.items() if way != best[side]}
    for runs in interleave(sides, pairs):
        rounds.append(runs)
        peers = {side: runs[side] for side in best} | others
        found = compare(runs["ours"], peers)
        found["passed"], others = all(found["checks"].values()), {}  # the other ways are compared once
        equality.append(found)
        if len(rounds) == 1 or not found["passed"]:
            print_equality(found)
        if not found["passed"]:
            break
    summary = {"passed": equality[-1]["passed"], "equality": equality, "ways": best, "seconds_by_way": times}
    return summary, {side: [runs[side] for runs in rounds] for side in sides}


def peer_arguments(description: str | None, cases: Iterable[str]) -> ArgumentParser:
    """Arguments of a benchmark that compares with a peer."""
    parser = arguments(description)
    parser.add_argument("cases", nargs="+", choices=list(cases), metavar="case", help=", ".join(cases))
    parser.add_argument("--peer-python", required=True, help="Python of the environment that has the peer")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side (default: %(default)s)")
    return parser


def lm_eval_arguments(description: str | None, cases: Iterable[str]) -> ArgumentParser:
    parser = peer_arguments(description, cases)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--number", type=int, help="documents or prompts, instead of the case's own number")
    parser.add_argument("--seed", type=int, default=0, help="for samples of documents (default: %(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="of lm-eval: tried first, the fastest is kept")
    return parser


def run_cases(args: Namespace, run_case: Callable[[str, Path, Namespace], Report]) -> Report:
    """The results of all cases, written after each one. Exits with status 1 if the sides of one do not agree."""
    settings = {name: value for name, value in vars(args).items() if isinstance(value, str | int | float | list)}
    results: Report = {"settings": settings, "machine": machine(), "cases": {}}
    for name in args.cases:
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results["cases"][name] = case = run_case(name, Path(folder), args)
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if not case["passed"]:
            sys.exit(1)
    return results


def find_lm_eval(python: str) -> Path:
    """The folder of the task files of the environment's lm-eval, whose version must be LM_EVAL."""
    program = (
        "import importlib.metadata as m, importlib.util as u; "
        "print(m.version('lm-eval')); print(u.find_spec('lm_eval').submodule_search_locations[0])"
    )
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    found, folder = done.stdout.splitlines()
    if found != LM_EVAL:
        sys.exit(f"{python} has lm-eval {found}, not {LM_EVAL}")
    return Path(folder) / "tasks"


# In a measured process


def run_sides(description: str | None, sides: Mapping[str, Callable[[Namespace], None]], way: str) -> None:
    """Run the side that the arguments name, on one thread."""
    import torch

    parser = arguments(description)
    parser.add_argument("side", choices=list(sides))
    parser.add_argument("--case", type=Path, required=True, help="folder that the benchmark has written")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", help=way)
    parser.add_argument("--choices", type=int, help="choices to score in fp64")
    parser.add_argument("--started", type=float, default=time.monotonic(), help="the clock when the process started")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sides[args.side](args)


def load_ours(args: Namespace) -> tuple[Any, Report]:
    """alignbench's engine, and the part of the report that identifies it."""
    from alignbench.models.checkpoint import find_checkpoint
    from alignbench.models.load import load_engine

    notes: list[str] = []
    checkpoint = find_checkpoint(args.model)
    engine = load_engine(checkpoint, dtype=args.dtype, device="cpu", notify=notes.append)
    return engine, {"notes": notes, "model": checkpoint.name, "weights_sha256": checkpoint.weights_sha256}


@contextmanager
def timed(args: Namespace, model: Any) -> Iterator[Report]:
    """Seconds of the `with` block, and of the process until its end; without a forward of 8 tokens before it."""
    import torch

    before, report = time.perf_counter(), Report()
    with torch.inference_mode():
        model(torch.arange(1, 9)[None])
    started = time.perf_counter()
    yield report
    report["seconds"] = time.perf_counter() - started
    report["whole_seconds"] = time.monotonic() - args.started - (started - before)


def measure_gflops(model: Any) -> float:
    """GFLOP/s of 512 rows times the model's own MLP up-projection, on one thread: the best of 7."""
    import torch

    width = model.config.intermediate_size
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    weight = next(layer.weight for layer in layers if layer.out_features == width).detach()
    rows, best = torch.randn(512, weight.shape[1], dtype=weight.dtype), float("inf")
    for _ in range(8):  # the first one does not count
        started = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        best = min(best, time.perf_counter() - started)
    return 2 * len(rows) * weight.numel() / best / 1e9


def write_report(args: Namespace, report: Any, model: Any = None) -> None:
    """Write the JSON of a side; with a model, also peak memory, threads and the processor's rate."""
    if model is not None:
        import torch

        report |= {"peak_gib": peak_mib() / 2**10, "threads": torch.get_num_threads(), "gflops": measure_gflops(model)}
    args.output.write_text(json.dumps(report), encoding="utf-8")


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


# Results


def medians(reports: Sequence[Report], *names: str) -> Report:
    """The median of each number over the runs, and all of them as all_NAME."""
    found: Report = {}
    for name in names:
        if name in reports[0]:
            found |= {name: median(r[name] for r in reports), f"all_{name}": [r[name] for r in reports]}
    return found


def print_checks(checks: Mapping[str, bool]) -> bool:
    """Print the checks of equality; true if all hold."""
    for check, passed in checks.items():
        print(f"  {'ok    ' if passed else 'FAILED'} {check}", flush=True)
    return all(checks.values())


def print_equality(equality: Report) -> None:
    print_checks(equality["checks"])
    for line in equality["lines"]:
        print(f"  {line}", flush=True)


def print_table(rows: Iterable[Mapping[str, object]]) -> None:
    """A Markdown table of rows that map its header to their cells, printed as they come."""
    for number, row in enumerate(rows):
        if not number:
            print("\n| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
