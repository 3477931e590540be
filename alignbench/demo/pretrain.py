"""The demo's base model: a tokenizer of the world's words, and a small Llama that learns the world's text.
Two processes with one thread each (`torchrun --nproc-per-node 2 -m alignbench demo pretrain …`) are faster than one
with two threads. A step always has two halves whose gradients are added, so one process gives the same bytes.
"""

import math
import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from alignbench.data.tables import fingerprint
from alignbench.data.tokens import read_texts
from alignbench.models.onednn import choose_products
from alignbench.progress import Progress
from trainers import loop
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.models import save_model
from trainers.run import Origin, open_run

END = "<|end|>"  # ends a document; there is no other special token
HALVES = 2
IGNORED = -100  # a label without a loss
SHAPE = {  # names of transformers -> settings
    "hidden_size": "hidden", "intermediate_size": "intermediate", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "max_position_embeddings": "window", "initializer_range": "init",
}  # fmt: skip


@dataclass(frozen=True)
class Pretraining(StageConfig):
    """Shape of the model, and how it learns."""

    text: str = setting(REQUIRED, "JSON lines of {text}")
    first: str | None = setting(None, "JSON lines of {text} that are read once, before the rest")
    vocabulary: int = setting(2048, "tokens of the tokenizer, at most", low=257)
    hidden: int = setting(192, "width", low=8)
    intermediate: int = setting(512, "width of the feed-forward layers", low=8)
    layers: int = setting(2, "number of layers; with four it learned to copy from a passage much later", low=1)
    heads: int = setting(3, "attention heads", low=1)
    init: float = setting(0.06, "standard deviation of the initial weights", above=0)
    window: int = setting(512, "longest sequence", low=1)
    tokens: int = setting(900_000, "tokens to train on; shorter text is repeated", low=1)
    row: int = setting(256, "tokens of a row of whole documents", low=2)
    rows: int = setting(4, "rows of a step", low=1)
    lr: float = setting(8e-3, "peak learning rate of embeddings and norms, cosine decay to a tenth", above=0)
    matrix_lr: float = setting(0.02, "peak learning rate of the layers' matrices (Muon)", above=0)
    warmup: int = setting(40, "warm-up steps", low=1)
    max_gradient_norm: float | None = setting(1.0, "clip the gradient to this norm", above=0)
    save_every: int = setting(200, "steps between resumable states", free=True, low=1)
    trackers: tuple[str, ...] | None = setting((), "tensorboard, wandb", free=True)
    cpu: bool = setting(True, "train on the CPU even if there is a GPU")


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz steps (Jordan et al. 2024, github.com/KellerJordan/Muon).

    The base learns from a third of the tokens that AdamW needs. torch.optim.Muon multiplies in bfloat16, which without
    AVX-512 takes 1.7 s a step instead of 0.08 s. Each process computes some of the matrices.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, accelerator: Accelerator) -> None:
        super().__init__(groups, {"lr": lr, "momentum": 0.95, "weight_decay": 0.1})
        self._rank, self._world = accelerator.process_index, accelerator.num_processes

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            updates = []
            for number, weight in enumerate(group["params"]):
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                own = number % self._world == self._rank
                updates.append(orthogonal(weight.grad.lerp(average, group["momentum"])) if own else average * 0)
            flat = torch.cat([update.flatten() for update in updates])
            if self._world > 1:
                torch.distributed.all_reduce(flat)
            for weight, update in zip(group["params"], torch.split(flat, [u.numel() for u in updates]), strict=True):
                size = math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view_as(weight), alpha=-group["lr"] * size)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """A matrix (rows, columns) with the singular vectors of `matrix` and singular values of about 1."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        squared = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(squared, squared, squared, beta=-4.775, alpha=2.0315), wide, beta=3.4445)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): a word of the world with its space is one token."""
    bpe, level = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer, bpe.decoder = level, decoders.ByteLevel()
    settings: dict[str, Any] = {"special_tokens": [END], "initial_alphabet": level.alphabet(), "show_progress": False}
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, **settings))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def pack_rows(documents: Sequence[Sequence[int]], length: int, end: int, draw: random.Random) -> list[list[int]]:
    """Whole documents in rows of at most `length` tokens, each document followed by `end`, in a drawn order. A document
    goes into the fullest row that has room for it, and one that is longer than a row is cut."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # tokens left and number of each row, in order
    for document in draw.sample(documents, len(documents)):
        tokens = [*document, end][:length]
        place = bisect_left(room, (len(tokens), 0))
        if place == len(room):
            room.append((length, len(rows)))
            rows.append([])
        left, number = room.pop(place)
        rows[number] += tokens
        insort(room, (left - len(tokens), number))
    draw.shuffle(rows)
    return rows


def batches(first: list[list[int]], rest: list[list[int]], config: Pretraining, end: int) -> list[list[list[int]]]:
    """The rows of each step, until `config.tokens` tokens are planned. first: documents that are read once; rest:
    documents that are read repeatedly, packed anew in every pass"""
    rows, epoch = pack_rows(first, config.row, end, random.Random(f"{config.seed} first")), 0
    planned = sum(map(len, rows))
    while planned < config.tokens:
        more = pack_rows(rest, config.row, end, random.Random(f"{config.seed} rows {epoch}"))
        rows, planned, epoch = rows + more, planned + sum(map(len, more)), epoch + 1
    while planned - len(rows[-1]) >= config.tokens:
        planned -= len(rows.pop())
    return [rows[start : start + config.rows] for start in range(0, len(rows), config.rows)]


def pretrain(config: Pretraining, progress: Progress | None = None) -> Path:
    """Train a blank model on the text, or resume a run that was stopped. Returns the checkpoint's folder."""
    check(config)
    torch.set_num_threads(1)
    first, texts = ([] if file is None else read_texts(file) for file in (config.first, config.text))
    prints = [fingerprint(file) for file in (config.text, config.first) if file is not None]
    accelerator = loop.make_accelerator(config)
    with open_run(config, Origin("base", None, {}, prints), accelerator, progress) as run:
        if done := run.result():
            return done[0]
        tokenizer = train_tokenizer([*first, *texts], config.vocabulary)
        end = int(tokenizer.convert_tokens_to_ids(END))
        lessons, pages = ([tokenizer.encode(text) for text in some] for some in (first, texts))
        steps = batches(lessons, pages, config, end)
        logging.disable_progress_bar()
        torch.manual_seed(config.seed)
        shape: dict[str, Any] = {name: getattr(config, setting) for name, setting in SHAPE.items()}
        tokens = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}
        model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **shape, **tokens))
        choose_products(model)
        parameters = list(model.parameters())
        embedding = model.get_input_embeddings().weight
        matrices = [p for p in parameters if p.ndim > 1 and p is not embedding]
        vectors = [p for p in parameters if p.ndim == 1]
        groups = [{"params": p, "weight_decay": d, "peak": config.lr} for p, d in (([embedding], 0.1), (vectors, 0.0))]
        adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
        muon = Muon([{"params": matrices, "peak": config.matrix_lr}], config.matrix_lr, accelerator)
        module, adamw, muon = accelerator.prepare(model, adamw, muon)
        halves = range(accelerator.process_index, HALVES, accelerator.num_processes)
        start = 0
        if state := run.resume():
            loop.load_training(state.folder, accelerator)
            start = state.values["step"]
        run.progress.start("pretraining", len(steps), start, "steps")
        for step, rows in enumerate(steps[start:], start):
            if step and step % config.save_every == 0:
                run.save_state(step, lambda folder: loop.save_training(folder, accelerator), {})
            count = sum(len(row) - 1 for row in rows)
            parts = [rows[half::HALVES] for half in halves]
            loss = loop.accumulate(accelerator, module, parts, lambda part: _loss(module, part, end), count)
            if config.max_gradient_norm is not None:
                accelerator.clip_grad_norm_(parameters, config.max_gradient_norm)
            # linear warm-up, then a cosine to a tenth
            angle = math.pi * (step - config.warmup) / max(len(steps) - config.warmup, 1)
            factor = (step + 1) / config.warmup if step < config.warmup else 0.1 + 0.45 * (1 + math.cos(angle))
            for optimizer in (adamw, muon):
                loop.set_learning_rate(optimizer, factor)
                optimizer.step()
                optimizer.zero_grad()
            run.log(step + 1, {"loss": loop.total(loss), "lr": config.lr * factor})
            run.progress.advance()

        return run.save_checkpoint("final", lambda folder: save_model(folder, accelerator, model, tokenizer), {})


def _loss(model: Any, rows: Sequence[list[int]], end: int) -> torch.Tensor:
    """The summed loss of the rows' tokens, in nats; 0 for no rows."""
    rows = rows or [[end]]
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=end)
    labels = pad_sequence([torch.tensor([*row[1:], IGNORED]) for row in rows], batch_first=True, padding_value=IGNORED)
    mask, positions = separate(tokens, end)
    logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def separate(tokens: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention mask, (rows, 1, length, length), and positions, (rows, length), that keep the documents of a row apart:
    each begins at position 0, as every prompt does, and sees only itself. A model that sees the neighbours learns much
    later to find an answer in a passage. tokens: (rows, length), each document followed by its end"""
    begins = functional.pad(tokens[:, :-1] == end, (1, 0), value=True)
    document, places = begins.cumsum(1), torch.arange(tokens.shape[1])
    start = torch.where(begins, places, 0).cummax(1).values
    return (document[:, :, None] == document[:, None, :]).tril()[:, None], places - start
