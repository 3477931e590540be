"""Measured process: train one case with TRL and write how long each update took as JSON.

Runs in an environment of its own, which holds TRL 1.12.0 and not alignbench, on the folder that `training_cases.py`
has written. Settings beside the defaults here are for finding TRL's fastest ones.

An update of `ppo` is 64 episodes; one of the other cases is an epoch, all of whose micro-batches accumulate into one
optimizer step. So the loss of the first update is that of all the data under the weights of the folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from scoring_rate import measure_gflops
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

CASES = ("ppo", "reward_k4", "reward_k9", "sft")
RESPONSE_TOKENS = 32
# what ran fastest on one thread: pairs or packed rows of a forward and backward
MICRO_BATCH = {"reward_k4": 12, "reward_k9": 12, "sft": 1}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each update, by the clock and of the processor, and what the trainer logged of it."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    on_step_end = on_train_begin

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "train_runtime" not in logs:  # the sum at the end
            self.logged.append({key: float(value) for key, value in logs.items()})

    def seconds(self, clock: int) -> list[float]:
        return [after[clock] - before[clock] for before, after in itertools.pairwise(self.marks)]


class Counting:
    """A collator that counts what it gives: tokens, and tokens with padding."""

    def __init__(self, collator: Callable[..., dict[str, torch.Tensor]]) -> None:
        self.collator = collator
        self.real = self.computed = 0

    def __call__(self, *args: Any) -> dict[str, torch.Tensor]:
        batch = self.collator(*args)
        self.computed += batch["input_ids"].numel()
        self.real += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
        return batch


def settings(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What all three trainers are told. Adam as in InstructGPT, appendix C; no clipping, which TRL's PPO has not."""
    return {
        "use_cpu": True,
        "bf16": args.bf16,  # False has to be said: TRL's default is True
        "gradient_checkpointing": False,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-5,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "seed": args.seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    } | more


def ppo(args: argparse.Namespace, folder: str, tokenizer: PreTrainedTokenizerBase, clock: Clock) -> PPOTrainer:
    """64 episodes of exactly 32 tokens an update (no stop token), one inner epoch, an optimizer step a minibatch."""
    rows = read_jsonl(args.inputs / "ppo_prompts.jsonl")
    launched = args.bf16 and not args.no_launcher
    if launched:
        # PPOTrainer's Accelerator is not told of `bf16=True`, which by itself changes nothing; what does is what
        # `accelerate launch --mixed_precision bf16` sets
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    config = PPOConfig(
        folder,
        **settings(args),
        # a minibatch is one forward and backward: with gradient accumulation TRL would step after each micro-batch of
        # the data's last batch, and else after all the minibatches together
        per_device_train_batch_size=len(rows),
        gradient_accumulation_steps=1,
        num_mini_batches=len(rows) // args.minibatch,
        total_episodes=len(rows) * args.updates,
        num_ppo_epochs=1,
        local_rollout_forward_batch_size=args.rollout_batch,
        num_sample_generations=0,
        response_length=RESPONSE_TOKENS,
        temperature=1.0,
        kl_coef=0.02,
        whiten_rewards=True,
    )
    frozen = torch.bfloat16 if launched else torch.float32

    def load(kind: Any, name: str, dtype: torch.dtype = torch.float32) -> Any:
        return kind.from_pretrained(args.inputs / name, dtype=dtype)

    tokenizer.padding_side = "left"
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=load(AutoModelForCausalLM, "model"),
        ref_model=load(AutoModelForCausalLM, "model", frozen),
        reward_model=load(AutoModelForSequenceClassification, "reward", frozen),
        value_model=load(AutoModelForSequenceClassification, "reward"),
        train_dataset=Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows]),
        callbacks=[clock],
    )


def reward(args: argparse.Namespace, folder: str, tokenizer: PreTrainedTokenizerBase, clock: Clock) -> RewardTrainer:
    """All pairs of each ranking. The longest come first, so that pairs of like length share a micro-batch; since all
    accumulate into one step, their order changes nothing else."""
    pairs = []
    for row in read_jsonl(args.inputs / f"rankings_{args.case.removeprefix('reward_')}.jsonl"):
        ranked = sorted(zip(row["ranks"], row["response_ids"], strict=True))
        for (better, chosen), (worse, rejected) in itertools.combinations(ranked, 2):
            if better < worse:
                pairs.append({"chosen_ids": row["prompt_ids"] + chosen, "rejected_ids": row["prompt_ids"] + rejected})
    pairs.sort(key=lambda pair: -max(map(len, pair.values())))
    if len(pairs) % args.micro_batch:
        raise SystemExit(f"{len(pairs)} pairs are not a multiple of {args.micro_batch}: their mean would be uneven")
    config = RewardConfig(
        folder,
        **settings(args),
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=len(pairs) // args.micro_batch,
        num_train_epochs=args.updates,
        train_sampling_strategy="sequential",
        max_length=None,
    )
    model = AutoModelForSequenceClassification.from_pretrained(args.inputs / "reward", dtype=torch.float32)
    return RewardTrainer(
        model, config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, callbacks=[clock]
    )


def sft(args: argparse.Namespace, folder: str, tokenizer: PreTrainedTokenizerBase, clock: Clock) -> SFTTrainer:
    """Loss on the responses alone. Packed rows of `--pack` tokens are best-fit decreasing and flattened: their examples
    are kept apart by the position ids, from which transformers' sdpa makes a block-diagonal mask."""
    rows = [
        {
            "input_ids": row["prompt_ids"] + row["response_ids"],
            "labels": [-100] * len(row["prompt_ids"]) + row["response_ids"],
        }
        for row in read_jsonl(args.inputs / "demonstrations.jsonl")
    ]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    config = SFTConfig(
        folder,
        **settings(args),
        per_device_train_batch_size=args.micro_batch,
        # of more than there are, all: then an epoch is one step
        gradient_accumulation_steps=len(rows),
        num_train_epochs=args.updates,
        train_sampling_strategy="sequential",
        packing=args.pack > 0,
        packing_strategy=args.packing_strategy,
        max_length=args.pack or None,
        loss_type=args.loss_type,
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.inputs / "model", dtype=torch.float32, attn_implementation=args.attention
    )
    return SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
    )


@contextmanager
def timed_phases(trainer: Trainer) -> Iterator[dict[str, float]]:
    """Seconds in the parts of PPO's updates, from around the functions that TRL calls for them."""
    phases: dict[str, float] = {}

    def timed(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            key = name(*args)
            phases[key] = phases.get(key, 0.0) + time.perf_counter() - started
            return result

        return wrapped

    def of_forward(model: Any, *_: Any) -> str:
        return "reference" if model is trainer.ref_model else "train forward"

    def of_reward(model: Any, *_: Any) -> str:
        return "reward" if model is trainer.reward_model else "value"

    originals = {name: getattr(ppo_trainer, name) for name in ("batch_generation", "forward", "get_reward")}
    ppo_trainer.batch_generation = timed(originals["batch_generation"], lambda *_: "rollout")
    ppo_trainer.forward = timed(originals["forward"], of_forward)
    ppo_trainer.get_reward = timed(originals["get_reward"], of_reward)
    trainer.accelerator.backward = timed(trainer.accelerator.backward, lambda *_: "backward")
    trainer.optimizer.step = timed(trainer.optimizer.step, lambda *_: "optimizer")
    try:
        yield phases
    finally:
        for name, function in originals.items():
            setattr(ppo_trainer, name, function)


def memory_mib(field: str) -> float:
    """VmRSS: now; VmHWM: the most since the start or `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--inputs", type=Path, required=True, help="folder that training_cases.py has written")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true", help="autocast; in ppo the frozen models are bfloat16 besides")
    parser.add_argument("--no-launcher", action="store_true", help="ppo: bf16=True alone, which TRL does not heed")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=9e-6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--micro-batch", type=int, help="reward: pairs, sft: rows of one forward and backward")
    parser.add_argument("--minibatch", type=int, default=16, help="ppo: episodes of an optimizer step")
    parser.add_argument("--rollout-batch", type=int, default=64, help="ppo: sequences written at once")
    parser.add_argument("--pack", type=int, default=512, help="sft: tokens of a packed row; 0: padded batches instead")
    parser.add_argument("--packing-strategy", default="bfd", help="sft: wrapped lets examples attend to each other")
    parser.add_argument("--loss-type", default="nll", help="sft: chunked_nll is TRL's own default")
    parser.add_argument("--attention", default="sdpa", help="sft")
    parser.add_argument("--phases", action="store_true", help="ppo: seconds of an update's parts too")
    args = parser.parse_args()
    args.micro_batch = args.micro_batch or MICRO_BATCH.get(args.case)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.inputs / "model")

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        build = {"ppo": ppo, "sft": sft}.get(args.case, reward)
        trainer = build(args, folder, tokenizer, clock)
        if args.case != "ppo":
            trainer.data_collator = Counting(trainer.data_collator)
        loaded, loading_peak = memory_mib("VmRSS"), memory_mib("VmHWM")
        forget_peak()
        if args.phases:
            with timed_phases(trainer) as phases:
                trainer.train()
        else:
            phases = {}
            trainer.train()
    training_peak = memory_mib("VmHWM")

    if args.case == "ppo":
        lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        tokens = {
            "prompt": sum(lengths),
            "response": RESPONSE_TOKENS * len(lengths),
            "real": sum(lengths) + RESPONSE_TOKENS * len(lengths),
            "computed": (max(lengths) + RESPONSE_TOKENS) * len(lengths),
        }
    else:
        counts = trainer.data_collator
        tokens = {"real": counts.real // args.updates, "computed": counts.computed // args.updates}
    report = {
        "case": args.case,
        "seconds": clock.seconds(0),
        "cpu_seconds": clock.seconds(1),  # near the others on a quiet machine
        "peak_rss_mib": max(loading_peak, training_peak),
        "loading_peak_mib": loading_peak,
        "loaded_mib": loaded,
        "training_peak_mib": training_peak,
        "maxrss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "losses": [logs.get("loss", logs.get("loss/policy_avg")) for logs in clock.logged],
        "logged": clock.logged,
        "tokens": tokens,
        "phases": {name: seconds / args.updates for name, seconds in phases.items()},
        "settings": {key: value for key, value in vars(args).items() if key not in ("inputs", "out")},
        "threads": torch.get_num_threads(),
        "gflops": measure_gflops(trainer.model.policy if args.case == "ppo" else trainer.model),
        "versions": {name: version(name) for name in ("torch", "trl", "transformers", "accelerate")},
    }
    args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
