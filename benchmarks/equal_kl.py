"""Best-of-n, rejection sampling, DPO, RLOO, PPO and PPO-ptx from one SFT model and one reward model, at equal KL.

Run with `python benchmarks/equal_kl.py DEMO --out OUT` on the folder of a finished `alignbench demo`. Everything is
resumed. OUT/report has a figure per quantity against the KL divergence from the SFT model."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

N = (2, 4, 8, 16, 32, 64)
ONLINE = "episodes=1920 batch=64 max_tokens=40 lr=4e-4 warmup=3 ema=0.9 beta=0.05"
PPO = f"{ONLINE} minibatch=32 value_lr=1e-3"
METHODS = {  # stage, and its settings beside model, seed and out
    "ppo": ("ppo", f"{PPO} {{policy}}"),
    "ppo-ptx": ("ppo", f"{PPO} {{policy}} pretraining={{demo}}/world/demo-world/pretraining.jsonl ptx=0.3 "
                "ptx_examples=1 ptx_tokens=128"),
    "rloo": ("rloo", f"{ONLINE} {{policy}} samples=4"),
    "dpo": ("dpo", "data={demo}/rankings/rankings.jsonl validation={demo}/rankings/rankings_held_out.jsonl epochs=2 "
            "batch=32 lr=2e-4"),
    "rejection": ("rejection", "{policy} n=16 max_tokens=40 epochs=3 batch=16 lr=4e-4"),
}  # fmt: skip
POLICY = "reward={demo}/reward/final prompts={demo}/prompts/train.jsonl"
TAX = ("squad2", "drop", "wmt15_fr_en")  # best-of-n only writes text
SAMPLED = {"gen_kwargs": {"temperature": 1.0}}  # answers, as in the trainings
TASKS = {"win_rate": SAMPLED, "diversity": {"limit": 32}, **{task: {} for task in TAX}}
TASKS["wmt15_fr_en"] = {"limit": 24}  # best-of-n scores its long prompts n times


def alignbench(*words: object) -> None:
    command = [sys.executable, "-m", "alignbench", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print("done:", *words[:3], flush=True)


def train(demo: Path, out: Path, method: str, seed: int) -> Path:
    stage, settings = METHODS[method]
    words = settings.format(policy=POLICY.format(demo=demo), demo=demo).split()
    own = out / f"{method}-{seed}"
    alignbench("train", stage, f"model={demo}/sft/final", f"seed={seed}", f"out={own}", "cpu=true", *words)
    return own / "final"


def evaluate(demo: Path, out: Path, models: Sequence[object], tasks: dict[str, object], limit: int) -> None:
    world = demo / "world"
    config = out / f"{'-'.join(tasks)}.yaml"
    scorers = [f"preference=demo-world:{world}", f"reward=model:{demo}/reward/final"]
    settings = {"tasks": tasks, "limit": limit, "template": "none", "data_dir": str(world), "scorers": scorers}
    config.write_text(json.dumps(settings | {"baseline": f"{demo}/sft/final", "out": str(out / "runs")}))
    alignbench("evaluate", *models, "--config", config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=96, help="documents of a task")
    parser.add_argument("--jobs", type=int, default=2, help="models that are trained and evaluated at once")
    given = parser.parse_args()
    demo, out = given.demo.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    own = {**TASKS, "kl": {}, "token_entropy_on_policy": {}, "rte": {}}
    evaluate(demo, out, [demo / "sft" / "final"], own, given.limit)  # the answers that all others are compared with

    def one(method: str, seed: int) -> None:
        evaluate(demo, out, [train(demo, out, method, seed)], own, given.limit)

    def best(n: int) -> None:
        evaluate(demo, out, [f"best-of-n:{demo}/sft/final:{demo}/reward/final:{n}"], TASKS, given.limit)

    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(one, method, int(seed)) for seed in given.seeds.split(",") for method in METHODS]
        jobs += [pool.submit(best, n) for n in N]
        for job in jobs:
            job.result()
    alignbench("report", out / "runs", "--out", out / "report")


if __name__ == "__main__":
    main()
