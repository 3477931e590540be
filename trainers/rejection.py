"""Rejection sampling: the best of n responses to each prompt, then supervised fine-tuning on them (RAFT, Dong et al.
2023, arXiv 2304.06767; Llama 2, arXiv 2307.09288, section 3.2.3)."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alignbench.data.messages import Messages, as_messages
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs.folder import append_lines
from alignbench.types.engine import Sampling
from trainers import loop, sft
from trainers.config import check, setting
from trainers.data import load_policy
from trainers.models import Policy, place
from trainers.reward import as_read_by, load_reward, score_all
from trainers.rollouts import SamplingConfig
from trainers.run import LINES, Callback, Origin, Result, open_run
from trainers.sampler import Sampler, load_vllm

PROMPTS = 32  # of which all responses are sampled, scored and written together


@dataclass(frozen=True)
class Config(SamplingConfig):
    """Settings of rejection sampling. Those of the fine-tuning are as in `sft.Config`."""

    n: int = setting(16, "responses per prompt, of which the best is learned", low=2)
    validation: str | None = setting(None, "held-out demonstrations, for the validation loss")
    epochs: int = setting(1, "passes over the best responses", low=1)
    batch: int = setting(32, "examples per step", low=1)
    lr: float = setting(9.65e-6, "peak learning rate, cosine decay to a tenth", low=0)
    dropout: float = setting(0.0, "residual dropout", low=0, high=0.99)


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """Sample and fine-tune, or resume either; the folder of the final checkpoint and its metrics.

    `out`/sampling has all responses with their rewards, `out`/demonstrations.jsonl the best one of each prompt.
    callback: during the fine-tuning, see `loop.fit`
    """
    config = check(config)
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    rows = sample(config, accelerator, progress)
    best = Path(config.out) / "demonstrations.jsonl"
    if accelerator.is_main_process:
        best.unlink(missing_ok=True)
        append_lines(best, rows)
    accelerator.wait_for_everyone()
    same = {f.name for f in fields(sft.Config)} & {f.name for f in fields(config)} - {"reward"}
    settings = sft.Config(data=str(best), **{name: getattr(config, name) for name in same})
    return sft.fine_tune(settings, config, "rejection", progress, callback)


def sample(config: Config, accelerator: Accelerator, progress: Progress) -> list[dict[str, Any]]:
    """The best response to each prompt, as demonstrations: {prompt, response}, or {messages} with a template."""
    out = Path(config.out) / "sampling"
    model, reader = load_policy(config, accelerator, progress.say)
    texts, window = reader.texts, reader.window
    if of_vllm := load_vllm(config, accelerator):
        window = of_vllm.window
    reward = load_reward(config.reward, accelerator, config.micro_tokens, config.offload)
    origin = Origin.find("sampling", config.model, {"reward": config.reward}, [(config.prompts, None)])
    with open_run(replace(config, out=str(out)), origin, accelerator, progress) as run:
        state, lines = run.resume(), out / LINES[1]
        questions = reader.prompts(config.prompts, (window or math.inf) - config.max_tokens)
        prompts = [question.prompt for question in questions]
        tokens = zip(questions, texts.prompts(prompts), strict=True)
        sizes = ((question.where, len(ids) + config.max_tokens) for question, ids in tokens)
        loop.check_lengths(sizes, window, "prompt with max_tokens")
        sampler = Sampler(Policy(model), texts.tokenizer, window, accelerator, of_vllm)
        place(Policy(model), accelerator, frozen=True)
        shown = as_read_by(reward, questions, config.template)
        sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
        step, steps = state.values["step"] if state else 0, -(-len(prompts) // PROMPTS)
        progress.start("sampling", steps, step, "batches")
        while step < steps:
            batch = range(step * PROMPTS, min(len(prompts), (step + 1) * PROMPTS))
            chosen = [i for i in batch for _ in range(config.n)]
            keys = [f"{i}:{at % config.n}" for at, i in enumerate(chosen)]
            found = sampler.sample(keys, [prompts[i] for i in chosen], sampling, config.seed)
            scores = score_all(accelerator, reward, config.reward, [shown[i] for i in chosen], [c.text for c in found])
            step += 1
            rows = [
                {"row": i, "prompt": prompts[i], "response": c.text, "ended": c.finish != "length", "reward": score}
                for i, c, score in zip(chosen, found, scores, strict=True)
            ]
            run.sample(step, rows)
            run.save_state(step, lambda folder: None, {})
            progress.advance()
    written = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    return best_of(written, [as_messages(question.asked) for question in questions] if reader.render else ())


def best_of(rows: Sequence[dict[str, Any]], conversations: Sequence[Messages] = ()) -> list[dict[str, Any]]:
    """The demonstration of each prompt: the first response with the highest reward, of those that ended.

    If none of a prompt ended within max_tokens, all are compared. An empty response is not learned.

    rows: {row, prompt, response, ended, reward}; conversations: the prompts as messages, for {messages}
    """
    groups, found = defaultdict[int, list[dict[str, Any]]](list), list[dict[str, Any]]()
    for row in rows:
        groups[row["row"]].append(row)
    for i, group in sorted(groups.items()):
        ended = [row for row in group if row["ended"]] or group
        if kept := [row for row in ended if row["response"].strip()]:
            response, prompt = max(kept, key=lambda row: row["reward"])["response"], group[0]["prompt"]
            messages = [*conversations[i], {"role": "assistant", "content": response}] if conversations else None
            found.append({"messages": messages} if messages else {"prompt": prompt, "response": response})
    if not found:
        raise AlignbenchError("rejection sampling: every response is empty; check the model, or raise max_tokens")
    return found
