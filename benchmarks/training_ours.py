"""Measured process of training.py: train one case with our trainers; how long each update took as JSON.

The trainers run as a user runs them, with a clock at the start of an update and at its log line. Responses have no end
token, as in the peer.
"""

import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from typing import Any

from training_cases import RESPONSE_TOKENS, side_arguments, write_report

from alignbench.models.local import engine as local_engine
from trainers import loop, ppo, reward, run, sft

MICRO_TOKENS = {"ppo": 2048, "reward_k4": 2048, "reward_k9": 2048, "sft": 512}  # of sft as in the peer


class Clock:
    """Seconds and CPU seconds of each update, its metrics, and seconds of its parts."""

    def __init__(self) -> None:
        self.began = (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []
        self.logged: list[dict[str, float]] = []
        self.phases: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, phase: str, *, starts: bool = False) -> None:
        """Add the seconds of a function to a phase; if it starts an update, set the clock."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            started = (time.perf_counter(), time.process_time())
            self.began = started if starts else self.began
            result = function(*args, **kwargs)
            self.phases[phase] += time.perf_counter() - started[0]
            if phase == "log" and "gradient_norm" in args[2]:  # not an epoch's validation
                self.seconds.append((started[0] - self.began[0], started[1] - self.began[1]))
                self.logged.append(dict(args[2]))
            return result

        setattr(owner, name, watched)


def train(args: Namespace, out: str) -> None:
    inputs, case = args.inputs, args.case
    common: dict[str, Any] = {
        "out": out, "mixed_precision": "bf16" if args.bf16 else "no", "trackers": (), "cpu": True, "save_every": 10**6,
        "micro_tokens": MICRO_TOKENS[case], "lr": 9e-6,
    }  # fmt: skip
    model = str(inputs / ("reward" if case.startswith("reward") else "model"))
    if case == "ppo":
        common |= {"prompts": str(inputs / "ppo_prompts.jsonl"), "reward": str(inputs / "reward"), "no_end_score": None}
        sizes = {"episodes": 64 * args.updates, "batch": 64, "minibatch": 16, "max_tokens": RESPONSE_TOKENS}
        ppo.train(ppo.Config(model=model, ema=0.0, warmup=0, value_lr=9e-6, **sizes, **common))
    elif case == "sft":
        data = str(inputs / "demonstrations.jsonl")
        sft.train(sft.Config(model=model, data=data, epochs=args.updates, batch=96, dropout=0.0, **common))
    else:
        data = str(inputs / f"rankings_{case.removeprefix('reward_')}.jsonl")
        config = reward.Config(model=model, data=data, validation=data, epochs=args.updates, batch=64, **common)
        reward.train(config)


def main() -> None:
    args = side_arguments(__doc__)
    clock = Clock()
    clock.watch(run.Run, "log", "log")
    clock.watch(loop, "set_learning_rate", "learning rate", starts=args.case != "ppo")
    clock.watch(ppo.Sampler, "sample", "rollout", starts=True)
    clock.watch(ppo, "score_all", "reward")
    clock.watch(ppo, "compute_logprobs", "log-probabilities and values")
    clock.watch(loop, "accumulate", "train forward and backward")
    clock.watch(loop, "take_step", "optimizer")
    local_engine.end_tokens = lambda *_: ()  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        train(args, folder)
    phases = {name: seconds / args.updates for name, seconds in clock.phases.items()}
    write_report(args, clock.seconds, clock.logged, phases=phases)


if __name__ == "__main__":
    main()
