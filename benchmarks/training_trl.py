"""Measured process of training.py: train one case with TRL 1.12.0, in its environment, with its fastest settings.

An update of `ppo` is 64 episodes. In the other cases it is an epoch, whose micro-batches accumulate into one optimizer
step, so the loss of the first update is that of all data with the initial weights.
"""

import itertools
import os
import tempfile
import time
from argparse import Namespace
from typing import Any

import torch
from datasets import Dataset
from training_cases import RESPONSE_TOKENS, read_jsonl, side_arguments, write_report
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

MINIBATCH = 16
MICRO_BATCH = {"reward_k4": 12, "reward_k9": 12, "sft": 1}  # pairs, or packed rows of PACKED_TOKENS
PACKED_TOKENS = 512


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds and CPU seconds of each update, and what the trainer logged."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    on_step_end = on_train_begin

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "train_runtime" not in logs:  # the sum at the end
            self.logged.append({key: float(value) for key, value in logs.items()})


def settings(args: Namespace) -> dict[str, Any]:
    """Settings of all three trainers: Adam as in InstructGPT, appendix C; no clipping, since TRL's PPO has none."""
    return {
        "use_cpu": True, "bf16": args.bf16, "gradient_checkpointing": False, "dataloader_pin_memory": False,
        "learning_rate": 9e-6, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "weight_decay": 0.0, "seed": 0,
        "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-5,
        "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip


def ppo(args: Namespace, folder: str, tokenizer: Any, clock: Clock) -> PPOTrainer:
    """64 episodes of 32 tokens per update (no stop token), one inner epoch, one optimizer step per minibatch."""
    rows = read_jsonl(args.inputs / "ppo_prompts.jsonl")
    if args.bf16:
        # PPOTrainer's Accelerator does not get `bf16=True`; `accelerate launch --mixed_precision bf16` sets this
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    # a minibatch is one forward and backward: with gradient accumulation TRL would step after each micro-batch of the
    # data's last batch, and else after all minibatches together
    config = PPOConfig(
        folder, **settings(args), per_device_train_batch_size=len(rows), gradient_accumulation_steps=1,
        num_mini_batches=len(rows) // MINIBATCH, total_episodes=len(rows) * args.updates, num_ppo_epochs=1,
        local_rollout_forward_batch_size=len(rows), num_sample_generations=0, response_length=RESPONSE_TOKENS,
        temperature=1.0, kl_coef=0.02, whiten_rewards=True,
    )  # fmt: skip
    frozen = torch.bfloat16 if args.bf16 else torch.float32

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


def reward(args: Namespace, folder: str, tokenizer: Any, clock: Clock) -> RewardTrainer:
    """All pairs of each ranking, the longest first, so that pairs of similar length share a micro-batch. All accumulate
    into one step, so their order changes nothing else."""
    pairs = []
    for row in read_jsonl(args.inputs / f"rankings_{args.case.removeprefix('reward_')}.jsonl"):
        ranked = sorted(zip(row["ranks"], row["response_ids"], strict=True))
        for (better, chosen), (worse, rejected) in itertools.combinations(ranked, 2):
            if better < worse:
                pairs.append({"chosen_ids": row["prompt_ids"] + chosen, "rejected_ids": row["prompt_ids"] + rejected})
    pairs.sort(key=lambda pair: -max(map(len, pair.values())))
    micro_batch = MICRO_BATCH[args.case]
    if len(pairs) % micro_batch:
        raise SystemExit(f"{len(pairs)} pairs are not a multiple of {micro_batch}: their mean would be uneven")
    config = RewardConfig(
        folder, **settings(args), per_device_train_batch_size=micro_batch, num_train_epochs=args.updates,
        gradient_accumulation_steps=len(pairs) // micro_batch, train_sampling_strategy="sequential", max_length=None,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(args.inputs / "reward", dtype=torch.float32)
    data = Dataset.from_list(pairs)
    return RewardTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])


def sft(args: Namespace, folder: str, tokenizer: Any, clock: Clock) -> SFTTrainer:
    """Loss on the responses only. Packed rows are best-fit decreasing and flattened: position ids separate examples,
    and transformers' sdpa makes a block-diagonal mask from them. TRL's default loss, chunked_nll, is slower here."""
    rows = []
    for row in read_jsonl(args.inputs / "demonstrations.jsonl"):
        prompt, response = row["prompt_ids"], row["response_ids"]
        rows.append({"input_ids": prompt + response, "labels": [-100] * len(prompt) + response})
    rows.sort(key=lambda row: -len(row["input_ids"]))
    config = SFTConfig(
        folder, **settings(args), per_device_train_batch_size=MICRO_BATCH["sft"], num_train_epochs=args.updates,
        gradient_accumulation_steps=len(rows),  # more than there are: an epoch is one step
        train_sampling_strategy="sequential", packing=True, packing_strategy="bfd", max_length=PACKED_TOKENS,
        loss_type="nll",
    )  # fmt: skip
    path = args.inputs / "model"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
    data = Dataset.from_list(rows)
    return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])


def main() -> None:
    args = side_arguments(__doc__)
    tokenizer = AutoTokenizer.from_pretrained(args.inputs / "model")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        {"ppo": ppo, "sft": sft}.get(args.case, reward)(args, folder, tokenizer, clock).train()
    times = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(clock.marks)]
    write_report(args, times, clock.logged)


if __name__ == "__main__":
    main()
