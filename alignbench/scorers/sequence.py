"""Transformers that read a text (or a pair) and give a few logits: load one safely, run it in batches by length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import Checkpoint, find_checkpoint, resolve_device
from alignbench.models.onednn import use_onednn

BATCH_TOKENS = {"cpu": 2048, "other": 32768}  # padded tokens of a batch
# These count positions from the padding token's id on, so that many of their positions are never used.
POSITIONS_AFTER_PADDING = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "roberta-prelayernorm", "xmod")
)

Text = str | tuple[str, str]


@dataclass(frozen=True)
class SequenceModel:
    """A model whose logits belong to a whole text, with its tokenizer.

    window: the longest input in tokens, special ones included
    labels: names of the first logits; further ones are left out
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    window: int
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        use_onednn(self.model)

    def length(self, text: str) -> int:
        """In tokens, without special ones."""
        return len(self.tokenizer(encodable(text), add_special_tokens=False, verbose=False)["input_ids"])

    def logits(self, texts: Sequence[Text]) -> tuple[NDArray[np.float64], list[bool]]:
        """Logits (n, labels), and which texts were longer than the window and cut there (the longer of a pair first).

        A text's logits are those that it has alone, but for rounding: padding is masked.
        """
        if not texts:
            return np.zeros((0, len(self.labels))), []
        whole = self._encode(texts, truncation=False)
        cut = [len(row["input_ids"]) > self.window for row in whole]
        rows = whole
        if any(cut):
            rows = self._encode(texts, truncation=True)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        found = np.zeros((len(rows), len(self.labels)))
        for batch in self._batches(order, rows):
            found[batch] = self._forward([rows[i] for i in batch])
        return found, cut

    def _encode(self, texts: Sequence[Text], truncation: bool) -> list[dict[str, list[int]]]:
        firsts = [encodable(text if isinstance(text, str) else text[0]) for text in texts]
        seconds = [encodable(text[1]) for text in texts if not isinstance(text, str)]
        encoded = self.tokenizer(
            firsts,
            seconds or None,
            truncation=truncation,
            max_length=self.window if truncation else None,
            verbose=False,
        )
        return [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]

    def _batches(self, order: list[int], rows: list[dict[str, list[int]]]) -> list[list[int]]:
        """Shortest first; a batch's rows × longest row stays within the budget."""
        budget = BATCH_TOKENS["cpu" if self.model.device.type == "cpu" else "other"]
        batches: list[list[int]] = []
        for i in order:
            rows_now = len(batches[-1]) + 1 if batches else 0
            full = rows_now * len(rows[i]["input_ids"]) > budget
            if not batches or full or self.tokenizer.pad_token is None:
                batches.append([])
            batches[-1].append(i)
        return batches

    @torch.inference_mode()
    def _forward(self, rows: list[dict[str, list[int]]]) -> NDArray[np.float64]:
        if len(rows) > 1:
            inputs = self.tokenizer.pad(rows, return_tensors="pt")
        else:
            inputs = {key: torch.tensor([value]) for key, value in rows[0].items()}
        logits = self.model(**{key: value.to(self.model.device) for key, value in inputs.items()}).logits
        if logits.ndim == 3:  # a token classifier speaks for the text at its first token
            logits = logits[:, 0]
        return logits[:, : len(self.labels)].double().cpu().numpy()  # type: ignore[no-any-return]


def load_sequence_classifier(spec: str, *, device: str = "cpu", trust_remote_code: bool = False) -> SequenceModel:
    """Any checkpoint of AutoModelForSequenceClassification: a local folder, or a hub id with optional `@revision`.

    Computed in fp32. Raises AlignbenchError where it is not there, not safe, not whole, or has no trained head.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoint = find_checkpoint(spec, trust_remote_code=trust_remote_code)
    quiet()
    options = {"trust_remote_code": checkpoint.custom_code, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, **options)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # transformers raises whatever its parts raise: all of it is about this folder
        raise AlignbenchError(
            f"checkpoint {checkpoint.name}: it does not load as a sequence classifier ({first_line(error)})"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise AlignbenchError(
            f"checkpoint {checkpoint.name}: not a trained sequence classifier: {len(missing)} weights are not in its "
            f"files (first: {missing[0]})"
        )
    return SequenceModel(
        name=checkpoint.name,
        revision=identity(checkpoint),
        model=model.to(resolve_device(device)).eval(),
        tokenizer=tokenizer,
        window=window(checkpoint.window, model.config, tokenizer),
        labels=tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels)),
    )


def identity(checkpoint: Checkpoint) -> str:
    """The hub's commit, or the sha256 of a local folder's weights."""
    return checkpoint.revision or checkpoint.weights_sha256


def window(positions: int | None, config: Any, tokenizer: Any) -> int:
    """The longest input in tokens that both the model's positions and its tokenizer allow; 512 if neither says."""
    if positions is not None and config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    named = tokenizer.model_max_length
    limits = [limit for limit in (positions, named if named < 1_000_000 else None) if limit is not None]
    return min(limits, default=512)


def probabilities(logits: NDArray[np.float64], *, independent: bool) -> NDArray[np.float64]:
    """(n, labels): a sigmoid of each label where they do not exclude each other, else a softmax over them."""
    from scipy.special import expit, softmax

    return np.asarray(expit(logits) if independent else softmax(logits, axis=-1))


def encodable(text: str) -> str:
    """The text with "?" for half characters (lone surrogates of a cut JSON escape), which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def quiet() -> None:
    """No advice, load reports or bars of transformers between our own lines."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
