"""Weight averaging: checkpoints on the line between two, for the reward–tax front (arXiv 2309.06256, 2109.01903).

Weights are read, mixed and written a piece of a tensor at a time: a model larger than the memory can be averaged.
"""

from __future__ import annotations

import filecmp
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import alignbench
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
from alignbench.provenance import versions
from alignbench.runs.folder import read_object, write_json

if TYPE_CHECKING:
    import torch

PIECE = 2**20  # elements in memory at a time
# An average is used as the aligned model is: these files are copies of ALIGNED's.
COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES, "chat_template.jinja", "chat_template.json")


def average(
    base: str, aligned: str, alphas: Sequence[float], out: Path, *, progress: Progress | None = None
) -> list[Path]:
    """Write `out`/alpha-A for each alpha A: weights (1 - A)·BASE + A·ALIGNED, all else as in ALIGNED.

    base, aligned: folders or hub ids of two checkpoints of one architecture
    alphas: each in [0, 1]; 0 gives BASE's weights, 1 ALIGNED's
    out: a folder that is there already is kept if it holds this very average

    The sum is made in float32 (float64 where one of the two is), and stored in ALIGNED's number format.
    Returns the folders in the order of the alphas. Raises AlignbenchError where the two cannot be averaged, or where
    `out` cannot be written; a folder is written whole or not at all.
    """
    progress = progress or Progress()
    alphas = list(dict.fromkeys(alpha + 0.0 for alpha in alphas))  # -0.0 is 0.0
    if wrong := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise AlignbenchError(f"alpha {wrong[0]}: it must be a number from 0 (BASE) to 1 (ALIGNED)")
    ours, theirs = _find(base), _find(aligned)
    if ours.weights_sha256 == theirs.weights_sha256:
        raise AlignbenchError(f"{base} and {aligned}: the same weights twice; name two different checkpoints")
    pairs = _pair(ours, theirs)
    formats = [" and ".join(sorted({tensor.dtype for tensor in side})) for side in zip(*pairs, strict=True)]
    if formats[0] != formats[1]:
        progress.say(f"BASE has {formats[0]}, ALIGNED {formats[1]}: the averages are stored as ALIGNED is")

    folders = {alpha: out / f"alpha-{str(alpha).removesuffix('.0')}" for alpha in alphas}
    recipes = {alpha: _recipe(ours, theirs, alpha) for alpha in alphas}
    todo = [alpha for alpha in alphas if not _is_there(folders[alpha], recipes[alpha], theirs.path)]
    for alpha in alphas:
        if alpha not in todo:
            progress.say(f"{folders[alpha]}: there already, nothing to do")
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
                for file in _copied(theirs.path):
                    shutil.copyfile(file, folder / file.name)
                progress.start(folder.name, len(pairs), unit="tensors")
                _write_weights(folder / "model.safetensors", pairs, alpha, progress)
                write_json(folder / "recipe.json", recipes[alpha])
                folder.rename(folders[alpha])
    except OSError as error:
        raise AlignbenchError(f"{out}: the average cannot be written ({first_line(error)})") from error
    return list(folders.values())


def mix(base: torch.Tensor, aligned: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - alpha)·base + alpha·aligned, in the number format of `aligned`; what the two share stays as it is."""
    import torch

    if alpha in (0, 1):  # a sum would turn -0 into 0, and an infinity times 0 into NaN
        return (aligned if alpha else base).to(aligned.dtype)
    wide = torch.float64 if torch.float64 in (base.dtype, aligned.dtype) else torch.float32
    return torch.lerp(base.to(wide), aligned.to(wide), alpha).to(aligned.dtype)


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: its name there, its format ("F32", "BF16", …), shape, and `size` bytes."""

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


def _find(spec: str) -> Checkpoint:
    local = Path(spec).expanduser()
    found = None if (local / "adapter_config.json").is_file() else find_checkpoint(spec, trust_remote_code=True)
    if found is None or (found.path / "adapter_config.json").is_file():
        raise AlignbenchError(f"checkpoint {spec}: a LoRA adapter; merge it into its model first (merge_and_unload)")
    if found.custom_code:  # consent above was to be told so; none is run
        raise AlignbenchError(f"checkpoint {spec}: it needs Python code of its own, which average does not run")
    return found


@dataclass(frozen=True)
class _Side:
    """A checkpoint's tensors by the names that transformers gives them: without the prefix of the model's body.

    ties: tensor -> the one that stands for it where it is not stored; empty where the configuration does not tie
    ignored: what transformers does not read: buffers that old files hold and new ones do not
    """

    name: str
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
    except Exception as error:  # whatever transformers raises is about this file
        raise AlignbenchError(f"checkpoint {checkpoint.name}: its config.json ({first_line(error)})") from error
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    body = f"{getattr(model, 'base_model_prefix', '')}."
    ties = (getattr(model, "_tied_weights_keys", None) or {}) if getattr(config, "tie_word_embeddings", False) else {}
    return _Side(
        checkpoint.name,
        getattr(config, "vocab_size", None),
        {tensor.name.removeprefix(body): tensor for tensor in _stored(checkpoint.path)},
        {name.removeprefix(body): source.removeprefix(body) for name, source in ties.items()},
        getattr(model, "_keys_to_ignore_on_load_unexpected", None) or [],
    )


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
            f"{both}: vocabularies of {ours.vocabulary} and {theirs.vocabulary} tokens, as where training added some; "
            "give both the same first (resize_token_embeddings)"
        )
    pairs = []
    for name in sorted(ours.tensors.keys() | theirs.tensors.keys()):
        one, other = ours[name], theirs[name]
        if one is None or other is None:
            if any(re.search(pattern, name) for pattern in theirs.ignored):
                continue
            raise AlignbenchError(f"{both}: {name} is in {(theirs if one is None else ours).name} alone")
        if one.shape != other.shape:
            raise AlignbenchError(f"{both}: {name} is {list(one.shape)} in one and {list(other.shape)} in the other")
        if not {one.dtype, other.dtype} <= SAFETENSORS_DTYPES.keys() and not _equal(one, other):
            raise AlignbenchError(
                f"{both}: {name} ({one.dtype} and {other.dtype}) differs, and only floating point can be averaged; "
                "dequantise quantised weights first"
            )
        if name in theirs.tensors:
            pairs.append((one, other))
        elif not _equal(one, ours.tensors[theirs.ties[name]]):
            raise AlignbenchError(
                f"{both}: {name} has values of its own in {ours.name}, and is tied to {other.name} in {theirs.name}"
            )
    return pairs


def _stored(folder: Path) -> Iterator[Stored]:
    for file in weight_files(folder, str(folder)):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                yield Stored(name, file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, stop - start)


def _equal(one: Stored, other: Stored) -> bool:
    return (one.dtype, one.size) == (other.dtype, other.size) and all(
        a == b for a, b in zip(one.pieces(), other.pieces(), strict=True)
    )


def _write_weights(file: Path, pairs: list[tuple[Stored, Stored]], alpha: float, progress: Progress) -> None:
    """One safetensors file: the header's length, the header, the tensors without a gap (safetensors' own format)."""
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
        for base, aligned in pairs:
            stream.writelines(_mixed(base, aligned, alpha))
            progress.advance()
        stream.flush()
        os.fsync(stream.fileno())


def _mixed(base: Stored, aligned: Stored, alpha: float) -> Iterator[Any]:
    """The bytes of the average of two tensors, in pieces."""
    import torch

    if aligned.dtype not in SAFETENSORS_DTYPES:  # the same in both
        yield from aligned.pieces()
        return
    formats = [getattr(torch, SAFETENSORS_DTYPES[tensor.dtype]) for tensor in (base, aligned)]
    for parts in zip(base.pieces(), aligned.pieces(), strict=True):
        ours, theirs = [torch.frombuffer(part, dtype=form) for part, form in zip(parts, formats, strict=True)]
        yield mix(ours, theirs, alpha).view(torch.uint8).numpy()


def _recipe(base: Checkpoint, aligned: Checkpoint, alpha: float) -> dict[str, Any]:
    """recipe.json in the form of the trainers': the parent is ALIGNED, and so are lineage and reward model."""

    def entry(side: Checkpoint) -> dict[str, str]:
        return {"name": side.name, "path": str(side.path.resolve()), "weights_sha256": side.weights_sha256}

    recipes = [read_object(side.path / "recipe.json") or {} for side in (base, aligned)]
    rewards = [recipe["models"]["reward"] for recipe in recipes if "reward" in recipe.get("models", {})]
    lineage = aligned.lineage or base.lineage or (Ancestor("base", base.name, base.weights_sha256),)
    return {
        "stage": "average",
        "parent": entry(aligned),
        "models": {"base": entry(base)} | ({"reward": rewards[-1]} if rewards else {}),
        "data": [],
        "config": {"alpha": alpha},
        "versions": {"alignbench": alignbench.__version__, **versions(("torch",))},
        "metrics": {},
        "lineage": [asdict(ancestor) for ancestor in lineage],
    }


def _is_there(folder: Path, recipe: Mapping[str, Any], aligned: Path) -> bool:
    """Whether the folder holds this average. Raises AlignbenchError where it holds anything else."""
    if not folder.exists():
        return False
    found = read_object(folder / "recipe.json") if folder.is_dir() else None
    names = [file.name for file in _copied(aligned)]
    if (
        found is not None
        and _identity(found) == _identity(recipe)
        and (folder / "model.safetensors").is_file()
        and filecmp.cmpfiles(aligned, folder, names, shallow=False)[0] == names
    ):
        return True
    raise AlignbenchError(f"{folder}: it holds something else than this average; remove it, or choose another --out")


def _identity(recipe: Mapping[str, Any]) -> Any:
    try:
        parents = recipe["parent"], recipe["models"]["base"]
        return recipe["stage"], recipe["config"], [parent["weights_sha256"] for parent in parents]
    except (KeyError, TypeError):
        return None  # of another make


def _copied(folder: Path) -> list[Path]:
    return [folder / name for name in COPIED if (folder / name).is_file()]
