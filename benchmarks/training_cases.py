"""What the training benchmark trains, and on what: builds the folder that both sides read.

Runs in our environment, and imports neither the trainers nor the peer. Texts are read from the data folder, and cut
here, so that the two sides get the same token ids: a prompt's are `tokenizer(prompt)`, a response's are
`tokenizer(response, add_special_tokens=False)` and the end-of-sequence token. The folder then holds

- `model/`: the checkpoint's first layers in float32, with its tokenizer; `reward/`: the same with a scalar head instead
  of the language model's, drawn with the seed. Padding is a token of its own in both, not the end of a sequence: TRL
  takes every padding token for padding, and would read a response's score before its end;
- `ppo_prompts.jsonl` {prompt, prompt_ids};
- `rankings_k4.jsonl`, `rankings_k9.jsonl` {prompt, prompt_ids, responses, response_ids, ranks}, rank 1 is the best;
- `demonstrations.jsonl` {prompt, prompt_ids, response, response_ids};
- `sizes.json`: tokens of each.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

PPO_PROMPTS, PPO_TOKENS = 64, range(30, 61)
LEAST_DIALOGUE_TOKENS = 60
DEMONSTRATIONS, DEMONSTRATION_TOKENS = 96, range(24, 161)
PREAMBLE = "### Instruction:"  # what stands before it is the same in every prompt


@dataclass(frozen=True)
class Rankings:
    """`prompts` rankings of `size` responses; longer prompts are cut to their last tokens, responses to their first."""

    size: int
    prompts: int
    prompt_tokens: int
    response_tokens: int


# the lengths for which TRL took 34 and 44 seconds when the aims for our trainers were set
RANKINGS = (Rankings(4, 12, 128, 64), Rankings(9, 3, 88, 56))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Tokens:
    """The tokenizer under the one rule that both sides keep."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def prompt(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def response(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def cut(self, text: str, most: int, keep_end: bool = False) -> str:
        """The text's first or last `most` tokens as text, shortened until it has no more when tokenised anew."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= most:
            return text
        for count in range(most, 0, -1):
            part = self.tokenizer.decode(ids[-count:] if keep_end else ids[:count]).strip("\N{REPLACEMENT CHARACTER}")
            if len(self.tokenizer(part, add_special_tokens=False)["input_ids"]) <= most:
                return part
        raise ValueError(f"cannot cut to {most} tokens: {text[:60]!r}")


def save_models(checkpoint: str, out: Path, layers: int, seed: int) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.unk_token
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise ValueError("the tokenizer has no token but its end of sequence to pad with")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out / "model")
    reward = AutoModelForSequenceClassification.from_pretrained(out / "model", num_labels=1, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    width = reward.config.hidden_size
    with torch.no_grad():
        reward.score.weight.normal_(0.0, (width + 1) ** -0.5, generator=generator)
    reward.save_pretrained(out / "reward")
    for folder in ("model", "reward"):
        tokenizer.save_pretrained(out / folder)
    return tokenizer


def instructions(data: Path, tokens: Tokens) -> list[dict[str, Any]]:
    """Dolly and HH-RLHF, each prompt from its instruction on."""
    rows = []
    for row in read_jsonl(data / "dolly-hhrlhf-small/dolly_hhrlhf_train_small.jsonl"):
        prompt = row["prompt"][row["prompt"].index(PREAMBLE) :]
        rows.append(
            {
                "prompt": prompt,
                "prompt_ids": tokens.prompt(prompt),
                "response": row["response"],
                "response_ids": tokens.response(row["response"]),
            }
        )
    return rows


def ppo_prompts(rows: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    fitting = [
        {"prompt": row["prompt"], "prompt_ids": row["prompt_ids"]}
        for row in rows
        if len(row["prompt_ids"]) in PPO_TOKENS
    ]
    return draw.sample(fitting, PPO_PROMPTS)


def demonstrations(rows: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    fitting = [row for row in rows if len(row["prompt_ids"]) + len(row["response_ids"]) in DEMONSTRATION_TOKENS]
    return draw.sample(fitting, DEMONSTRATIONS)


def ranked_dialogues(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Open-Assistant: each dialogue up to a user's turn, and its ranked answers, the best first."""

    def walk(message: dict[str, Any], before: str) -> Iterator[tuple[str, list[str]]]:
        user = message["role"] == "prompter"
        dialogue = f"{before}{'User' if user else 'Assistant'}: {message['text'].strip()}\n"
        ranked = [reply for reply in message["replies"] if reply.get("rank") is not None]
        if user and ranked:
            yield dialogue + "Assistant:", [reply["text"] for reply in sorted(ranked, key=lambda reply: reply["rank"])]
        for reply in message["replies"]:
            yield from walk(reply, dialogue)

    for tree in read_jsonl(data / "oasst-sample/en_100_tree.jsonl"):
        yield from walk(tree["prompt"], "")


def rankings(data: Path, tokens: Tokens, wanted: Rankings, draw: random.Random) -> list[dict[str, Any]]:
    """The dialogues with the most ranked answers, of which `size` are drawn. Hardly any has nine: what is missing are
    answers to other dialogues, ranked behind its own."""
    size, count = wanted.size, wanted.prompts
    dialogues = [
        (dialogue, answers)
        for dialogue, answers in ranked_dialogues(data)
        if len(tokens.prompt(dialogue)) >= LEAST_DIALOGUE_TOKENS
    ]
    draw.shuffle(dialogues)
    dialogues.sort(key=lambda row: -min(len(row[1]), size))
    elsewhere = [answers[0] for _, answers in dialogues[count:]]
    rows = []
    for dialogue, answers in dialogues[:count]:
        own = [answers[number] for number in sorted(draw.sample(range(len(answers)), min(size, len(answers))))]
        best_first = own + draw.sample(elsewhere, size - len(own))
        ranked = list(enumerate(best_first, start=1))
        draw.shuffle(ranked)
        prompt = tokens.cut(dialogue, wanted.prompt_tokens, keep_end=True)
        responses = [tokens.cut(" " + answer.strip(), wanted.response_tokens) for _, answer in ranked]
        rows.append(
            {
                "prompt": prompt,
                "prompt_ids": tokens.prompt(prompt),
                "responses": responses,
                "response_ids": [tokens.response(response) for response in responses],
                "ranks": [rank for rank, _ in ranked],
            }
        )
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a Llama checkpoint, as of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="with dolly-hhrlhf-small/ and oasst-sample/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(save_models(args.model, args.out, args.layers, args.seed))

    rows = instructions(args.data, tokens)
    prompts = ppo_prompts(rows, random.Random(args.seed))
    shown = demonstrations(rows, random.Random(args.seed))
    write_jsonl(args.out / "ppo_prompts.jsonl", prompts)
    write_jsonl(args.out / "demonstrations.jsonl", shown)
    sizes: dict[str, Any] = {
        "ppo": {"prompts": len(prompts), "prompt_tokens": sum(len(row["prompt_ids"]) for row in prompts)},
        "sft": {
            "examples": len(shown),
            "tokens": sum(len(row["prompt_ids"]) + len(row["response_ids"]) for row in shown),
            "response_tokens": sum(len(row["response_ids"]) for row in shown),
        },
    }
    for wanted in RANKINGS:
        size = wanted.size
        ranked = rankings(args.data, tokens, wanted, random.Random(args.seed))
        write_jsonl(args.out / f"rankings_k{size}.jsonl", ranked)
        prompt_tokens = sum(len(row["prompt_ids"]) for row in ranked)
        response_tokens = sum(len(ids) for row in ranked for ids in row["response_ids"])
        sizes[f"reward_k{size}"] = {
            "prompts": len(ranked),
            "prompt_tokens": prompt_tokens,
            "response_tokens": response_tokens,
            "tokens_in_pairs": (size - 1) * (size * prompt_tokens + response_tokens),
        }
    (args.out / "sizes.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    print(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    main()
