"""Train the same model on the same data with our trainers and with TRL: equality of the losses, then speed and memory.

Each measurement is a fresh process (training_ours.py, training_trl.py), whose first update does not count.
"""

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from harness import HERE, Report, interleave, medians, peer_arguments, print_checks, print_table, run_cases, run_process
from training_cases import CASES

TOLERANCE = {False: 1e-4, True: 2e-2}  # relative, of the first loss: fp32 and bf16


def run_case(case: str, folder: Path, args: Namespace) -> Report:
    def measure(side: str, number: int) -> Report:
        out, python = folder / "out.json", args.peer_python if side == "trl" else sys.executable
        command = [python, HERE / f"training_{side}.py", case, "--inputs", args.inputs, "--out", out]
        command += ["--updates", args.updates, *["--bf16"] * args.bf16]
        run_process(command, None if side == "trl" else HERE.parent)
        found: Report = json.loads(out.read_text(encoding="utf-8"))
        print(f"  {side}: {found['seconds']}", flush=True)
        return found

    runs = list(interleave({side: partial(measure, side) for side in ("trl", "ours")}, args.pairs))
    found: Report = {"runs": runs}
    for side in ("trl", "ours"):
        updates = [{"seconds": second} for run in runs for second in run[side]["seconds"][1:]]
        found[side] = medians(updates, "seconds") | medians([run[side] for run in runs], "peak_rss_mib")
        found[side]["first_loss"] = runs[0][side]["losses"][0]
    losses = [found[side]["first_loss"] for side in ("trl", "ours")]
    equal = abs(losses[0] - losses[1]) <= TOLERANCE[args.bf16] * abs(losses[0])
    # PPO samples, so its losses are of other texts
    return found | {"passed": case == "ppo" or print_checks({f"first losses {losses}": equal})}


def main() -> None:
    parser = peer_arguments(__doc__, CASES)
    parser.add_argument("--inputs", type=Path, required=True, help="folder that training_cases.py has written")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--updates", type=int, default=3, help="per process; the first one does not count")
    print_table(row_of(*case) for case in run_cases(parser.parse_args(), run_case)["cases"].items())


def row_of(name: str, case: Report) -> dict[str, object]:
    trl, ours = case["trl"], case["ours"]
    return {
        "case": name,
        "seconds: TRL, ours": f"{trl['seconds']:.2f}, {ours['seconds']:.2f}",
        "peak MiB": f"{trl['peak_rss_mib']:.2f}, {ours['peak_rss_mib']:.2f}",
        "TRL ÷ ours, seconds": f"{trl['seconds'] / ours['seconds']:.2f}×",
        "ours ÷ TRL, MiB": f"{ours['peak_rss_mib'] / trl['peak_rss_mib']:.2f}",
        "first losses": f"{trl['first_loss']:.6f}, {ours['first_loss']:.6f}",
    }


if __name__ == "__main__":
    main()
