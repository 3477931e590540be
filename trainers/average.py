"""Weight averaging: checkpoints on the line between two, for the reward–tax front (arXiv 2309.06256, 2109.01903).

Weights are mapped from the files, and written in shards: a model larger than the memory can be averaged.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.checkpoint import TOKENIZER_FILES, Ancestor, Checkpoint, find_checkpoint, weight_files
from alignbench.progress import Progress
from alignbench.runs.folder import read_object, write_json
from trainers.run import Origin, identity, sync, writing

SHARD = "1GB"  # of an average, which is in memory until it is written
AVERAGED = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
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
    formats = [" and ".join(sorted({str(t.dtype) for t in side})) for side in zip(*pairs.values(), strict=True)]
    if formats[0] != formats[1]:
        progress.say(f"BASE has {formats[0]}, ALIGNED {formats[1]}: the averages are stored in ALIGNED's format")
    copied = [name for name in COPIED if (theirs.path / name).is_file()]
    lineage = theirs.lineage or ours.lineage or (Ancestor("base", ours.name, ours.weights_sha256),)
    models = {"base": identity(ours)}
    for recipe in (read_object(side.path / "recipe.json") or {} for side in (ours, theirs)):
        models |= {role: found for role, found in recipe.get("models", {}).items() if role == "reward"}
    origin = Origin("average", replace(theirs, lineage=lineage), models, [])

    folders = {alpha: out / f"alpha-{str(alpha).removesuffix('.0')}" for alpha in alphas}
    todo = {alpha: folder for alpha, folder in folders.items() if not _is_complete(folder, ours, theirs, alpha, copied)}
    for alpha in folders.keys() - todo.keys():
        progress.say(f"{folders[alpha]}: already complete")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        needed, free = len(todo) * sum(tensor.nbytes for _, tensor in pairs.values()), shutil.disk_usage(out).free
        if needed > free:
            raise AlignbenchError(
                f"{out}: {len(todo)} averages take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free"
            )
        for alpha, folder in todo.items():
            with TemporaryDirectory(prefix=".partial-", dir=out) as temporary:
                partial = Path(temporary) / folder.name
                partial.mkdir()
                for name in copied:
                    shutil.copyfile(theirs.path / name, partial / name)
                progress.start(folder.name, len(pairs), unit="tensors")
                _write_weights(partial, pairs, alpha, progress)
                origin.write_recipe(partial, {"alpha": alpha}, {})
                partial.rename(folder)
    return list(folders.values())


def mix(base: torch.Tensor, aligned: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - alpha)·base + alpha·aligned, in the number format of `aligned`; equal values are unchanged."""
    if alpha in (0, 1):  # a sum would turn -0 into 0, and an infinity times 0 into NaN
        return (aligned if alpha else base).to(aligned.dtype)
    wide = torch.float64 if torch.float64 in (base.dtype, aligned.dtype) else torch.float32
    return torch.lerp(base.to(wide), aligned.to(wide), alpha).to(aligned.dtype)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _find(spec: str) -> Checkpoint:
    local = Path(spec).expanduser()
    found = None if (local / "adapter_config.json").is_file() else find_checkpoint(spec, trust_remote_code=True)
    if found is None or (found.path / "adapter_config.json").is_file():
        raise AlignbenchError(f"checkpoint {spec}: a LoRA adapter; merge it into its model first (merge_and_unload)")
    if found.custom_code:  # consent was given above for this message only; no code is run
        raise AlignbenchError(f"checkpoint {spec}: it needs custom Python code, which average does not run")
    return found


@dataclass(frozen=True)
class _Weights:
    """A checkpoint's tensors by their names in transformers, without the prefix of the base model.

    stored: their names in the files; a tied tensor may have none
    ties: tensor -> the tensor that replaces it if it is not stored; empty unless the configuration ties weights
    ignored: patterns of tensors that transformers does not read: buffers in old files
    """

    vocabulary: int | None
    tensors: dict[str, torch.Tensor]
    stored: dict[str, str]
    ties: dict[str, str]
    ignored: list[str]


def _map_weights(checkpoint: Checkpoint) -> _Weights:
    """Map the files into memory. A tensor is read when it is used."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)
    except Exception as error:  # transformers raises exceptions of any type for a broken file
        raise AlignbenchError(f"checkpoint {checkpoint.name}: its config.json ({first_line(error)})") from error
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    ties = (getattr(model, "_tied_weights_keys", None) or {}) if getattr(config, "tie_word_embeddings", False) else {}
    ties = {name.removeprefix(prefix): source.removeprefix(prefix) for name, source in ties.items()}
    files = weight_files(checkpoint.path, str(checkpoint.path))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    stored = {name.removeprefix(prefix): name for name in found}
    tensors = {short: found[name] for short, name in stored.items()}
    tensors |= {name: tensors[source] for name, source in ties.items() if name not in tensors and source in tensors}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return _Weights(getattr(config, "vocab_size", None), tensors, stored, ties, ignored)


def _pair(base: Checkpoint, aligned: Checkpoint) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """BASE's and ALIGNED's tensor for each name that ALIGNED stores."""
    both = f"{base.name} and {aligned.name}"
    if base.model_type != aligned.model_type:
        raise AlignbenchError(
            f"{both}: a {base.model_type} and a {aligned.model_type}; only one architecture can be averaged"
        )
    ours, theirs = _map_weights(base), _map_weights(aligned)
    if ours.vocabulary != theirs.vocabulary:
        raise AlignbenchError(
            f"{both}: vocabularies of {ours.vocabulary} and {theirs.vocabulary} tokens, perhaps because training added "
            "some; resize the smaller one first (resize_token_embeddings)"
        )
    pairs = {}
    for name in sorted(ours.tensors.keys() | theirs.tensors.keys()):
        one, other = ours.tensors.get(name), theirs.tensors.get(name)
        if one is None or other is None:
            if any(re.search(pattern, name) for pattern in theirs.ignored):
                continue
            raise AlignbenchError(f"{both}: only {(aligned if one is None else base).name} has {name}")
        if one.shape != other.shape:
            raise AlignbenchError(f"{both}: {name} is {list(one.shape)} in one and {list(other.shape)} in the other")
        if not {one.dtype, other.dtype} <= AVERAGED and not _same_bits(one, other):
            raise AlignbenchError(
                f"{both}: {name} ({one.dtype} and {other.dtype}) differs, and only floating point can be averaged; "
                "dequantise quantised weights first"
            )
        if name in theirs.stored:
            pairs[theirs.stored[name]] = (one, other)
        elif not _same_bits(one, ours.tensors[theirs.ties[name]]):
            source = theirs.stored[theirs.ties[name]]
            raise AlignbenchError(
                f"{both}: {name} has separate values in {base.name}, but is tied to {source} in {aligned.name}"
            )
    return pairs


def _write_weights(
    folder: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], alpha: float, progress: Progress
) -> None:
    """Write model.safetensors, or shards of it and their index."""
    empty = {name: aligned.to("meta") for name, (_, aligned) in pairs.items()}
    plan = split_torch_state_dict_into_shards(empty, max_shard_size=SHARD)
    for file, names in plan.filename_to_tensors.items():
        shard = {}
        for name in names:
            ours, theirs = pairs[name]
            shard[name] = mix(ours, theirs, alpha) if theirs.dtype in AVERAGED else theirs  # else they are equal
            progress.advance()
        save_file(shard, folder / file, metadata={"format": "pt"})
        sync(folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def _is_complete(folder: Path, base: Checkpoint, aligned: Checkpoint, alpha: float, copied: list[str]) -> bool:
    """True if the folder holds this average. Raises AlignbenchError if it holds anything else."""
    if not folder.exists():
        return False
    expected = ["average", {"alpha": alpha}, aligned.weights_sha256, base.weights_sha256]
    try:
        found: Any = read_object(folder / "recipe.json")
        parents = (found["parent"], found["models"]["base"])
        same = [found["stage"], found["config"], *(parent["weights_sha256"] for parent in parents)] == expected
        same = same and bool(weight_files(folder, str(folder)))
    except (KeyError, TypeError, OSError, AlignbenchError):  # not a recipe, no weights, or not a folder
        same = False
    if same and filecmp.cmpfiles(aligned.path, folder, copied, shallow=False)[0] == copied:
        return True
    raise AlignbenchError(f"{folder}: it does not hold this average; remove it, or choose another --out")
