"""Transformers that map a text (or a pair) to a few logits: load one safely and run it in batches by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from alignbench.models.checkpoint import Checkpoint, CheckpointError, find_checkpoint
from alignbench.models.load import load_model, resolve_device

BATCH_TOKENS = {"cpu": 2048, "other": 32768}  # padded tokens of a batch
# These number positions from the padding token's id on, so the first positions are never used.
POSITIONS_AFTER_PADDING = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "roberta-prelayernorm", "xmod")
)

Text = str | tuple[str, str]
NAME_LABELS = "name them in id2label of its config.json"  # advice in messages
Row = dict[str, list[int]]  # the model's inputs for a text


@dataclass(frozen=True)
class SequenceModel:
    """A sequence classifier with its tokenizer.

    window: the longest input in tokens, including special tokens
    labels: names of the first logits; further logits are ignored
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    window: int
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        from alignbench.models.onednn import use_onednn

        use_onednn(self.model)

    def length(self, text: str) -> int:
        """Number of tokens, without special tokens."""
        return len(self.tokenizer(encodable(text), add_special_tokens=False, verbose=False)["input_ids"])

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The beginning and end of each token in the text, without special tokens."""
        found = self.tokenizer(encodable(text), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets: list[tuple[int, int]] = found["offset_mapping"]
        return offsets

    def logits(self, texts: Sequence[Text]) -> tuple[NDArray[np.float64], list[bool]]:
        """Return logits (n, labels), and which texts were truncated to the window (the longer of a pair first)."""
        rows = self.encode(texts)
        cut = [len(row["input_ids"]) > self.window for row in rows]
        return self.run(self.encode(texts, truncation=True, max_length=self.window) if any(cut) else rows), cut

    def encode(self, texts: Sequence[Text], **options: Any) -> list[Row]:
        if not texts:
            return []
        pairs = [(text,) if isinstance(text, str) else text for text in texts]
        parts = [[encodable(text) for text in part] for part in zip(*pairs, strict=True)]
        encoded = self.tokenizer(*parts, verbose=False, **options)
        return [{key: encoded[key][i] for key in encoded} for i in range(len(texts))]

    def run(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """The logits of encoded texts, in batches by length. Padding is masked: up to rounding, a text's logits do not
        depend on its batch."""
        import torch

        found = np.zeros((len(rows), len(self.labels)))
        lengths, device = [len(row["input_ids"]) for row in rows], self.model.device
        budget = BATCH_TOKENS["cpu" if device.type == "cpu" else "other"]
        batches: list[list[int]] = []
        for i in sorted(range(len(rows)), key=lengths.__getitem__):
            if not batches or (len(batches[-1]) + 1) * lengths[i] > budget or self.tokenizer.pad_token is None:
                batches.append([])
            batches[-1].append(i)
        for batch in batches:
            if len(batch) > 1:
                inputs = self.tokenizer.pad([rows[i] for i in batch], return_tensors="pt")
            else:  # also of a tokenizer that cannot pad
                inputs = {key: torch.tensor([value]) for key, value in rows[batch[0]].items()}
            with torch.inference_mode():
                logits = self.model(**{key: value.to(device) for key, value in inputs.items()}).logits
            if logits.ndim == 3:  # a token classifier's logits at the first token
                logits = logits[:, 0]
            found[batch] = logits[:, : len(self.labels)].double().cpu().numpy()
        return found


def load_sequence_classifier(path: str, device: str, trust_remote_code: bool = False) -> SequenceModel:
    """Load a checkpoint of AutoModelForSequenceClassification in fp32: a local folder, or a hub id with `@revision`.

    Raises AlignbenchError if it is missing, unsafe or incomplete, or has no trained head.
    """
    return sequence_model(find_checkpoint(path, trust_remote_code=trust_remote_code), device)


def sequence_model(checkpoint: Checkpoint, device: str) -> SequenceModel:
    """The checkpoint of `load_sequence_classifier`, in memory."""
    import torch
    from transformers import AutoModelForSequenceClassification

    what, place = "a sequence classifier", resolve_device(device)
    model, tokenizer, missing = load_model(
        checkpoint, AutoModelForSequenceClassification, what, place, dtype=torch.float32
    )
    if missing:
        reason = f"{len(missing)} weights are not in its files (first: {missing[0]})"
        raise CheckpointError(checkpoint.name, f"not a trained sequence classifier: {reason}")
    return SequenceModel(
        name=checkpoint.name,
        revision=checkpoint.revision or checkpoint.sha256,
        model=model,
        tokenizer=tokenizer,
        window=window(checkpoint.window, model.config, tokenizer),
        labels=tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels)),
    )


def window(positions: int | None, config: Any, tokenizer: Any) -> int:
    """The longest input in tokens that both the model's positions and its tokenizer allow; 512 if neither says."""
    if positions is not None and config.model_type in POSITIONS_AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    tokens = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else None  # else there is no limit
    return min((limit for limit in (positions, tokens) if limit is not None), default=512)


def probabilities(logits: NDArray[np.float64], *, independent: bool = False) -> NDArray[np.float64]:
    """(n, labels): the sigmoid of each logit if labels are independent, else the softmax over them."""
    return np.asarray(expit(logits) if independent else softmax(logits, axis=-1))


def encodable(text: str) -> str:
    """Replace lone surrogates (half of a cut JSON escape), which no tokenizer takes, with "?"."""
    return text.encode("utf-8", "replace").decode()
