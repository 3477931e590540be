"""The reward model: a scalar head on the SFT model, trained on all pairs of each ranking (InstructGPT, C.2, eq. 1),
and rewards of texts, by a model or a function (details 20, 21)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from alignbench.data.messages import Messages, as_messages
from alignbench.errors import AlignbenchError, first_line
from alignbench.models.template import render as render_messages
from alignbench.models.template import render_pair, renderer
from alignbench.progress import Progress
from alignbench.provenance import function_name
from alignbench.runs.folder import read_object, write_json
from alignbench.stats.rankings import agreement, prefers_longer
from trainers import data, loop
from trainers.config import REQUIRED, StageConfig, check, setting
from trainers.data import Ranking
from trainers.losses import ranking_loss
from trainers.models import BIAS, Scalar, Texts, load, place, residual_dropout, save_model
from trainers.packing import Example, Packed, pack
from trainers.run import Callback, Metrics, Origin, Result, is_checkpoint, load_function, open_run

Reward = Callable[[Sequence[Any], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class RankingConfig(StageConfig):
    """Settings of a stage that learns from rankings."""

    model: str = setting(REQUIRED, "checkpoint to start from, the SFT model: local folder or hub id")
    data: str = setting(REQUIRED, "rankings: {prompt, responses, ranks, labeler} or {prompt, chosen, rejected}")
    validation: str | None = setting(None, "held-out rankings; none: a proportion of the prompts in data")
    validation_share: float = setting(0.1, "proportion of prompts to hold out without validation", above=0, high=0.99)
    leave_out: tuple[str, ...] = setting((), "labelers not to train on; a reward model is measured on them apart")
    epochs: int = setting(1, "passes over the data (InstructGPT's reward model: 1, since more overfit)", low=1)
    batch: int = setting(64, "prompts per step, with all their pairs (papers: 64; DPO's of one pair each)", low=1)


@dataclass(frozen=True)
class Config(RankingConfig):
    """Settings of the reward model. The defaults are the paper's where it gives a number."""

    demonstrations: str | None = setting(None, "demonstrations whose mean reward a bias sets to 0 after training")
    lr: float = setting(9e-6, "peak learning rate, cosine decay to a tenth (paper: 9e-6)", low=0)


PRESETS: dict[str, dict[str, Any]] = {"instructgpt-6b": {}}  # the paper's only size of reward model: the defaults


def train(config: Config, *, progress: Progress | None = None, callback: Callback | None = None) -> Result:
    """Train, or resume an interrupted run; the folder of the final checkpoint and its metrics. callback: `loop.fit`"""
    config = check(config)
    progress = progress or Progress()
    accelerator = loop.make_accelerator(config, progress.say)
    model, tokenizer, checkpoint = load(config.model, "reward", accelerator, new_head=config.seed)
    setattr(model.config, BIAS, 0.0)  # the parent's bias does not apply to this model
    render = data.find_render(config, tokenizer)
    residual_dropout(model, 0.0)
    scalar, module, optimizer = loop.prepare(Scalar(model), config, config.lr, accelerator)
    scorer = RewardModel(scalar, tokenizer, checkpoint.window, config.micro_tokens, accelerator)
    reader = data.Reader(config, render, scorer.texts, checkpoint.window, progress.say)
    (training, validation, left_out), files = read_parts(config, reader, keep_end=True)
    shown = reader.read(config.demonstrations, "demonstrations")
    demonstrations = [example for _, example in reader.encode(shown, config.demonstrations, keep_end=True)]
    longer_is_better = prefers_longer([ranking for ranking, _ in training])
    origin = Origin.find("reward", config.model, {}, [*files, (config.demonstrations, len(shown))])

    with open_run(config, origin, accelerator, progress) as run:
        if result := run.result():
            return result

        def loss_of(rows: Sequence[tuple[Ranking, Example]]) -> torch.Tensor:
            packed = pack([example for _, example in rows], accelerator.device)
            scores = module(packed, packed.last).split([len(ranking.ranks) for ranking, _ in rows])
            ranks = [torch.tensor(ranking.ranks, device=accelerator.device) for ranking, _ in rows]
            return torch.stack([ranking_loss(s, r) for s, r in zip(scores, ranks, strict=True)]).sum()

        def scores_of(examples: Sequence[Example]) -> list[list[float]]:
            scalar.eval()
            return scorer.scores(examples)

        def agreement_on(rows: Sequence[tuple[Ranking, Example]]) -> tuple[Metrics, list[dict[str, float]]]:
            scores = scores_of([example for _, example in rows])
            return agreement([ranking for ranking, _ in rows], scores, longer_is_better=longer_is_better)

        def after_epoch(epoch: int, step: int) -> Metrics:
            others = agreement_on(left_out)[0] if left_out else {}
            return agreement_on(validation)[0] | {f"held_out_labelers_{k}": v for k, v in others.items()}

        def save(folder: Path) -> None:
            # not the end token, which transformers would skip as padding (details 1, 2)
            special = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
            padding = next((i for i in special if i not in (None, tokenizer.eos_token_id)), None)
            if padding is not None:
                tokenizer.pad_token_id = padding
            model.config.pad_token_id = padding
            save_model(folder, accelerator, scalar, tokenizer)
            if accelerator.is_main_process:
                write_json(folder / "calibration.json", {"bins": bins})

        epochs = loop.fit(
            config, run, module, optimizer, rows_of=lambda epoch: training, size=lambda row: len(row[1]),
            weight=lambda row: 1, loss_of=loss_of, after_epoch=after_epoch, callback=callback,
        )  # fmt: skip
        metrics, (_, bins) = epochs[-1], agreement_on(validation)
        if demonstrations:
            metrics["bias"] = -float(np.mean(scores_of(demonstrations)))
            setattr(model.config, BIAS, metrics["bias"])
        return run.save_checkpoint("final", save, metrics), metrics


def read_parts(
    config: RankingConfig, reader: data.Reader, *, keep_end: bool = False
) -> tuple[list[list[tuple[Ranking, Example]]], list[tuple[str | None, int]]]:
    """The parts of `split_rankings` with their tokens; each file of rankings and its number of rows."""
    rankings, given = (reader.read(source, "rankings") for source in (config.data, config.validation))
    sources = (config.data, config.validation or config.data, config.data)
    parts = zip(split_rankings(config, rankings, given), sources, strict=True)
    encoded = [reader.encode(part, source, keep_end=keep_end) for part, source in parts]
    return encoded, [(config.data, len(rankings)), (config.validation, len(given))]


def split_rankings(config: RankingConfig, rankings: list[Ranking], given: list[Ranking]) -> list[list[Ranking]]:
    """Rankings to train on, to validate on, and of the labelers to leave out.

    given: held-out rankings; empty: those of a random proportion of the prompts
    Raises AlignbenchError before any training if a labeler is unknown, or if nothing is left of the first two.
    """
    training, held_out = rankings, given
    if not given:
        prompts = sorted({r.prompt for r in rankings})
        count = max(1, round(len(prompts) * config.validation_share))
        chosen = {prompts[i] for i in loop.shuffled(len(prompts), "validation", config.seed)[:count]}
        training, held_out = ([r for r in rankings if (r.prompt in chosen) is out] for out in (False, True))
    if unknown := sorted({*config.leave_out} - {r.labeler for r in rankings}):
        raise AlignbenchError(f"leave_out: {config.data} has no ranking by {unknown[0]!r}")
    kept = [[r for r in part if r.labeler not in config.leave_out] for part in (training, held_out)]
    for part, what, source in zip(kept, ("train", "validate"), (config.data, config.validation), strict=True):
        if not part:
            raise AlignbenchError(f"{source or config.data}: no ranking is left to {what} on; give more")
    return [*kept, [r for r in rankings if r.labeler in config.leave_out]]


class RewardTexts(Texts):
    """Encodes prompts and responses as a reward model reads them. The score is that of the last token.

    One of our own reads them as in its training: in its chat template (chat) or as plain text, up to the end token.
    Another one reads the whole dialogue in its chat template if it has one, else plain text and the end token, up to
    the last token that is not padding, as in transformers.

    folder: of the checkpoint; None for a model in training, which is our own
    """

    def __init__(self, tokenizer: Any, model: Any, folder: Path | None = None) -> None:
        super().__init__(tokenizer, model)
        recipe: dict[str, Any] = {"stage": "reward"}
        if folder is not None:
            recipe = read_object(folder / "recipe.json") or {}
        self.ours = recipe.get("stage") == "reward"
        self.chat = bool(recipe.get("config", {}).get("template") if self.ours else tokenizer.chat_template)
        self._render = renderer(tokenizer) if self.ours and self.chat else None
        self._padding = model.config.get_text_config().pad_token_id

    def examples(self, prompt: str | Messages, responses: Sequence[str]) -> list[Example]:
        """The responses to a prompt, which one of our own models reads together."""
        if not self.ours:
            return [self._alone(prompt, response) for response in responses]
        if self._render is None:
            return [self.example(str(prompt), responses)]
        answers = ([{"role": "assistant", "content": response.strip()}] for response in responses)
        pairs = [render_pair(as_messages(prompt), answer, self._render) for answer in answers]
        return [self.example(pairs[0][0], [response for _, response in pairs])]

    def _alone(self, prompt: str | Messages, response: str) -> Example:
        if self.chat:
            dialogue = [*as_messages(prompt), {"role": "assistant", "content": response}]
            try:
                text = render_messages(self.tokenizer, dialogue, add_generation_prompt=False)
            except ValueError as error:
                raise ValueError(f"the chat template does not take prompt and response ({error})") from error
            ids = self._known(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        else:
            example = self.example(str(prompt), [response])
            ids = [*example.prompt, *example.responses[0]]
        last = max((at for at, token in enumerate(ids) if token != self._padding), default=len(ids) - 1)
        return Example(ids[:last], [ids[last : last + 1]])


class RewardModel:
    """A classifier with one label and its own tokenizer. folder: see `RewardTexts`"""

    def __init__(
        self, scalar: Scalar, tokenizer: Any, window: int | None, micro_tokens: int, accelerator: Accelerator,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.scalar, self.texts, self.window = scalar, RewardTexts(tokenizer, scalar.model, folder), window
        self.micro_tokens, self.accelerator = micro_tokens, accelerator

    def __call__(self, prompts: Sequence[str | Messages], responses: Sequence[str]) -> list[float]:
        """One score per response. Adjacent responses to the same prompt share its computation."""
        examples: list[Example] = []
        for prompt, pairs in groupby(zip(prompts, responses, strict=True), key=lambda pair: pair[0]):
            found = self.texts.examples(prompt, [response for _, response in pairs])
            examples += found
            if self.window is not None and (longest := max(example.longest for example in found)) > self.window:
                asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
                tokens = f"{longest} tokens, more than the reward model's window of {self.window}"
                raise AlignbenchError(f"prompt {asked[:60]!r}: with its response it has {tokens}")
        return [score for scores in self.scores(examples) for score in scores]

    def scores(self, examples: Sequence[Example]) -> list[list[float]]:
        """One score per response of each example."""

        def compute(packed: Packed) -> list[list[float]]:
            scores = self.scalar(packed, packed.last)
            return [part.tolist() for part in loop.split_by_example(packed, packed.last, scores)]

        return loop.map_packed(self.accelerator, examples, self.micro_tokens, compute)


def load_reward(spec: str | Reward, accelerator: Accelerator, micro_tokens: int, offload: bool = False) -> Reward:
    """The reward model or function that `spec` is or names: a checkpoint, or module:function, also of this folder."""
    if not isinstance(spec, str):
        return spec
    if is_checkpoint(spec):
        model, tokenizer, checkpoint = load(spec, "reward", accelerator)
        scalar = place(Scalar(model), accelerator, frozen=True, offload=offload)
        return RewardModel(scalar, tokenizer, checkpoint.window, micro_tokens, accelerator, checkpoint.path)
    return load_function("reward", spec)


def as_read_by(reward: Reward, rows: Sequence[Ranking], template: bool) -> Sequence[str | Messages]:
    """Prompts as the reward reads them: a reward model does not read the policy's template. template: it has one"""
    prompts = [row.prompt for row in rows]
    if not isinstance(reward, RewardModel) or not (template or reward.texts.chat):
        return prompts
    if reward.texts.chat:
        return [as_messages(row.asked) for row in rows]
    found = list[str]()
    for row in rows:
        if not isinstance(row.asked, str) and len(row.asked) > 1:
            where = f"prompt {row.prompt[:60]!r}: it has {len(row.asked)} messages"
            raise AlignbenchError(
                f"{where}, which a reward model of plain text cannot read; train one with template=true"
            )
        found.append(row.asked if isinstance(row.asked, str) else row.asked[0]["content"])
    return found


def score_all(
    accelerator: Accelerator, reward: Reward, given: str | Reward, prompts: Sequence[Any], responses: Sequence[str]
) -> list[float]:
    """The rewards of all texts; each process computes a part. AlignbenchError unless each is a finite number.

    given: the reward as in the settings, for messages
    """
    name = given if isinstance(given, str) else function_name(given)

    def compute(indices: Sequence[int]) -> list[float]:
        texts = [responses[i] for i in indices]
        try:
            scores = [float(score) for score in reward([prompts[i] for i in indices], texts)]
        except Exception as error:  # the user's function may raise any exception
            kind = "" if isinstance(error, AlignbenchError) else f"{type(error).__name__}: "
            raise AlignbenchError(f"reward {name}: {kind}{first_line(error)}") from error
        if len(scores) != len(texts):
            raise AlignbenchError(f"reward {name}: {len(scores)} scores for {len(texts)} responses")
        for score, text in zip(scores, texts, strict=True):
            if not math.isfinite(score):
                raise AlignbenchError(f"reward {name}: {score} for the response {text[:60]!r}; a score must be finite")
        return scores

    if isinstance(reward, RewardModel):  # which divides the work itself
        return compute(range(len(prompts)))
    return loop.map_split(accelerator, len(prompts), compute)
