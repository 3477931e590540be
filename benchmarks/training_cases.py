"""Model and data of the training benchmark, and what its two sides share; imports neither the trainers nor the peer.

Texts are cut here, so that both sides get the same token ids: a prompt's are `tokenizer(prompt)`, a response's
`tokenizer(response, add_special_tokens=False)` and the end token. The folder has `model/`, a checkpoint's first layers;
`reward/`, the same with a scalar head; rows of `ppo_prompts`, `rankings_k4`, `rankings_k9` (rank 1 is the best) and
`demonstrations` with their token ids. The pad token is not the end token: TRL treats every pad token as
padding, and would read a response's score before its end.
"""

import json
import random
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from harness import arguments, peak_mib
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

CASES = ("ppo", "reward_k4", "reward_k9", "sft")
LOSSES = ("loss", "policy_loss", "loss/policy_avg")  # names in the logs
RESPONSE_TOKENS = 32  # of PPO
PPO_PROMPTS, PPO_TOKENS = 64, range(30, 61)
LEAST_DIALOGUE_TOKENS = 60
DEMONSTRATIONS, DEMONSTRATION_TOKENS = 96, range(24, 161)
PREAMBLE = "### Instruction:"  # the text before it is the same in every prompt
# (responses per prompt, prompts, tokens of a prompt, tokens of a response); longer prompts keep their last tokens
RANKINGS = ((4, 12, 128, 64), (9, 3, 88, 56))
Row = dict[str, Any]


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def side_arguments(description: str | None) -> Namespace:
    """The arguments of a measured process, which gets one thread."""
    parser = arguments(description)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--inputs", type=Path, required=True, help="folder that training_cases.py has written")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true", help="autocast; in TRL's ppo the frozen models are bfloat16 too")
    parser.add_argument("--updates", type=int, default=3)
    torch.set_num_threads(1)
    return parser.parse_args()


def write_report(args: Namespace, times: Sequence[tuple[float, float]], logged: Sequence[Row], **more: Any) -> None:
    """Write the measurements: seconds and CPU seconds of each update, and its metrics."""
    losses = [next((line[name] for name in LOSSES if name in line), None) for line in logged]
    report = {"case": args.case, "seconds": [t[0] for t in times], "cpu_seconds": [t[1] for t in times]}
    report |= {"peak_rss_mib": peak_mib(), "losses": losses, "logged": logged, "threads": torch.get_num_threads()}
    packages = ("torch", "trl", "transformers", "accelerate")
    report |= {"versions": {d.name: d.version for d in distributions() if d.name in packages}, **more}
    args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Tokens:
    """The tokenizer with the rule of both sides."""

    tokenizer: Any

    def prompt(self, text: str, special: bool = True) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def response(self, text: str) -> list[int]:
        return [*self.prompt(text, special=False), self.tokenizer.eos_token_id]

    def cut(self, text: str, most: int, keep_end: bool = False) -> str:
        """The text's first or last `most` tokens as text, shortened until it has no more when tokenised again."""
        ids = self.prompt(text, special=False)
        if len(ids) <= most:
            return text
        for count in range(most, 0, -1):
            part = self.tokenizer.decode(ids[-count:] if keep_end else ids[:count]).strip("\N{REPLACEMENT CHARACTER}")
            if len(self.prompt(part, special=False)) <= most:
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
    rows = read_jsonl(data / "dolly-hhrlhf-small/dolly_hhrlhf_train_small.jsonl")
    pairs = [(row["prompt"][row["prompt"].index(PREAMBLE) :], row["response"]) for row in rows]
    names = ("prompt", "response", "prompt_ids", "response_ids")
    return [dict(zip(names, (p, r, tokens.prompt(p), tokens.response(r)), strict=True)) for p, r in pairs]


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
    for name, rows in found.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        responses = [row["response_ids"] for row in rows if "response_ids" in row]
        flat = [ids for row in responses for ids in (row if isinstance(row[0], list) else [row])]
        tokens_of = [sum(map(len, part)) for part in ([row["prompt_ids"] for row in rows], flat)]
        print(f"{name}: {len(rows)} rows, {tokens_of[0]} tokens of prompts, {tokens_of[1]} of responses")


if __name__ == "__main__":
    main()
