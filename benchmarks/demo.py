"""Results of the demo over several seeds, each with its own world and models: mean and 95 % t interval over seeds.

`python benchmarks/demo.py --seeds 0,1,2 --out DIR` runs the demos and writes demo.json beside this file. Without
--seeds, it only prints the tables of demo.json, which the README and docs/demo.md quote."""

import argparse
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from scipy.stats import t

from alignbench import __version__, compare
from alignbench.models.checkpoint import find_checkpoint

HERE = Path(__file__).parent
MODELS = ("base", "sft", "ppo", "ppo-ptx", "ppo-ptx-clean")
PAIRS = (("sft", "base"), ("ppo", "base"), ("ppo", "sft"), ("ppo-ptx", "ppo"), ("ppo-ptx-clean", "ppo-ptx"))
WIN_RATE, TAX = "win_rate.win_rate", "mean tax"
ROWS = yaml.safe_load((HERE / "demo.yaml").read_text(encoding="utf-8"))
MEASURES = {f"{row['task']}.{row['metric']}": row for row in ROWS} | {
    TAX: {"meaning": "mean tax of capabilities (% of range)", "better": "lower", "digits": 1, "readme": True}
}


def results_of(demo: Path) -> dict[str, dict[str, float]]:
    """Measure -> model -> value over all documents. Runs of other weights are ignored."""
    found: dict[str, dict[str, float]] = {key: {} for key in MEASURES}
    weights = {model: find_checkpoint(str(demo / model / "final")).weights_sha256 for model in MODELS}
    for file in sorted(demo.glob("runs/*/*/result.json")):
        model = json.loads((file.parent.parent / "run.json").read_text())["model"]
        result = json.loads(file.read_text())
        if weights.get(model["name"]) != model["weights_sha256"]:
            continue
        for metric in (m for m in result["metrics"] if m["category"] is None and m["value"] is not None):
            own = found.get(f"{result['task']}.{metric['metric']}", {})
            if own.setdefault(model["name"], metric["value"]) != metric["value"]:
                raise SystemExit(f"{file}: a second result of {result['task']} for {model['name']}")
    return found


def taxes_of(demo: Path) -> dict[str, float]:
    """Model -> mean tax of capabilities relative to the base, in percent of the metrics' ranges."""
    runs = [str(demo / name / "final") for name in MODELS]
    contrasts = compare(runs, reference="base", runs=demo / "runs").contrasts
    return {"base": 0.0} | {own.aligned: own.mean.value for own in contrasts if own.mean}


def record(demo: Path, seed: int) -> dict[str, Any]:
    """All numbers of one demo that the tables need."""
    times = pd.read_json(demo / "logs" / "times.jsonl", lines=True).groupby("stage", sort=False).last()
    goes = [json.loads(line) for line in (demo / "logs" / "goes.jsonl").read_text().splitlines()]
    whole = float(goes[0]["seconds"]) if len(goes) == 1 and goes[0]["finished"] else None  # None: interrupted
    accuracy = pd.read_json(demo / "reward" / "metrics.jsonl", lines=True)["accuracy"].dropna().iloc[-1]
    return {
        "seed": seed, "levels": results_of(demo) | {TAX: taxes_of(demo)}, "reward_accuracy": float(accuracy),
        "seconds": whole, "times": times[["seconds", "cpu_seconds"]].astype(float).to_dict("index"),
    }  # fmt: skip


def differences(levels: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Measure -> pair of models -> difference. Win rates are against SFT, so differences from it are from one half."""
    levels = levels | {WIN_RATE: levels[WIN_RATE] | {"sft": 0.5}}
    return {
        key: {f"{a} − {b}": own.get(a, math.nan) - own.get(b, math.nan) for a, b in PAIRS}
        for key, own in levels.items()
    }


def interval(values: list[float], digits: int) -> str:
    """Mean ± half of the 95 % t interval, or the mean of one seed; with n if some seeds have no number."""
    known = pd.Series(values, dtype=float).dropna()
    if known.empty:
        return "–"
    few = f" (n = {len(known)})" if len(known) < len(values) else ""
    half = f" ± {t.ppf(0.975, len(known) - 1) * known.sem():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{half}{few}".replace("-", "−")


def table(seeds: list[dict[str, Any]], columns: list[str], measures: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: a row for each measure, a column for each model or pair."""
    lines = [f"| | better | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for key, about in measures.items():
        cells = (interval([own[key].get(c, math.nan) for own in seeds], about.get("digits", 3)) for c in columns)
        lines.append(f"| {about['meaning']} | {about['better']} | {' | '.join(cells)} |")
    return lines


def readme(recorded: dict[str, Any]) -> list[str]:
    """The rows of the README's table."""
    chosen = {key: about for key, about in MEASURES.items() if about.get("readme")}
    return table([own["levels"] for own in recorded["seeds"]], list(MODELS), chosen)


def tables(recorded: dict[str, Any]) -> list[str]:
    """Markdown: levels of each model, differences within a seed, times of each stage."""
    seeds = recorded["seeds"]
    lines = [f"{len(seeds)} seeds; mean ± 95 % t interval over seeds. {recorded['machine']}.", ""]
    lines += table([own["levels"] for own in seeds], list(MODELS), MEASURES)
    changes = [differences(own["levels"]) for own in seeds]
    lines += ["", "Differences within a seed.", "", *table(changes, list(changes[0][TAX]), MEASURES)]
    accuracy = interval([own["reward_accuracy"] for own in seeds], 3)
    lines += [
        "",
        f"Reward model, held-out pairs: accuracy {accuracy}.",
        "",
        "| stage | seconds | CPU seconds |",
        "|---|---|---|",
    ]
    for stage in dict.fromkeys(name for own in seeds for name in own["times"]):
        kinds = [[own["times"].get(stage, {}).get(k, math.nan) for own in seeds] for k in ("seconds", "cpu_seconds")]
        lines.append(f"| {stage} | {interval(kinds[0], 0)} | {interval(kinds[1], 0)} |")
    total = interval([sum(times["cpu_seconds"] for times in own["times"].values()) for own in seeds], 0)
    whole = interval([math.nan if own["seconds"] is None else own["seconds"] for own in seeds], 0)
    return [*lines, f"| the whole demo, stages side by side | {whole} | {total} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", help="separated by commas")
    parser.add_argument("--out", type=Path, help="folder: seed-N/ is a demo")
    parser.add_argument("--record", type=Path, default=HERE / "demo.json", help="file of the numbers")
    given = parser.parse_args()
    if given.seeds:
        processor = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
        machine = f"{processor.partition(': ')[2] or platform.processor()}, alignbench {__version__}"
        recorded: dict[str, Any] = {"machine": machine, "seeds": []}
        for seed in map(int, given.seeds.split(",")):
            demo = given.out / f"seed-{seed}"
            command = [sys.executable, "-m", "alignbench", "demo", "--out", str(demo), "--seed", str(seed)]
            subprocess.run(command, check=True)
            recorded["seeds"].append(record(demo, seed))
            given.record.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    recorded = json.loads(given.record.read_text(encoding="utf-8"))
    print("\n".join([*tables(recorded), "", "README:", "", *readme(recorded)]))


if __name__ == "__main__":
    main()
