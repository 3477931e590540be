"""Reward models: any sequence classifier with one output that reads a prompt and a response.

A decoder's output is read at the last token that is not padding, as in transformers. The bias that our trainers write
into the configuration is added.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.scorers.preference import each_once, pair, win
from alignbench.scorers.sequence import Row, SequenceModel, encodable, sequence_model, window
from alignbench.types.scorer import Item, Numbers
from trainers.models import BIAS
from trainers.reward import RewardTexts

UNBOUNDED = 2**31
Pair = tuple[str, str]  # prompt and response


class RewardScorer:
    """`reward=model:FOLDER-OR-HUB-ID`, in fp32. Numbers: "reward", the model's output.

    weights_sha256: of the model, as in a recipe.json, to recognise policies that were trained against it
    """

    def __init__(self, kind: str, name: str, path: str, device: str, trust_remote_code: bool) -> None:
        checkpoint = find_checkpoint(path, trust_remote_code=trust_remote_code)
        self._reader = reader = sequence_model(checkpoint, device)
        if len(reader.labels) != 1:
            outputs = f"it has {len(reader.labels)} outputs; a reward model has one"
            raise AlignbenchError(f"reward model {reader.name}: {outputs}")
        config, tokenizer = reader.model.config, reader.tokenizer
        decoder = isinstance(getattr(reader.model, "score", None), nn.Linear)
        unbounded = decoder and checkpoint.window is None  # no limit of positions
        self._window = window(UNBOUNDED, config, tokenizer) if unbounded else reader.window
        if decoder and config.get_text_config().pad_token_id != tokenizer.pad_token_id:
            tokenizer.pad_token = None  # the class would read the output at padding: one text per batch
        tokenizer.padding_side = "right"
        self._encode = _encoder(reader, decoder, checkpoint.path)
        self._bias = float(getattr(config, BIAS, 0.0))
        self.kind, self.name, self.revision = kind, f"{name}:{reader.name}", reader.revision
        self.weights_sha256 = checkpoint.weights_sha256

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        found = each_once(self.rewards, [(item.prompt, item.output) for item in items])
        return [reward if isinstance(reward, str) else {"reward": reward} for reward in found]

    def rewards(self, pairs: Sequence[Pair]) -> list[float | str]:
        """The reward of each (prompt, response), or why there is none.

        A text longer than the window is not truncated: the reward of a part is not that of the whole.
        """
        rows = self._encode(pairs)
        lengths = [len(row["input_ids"]) for row in rows]
        logits = self._reader.run([row for row, length in zip(rows, lengths, strict=True) if length <= self._window])
        found, too_long = iter(logits[:, 0].tolist()), f"tokens do not fit the reward model's window of {self._window}"
        return [next(found) + self._bias if n <= self._window else f"{n} {too_long}" for n in lengths]


class RewardJudge(RewardScorer):
    """`preference=reward:FOLDER-OR-HUB-ID`: the answer with the higher reward wins. Numbers: win, and both rewards."""

    def score(self, items: Sequence[Item]) -> list[Numbers | str]:
        def numbers(own: float | str, other: float | str) -> Numbers | str:
            if isinstance(own, str) or isinstance(other, str):
                return own if isinstance(own, str) else str(other)
            return {"win": win(own, other), "reward": own, "baseline_reward": other}

        pairs = [(prompt, answer) for prompt, *both in map(pair, items) for answer in both]
        rewards = each_once(self.rewards, pairs)
        return list(map(numbers, rewards[::2], rewards[1::2]))


def _encoder(reader: SequenceModel, decoder: bool, folder: Path) -> Callable[[Sequence[Pair]], list[Row]]:
    """How prompt and response become one input: a pair of texts for an encoder without a chat template, or else as the
    trainers read them (`RewardTexts`)."""
    texts = RewardTexts(reader.tokenizer, reader.model, folder)
    if not (texts.ours or texts.chat or decoder):
        return reader.encode

    def encode(pairs: Sequence[Pair]) -> list[Row]:
        found = [texts.examples(encodable(prompt), [encodable(response)])[0] for prompt, response in pairs]
        ids = [[*example.prompt, *example.responses[0]] for example in found]
        return [{"input_ids": own, "attention_mask": [1] * len(own)} for own in ids]

    return encode
