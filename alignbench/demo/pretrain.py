"""The demo's base model: a tokenizer of the world's words, and a small Llama that learns the world's text.

Two processes of one thread each share a step, which is faster than one process of two threads. A step always has two
halves whose gradients are added, so one process alone gives the same bytes; and so does a run that was killed and goes
on from its state.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError
from alignbench.progress import Progress
from alignbench.runs.folder import lock_run, read_object, write_json
from trainers.config import REQUIRED, check, setting

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"  # ends a document; there is no other special token
HALVES = 2
SAVE_SECONDS = 20.0
PATIENCE = timedelta(seconds=60)  # of one process with the other
RECORD = "pretraining.json"
IGNORED = -100  # a label without a loss


@dataclass(frozen=True)
class Pretraining:
    """Shape of the model, and how it learns."""

    text: str = setting(REQUIRED, "JSON lines of {text}")
    out: str = setting(REQUIRED, "folder of the checkpoint", free=True)
    first: str | None = setting(None, "JSON lines of {text} that are read once, before the rest")
    vocabulary: int = setting(2048, "tokens of the tokenizer, at most", low=257)
    hidden: int = setting(192, "width", low=8)
    intermediate: int = setting(512, "width of the feed-forward layers", low=8)
    layers: int = setting(2, "of the model; with four it learned to look back in a passage much later", low=1)
    heads: int = setting(3, "of the attention", low=1)
    init: float = setting(0.06, "standard deviation of the blank model's weights", above=0)
    window: int = setting(512, "longest sequence", low=1)
    tokens: int = setting(2_800_000, "seen in all, over and over where the text has fewer", low=1)
    row: int = setting(256, "tokens of a row of whole documents", low=2)
    rows: int = setting(6, "of a step", low=1)
    lr: float = setting(4e-3, "peak, after the warm-up, falling along a cosine to a tenth", above=0)
    warmup: int = setting(40, "steps", low=1)
    seed: int = setting(0, "of all that is random", low=0)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): a word of the world with its space is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def pack_rows(documents: Sequence[Sequence[int]], length: int, end: int, draw: random.Random) -> list[list[int]]:
    """Whole documents side by side in rows of at most `length` tokens, each document with its end, in a drawn order.

    A document goes into the fullest row that has room for it; one that is longer than a row is cut. So every row
    begins where a document begins, as every prompt does.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # tokens left and number of each row that is not full, in order
    for document in draw.sample(documents, len(documents)):
        tokens = [*document, end][:length]
        place = bisect_left(room, (len(tokens), 0))
        if place < len(room):
            left, number = room.pop(place)
            rows[number].extend(tokens)
        else:
            left, number = length, len(rows)
            rows.append(list(tokens))
        left -= len(tokens)
        if left:
            room.insert(bisect_left(room, (left, number)), (left, number))
    draw.shuffle(rows)
    return rows


@dataclass(frozen=True)
class _Task:
    """What every process needs to know. steps: the rows of each step; size: of the vocabulary; end: the token END."""

    config: Pretraining
    identity: dict[str, Any]
    steps: list[list[list[int]]]
    size: int
    end: int


def pretrain(config: Pretraining, processes: int | None = None, progress: Progress | None = None) -> Path:
    """Teach a blank model the text; the folder becomes a checkpoint. A run that was stopped goes on where it stood.

    Beside the weights, pretraining.json says what the model learned from, and the loss of each step.
    processes: 1 or 2; None: as many as there are cores, at most 2
    """
    check(config)
    out, identity = Path(config.out), {**asdict(config), "text": "", "first": "", "out": ""}
    data, texts = _read(config.text)
    before, lessons = (b"", []) if config.first is None else _read(config.first)
    if not any(texts):
        raise AlignbenchError(f"{config.text}: there is no text to learn from")
    identity |= {"text": hashlib.sha256(data).hexdigest(), "first": hashlib.sha256(before).hexdigest()}
    finished = read_object(out / RECORD)
    if finished is not None and finished["identity"] == identity:
        return out
    out.mkdir(parents=True, exist_ok=True)
    with lock_run(out):
        _train(config, identity, lessons, texts, processes or cores(), progress)
    return out


def _train(
    config: Pretraining,
    identity: dict[str, Any],
    lessons: list[str],
    texts: list[str],
    processes: int,
    progress: Progress | None,
) -> None:
    out = Path(config.out)
    tokenizer = train_tokenizer([*lessons, *texts], config.vocabulary)
    tokenizer.save_pretrained(out)
    end = int(tokenizer.convert_tokens_to_ids(END))
    steps = _steps([[tokenizer.encode(text) for text in part] for part in (lessons, texts)], config, end)
    task = _Task(config, identity, steps, len(tokenizer), end)
    if min(HALVES, processes) == 1:
        _learn(task, (0, 1), None, progress)
    else:
        _learn_together(task, progress)


def _learn_together(task: _Task, progress: Progress | None) -> None:
    """With a second process. Raises AlignbenchError where that one dies; what was saved is kept."""
    import torch.distributed as together

    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        other = multiprocessing.get_context("spawn").Process(target=_learn, args=(task, (1,), meeting), daemon=True)
        other.start()
        try:
            _learn(task, (0,), meeting, progress)
            other.join()
        except RuntimeError as error:  # of the network between the two
            other.join(1)
            if other.exitcode is None:
                raise
            raise AlignbenchError(
                f"{task.config.out}: the second process of the pretraining ended with exit code {other.exitcode} "
                "(killed for want of memory, say); the same command goes on where it stood"
            ) from error
        finally:
            if together.is_initialized():
                together.destroy_process_group()
            other.kill()
            other.join()


def cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: those that it may run on, or fewer where its control group has a quota of time.

    cgroups, own: where Linux mounts the groups (version 2), and tells the one of this process
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    group = next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), "")
    for folder in (cgroups / group, *(cgroups / group).parents):
        file = folder / "cpu.max"  # microseconds of work in a period: "200000 100000", or "max 100000"
        if folder.is_relative_to(cgroups) and file.is_file():
            quota, period = file.read_text(encoding="utf-8").split()
            found = found if quota == "max" else min(found, int(quota) // int(period))
    return max(1, found)


def _read(file: str) -> tuple[bytes, list[str]]:
    """The file's bytes and texts. Raises AlignbenchError where it is not JSON lines of {text}."""
    try:
        data = Path(file).read_bytes()
        return data, [str(json.loads(line)["text"]) for line in data.decode().splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignbenchError(f"{file}: not JSON lines of {{text}} ({type(error).__name__})") from error


def _steps(documents: Sequence[list[list[int]]], config: Pretraining, end: int) -> list[list[list[int]]]:
    """The rows of each step, until `config.tokens` tokens are planned; every pass packs the documents anew.

    documents: what is read first, and what is read over and over
    """
    first, rest = documents
    rows = pack_rows(first, config.row, end, random.Random(f"{config.seed} first"))
    planned, epoch = sum(map(len, rows)), 0
    while planned < config.tokens:
        more = pack_rows(rest, config.row, end, random.Random(f"{config.seed} rows {epoch}"))
        rows += more
        planned += sum(map(len, more))
        epoch += 1
    while planned - len(rows[-1]) >= config.tokens:
        planned -= len(rows.pop())
    return [rows[start : start + config.rows] for start in range(0, len(rows), config.rows)]


def _learn(task: _Task, halves: Sequence[int], meeting: str | None, progress: Progress | None = None) -> None:
    """All steps, from the last state on. `halves` of each step are this process's, the other process has the rest."""
    import torch
    import torch.distributed as together
    from transformers.utils import logging

    torch.set_num_threads(1)
    if meeting is not None:
        if sys.platform == "linux":  # else gloo looks this machine's name up, which may have no answer
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        together.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=halves[0], world_size=HALVES, timeout=PATIENCE
        )
    first, config, progress = 0 in halves, task.config, progress or Progress()
    out = Path(config.out)
    model = _blank(task)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        fused=True,
    )
    state, losses = out / "state.pt", []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["identity"] == task.identity:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            losses = saved["losses"]
    if meeting is not None:
        together.barrier()  # both have read the state before one writes it
    last = time.monotonic()
    if first:
        progress.start("pretraining", len(task.steps), len(losses), "steps")
    for step in range(len(losses), len(task.steps)):
        rows = task.steps[step]
        count = sum(len(row) - 1 for row in rows)
        total = torch.stack([_gradient(model, rows[half::HALVES], count, task.end) for half in halves]).sum(0)
        if meeting is not None:
            together.all_reduce(total)
        _into_gradients(total, parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * _schedule(step, config.warmup, len(task.steps))
        optimizer.step()
        losses.append(float(total[-1]))
        if not first:
            continue
        progress.advance()
        if time.monotonic() - last > SAVE_SECONDS:
            last = time.monotonic()
            whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save({**whole, "identity": task.identity}, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
    if meeting is not None:
        together.destroy_process_group()
    if first:
        logging.disable_progress_bar()
        model.save_pretrained(out)
        write_json(out / RECORD, {"identity": task.identity, "losses": losses})
        state.unlink(missing_ok=True)


def _blank(task: _Task) -> LlamaForCausalLM:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from alignbench.models.onednn import use_onednn

    shape = task.config
    torch.manual_seed(shape.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=task.size,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.window,
            tie_word_embeddings=True,
            initializer_range=shape.init,
            bos_token_id=task.end,
            eos_token_id=task.end,
        )
    )
    use_onednn(model)
    return model


def _gradient(model: LlamaForCausalLM, rows: list[list[int]], count: int, end: int) -> torch.Tensor:
    """Gradient of the summed loss over `count`, flat, and that loss as its last number."""
    import torch
    from torch.nn import functional

    parameters = list(model.parameters())
    if not rows:
        return torch.zeros(sum(p.numel() for p in parameters) + 1)
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[end] * (longest - len(row))] for row in rows])
    labels = torch.tensor([[*row[1:], *[IGNORED] * (longest - len(row) + 1)] for row in rows])
    seen, positions = apart(tokens, end)
    logits = model(input_ids=tokens, attention_mask=seen, position_ids=positions, use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    gradients = torch.autograd.grad(loss / count, parameters)
    return torch.cat([*(g.flatten() for g in gradients), loss.detach()[None] / count])


def apart(tokens: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents that share a row do not see each other, and each begins at position 0, as every prompt does. A model
    that sees its neighbours learns much later to find an answer in a passage.

    tokens: (rows, length), each document with its end behind it -> what each token attends to, (rows, 1, length,
    length), and its position, (rows, length)
    """
    import torch

    length = tokens.shape[1]
    places = torch.arange(length).expand_as(tokens)
    begins = torch.zeros_like(tokens, dtype=torch.bool)
    begins[:, 0] = True
    begins[:, 1:] = tokens[:, :-1] == end
    document = begins.cumsum(1)
    start = torch.where(begins, places, 0).cummax(1).values
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None], places - start


def _into_gradients(flat: torch.Tensor, parameters: list[torch.nn.Parameter]) -> None:
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def _schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the peak learning rate: up along a line, down along a cosine to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
