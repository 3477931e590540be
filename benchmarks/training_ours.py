"""Measured process: train one case with our trainers and write how long each update took as JSON.

The other side is training_peer.py; both run on the folder that training_cases.py has written. The trainers run as a
user runs them; only their log of each step is watched, and responses do not end by themselves, as the peer's do not.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alignbench.models.local import engine as local_engine
from trainers import ppo, reward, run, sft, supervised

RESPONSE_TOKENS = 32
# tokens of a forward and backward, found by trying
MICRO_TOKENS = {"ppo": 2048, "reward_k4": 2048, "reward_k9": 2048, "sft": 4096}


class Clock:
    """Seconds from where an update begins to where its line is logged, and the lines."""

    def __init__(self) -> None:
        self.began = (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []
        self.logged: list[dict[str, float]] = []

    def start(self) -> None:
        self.began = (time.perf_counter(), time.process_time())

    def stop(self, metrics: dict[str, float]) -> None:
        if "gradient_norm" in metrics:  # not an epoch's validation
            now = (time.perf_counter(), time.process_time())
            self.seconds.append((now[0] - self.began[0], now[1] - self.began[1]))
            self.logged.append(dict(metrics))


def watch(clock: Clock, timed: dict[str, float], phases: bool) -> None:
    """Mark the beginning of each update (of PPO: its rollouts) and its log line."""

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            clock.start()
            return function(*args, **kwargs)

        return wrapped

    def timing(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            timed[name] = timed.get(name, 0.0) + time.perf_counter() - started
            return result

        return wrapped

    log = run.Run.log

    def logged(self: Any, step: int, metrics: dict[str, float], *args: Any) -> None:
        clock.stop(metrics)
        log(self, step, metrics, *args)

    run.Run.log = logged  # type: ignore[method-assign]
    supervised.seed_dropout = before(supervised.seed_dropout)
    ppo.Sampler.sample = before(ppo.Sampler.sample)  # type: ignore[method-assign]
    local_engine.end_tokens = lambda *_: ()  # type: ignore[assignment]
    if phases:
        ppo.Sampler.sample = timing(ppo.Sampler.sample, "rollout")  # type: ignore[method-assign]
        ppo.score_all = timing(ppo.score_all, "reward")
        ppo.accumulate = timing(ppo.accumulate, "train forward and backward")
        ppo.take_step = timing(ppo.take_step, "optimizer")


def train(args: argparse.Namespace, out: str) -> None:
    inputs: Path = args.inputs
    common = {
        "out": out, "seed": args.seed, "mixed_precision": "bf16" if args.bf16 else "no", "trackers": (), "cpu": True,
        "micro_tokens": args.micro_tokens or MICRO_TOKENS[args.case], "save_every": 10**6,
    }  # fmt: skip
    if args.case == "ppo":
        ppo.train(
            ppo.PPOConfig(
                model=str(inputs / "model"),
                reward=str(inputs / "reward"),
                prompts=str(inputs / "ppo_prompts.jsonl"),
                episodes=64 * args.updates,
                batch=64,
                minibatch=args.minibatch,
                max_tokens=RESPONSE_TOKENS,
                no_end_score=None,
                warmup=0,
                ema=0.0,
                lr=args.learning_rate,
                value_lr=args.learning_rate,
                **common,
            )
        )
    elif args.case == "sft":
        sft.train(
            sft.SFTConfig(
                model=str(inputs / "model"),
                data=str(inputs / "demonstrations.jsonl"),
                epochs=args.updates,
                batch=96,
                dropout=0.0,
                lr=args.learning_rate,
                **common,
            )
        )
    else:
        data = str(inputs / f"rankings_{args.case.removeprefix('reward_')}.jsonl")
        reward.train(
            reward.RewardConfig(
                model=str(inputs / "reward"),
                data=data,
                validation=data,
                epochs=args.updates,
                batch=64,
                lr=args.learning_rate,
                **common,
            )
        )


def memory_mib(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=tuple(MICRO_TOKENS))
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=9e-6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minibatch", type=int, default=16, help="ppo: episodes of an optimizer step")
    parser.add_argument("--micro-tokens", type=int)
    parser.add_argument("--phases", action="store_true", help="ppo: seconds of an update's parts too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock, timed = Clock(), dict[str, float]()
    watch(clock, timed, args.phases)
    with tempfile.TemporaryDirectory() as folder:
        train(args, folder)
    report = {
        "case": args.case,
        "seconds": [wall for wall, _ in clock.seconds],
        "cpu_seconds": [cpu for _, cpu in clock.seconds],
        "peak_rss_mib": memory_mib("VmHWM"),
        "maxrss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "losses": [line.get("loss", line.get("policy_loss")) for line in clock.logged],
        "logged": clock.logged,
        "phases": {name: seconds / args.updates for name, seconds in timed.items()},
        "settings": {key: value for key, value in vars(args).items() if key not in ("inputs", "out")},
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
    }
    args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
