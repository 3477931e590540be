"""Results of the demo over several seeds, each with its own world and models: mean and 95 % t interval over seeds.

Run with `python benchmarks/demo.py --seeds 0,1,2 --out DIR`."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from scipy.stats import t

from alignbench.models.checkpoint import find_checkpoint

MODELS = ("base", "sft", "ppo", "ppo-ptx")
PAIRS = (("sft", "base"), ("ppo", "sft"), ("ppo-ptx", "sft"), ("ppo-ptx", "ppo"))
WIN_RATE = ("win_rate", "win_rate")
ROWS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
MEASURES = {(task, metric): (meaning, better) for task, metric, meaning, better in ROWS}


def results_of(demo: Path) -> pd.DataFrame:
    """Overall metrics by (task, metric), one column per model; runs of other weights are ignored."""
    found: dict[str, dict[tuple[str, str], float]] = {model: {} for model in MODELS}
    weights = {model: find_checkpoint(str(demo / model / "final")).weights_sha256 for model in MODELS}
    for file in sorted(demo.glob("runs/*/*/result.json")):
        model = json.loads((file.parent.parent / "run.json").read_text())["model"]
        result = json.loads(file.read_text())
        if weights.get(model["name"]) != model["weights_sha256"]:
            continue
        own = found[model["name"]]
        if any(task == result["task"] for task, _ in own):
            raise SystemExit(f"{file}: a second result of {result['task']} for {model['name']}")
        own |= {(result["task"], m["metric"]): m["value"] for m in result["metrics"] if m["category"] is None}
    return pd.DataFrame({name: pd.Series(own) for name, own in found.items()}, MEASURES.keys(), MODELS).astype(float)


def differences(levels: pd.DataFrame) -> pd.DataFrame:
    """Differences between models; of win rates, half of the comparison with SFT, the only one that exists."""
    found = pd.DataFrame({f"{a} − {b}": levels[a] - levels[b] for a, b in PAIRS})
    won = levels.loc[[WIN_RATE]].squeeze()
    found.loc[[WIN_RATE]] = [[0.5 - won["base"], won["ppo"] - 0.5, won["ppo-ptx"] - 0.5, math.nan]]
    return found


def times_of(demo: Path) -> pd.DataFrame:
    """Seconds and CPU seconds of the last run of each stage, and their sum."""
    times = pd.read_json(demo / "logs" / "times.jsonl", lines=True).groupby("stage", sort=False).last()
    times = times[["seconds", "cpu_seconds"]].astype(float)
    times.loc["sum of all stages"] = times.sum()
    return times


def wall_of(demo: Path) -> float:
    """Seconds of the whole demo; NaN if it was interrupted, or if stages were run again."""
    file = demo / "logs" / "goes.jsonl"
    goes = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return float(goes[0]["seconds"]) if len(goes) == 1 and goes[0]["finished"] else math.nan


def reward_accuracy(demo: Path) -> float:
    """Accuracy of the reward model on held-out pairs."""
    return float(pd.read_json(demo / "reward" / "metrics.jsonl", lines=True)["accuracy"].dropna().iloc[-1])


def interval(values: list[float], digits: int) -> str:
    """Mean ± half of the 95 % t interval, or the mean of one seed; with n if some seeds have no number."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return "–"
    few = f" (n = {len(known)})" if len(known) < len(values) else ""
    half = f" ± {t.ppf(0.975, len(known) - 1) * known.sem():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{half}{few}"


def rows(frames: list[pd.DataFrame], names: dict[object, str], digits: dict[object, int]) -> list[str]:
    """Markdown rows of the intervals over the seeds' frames; digits: by index, default 3."""
    index = dict.fromkeys(key for frame in frames for key in frame.index)
    found = []
    for key in index:
        columns = [[frame[c].get(key, math.nan) for frame in frames] for c in frames[0].columns]
        cells = [interval(values, digits.get(key, 3)) for values in columns]
        found.append(f"| {names.get(key, key)} | " + " | ".join(cells) + " |")
    return found


def tables(demos: list[Path]) -> str:
    """Markdown: levels of each model, differences within a seed, times of each stage."""
    levels = [results_of(demo) for demo in demos]
    digits = {key: 1 if key[1] in ("bleu", "self_bleu") else 3 for key in MEASURES}
    names = {key: " | ".join(measure) for key, measure in MEASURES.items()}
    lines = [f"{len(demos)} seeds; mean ± 95 % t interval over seeds.", ""]
    lines += [f"| | better | {' | '.join(MODELS)} |", "|---|---|" + "---|" * len(MODELS), *rows(levels, names, digits)]
    changes, named = [differences(frame) for frame in levels], names | {WIN_RATE: "win rate − 0.5 | higher"}
    lines += ["", "Differences within a seed.", "", f"| | better | {' | '.join(changes[0].columns)} |"]
    lines += ["|---|---|" + "---|" * len(PAIRS), *rows(changes, named, digits)]
    lines += ["", f"Reward model, held-out pairs: accuracy {interval([reward_accuracy(demo) for demo in demos], 3)}."]
    times = [times_of(demo) for demo in demos]
    whole = dict.fromkeys((key for frame in times for key in frame.index), 0)
    lines += ["", "| stage | seconds | CPU seconds |", "|---|---|---|", *rows(times, {}, whole)]
    lines.append(f"| the whole demo, stages side by side | {interval([wall_of(demo) for demo in demos], 0)} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas")
    parser.add_argument("--out", type=Path, required=True, help="folder: seed-N/ is a demo, demo.md the table")
    given = parser.parse_args()
    demos = []
    for seed in map(int, given.seeds.split(",")):
        demos.append(given.out / f"seed-{seed}")
        command = [sys.executable, "-m", "alignbench", "demo", "--out", str(demos[-1]), "--seed", str(seed)]
        subprocess.run(command, check=True)
    (given.out / "demo.md").write_text(tables(demos), encoding="utf-8")
    print((given.out / "demo.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
