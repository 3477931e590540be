"""Weight averaging: checkpoints on the line between two, for the reward–tax front (arXiv 2309.06256, 2109.01903).

Weights are read, averaged and written in pieces of a tensor, so a model larger than the memory can be averaged.
"""

from __future__ import annotations

import filecmp
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import (
    SAFETENSORS_DTYPES,
    TOKENIZER_FILES,
    Ancestor,
    Checkpoint,
    find_checkpoint,
    weight_files,
)
from alignbench.progress import Progress
from alignbench.runs.folder import read_object
from trainers.run import Origin, identity

PIECE = 2**20  # elements in memory at a time
# An average is used as ALIGNED is: these files are copied from it.
COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES, "chat_template.jinja", "chat_template.json")


def average(
    base: str, aligned: str, alphas: Sequence[float], out: Path, *, progress: Progress | None = None
) -> list[Path]:
    """Write `out`/alpha-A for each alpha A: weights (1 - A)·BASE + A·ALIGNED, all other files from ALIGNED.

    base, aligned: folders or hub ids of two checkpoints of one architecture
    alphas: each in [0, 1]; 0 gives BASE's weights, 1 ALIGNED's
    out: an existing folder is kept if it holds the same average

    The sum is computed in float32 (float64 if one of the two is), and stored in ALIGNED's number format. Returns the
    folders in the order of alphas. Raises AlignbenchError if the two cannot be averaged, or if `out` cannot be
    written; a folder is written whole or not at all.
    """
    progress = progress or Progress()
    alphas = list(dict.fromkeys(alpha + 0.0 for alpha in alphas))  # -0.0 becomes 0.0
    if wrong := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise AlignbenchError(f"alpha {wrong[0]}: it must be a number from 0 (BASE) to 1 (ALIGNED)")
    ours, theirs = _find(base), _find(aligned)
    if ours.weights_sha256 == theirs.weights_sha256:
        raise AlignbenchError(f"{base} and {aligned}: the same weights; name two different checkpoints")
    pairs = _pair(ours, theirs)
    formats = [" and ".join(sorted({tensor.dtype for tensor in side})) for side in zip(*pairs, strict=True)]
    if formats[0] != formats[1]:
        progress.say(f"BASE has {formats[0]}, ALIGNED {formats[1]}: the averages are stored in ALIGNED's format")
    copied = [name for name in COPIED if (theirs.path / name).is_file()]
    recipes = [read_object(side.path / "recipe.json") or {} for side in (ours, theirs)]
    rewards = [recipe["models"]["reward"] for recipe in recipes if "reward" in recipe.get("models", {})]
    lineage = theirs.lineage or ours.lineage or (Ancestor("base", ours.name, ours.weights_sha256),)
    models = {"base": identity(ours)} | ({"reward": rewards[-1]} if rewards else {})
    origin = Origin("average", replace(theirs, lineage=lineage), models, [])

    folders = {alpha: out / f"alpha-{str(alpha).removesuffix('.0')}" for alpha in alphas}
    todo = [alpha for alpha in alphas if not _is_complete(folders[alpha], origin, alpha, copied)]
    for alpha in alphas:
        if alpha not in todo:
            progress.say(f"{folders[alpha]}: already complete")
    try:
        out.mkdir(parents=True, exist_ok=True)
        needed = len(todo) * sum(tensor.size for _, tensor in pairs)
        if needed > (free := shutil.disk_usage(out).free):
            raise AlignbenchError(
                f"{out}: {len(todo)} averages take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free"
            )
        for alpha in todo:
            with TemporaryDirectory(prefix=".partial-", dir=out) as temporary:
                folder = Path(temporary) / folders[alpha].name
                folder.mkdir()
                for name in copied:
                    shutil.copyfile(theirs.path / name, folder / name)
                progress.start(folder.name, len(pairs), unit="tensors")
                _write_weights(folder / "model.safetensors", pairs, alpha, progress)
                origin.write_recipe(folder, {"alpha": alpha}, {})
                folder.rename(folders[alpha])
    except OSError as error:
        raise AlignbenchError(f"{out}: the average cannot be written ({first_line(error)})") from error
    return list(folders.values())


def mix(base: torch.Tensor, aligned: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - alpha)·base + alpha·aligned, in the number format of `aligned`; equal values are unchanged."""
    if alpha in (0, 1):  # a sum would turn -0 into 0, and an infinity times 0 into NaN
        return (aligned if alpha else base).to(aligned.dtype)
    wide = torch.float64 if torch.float64 in (base.dtype, aligned.dtype) else torch.float32
    return torch.lerp(base.to(wide), aligned.to(wide), alpha).to(aligned.dtype)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its name, format ("F32", "BF16", …), shape, and `size` bytes from `start`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def itemsize(self) -> int:
        return self.size // max(math.prod(self.shape), 1)

    def pieces(self) -> Iterator[bytearray]:
        """Its bytes, PIECE elements at a time."""
        length = PIECE * max(self.itemsize, 1)
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            for done in range(0, self.size, length):
                yield bytearray(stream.read(min(length, self.size - done)))

    def equals(self, other: Stored) -> bool:
        """True if format and values are the same."""
        return (self.dtype, self.size) == (other.dtype, other.size) and all(
            a == b for a, b in zip(self.pieces(), other.pieces(), strict=True)
        )


def _find(spec: str) -> Checkpoint:
    local = Path(spec).expanduser()
    found = None if (local / "adapter_config.json").is_file() else find_checkpoint(spec, trust_remote_code=True)
    if found is None or (found.path / "adapter_config.json").is_file():
        raise AlignbenchError(f"checkpoint {spec}: a LoRA adapter; merge it into its model first (merge_and_unload)")
    if found.custom_code:  # consent was given above for this message only; no code is run
        raise AlignbenchError(f"checkpoint {spec}: it needs custom Python code, which average does not run")
    return found


@dataclass(frozen=True)
class _Side:
    """A checkpoint's tensors by their names in transformers, without the prefix of the base model.

    ties: tensor -> the tensor that replaces it if it is not stored; empty unless the configuration ties weights
    ignored: patterns of tensors that transformers does not read: buffers in old files
    """

    vocabulary: int | None
    tensors: dict[str, Stored]
    ties: dict[str, str]
    ignored: list[str]

    def __getitem__(self, name: str) -> Stored | None:
        return self.tensors.get(name) or self.tensors.get(self.ties.get(name, ""))


def _side(checkpoint: Checkpoint) -> _Side:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # transformers raises exceptions of any type for a broken file
        raise AlignbenchError(f"checkpoint {checkpoint.name}: its config.json ({first_line(error)})") from error
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    ties = (getattr(model, "_tied_weights_keys", None) or {}) if getattr(config, "tie_word_embeddings", False) else {}
    tensors = {}
    for file in weight_files(checkpoint.path, str(checkpoint.path)):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            stored = Stored(name, file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, stop - start)
            tensors[name.removeprefix(prefix)] = stored
    ties = {name.removeprefix(prefix): source.removeprefix(prefix) for name, source in ties.items()}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return _Side(getattr(config, "vocab_size", None), tensors, ties, ignored)


def _pair(base: Checkpoint, aligned: Checkpoint) -> list[tuple[Stored, Stored]]:
    """The tensor of BASE for each tensor that ALIGNED stores."""
    both = f"{base.name} and {aligned.name}"
    if base.model_type != aligned.model_type:
        raise AlignbenchError(
            f"{both}: a {base.model_type} and a {aligned.model_type}; only one architecture can be averaged"
        )
    ours, theirs = _side(base), _side(aligned)
    if ours.vocabulary != theirs.vocabulary:
        raise AlignbenchError(
            f"{both}: vocabularies of {ours.vocabulary} and {theirs.vocabulary} tokens, perhaps because training added "
            "some; resize the smaller one first (resize_token_embeddings)"
        )
    pairs = []
    for name in sorted(ours.tensors.keys() | theirs.tensors.keys()):
        one, other = ours[name], theirs[name]
        if one is None or other is None:
            if any(re.search(pattern, name) for pattern in theirs.ignored):
                continue
            raise AlignbenchError(f"{both}: only {(aligned if one is None else base).name} has {name}")
        if one.shape != other.shape:
            raise AlignbenchError(f"{both}: {name} is {list(one.shape)} in one and {list(other.shape)} in the other")
        if not {one.dtype, other.dtype} <= SAFETENSORS_DTYPES.keys() and not one.equals(other):
            raise AlignbenchError(
                f"{both}: {name} ({one.dtype} and {other.dtype}) differs, and only floating point can be averaged; "
                "dequantise quantised weights first"
            )
        if name in theirs.tensors:
            pairs.append((one, other))
        elif not one.equals(ours.tensors[theirs.ties[name]]):
            raise AlignbenchError(
                f"{both}: {name} has separate values in {base.name}, but is tied to {other.name} in {aligned.name}"
            )
    return pairs


def _write_weights(file: Path, pairs: list[tuple[Stored, Stored]], alpha: float, progress: Progress) -> None:
    """Write a safetensors file: the header's length, the header, the tensors without gaps."""
    pairs = sorted(pairs, key=lambda pair: -pair[1].itemsize)  # wide formats first keep every tensor aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for _, tensor in pairs:
        start, end = end, end + tensor.size
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for pair in pairs:
            kinds = [getattr(torch, SAFETENSORS_DTYPES.get(tensor.dtype, "uint8")) for tensor in pair]
            for pieces in zip(*(tensor.pieces() for tensor in pair), strict=True):
                ours, theirs = (torch.frombuffer(piece, dtype=kind) for piece, kind in zip(pieces, kinds, strict=True))
                mixed = mix(ours, theirs, alpha) if theirs.is_floating_point() else theirs  # else they are equal
                stream.write(mixed.view(torch.uint8).numpy().data)
            progress.advance()
        stream.flush()
        os.fsync(stream.fileno())


def _is_complete(folder: Path, origin: Origin, alpha: float, copied: list[str]) -> bool:
    """True if the folder holds this average. Raises AlignbenchError if it holds anything else."""
    assert origin.parent is not None
    if not folder.exists():
        return False
    found: Any = read_object(folder / "recipe.json") if folder.is_dir() else None
    expected = ["average", {"alpha": alpha}, origin.parent.weights_sha256, origin.models["base"]["weights_sha256"]]
    try:
        parents = (found["parent"], found["models"]["base"])
        same = [found["stage"], found["config"], *(parent["weights_sha256"] for parent in parents)] == expected
    except (KeyError, TypeError):  # not a recipe
        same = False
    same = same and (folder / "model.safetensors").is_file()
    if same and filecmp.cmpfiles(origin.parent.path, folder, copied, shallow=False)[0] == copied:
        return True
    raise AlignbenchError(f"{folder}: it does not hold this average; remove it, or choose another --out")
