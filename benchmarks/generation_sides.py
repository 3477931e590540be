"""The cases of generation.py, and its measured processes: alignbench's local engine (ours), lm-evaluation-harness
(lm_eval), transformers (hf), and the stock model that judges samples (reference).

lm_eval runs in another environment, which has lm-eval and not alignbench.
"""

import json
import random
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import load_ours, run_sides, timed, write_report

WAYS = {
    "each": "one call per prompt, all its samples in one batch",
    "together": "one call for all prompts and all their samples",
    "stop_strings": "batches of 16 by length, a row ends at its stop string",
    "no_stop": "batches of 16 by length, cut at the stop string afterwards",
}
HF_BATCH_SIZE = 16


@dataclass(frozen=True)
class Work:
    """Prompts and how they are continued.

    samples: continuations of each prompt at temperature 1 and `top_p`; 1: one greedy continuation
    stop: where a continuation ends; None: after exactly `max_tokens` tokens, and the end-of-sequence token is an
        ordinary token
    """

    prompts: list[str]
    max_tokens: int
    samples: int = 1
    top_p: float = 1.0
    stop: str | None = None

    @property
    def sampled(self) -> bool:
        return self.samples > 1


@dataclass(frozen=True)
class Case:
    """prompts: the default number; batch_size: lm-eval's default
    hf: ways of calling transformers' generate: all are tried, the fastest is kept
    """

    build: Callable[[Path, int, int], Work]
    prompts: int
    batch_size: int
    hf: tuple[str, ...] = ()


def real_toxicity(data: Path, count: int, seed: int) -> Work:
    """The first prompts, 25 continuations of 20 tokens, top-p .9."""
    lines = (data / "real-toxicity-prompts/rtp_5000.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["prompt"]["text"].rstrip() for line in lines[:count]]
    return Work(prompts, max_tokens=20, samples=25, top_p=0.9)


def greedy_stop(data: Path, count: int, seed: int) -> Work:
    """User-oriented instructions of Self-Instruct, to the first blank line. They share no prefix, so the stops make
    the difference."""
    lines = (data / "self-instruct/user_oriented_instructions.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = []
    for row in map(json.loads, lines):
        given = f"{row['instruction'].strip()}\n{row['instances'][0]['input'].strip()}".strip()
        prompts.append(f"User: {given}\nAssistant:")
    return Work(random.Random(seed).sample(prompts, count), max_tokens=64, stop="\n\n")


def few_shot_squad(data: Path, count: int, seed: int) -> Work:
    """Four paragraphs with four questions each, then questions on other articles' paragraphs after up to three
    earlier ones, in the form of our task `squad2`; to the first newline."""
    articles = json.loads((data / "squad2/cs224n-dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    draw = random.Random(seed)
    draw.shuffle(articles)

    def shown(title: str, paragraph: dict, asked: int) -> str:  # type: ignore[type-arg]
        text = f"Title: {title}\n\nBackground: {paragraph['context']}"
        for question in paragraph["qas"][:asked]:
            answer = question["answers"][0]["text"] if question["answers"] else "Not in background."
            text += f"\n\nQ: {question['question'].strip()}\n\nA: {answer}"
        return text

    prefix = (
        "Answer each question using information in the preceding background paragraph."
        ' If there is not enough information provided, answer with "Not in background."\n\n'
    )
    for article in articles[:4]:
        prefix += shown(article["title"], draw.choice(article["paragraphs"]), 4) + "\n\n"
    others = [(article["title"], paragraph) for article in articles[4:] for paragraph in article["paragraphs"]]
    prompts = []
    for number, (title, paragraph) in enumerate(draw.sample([o for o in others if len(o[1]["qas"]) > 3], count)):
        earlier = number % 4
        question = paragraph["qas"][earlier]["question"].strip()
        prompts.append(f"{prefix}{shown(title, paragraph, earlier)}\n\nQ: {question}\n\nA:")
    return Work(prompts, max_tokens=50, stop="\n")


def few_shot_wmt(data: Path, count: int, seed: int) -> Work:
    """Fifteen translated sentences, then others to translate, in the form of our task `wmt15_fr_en`; to the newline."""
    folder = data / "wmt15-fr-en"
    french, english = (
        (folder / f"newsdiscusstest2015.{language}").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        for language in ("fr", "en")
    )
    pairs = random.Random(seed).sample(list(zip(french, english, strict=True)), 15 + count)
    prefix = "Translate the following sentences from French into English.\n\n"
    prefix += "".join(f"French: {fr.strip()}\nEnglish: {en.strip()}\n\n" for fr, en in pairs[:15])
    return Work([f"{prefix}French: {fr.strip()}\nEnglish:" for fr, _ in pairs[15:]], max_tokens=100, stop="\n")


CASES = {
    "rtp_4x25": Case(real_toxicity, 4, batch_size=32, hf=("each", "together")),
    "greedy_stop": Case(greedy_stop, 32, batch_size=16, hf=("stop_strings", "no_stop")),
    "few_shot_squad": Case(few_shot_squad, 16, batch_size=4),
    "few_shot_wmt": Case(few_shot_wmt, 16, batch_size=8),
}


def write_case(work: Work, folder: Path) -> None:
    assert len(set(work.prompts)) == len(work.prompts)
    (folder / "case.json").write_text(json.dumps(asdict(work)), encoding="utf-8")


def read_case(folder: Path) -> Work:
    return Work(**json.loads((folder / "case.json").read_text(encoding="utf-8")))


def groups(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def ours(args: Namespace) -> None:
    from alignbench.models.local import engine as local_engine
    from alignbench.types.engine import Completion, Prompt, Sampling

    def write(sampled: bool) -> list[tuple[Completion, ...]]:
        """The continuations of each prompt."""
        prompts = [Prompt(str(number), text) for number, text in enumerate(work.prompts)]
        stop = (work.stop,) if work.stop else ()
        drawn = {"samples": work.samples, "temperature": 1.0, "top_p": work.top_p} if sampled else {}
        answers = dict(engine.generate(prompts, Sampling(work.max_tokens, stop=stop, **drawn), seed=args.seed))
        return [answers[number] for number in range(len(prompts))]

    work, (engine, report) = read_case(args.case), load_ours(args)
    if work.stop is None:  # the end-of-sequence token is an ordinary token, as with `eos_token_id = None`
        local_engine.end_tokens = lambda model, tokenizer: frozenset()
    with timed(args, engine.model) as times:
        completions = write(work.sampled)
    did = engine.work()

    def of_each(name: str) -> list[list[Any]]:
        return [[getattr(completion, name) for completion in group] for group in completions]

    report |= times | {
        "texts": of_each("text"),
        "tokens": of_each("tokens"),
        "finishes": of_each("finish"),
        "unscored": sum(reason is not None for group in of_each("unscored") for reason in group),
        "prompt_tokens": sum(map(len, engine.encoder.tokenizer(work.prompts)["input_ids"])),
        "tokens_computed": did["tokens_computed"],
        "layout": did["layout"],
    }
    if work.sampled:
        report |= {"logprobs": of_each("logprobs"), "entropies": of_each("entropies")}
        report["greedy"] = [group[0].tokens for group in write(sampled=False)]
    write_report(args, report, engine.model)


def lm_eval(args: Namespace) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    class ListeningHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's transformers model, which keeps the token ids of its texts."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.forget()

        def forget(self) -> None:
            self.written: dict[str, list[list[int]]] = {}  # prompt -> ids of each continuation, to its batch's end
            self.prompt_tokens = 0
            self.tokens_computed = 0  # including padding and tokens after a row's stop

        def tok_batch_encode(self, strings: list[str], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(strings, *args, **kwargs)
            self.batch = list(strings)
            self.prompt_tokens += int(encoded[1].sum())
            return encoded

        def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            rows: torch.Tensor = super()._model_generate(context, *args, **kwargs)
            self.tokens_computed += rows[:, :-1].numel()
            for prompt, row in zip(self.batch, rows[:, context.shape[1] :].tolist(), strict=True):
                self.written.setdefault(prompt, []).append(row)
            return rows

    work = read_case(args.case)

    def requests(sampled: bool) -> list[Instance]:
        """As its evaluator makes them: the same request again for each sample of a prompt."""
        settings: dict[str, Any] = {"until": [work.stop] if work.stop else [], "max_gen_toks": work.max_tokens}
        settings["do_sample"] = sampled
        if sampled:
            settings |= {"temperature": 1.0, "top_p": work.top_p, "top_k": 0}
        repeats = work.samples if sampled else 1
        return [
            request
            for number, prompt in enumerate(work.prompts)
            for request in [Instance("generate_until", {}, (prompt, settings), number)] * repeats
        ]

    lm = ListeningHFLM(pretrained=args.model, dtype=args.dtype, batch_size=int(args.way), device="cpu")
    if work.stop is None:
        lm.model.generation_config.eos_token_id = None
    torch.manual_seed(args.seed)
    with timed(args, lm.model) as report:
        texts = lm.generate_until(requests(work.sampled), disable_tqdm=True)
    report |= {
        "texts": groups(texts, work.samples),
        "tokens": [lm.written[prompt] for prompt in work.prompts],
        "prompt_tokens": lm.prompt_tokens // work.samples,
        "tokens_computed": lm.tokens_computed,
    }
    if work.sampled:
        lm.forget()
        lm.generate_until(requests(sampled=False), disable_tqdm=True)
        report["greedy"] = [lm.written[prompt][0] for prompt in work.prompts]
    write_report(args, report, lm.model)


def hf(args: Namespace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    work, tokenizer = read_case(args.case), AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    if work.stop is None:
        model.generation_config.eos_token_id = None
    lengths = [len(ids) for ids in tokenizer(work.prompts)["input_ids"]]

    def write(sampled: bool) -> tuple[list[list[int]], int]:
        """Ids of each continuation, to its batch's end, prompt by prompt, and the number of computed tokens."""
        settings: dict[str, Any] = {"max_new_tokens": work.max_tokens, "do_sample": sampled}
        if sampled:
            settings |= {"temperature": 1.0, "top_p": work.top_p, "top_k": 0, "num_return_sequences": work.samples}
        if args.way == "stop_strings":
            settings |= {"stop_strings": [work.stop], "tokenizer": tokenizer}
        numbers = list(range(len(work.prompts)))
        if args.way not in ("each", "together"):
            numbers.sort(key=lambda number: -lengths[number])
        by_prompt: dict[int, list[list[int]]] = {}
        computed = 0
        for batch in groups(numbers, {"each": 1, "together": len(numbers)}.get(args.way, HF_BATCH_SIZE)):
            prompts = [work.prompts[number] for number in batch]
            encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
            rows = model.generate(**encoded, pad_token_id=tokenizer.pad_token_id, **settings)
            computed += rows[:, :-1].numel()
            new = rows[:, encoded["input_ids"].shape[1] :].tolist()
            by_prompt |= zip(batch, groups(new, len(new) // len(batch)), strict=True)
        return [row for number in sorted(by_prompt) for row in by_prompt[number]], computed

    torch.manual_seed(args.seed)
    with timed(args, model) as report:
        written, computed = write(work.sampled)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        texts = [text.split(work.stop)[0] for text in texts] if work.stop else texts
    report |= {
        "texts": groups(texts, work.samples),
        "tokens": groups(written, work.samples),
        "prompt_tokens": sum(lengths),
        "tokens_computed": computed,
    }
    if work.sampled:
        report["greedy"] = write(sampled=False)[0]
    write_report(args, report, model)


def reference(args: Namespace) -> None:
    """For each sampled token: its log-probability in nats, the mass of strictly more likely tokens (below p in the
    nucleus), and the entropy of its distribution; by the stock model, one forward per prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts = AutoTokenizer.from_pretrained(args.model)(read_case(args.case).prompts)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()

    @torch.inference_mode()
    def judge(prompt: list[int], samples: list[list[int]]) -> list[list[list[float]]]:
        """All samples of a prompt have the same length."""
        new, found = torch.tensor(samples), []
        rows = torch.cat([torch.tensor([prompt]).expand(len(samples), -1), new], dim=1)
        logits = model(rows[:, :-1], use_cache=False, logits_to_keep=new.shape[1]).logits
        for row, tokens in zip(logits, new, strict=True):  # one sample at a time: fp64 of a vocabulary is large
            logprobs = torch.log_softmax(row.double(), -1)
            chosen = logprobs.gather(-1, tokens[:, None])
            probabilities = logprobs.exp()
            above = torch.where(logprobs > chosen, probabilities, 0.0).sum(-1)
            entropies = -(probabilities * logprobs).sum(-1)
            found.append(torch.stack([chosen[:, 0], above, entropies], -1).tolist())
        return found

    runs = json.loads((args.case / "samples.json").read_text(encoding="utf-8"))
    judged = {
        side: [[judge(*both) for both in zip(prompts, samples, strict=True)] for samples in of_side]
        for side, of_side in runs.items()
    }
    write_report(args, judged)


if __name__ == "__main__":
    ways = "; ".join(f"{way}: {meaning}" for way, meaning in WAYS.items())
    sides = {"ours": ours, "lm_eval": lm_eval, "hf": hf, "reference": reference}
    run_sides(__doc__, sides, way=f"lm_eval: batch size; hf: {ways}")
