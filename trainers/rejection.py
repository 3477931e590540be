"""Rejection sampling: the best of n responses to each prompt, then supervised fine-tuning on them (RAFT, Dong et al.
2023, arXiv 2304.06767; Llama 2, arXiv 2307.09288, section 3.2.3)."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from alignbench.data.conversations import Messages, as_messages
from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.types.engine import Sampling
from trainers import data, loop, sft
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.models import Policy, Texts, end_at_turns, load
from trainers.reward import as_read_by, load_reward, score_all
from trainers.run import LINES, Metrics, Origin, open_run
from trainers.sampler import Sampler

PROMPTS = 32  # of which all responses are sampled, scored and written together


@dataclass(frozen=True)
class Config(StageConfig):
    """Settings of rejection sampling. Those of the fine-tuning are as in `sft.Config`."""

    model: str = setting(REQUIRED, "policy to sample from and to fine-tune: local folder or hub id")
    reward: str = setting(REQUIRED, "reward model's checkpoint, or module:function of (prompts, responses)")
    prompts: str = setting(REQUIRED, "file of {prompt}, or hub data set")
    n: int = setting(16, "responses per prompt, of which the best is learned", low=2)
    max_tokens: int = setting(1024, "maximum tokens of a response", low=1)
    temperature: float = setting(1.0, "of sampling", above=0)
    validation: str | None = setting(None, "held-out demonstrations, for the validation loss")
    epochs: int = setting(1, "passes over the best responses", low=1)
    batch: int = setting(32, "examples per step", low=1)
    lr: float = setting(9.65e-6, "peak learning rate, cosine decay to a tenth", low=0)
    dropout: float = setting(0.0, "residual dropout", low=0, high=0.99)


PRESETS: dict[str, dict[str, Any]] = {}


def train(config: Config, *, progress: Progress | None = None) -> tuple[Path, Metrics]:
    """Sample and fine-tune, or resume either; the folder of the final checkpoint and its metrics.

    `out`/sampling has all responses with their rewards, `out`/demonstrations.jsonl the best one of each prompt.
    """
    check(config)
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    rows = sample(config, accelerator, progress)
    best = Path(config.out) / "demonstrations.jsonl"
    if accelerator.is_main_process:
        best.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", "backslashreplace"
        )
    accelerator.wait_for_everyone()
    same = {f.name for f in fields(sft.Config)} & {f.name for f in fields(config)} - {"reward"}
    settings = sft.Config(data=str(best), **{name: getattr(config, name) for name in same})
    return sft.fine_tune(settings, config, "rejection", progress)


def sample(config: Config, accelerator: Accelerator, progress: Progress) -> list[dict[str, Any]]:
    """The best response to each prompt, as demonstrations: {prompt, response}, or {messages} with a template."""
    out = Path(config.out) / "sampling"
    model, tokenizer, checkpoint = load(config.model, "causal")
    origin = Origin.find("sampling", config.model, {"reward": config.reward}, [(config.prompts, None)])
    with open_run(replace(config, out=str(out)), origin, accelerator, progress) as run:
        state, lines = run.resume(), out / LINES[1]
        render, texts = data.find_render(config, tokenizer), Texts(tokenizer, model)
        if render:
            end_at_turns(model, tokenizer)
        questions = data.read_prompts(config.prompts, render, progress.say)
        room = (checkpoint.window or math.inf) - config.max_tokens
        questions = data.fitting_prompts(config, questions, texts, room, config.prompts, render, progress.say)
        prompts = [question.prompt for question in questions]
        sizes = (len(ids) + config.max_tokens for ids in texts.prompts(prompts))
        loop.check_lengths(sizes, checkpoint.window, "prompt + max_tokens of row", config.prompts)
        sampler = Sampler(Policy(model.to(accelerator.device)), tokenizer, checkpoint.window, accelerator)
        reward = load_reward(config.reward, accelerator, config.micro_tokens, config.offload)
        shown = as_read_by(reward, questions, config.template)
        sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
        step, steps = state.values["step"] if state else 0, -(-len(prompts) // PROMPTS)
        progress.start("sampling", steps, step, "batches")
        while step < steps:
            batch = range(step * PROMPTS, min(len(prompts), (step + 1) * PROMPTS))
            chosen = [i for i in batch for _ in range(config.n)]
            keys = [f"{i}:{at % config.n}" for at, i in enumerate(chosen)]
            found = sampler.sample(keys, [prompts[i] for i in chosen], sampling, config.seed)
            responses = [completion.text for completion in found]
            scores = score_all(accelerator, reward, config.reward, [shown[i] for i in chosen], responses)
            step += 1
            rows = zip(chosen, responses, scores, strict=True)
            run.sample(step, [{"row": i, "prompt": prompts[i], "response": r, "reward": s} for i, r, s in rows])
            run.save_state(step, lambda folder: None, {})
            progress.advance()
    written = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    return best_of(written, [as_messages(question.asked) for question in questions] if render else ())


def best_of(rows: Sequence[dict[str, Any]], conversations: Sequence[Messages] = ()) -> list[dict[str, Any]]:
    """The demonstration of each prompt: the first of the responses with the highest reward; no empty ones.

    rows: {row, prompt, response, reward}; conversations: the prompts as messages, for {messages}
    """
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["response"].strip() and (row["row"] not in best or row["reward"] > best[row["row"]]["reward"]):
            best[row["row"]] = row
    if not best:
        raise AlignbenchError("rejection sampling: every response is empty; check the model, or raise max_tokens")
    if not conversations:
        return [{"prompt": row["prompt"], "response": row["response"]} for _, row in sorted(best.items())]
    answers = {i: [{"role": "assistant", "content": row["response"]}] for i, row in sorted(best.items())}
    return [{"messages": [*conversations[i], *answer]} for i, answer in answers.items()]
