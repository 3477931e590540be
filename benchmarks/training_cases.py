"""Model and data of the training benchmark: builds the folder that both sides read.

Runs in our environment, and imports neither the trainers nor the peer. Texts are cut here, so that both sides get the
same token ids: a prompt's are `tokenizer(prompt)`, a response's are `tokenizer(response, add_special_tokens=False)` and
the end-of-sequence token. The folder has

- `model/`: the checkpoint's first layers in float32, with its tokenizer; `reward/`: the same with a scalar head instead
  of the language model's, initialised with the seed. The pad token of both is not the end token: TRL treats every pad
  token as padding, and would read a response's score before its end;
- `ppo_prompts.jsonl` {prompt, prompt_ids};
- `rankings_k4.jsonl`, `rankings_k9.jsonl` {prompt, prompt_ids, responses, response_ids, ranks}, rank 1 is the best;
- `demonstrations.jsonl` {prompt, prompt_ids, response, response_ids};
- `sizes.json`: tokens of each.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from harness import arguments
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

PPO_PROMPTS, PPO_TOKENS = 64, range(30, 61)
LEAST_DIALOGUE_TOKENS = 60
DEMONSTRATIONS, DEMONSTRATION_TOKENS = 96, range(24, 161)
PREAMBLE = "### Instruction:"  # the text before it is the same in every prompt
# (responses per prompt, prompts, tokens of a prompt, tokens of a response); longer prompts keep their last tokens
RANKINGS = ((4, 12, 128, 64), (9, 3, 88, 56))
Row = dict[str, Any]


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


class Tokens:
    """The tokenizer with the rule of both sides."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def prompt(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def response(self, text: str) -> list[int]:
        return [*self.plain(text), self.tokenizer.eos_token_id]

    def cut(self, text: str, most: int, keep_end: bool = False) -> str:
        """The text's first or last `most` tokens as text, shortened until it has no more when tokenised again."""
        ids = self.plain(text)
        if len(ids) <= most:
            return text
        for count in range(most, 0, -1):
            part = self.tokenizer.decode(ids[-count:] if keep_end else ids[:count]).strip("\N{REPLACEMENT CHARACTER}")
            if len(self.plain(part)) <= most:
                return part
        raise ValueError(f"cannot cut to {most} tokens: {text[:60]!r}")


def save_models(checkpoint: str, out: Path, layers: int, seed: int) -> Tokens:
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
    with torch.no_grad():
        reward.score.weight.normal_(0.0, (reward.config.hidden_size + 1) ** -0.5, generator=generator)
    reward.save_pretrained(out / "reward")
    for folder in ("model", "reward"):
        tokenizer.save_pretrained(out / folder)
    return Tokens(tokenizer)


def instructions(data: Path, tokens: Tokens) -> list[Row]:
    """Dolly and HH-RLHF, each prompt from its instruction on."""
    rows = []
    for row in read_jsonl(data / "dolly-hhrlhf-small/dolly_hhrlhf_train_small.jsonl"):
        prompt, response = row["prompt"][row["prompt"].index(PREAMBLE) :], row["response"]
        ids = {"prompt_ids": tokens.prompt(prompt), "response_ids": tokens.response(response)}
        rows.append({"prompt": prompt, "response": response} | ids)
    return rows


def ranked_dialogues(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Open-Assistant: each dialogue up to a user's turn, and its ranked answers, the best first."""

    def walk(message: Row, before: str) -> Iterator[tuple[str, list[str]]]:
        user = message["role"] == "prompter"
        dialogue = f"{before}{'User' if user else 'Assistant'}: {message['text'].strip()}\n"
        ranked = [reply for reply in message["replies"] if reply.get("rank") is not None]
        if user and ranked:
            yield dialogue + "Assistant:", [reply["text"] for reply in sorted(ranked, key=lambda reply: reply["rank"])]
        for reply in message["replies"]:
            yield from walk(reply, dialogue)

    for tree in read_jsonl(data / "oasst-sample/en_100_tree.jsonl"):
        yield from walk(tree["prompt"], "")


def rankings(data: Path, tokens: Tokens, wanted: tuple[int, int, int, int], draw: random.Random) -> list[Row]:
    """The dialogues with the most ranked answers, of which `size` are drawn. Few have nine: missing ones are answers to
    other dialogues, ranked last."""
    size, count, prompt_tokens, response_tokens = wanted
    dialogues = [row for row in ranked_dialogues(data) if len(tokens.prompt(row[0])) >= LEAST_DIALOGUE_TOKENS]
    draw.shuffle(dialogues)
    dialogues.sort(key=lambda row: -min(len(row[1]), size))
    elsewhere = [answers[0] for _, answers in dialogues[count:]]
    rows = []
    for dialogue, answers in dialogues[:count]:
        own = [answers[number] for number in sorted(draw.sample(range(len(answers)), min(size, len(answers))))]
        ranked = list(enumerate(own + draw.sample(elsewhere, size - len(own)), start=1))
        draw.shuffle(ranked)
        prompt = tokens.cut(dialogue, prompt_tokens, keep_end=True)
        responses = [tokens.cut(" " + answer.strip(), response_tokens) for _, answer in ranked]
        ids = {"prompt_ids": tokens.prompt(prompt), "response_ids": list(map(tokens.response, responses))}
        rows.append({"prompt": prompt, "responses": responses, "ranks": [rank for rank, _ in ranked]} | ids)
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", required=True, help="folder of a Llama checkpoint, as of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="with dolly-hhrlhf-small/ and oasst-sample/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokens = save_models(args.model, args.out, args.layers, args.seed)
    rows, draw = instructions(args.data, tokens), lambda: random.Random(args.seed)
    short = [row for row in rows if len(row["prompt_ids"]) in PPO_TOKENS]
    prompts = [{key: row[key] for key in ("prompt", "prompt_ids")} for row in draw().sample(short, PPO_PROMPTS)]
    fitting = [row for row in rows if len(row["prompt_ids"]) + len(row["response_ids"]) in DEMONSTRATION_TOKENS]
    found = {"ppo_prompts": prompts, "demonstrations": draw().sample(fitting, DEMONSTRATIONS)}
    found |= {f"rankings_k{wanted[0]}": rankings(args.data, tokens, wanted, draw()) for wanted in RANKINGS}
    sizes = {}
    for name, rows in found.items():
        write_jsonl(args.out / f"{name}.jsonl", rows)
        responses = [row["response_ids"] for row in rows if "response_ids" in row]
        flat = [ids for row in responses for ids in (row if isinstance(row[0], list) else [row])]
        prompt_tokens = sum(len(row["prompt_ids"]) for row in rows)
        sizes[name] = {"rows": len(rows), "prompt_tokens": prompt_tokens, "response_tokens": sum(map(len, flat))}
    (args.out / "sizes.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    print(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    main()
