"""What the demo shows, over several seeds: `python benchmarks/demo.py --seeds 0,1,2 --out DIR`.

Each seed is a world, a base model, an SFT model, a reward model and two policies of its own. The table gives the mean
over seeds with a 95 % t interval (n = seeds; where fewer have the number, it says how many), as found: what does not
show, does not show.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from alignbench.models.checkpoint import find_checkpoint

MODELS = ("base", "sft", "ppo", "ppo-ptx")
Results = dict[str, dict[str, dict[str, float]]]  # model -> task -> metric


@dataclass(frozen=True)
class Measure:
    """A metric of a task. better: the direction that aligning is meant to move it, "" where there is none."""

    task: str
    metric: str
    what: str
    better: str = "higher"


WON = Measure("win_rate", "win_rate", "win rate against SFT")
LEVELS = (
    WON,
    Measure("truthfulqa_generation", "true", "TruthfulQA: true"),
    Measure("truthfulqa_generation", "true_and_info", "TruthfulQA: true and informative"),
    Measure("truthfulqa_generation_instruction", "true_and_info", "TruthfulQA, instruction: true and informative"),
    Measure("truthfulqa_mc", "mc1", "TruthfulQA: MC1"),
    Measure("real_toxicity", "emt", "RealToxicityPrompts: expected maximum toxicity", "lower"),
    Measure("real_toxicity_instructgpt", "toxicity_greedy", "toxicity, no instruction", "lower"),
    Measure("real_toxicity_instructgpt_respectful", "toxicity_greedy", "toxicity, asked for respect", "lower"),
    Measure("real_toxicity_instructgpt_biased", "toxicity_greedy", "toxicity, asked for bias", ""),
    Measure("hallucination_qa", "hallucination_rate", "hallucination, closed domain", "lower"),
    Measure("squad2", "f1", "SQuAD 2: F1"),
    Measure("drop", "f1", "DROP: F1"),
    Measure("hellaswag", "acc_norm", "HellaSwag: normalised accuracy"),
    Measure("wmt15_fr_en", "bleu", "WMT15 French to English: BLEU"),
    Measure("token_entropy_on_policy", "entropy", "entropy of a token of its own (bits)", ""),
    Measure("diversity", "self_bleu", "self-BLEU of 10 answers", "lower"),
    Measure("diversity", "distinct_2", "distinct 2-grams of 10 answers"),
)


def results_of(demo: Path) -> Results:
    """The overall metrics of the four models, as they are now: runs of other weights are passed over."""
    weights = {model: find_checkpoint(str(demo / model / "final")).weights_sha256 for model in MODELS}
    found: Results = {}
    for file in sorted(demo.glob("runs/*/*/result.json")):
        model = json.loads((file.parent.parent / "run.json").read_text())["model"]
        result = json.loads(file.read_text())
        if weights.get(model["name"]) == model["weights_sha256"]:
            values = {m["metric"]: m["value"] for m in result["metrics"] if m["category"] is None}
            if result["task"] in found.setdefault(model["name"], {}):
                raise SystemExit(f"{file}: a second result of {result['task']} for {model['name']}")
            found[model["name"]][result["task"]] = values
    return found


def times_of(demo: Path) -> dict[str, tuple[float, float]]:
    """Stage -> seconds, CPU seconds of the last time that it was run."""
    rows = [json.loads(line) for line in (demo / "logs" / "times.jsonl").read_text().splitlines()]
    return {row["stage"]: (row["seconds"], row["cpu_seconds"]) for row in rows}


def wall_of(demo: Path) -> float:
    """Seconds from the demo's begin to its end; NaN of one that was stopped on its way, or did some stages again."""
    file = demo / "logs" / "goes.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return float(rows[0]["seconds"]) if len(rows) == 1 and rows[0]["finished"] else math.nan


def reward_accuracy(demo: Path) -> float:
    """Share of held-out pairs that the reward model orders as the labeler did."""
    lines = [json.loads(line) for line in (demo / "reward" / "metrics.jsonl").read_text().splitlines()]
    return float(next(line["accuracy"] for line in reversed(lines) if "accuracy" in line))


def interval(values: list[float], digits: int) -> str:
    """Mean ± half of the 95 % t interval; the mean alone of one seed. n where some seeds have no number."""
    from scipy.stats import t

    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    mean, few = statistics.mean(known), f" (n = {len(known)})" if len(known) < len(values) else ""
    if len(known) == 1:
        return f"{mean:.{digits}f}{few}"
    half = float(t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) / math.sqrt(len(known))
    return f"{mean:.{digits}f} ± {half:.{digits}f}{few}"


def tables(demos: list[Path]) -> str:
    """Markdown: levels of each model, differences within a seed, times of each stage."""
    seeds = [results_of(demo) for demo in demos]

    def value(of: Results, model: str, measure: Measure) -> float:
        found = of.get(model, {}).get(measure.task, {}).get(measure.metric)
        return math.nan if found is None else float(found)

    def row(measure: Measure, columns: list[Callable[[Results], float]]) -> str:
        digits = 1 if measure.metric in ("bleu", "self_bleu") else 3
        cells = [interval([column(seed) for seed in seeds], digits) for column in columns]
        return f"| {measure.what} | {measure.better or '–'} | {' | '.join(cells)} |"

    def level(model: str, measure: Measure) -> Callable[[Results], float]:
        return lambda seed: value(seed, model, measure)

    def change(model: str, other: str, measure: Measure) -> Callable[[Results], float]:
        return lambda seed: value(seed, model, measure) - value(seed, other, measure)

    def won(model: str, other: str) -> Callable[[Results], float]:
        """Over one half, of the contests against SFT: the only ones that were held."""
        if other == "sft":
            return lambda seed: value(seed, model, WON) - 0.5
        return lambda seed: 0.5 - value(seed, other, WON) if model == "sft" else math.nan

    lines = [f"{len(demos)} seeds; mean ± 95 % t interval over seeds.", ""]
    lines += [f"| | better | {' | '.join(MODELS)} |", "|---|---|" + "---|" * len(MODELS)]
    lines += [row(measure, [level(model, measure) for model in MODELS]) for measure in LEVELS]
    pairs = (("sft", "base"), ("ppo", "sft"), ("ppo-ptx", "sft"), ("ppo-ptx", "ppo"))
    lines += ["", "Differences within a seed.", ""]
    lines += [f"| | better | {' | '.join(f'{a} − {b}' for a, b in pairs)} |", "|---|---|" + "---|" * len(pairs)]
    lines.append(row(replace(WON, what="win rate − 0.5"), [won(a, b) for a, b in pairs]))
    lines += [row(measure, [change(a, b, measure) for a, b in pairs]) for measure in LEVELS if measure != WON]
    lines += ["", f"Reward model, held-out pairs: accuracy {interval([reward_accuracy(demo) for demo in demos], 3)}."]
    times = [times_of(demo) for demo in demos]
    lines += ["", "| stage | seconds | CPU seconds |", "|---|---|---|"]

    def taken(what: str, of: list[tuple[float, float]]) -> str:
        wall, cpu = (interval(list(column), 0) for column in zip(*of, strict=True))
        return f"| {what} | {wall} | {cpu} |"

    nothing = (math.nan, math.nan)
    lines += [taken(name, [own.get(name, nothing) for own in times]) for name in dict.fromkeys(chain(*times))]
    totals = [tuple(map(sum, zip(*own.values(), strict=True))) for own in times]
    lines.append(taken("sum of all stages", totals))
    walls = interval([wall_of(demo) for demo in demos], 0)
    lines.append(f"| the whole demo, stages side by side | {walls} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
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
