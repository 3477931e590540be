"""What the demo shows, over several seeds: `python benchmarks/demo.py --seeds 0,1,2 --out DIR`.

Each seed is a world, a base model, an SFT model, a reward model and two policies of its own. The table gives the mean
over seeds with a 95 % t interval (n = seeds), as found: what does not show, does not show.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODELS = ("base", "sft", "ppo", "ppo-ptx")
Results = dict[str, dict[str, dict[str, float]]]  # model -> task -> metric


@dataclass(frozen=True)
class Measure:
    """A metric of a task. better: the direction that aligning is meant to move it, "" where there is none."""

    task: str
    metric: str
    what: str
    better: str = "higher"


LEVELS = (
    Measure("win_rate", "win_rate", "win rate against SFT"),
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
    """The overall metrics of the four models, and the reward model's held-out accuracy."""
    found: Results = {}
    for file in sorted(demo.glob("runs/*/*/result.json")):
        model = json.loads((file.parent.parent / "run.json").read_text())["model"]["name"]
        result = json.loads(file.read_text())
        if model in MODELS:
            values = {m["metric"]: m["value"] for m in result["metrics"] if m["category"] is None}
            found.setdefault(model, {})[result["task"]] = values
    return found


def reward_accuracy(demo: Path) -> float:
    """Share of held-out pairs that the reward model orders as the labeler did."""
    lines = [json.loads(line) for line in (demo / "reward" / "metrics.jsonl").read_text().splitlines()]
    return float(next(line["accuracy"] for line in reversed(lines) if "accuracy" in line))


def interval(values: list[float], digits: int) -> str:
    """Mean ± half of the 95 % t interval; the mean alone of one seed."""
    from scipy.stats import t

    values = [value for value in values if value is not None and not math.isnan(value)]
    if not values:
        return "–"
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


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

    lines = [f"{len(demos)} seeds; mean ± 95 % t interval over seeds.", ""]
    lines += [f"| | better | {' | '.join(MODELS)} |", "|---|---|" + "---|" * len(MODELS)]
    lines += [row(measure, [level(model, measure) for model in MODELS]) for measure in LEVELS]
    pairs = (("sft", "base"), ("ppo", "sft"), ("ppo-ptx", "sft"), ("ppo-ptx", "ppo"))
    lines += ["", "Differences within a seed.", ""]
    lines += [f"| | better | {' | '.join(f'{a} − {b}' for a, b in pairs)} |", "|---|---|" + "---|" * len(pairs)]
    lines += [
        row(measure, [change(a, b, measure) for a, b in pairs]) for measure in LEVELS if measure.task != "win_rate"
    ]
    lines += ["", f"Reward model, held-out pairs: accuracy {interval([reward_accuracy(demo) for demo in demos], 3)}."]
    times: dict[str, list[tuple[float, float]]] = {}
    for demo in demos:
        for line in (demo / "logs" / "times.jsonl").read_text().splitlines():
            stage = json.loads(line)
            times.setdefault(stage["stage"], []).append((stage["seconds"], stage["cpu_seconds"]))
    lines += ["", "| stage | seconds | CPU seconds |", "|---|---|---|"]
    for name, taken in times.items():
        wall, cpu = (statistics.mean(column) for column in zip(*taken, strict=True))
        lines.append(f"| {name} | {wall:.0f} | {cpu:.0f} |")
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
