"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290), on all pairs of each ranking.

The implicit reward of a response is β [log π − log π_ref], summed over its tokens. The loss is that of the reward model
on these rewards (InstructGPT, eq. 1), which for a pair is equation 7 of the paper. No model but the policy is in memory
during the training: log π_ref is computed once, by the policy before its first step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from alignbench.progress import Progress
from alignbench.stats.rankings import agreement, prefers_longer
from trainers import loop
from trainers.config import check, setting
from trainers.data import Ranking, load_policy
from trainers.losses import ranking_loss
from trainers.models import Policy, add_lora, residual_dropout, save_model
from trainers.packing import Example, Packed, pack
from trainers.reward import RankingConfig, read_parts
from trainers.run import Callback, Metrics, Origin, Result, open_run


@dataclass(frozen=True)
class Config(RankingConfig):
    """Settings of DPO. The defaults are the paper's where it gives a number."""

    beta: float = setting(0.1, "β, the weight of the KL penalty that is implied (paper: .1)", above=0)
    lr: float = setting(1e-6, "peak learning rate, cosine decay to a tenth (paper: 1e-6)", low=0)
    lora: int = setting(0, "rank of LoRA adapters; 0: all weights", low=0)


@dataclass(frozen=True)
class Row:
    """A ranking, its tokens, and log π_ref of each response in nats, (responses,)."""

    ranking: Ranking
    example: Example
    reference: torch.Tensor


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """Train, or resume an interrupted run; the folder of the final checkpoint and its metrics. callback: `loop.fit`"""
    config = check(config)
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    model, reader = load_policy(config, accelerator, progress.say)
    parts, files = read_parts(config, reader)
    residual_dropout(model, 0.0)
    if config.lora:
        model = add_lora(model, config.lora, config.seed)
    policy, module, optimizer = loop.prepare(Policy(model), config, config.lr, accelerator)
    origin = Origin.find("dpo", config.model, {}, files)

    def logprobs_of(packed: Packed) -> list[torch.Tensor]:
        return [part.cpu() for part in loop.split_by_example(packed, packed.before, module(packed)[0])]

    def logprobs_on(examples: Sequence[Example]) -> list[torch.Tensor]:
        module.eval()
        found = loop.map_packed(accelerator, examples, config.micro_tokens, logprobs_of)
        return [sum_by_response(*pair) for pair in zip(examples, found, strict=True)]

    with open_run(config, origin, accelerator, progress) as run:
        if result := run.result():
            return result
        # before a state is loaded: the model is the reference
        training, validation = (
            [Row(*pair, own) for pair, own in zip(part, logprobs_on([example for _, example in part]), strict=True)]
            for part in parts[:2]
        )
        longer_is_better = prefers_longer([row.ranking for row in training])

        def loss_of(rows: Sequence[Row]) -> torch.Tensor:
            packed = pack([row.example for row in rows], accelerator.device)
            logprobs = loop.split_by_example(packed, packed.before, module(packed)[0])
            pairs = zip(rows, logprobs, strict=True)
            return torch.stack([dpo_loss(sum_by_response(r.example, own), r, config.beta) for r, own in pairs]).sum()

        def after_epoch(epoch: int, step: int) -> Metrics:
            pairs = zip(logprobs_on([row.example for row in validation]), validation, strict=True)
            rewards = [(config.beta * (own - row.reference)).tolist() for own, row in pairs]
            ranked = [row.ranking for row in validation]
            metrics, _ = agreement(ranked, rewards, longer_is_better=longer_is_better)
            best, worst = (
                np.mean([own[r.ranks.index(end(r.ranks))] for own, r in zip(rewards, ranked, strict=True)])
                for end in (min, max)
            )
            return metrics | {"best_reward": float(best), "worst_reward": float(worst), "margin": float(best - worst)}

        epochs = loop.fit(
            config, run, module, optimizer, rows_of=lambda epoch: training, size=lambda row: len(row.example),
            weight=lambda row: 1, loss_of=loss_of, after_epoch=after_epoch, callback=callback,
        )  # fmt: skip
        save = partial(save_model, accelerator=accelerator, module=policy, tokenizer=reader.texts.tokenizer)
        return run.save_checkpoint("final", save, epochs[-1]), epochs[-1]


def dpo_loss(logprobs: torch.Tensor, row: Row, beta: float) -> torch.Tensor:
    """−1/P Σ log σ(β [log π/π_ref(y_w) − log π/π_ref(y_l)]) over the P pairs of a ranking that are not ties.

    logprobs: log π of each response in nats, (responses,)
    """
    rewards = beta * (logprobs - row.reference.to(logprobs.device))
    return ranking_loss(rewards, torch.tensor(row.ranking.ranks, device=logprobs.device))


def sum_by_response(example: Example, logprobs: torch.Tensor) -> torch.Tensor:
    """(responses,) sums over the tokens of each response. logprobs: (tokens,) of all responses of the example"""
    sizes = [len(response) for response in example.responses]
    return torch.stack([part.sum() for part in torch.split(logprobs, sizes)])
