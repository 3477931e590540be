"""The parts of a training on sampled responses, and what it records: states, checkpoints, warnings, the log."""

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from trainers import loop
from trainers.models import BIAS, Policy, base_model, save_model
from trainers.packing import Example
from trainers.reward import Reward
from trainers.rollouts import Prompt, Rollout, table, warnings
from trainers.run import Metrics, Origin, Run, State
from trainers.sampler import Sampler


@dataclass
class Setup:
    """The parts of a training. reference: None if it is the policy without adapters; text: pretraining examples
    history: metrics of the batches so far; seconds: of the steps of an iteration"""

    config: Any
    accelerator: Accelerator
    progress: Progress
    tokenizer: Any
    prompts: list[Prompt]
    held_out: list[Prompt]
    reward: Reward
    policy: loop.Trained
    sampler: Sampler
    reference: Policy | None
    ema: loop.Ema | None
    value: Any = None  # Trained, in PPO
    text: Sequence[Example] = ()
    new_head: bool = False
    history: list[Metrics] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def averaged(self) -> Any:
        """The policy has the averaged weights, if there are any, inside the `with` block."""
        return self.ema.applied(self.policy.model) if self.ema else nullcontext()

    def origin(self) -> Origin:
        config, held_out, text = self.config, len(self.held_out), self.config.pretraining if self.text else None
        models = {"reward": config.reward, "reference": config.reference, "value": getattr(config, "value", None)}
        rows = len(self.prompts) + (0 if config.validation else held_out)
        data = [(config.prompts, rows), (config.validation, held_out), (text, None)]
        return Origin.find("ppo-ptx" if text else "ppo" if self.value else "rloo", config.model, models, data)


def resume(s: Setup, run: Run, iterations: int) -> int:
    """Load the newest state, if there is one; the number of iterations done."""
    config, final, done = s.config, run.out / "final", load_state(s, state) if (state := run.resume()) else 0
    if done > iterations:
        raise AlignbenchError(f"{run.out}: it has {done * config.batch} episodes; give more, or choose another out")
    if config.checkpoint_every and done and done % config.checkpoint_every == 0:  # it is extended
        kept = run.out / f"checkpoints/iteration-{done}"
        new = final.exists() and not kept.exists()  # kept: a stopped run returned to its last checkpoint
        run.together(lambda: os.renames(final, kept) if new else None, main_only=True)
    s.history = run.metrics()
    s.progress.start(run.origin.stage, iterations, done, "iterations")
    return done


def save_state(s: Setup, run: Run, iteration: int) -> None:
    values = {"value_bias": getattr(base_model(s.value.model.model).config, BIAS, 0.0)} if s.value else {}
    run.save_state(iteration, lambda folder: loop.save_training(folder, s.accelerator, s.ema), values)


def load_state(s: Setup, state: State) -> int:
    loop.load_training(state.folder, s.accelerator, s.ema)
    if s.value:
        setattr(base_model(s.value.model.model).config, BIAS, state.values["value_bias"])
    return int(state.values["step"])


def return_to_last_state(s: Setup, run: Run, stopped: str) -> int:
    """Load the last saved state, and remove later checkpoints; the number of its iterations."""
    if (state := run.newest()) is None:
        raise AlignbenchError(f"{run.origin.stage}: stopped at {stopped}, before any training; no state was saved")
    iteration = load_state(s, state)
    for folder in (run.out / "checkpoints").glob("iteration-*") if s.accelerator.is_main_process else ():
        if int(folder.name.partition("-")[2]) > iteration:
            shutil.rmtree(folder, ignore_errors=True)
    s.accelerator.wait_for_everyone()
    s.progress.say(f"stopped at {stopped}; the result has the weights after iteration {iteration}")
    run.event("stopped", reason=stopped, kept=iteration)
    return iteration


def save_models(s: Setup, folder: Path) -> None:
    """The averaged policy, and the value in its subfolder."""
    with s.averaged():
        for trained, own in ((s.policy, folder), (s.value, folder / "value")):
            if trained:
                save_model(own, s.accelerator, trained.model, s.tokenizer)


def warn(s: Setup, run: Run, iteration: int, rollouts: Sequence[Rollout], metrics: Metrics) -> None:
    """Log all warnings about a batch; the screen shows the first of each kind."""
    s.history.append(dict(metrics))
    for kind, text in warnings(s.config, rollouts, s.history).items():
        run.event("warning", iteration=iteration, kind=kind, reason=text)
        if kind not in s.warned:
            s.progress.say(f"warning: iteration {iteration}: {text}")
        s.warned.add(kind)


def report(s: Setup, run: Run, iteration: int, rollouts: Sequence[Rollout], metrics: Metrics) -> None:
    """Log an iteration; the screen shows its main metrics and, at iterations 1, 2, 4, 8, …, some responses."""
    run.log(iteration, metrics)
    names, seconds = ("response", "raw_score", "score", "kl"), {name: round(x, 3) for name, x in s.seconds.items()}
    rows = [{"prompt": r.prompt.text} | {n: getattr(r, n) for n in names} for r in rollouts[: s.config.sample_rows]]
    run.sample(iteration, rows)
    speed = sum(len(r.response_ids) for r in rollouts) / sum(s.seconds.values())
    run.event("iteration", iteration=iteration, tokens_per_second=round(speed, 1), seconds=seconds)
    if iteration & (iteration - 1) == 0:
        for line in table(rollouts[:3]):
            s.progress.say(line)
    shown = ", ".join(f"{name} {metrics[name]:.3g}" for name in ("score", "kl", "entropy"))
    phases = ", ".join(f"{name} {x:.1f}" for name, x in seconds.items())
    s.progress.advance(f"{shown}, {speed:.0f} tokens/s (seconds: {phases})")
