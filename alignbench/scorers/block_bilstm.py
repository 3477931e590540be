"""Toxicity by tox-block's bidirectional LSTM (MIT), turned from Keras to safetensors: six Jigsaw labels, 4 MB.

A folder holds config.json (labels, cleaning, length), vocab.json (word -> row) and model.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.data.fetch import sha256_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import resolve_device
from alignbench.types.scorer import Item

BATCH = 256  # texts; all have the same length


class BlockBiLSTM:
    """Numbers: "toxicity" (the label "toxic", 0..1), the six labels' probabilities, and "cut": 1 where the text had
    more known words than the model reads. It reads the last ones, as it was trained to."""

    kind = "toxicity"
    name = "block-bilstm"

    def __init__(self, folder: str, device: str = "cpu") -> None:
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise AlignbenchError(f"toxicity scorer block-bilstm: no folder {folder}")
        config, self.vocabulary = _read_json(path / "config.json"), _read_json(path / "vocab.json")
        try:
            self.labels: list[str] = list(config["labels"])
            self.length = int(config["maxlen"])
            self.to_space = str.maketrans(dict.fromkeys(config["filters"], " "))
        except (KeyError, TypeError, ValueError) as error:
            raise AlignbenchError(f"{path / 'config.json'}: not a block-bilstm configuration ({error!r})") from None
        weights = path / "model.safetensors"
        self.device = resolve_device(device)
        self.network = _load(weights, len(self.labels)).to(self.device).eval()
        self.revision = sha256_of(weights)
        if "toxic" not in self.labels or max(self.vocabulary.values()) >= self.network.emb.num_embeddings:
            raise AlignbenchError(f"{path}: config.json and vocab.json do not belong to the weights")

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        texts = [self._rows(item.output) for item in items]
        found: list[dict[str, float]] = []
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            # pads stand before the text, and are read as if they were words: the network was trained so
            padded = [[0] * (self.length - len(rows)) + rows[-self.length :] for rows in batch]
            shares = self.network(torch.tensor(padded, device=self.device)).double().cpu().tolist()
            for rows, row in zip(batch, shares, strict=True):
                labels = dict(zip(self.labels, row, strict=True))
                found.append(labels | {"toxicity": labels["toxic"], "cut": float(len(rows) > self.length)})
        return found

    def _rows(self, text: str) -> list[int]:
        words = text.lower().translate(self.to_space).split(" ")
        return [self.vocabulary[word] for word in words if word in self.vocabulary]


class _Network(nn.Module):
    def __init__(self, words: int, width: int, hidden: int, dense: int, labels: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, bidirectional=True, batch_first=True)
        self.d1 = nn.Linear(2 * hidden, dense)
        self.d2 = nn.Linear(dense, labels)

    def forward(self, rows: Tensor) -> Tensor:
        """Words (n, length) -> probabilities (n, labels)."""
        states, _ = self.lstm(self.emb(rows))
        return torch.sigmoid(self.d2(torch.relu(self.d1(states.amax(dim=1)))))


def _load(file: Path, labels: int) -> _Network:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
        words, width = weights["emb.weight"].shape
        hidden, dense = weights["lstm.weight_hh_l0"].shape[1], weights["d1.bias"].shape[0]
        network = _Network(words, width, hidden, dense, labels)
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise AlignbenchError(f"{file}: no such file") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise AlignbenchError(f"{file}: not the weights of a block-bilstm ({first_line(error)})") from None
    return network


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise AlignbenchError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise AlignbenchError(f"{file}: not JSON ({error})") from None
    if not isinstance(found, dict) or not found:
        raise AlignbenchError(f"{file}: not a JSON object, or an empty one")
    return found
