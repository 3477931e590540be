"""Train the same model on the same data with our trainers and with TRL: whether the losses agree, how fast, how much
memory.

Each measurement is a fresh process of one thread (training_ours.py, training_peer.py); the sides take turns. The first
update of a process is left out of the times, since it warms caches up. README.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from scoring import describe_machine

HERE = Path(__file__).resolve().parent
CASES = ("ppo", "reward_k4", "reward_k9", "sft")
TOLERANCE = {False: 1e-4, True: 2e-2}  # relative, of the first loss: fp32 and bf16


def measure(python: str, script: str, case: str, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [python, str(HERE / script), case, "--inputs", str(args.inputs), "--out", str(out)]
        command += ["--updates", str(args.updates)] + ["--bf16"] * args.bf16
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{script} {case} failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def run_case(case: str, args: argparse.Namespace) -> dict[str, Any]:
    ours, peer = [], []
    for number in range(args.pairs):
        peer.append(measure(args.peer_python, "training_peer.py", case, args))
        ours.append(measure(sys.executable, "training_ours.py", case, args))
        print(f"{case} pair {number + 1}: TRL {peer[-1]['seconds']}, ours {ours[-1]['seconds']}", file=sys.stderr)
    steady = [[second for run in runs for second in run["seconds"][1:]] for runs in (peer, ours)]
    seconds = [median(times) for times in steady]
    memory = [median(run["peak_rss_mib"] for run in runs) for runs in (peer, ours)]
    losses = [runs[0]["losses"][0] for runs in (peer, ours)]
    found = {
        "trl_seconds": seconds[0], "our_seconds": seconds[1], "ratio": seconds[0] / seconds[1],
        "trl_mib": memory[0], "our_mib": memory[1], "memory_ratio": memory[1] / memory[0],
        "trl_first_loss": losses[0], "our_first_loss": losses[1], "runs": {"trl": peer, "ours": ours},
    }  # fmt: skip
    if case != "ppo":  # which samples, so its losses are of other texts
        found["equal"] = abs(losses[0] - losses[1]) <= TOLERANCE[args.bf16] * abs(losses[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="case", help=", ".join(CASES))
    parser.add_argument("--inputs", type=Path, required=True, help="folder that training_cases.py has written")
    parser.add_argument("--peer-python", required=True, help="Python of the environment that holds TRL 1.12.0")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--updates", type=int, default=3, help="of each process, the first of which is left out")
    args = parser.parse_args()
    results: dict[str, Any] = {"bf16": args.bf16, "machine": describe_machine(), "cases": {}}
    for case in args.cases:
        found = results["cases"][case] = run_case(case, args)
        args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(
            f"{case}: TRL {found['trl_seconds']:.2f} s, ours {found['our_seconds']:.2f} s, {found['ratio']:.2f}x; "
            f"memory {found['trl_mib']:.0f} and {found['our_mib']:.0f} MiB, {found['memory_ratio']:.2f}x; "
            f"first losses {found['trl_first_loss']:.6f} and {found['our_first_loss']:.6f}"
        )
        if not found.get("equal", True):
            sys.exit(f"{case}: the first losses differ")


if __name__ == "__main__":
    main()
