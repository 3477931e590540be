"""Find a checkpoint, make sure that it is whole and safe to open, say exactly which one it is, and load it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.hub import obstacle

if TYPE_CHECKING:
    from alignbench.models.local import LocalEngine

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# The name that safetensors gives a number format -> torch's
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint in a lineage: what made it (base, sft, reward, ppo, ppo-ptx, average), and which it is."""

    stage: str
    name: str
    weights_sha256: str


@dataclass(frozen=True)
class Training:
    """What recipe.json tells of the stage that made a checkpoint.

    rewards: weights_sha256 of the reward models that it was trained against
    kl: at the end of PPO, from the policy that it began with, in nats a response
    beta, gamma: weights of the KL penalty and of the pretraining gradient that PPO was told to use
    episodes: responses that PPO had sampled by then
    """

    rewards: tuple[str, ...] = ()
    kl: float | None = None
    beta: float | None = None
    gamma: float | None = None
    episodes: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model on disk, and what identifies it.

    name: the hub id or the folder's name
    revision: the hub's commit, None for a local folder
    weights_sha256: of the lines `sha256  file` of all safetensors files, in order of name
    tokenizer_sha256: the same over the tokenizer's files
    chat_template_sha256: of the chat template's text, None where there is none
    dtype: the number format of the weights ("float32", "bfloat16", …)
    window: the longest sequence that the model takes, in tokens; None where the configuration names no limit
    custom_code: it brings Python code, which the user has agreed to run
    parameters: numbers in the weights' files
    lineage, training: base → … → this one, and what the last stage told, for a checkpoint of our trainers; not part of
        what its numbers depend on
    """

    name: str
    path: Path
    revision: str | None
    model_type: str
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str | None
    dtype: str
    window: int | None
    custom_code: bool = False
    parameters: int = 0
    lineage: tuple[Ancestor, ...] = ()
    training: Training | None = None


def find_checkpoint(spec: str, *, trust_remote_code: bool = False) -> Checkpoint:
    """Find `spec`, a local folder or a hub id with an optional `@revision`, and check it without loading it.

    Raises AlignbenchError for anything that would fail or be unsafe later: no such folder, no configuration,
    pickled or truncated weights, custom code without consent.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        folder, name, revision = path, _folder_name(path.resolve()), None
    elif spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise AlignbenchError(
            f"checkpoint {spec}: no such folder, and no hub id (owner/name, or owner/name@revision) either"
        )
    else:
        folder, name, revision = download_checkpoint(spec, trust_remote_code)
    config = _read_json(folder / "config.json", spec)
    tokenizer_config = folder / "tokenizer_config.json"
    brings_code = "auto_map" in config or (
        tokenizer_config.is_file() and "auto_map" in _read_json(tokenizer_config, spec)
    )
    if brings_code and not trust_remote_code:
        raise AlignbenchError(
            f"checkpoint {spec}: it brings its own Python code; read it, then allow it with --trust-remote-code"
        )
    weights = weight_files(folder, spec)
    headers = [check_safetensors(file, spec) for file in weights]
    text_config = config.get("text_config") or {}
    dtype = config.get("dtype") or config.get("torch_dtype") or text_config.get("dtype") or headers[0].dtype
    tokenizer_files = [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]
    if not tokenizer_files:
        raise AlignbenchError(f"checkpoint {spec}: no tokenizer files (such as tokenizer.json) in {folder}")
    weights_sha256 = hash_files(weights)
    lineage, training = _recipe(folder, spec, name, weights_sha256)
    return Checkpoint(
        name=name,
        path=folder,
        revision=revision,
        model_type=str(config.get("model_type", "unknown")),
        weights_sha256=weights_sha256,
        tokenizer_sha256=hash_files(tokenizer_files),
        chat_template_sha256=_hash_chat_template(folder),
        dtype=str(dtype),
        window=_window(config | text_config),
        custom_code=brings_code,
        parameters=sum(header.parameters for header in headers),
        lineage=lineage,
        training=training,
    )


def resolve_device(device: str) -> str:
    """The device that "auto" stands for here, or the one that was asked for, if this machine has it."""
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AlignbenchError(f"device {device}: not on this machine ({first_line(error)})") from error
    return device


def load_engine(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    device: str,
    token_budget: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> LocalEngine:
    """Load model and tokenizer. Raises AlignbenchError where transformers cannot, or where weights are missing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from alignbench.models.encode import Encoder
    from alignbench.models.local import LocalEngine
    from alignbench.models.onednn import use_onednn

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    trust = checkpoint.custom_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=trust, local_files_only=True)
        model, loading = AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=trust,
            local_files_only=True,
            output_loading_info=True,
            # the fused attention of torch's CPU build multiplies half precision at the rate of fp32
            attn_implementation="eager" if device == "cpu" and dtype in ("bfloat16", "float16") else None,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise: all of it is about this folder
        raise AlignbenchError(
            f"checkpoint {checkpoint.name}: it does not load as a causal language model ({first_line(error)})"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise AlignbenchError(
            f"checkpoint {checkpoint.name}: {len(missing)} weights are not in its files (first: {missing[0]})"
        )
    try:
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise AlignbenchError(
            f"checkpoint {checkpoint.name}: its weights do not fit into the memory of {device}; "
            "try --dtype bfloat16 or --device cpu"
        ) from error
    use_onednn(model)
    return LocalEngine(model, Encoder(tokenizer), window=checkpoint.window, token_budget=token_budget, notify=notify)


def download_checkpoint(spec: str, trust_remote_code: bool) -> tuple[Path, str, str]:
    """Fetch a hub checkpoint (safetensors, configuration and tokenizer alone) or take it from the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = spec.partition("@")
    in_the_way = obstacle()
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"] + (["*.py"] if trust_remote_code else [])
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=patterns, local_files_only=in_the_way is not None
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AlignbenchError(
            f"checkpoint {spec}: no such folder, and the hub did not give it ({in_the_way or first_line(error)}); "
            "name a local folder, or download it where there is a network"
        ) from error
    return folder, name, folder.name  # a snapshot's folder is named by its commit


def _read_json(path: Path, spec: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AlignbenchError(f"checkpoint {spec}: no {path.name} in {path.parent}") from error
    except ValueError as error:
        raise AlignbenchError(f"checkpoint {spec}: {path} is not JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise AlignbenchError(f"checkpoint {spec}: {path} is not a JSON object")
    return found


def _folder_name(folder: Path) -> str:
    """A trained checkpoint's says which run made it: the folder itself is `final` in all of them."""
    if (folder / "recipe.json").is_file():
        if folder.name == "final":
            return folder.parent.name
        if folder.parent.name == "checkpoints":
            return f"{folder.parent.parent.name}-{folder.name}"
        if folder.name.startswith("alpha-"):  # of `alignbench average`
            return f"{folder.parent.name}-{folder.name}"
    return folder.name


def _recipe(folder: Path, spec: str, name: str, weights_sha256: str) -> tuple[tuple[Ancestor, ...], Training | None]:
    """Lineage, and what the last stage told; nothing where our trainers have not made it."""
    if not (folder / "recipe.json").is_file():
        return (), None
    recipe = _read_json(folder / "recipe.json", spec)
    try:
        before = [Ancestor(**entry) for entry in recipe["lineage"]]
        metrics, models, config = (recipe.get(key, {}) for key in ("metrics", "models", "config"))
        kl, iterations, batch = metrics.get("kl"), metrics.get("iterations"), config.get("batch")
        training = Training(
            rewards=(models["reward"]["weights_sha256"],) if "reward" in models else (),
            kl=float(kl) if isinstance(kl, int | float) else None,
            beta=config.get("beta"),
            gamma=config.get("ptx"),
            episodes=iterations * batch if iterations is not None and batch is not None else None,
        )
        return (*before, Ancestor(recipe["stage"], name, weights_sha256)), training
    except (KeyError, TypeError, AttributeError) as error:
        raise AlignbenchError(
            f"checkpoint {spec}: {folder / 'recipe.json'} lacks stage or lineage; mend it, or remove it"
        ) from error


def weight_files(folder: Path, spec: str) -> list[Path]:
    """The safetensors files that transformers loads: model.safetensors, or else all that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        weight_map = _read_json(index, spec).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise AlignbenchError(f"checkpoint {spec}: {index} has no weight_map")
        files = sorted({folder / Path(str(name)).name for name in weight_map.values()})
        if absent := [file.name for file in files if not file.is_file()]:
            raise AlignbenchError(f"checkpoint {spec}: {index.name} names {absent[0]}, which is not in {folder}")
        return files
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise AlignbenchError(
            f"checkpoint {spec}: its weights are pickled ({pickled[0]}), which can run code when opened; "
            "convert them to safetensors (save_pretrained) where you trust them"
        )
    raise AlignbenchError(f"checkpoint {spec}: no weights (model.safetensors) in {folder}")


@dataclass(frozen=True)
class Header:
    """Of a safetensors file. dtype: the first float format that it names."""

    dtype: str
    parameters: int


def check_safetensors(file: Path, spec: str) -> Header:
    """Read a safetensors header, and compare the file's length with it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise AlignbenchError(f"checkpoint {spec}: {file} is truncated; download it again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
            dtypes = [SAFETENSORS_DTYPES[e["dtype"]] for e in tensors if e["dtype"] in SAFETENSORS_DTYPES]
            parameters = sum(math.prod(entry["shape"]) for entry in tensors)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise AlignbenchError(f"checkpoint {spec}: {file} has no safetensors header") from error
    if size != expected:
        raise AlignbenchError(
            f"checkpoint {spec}: {file} is truncated ({size:,} of {expected:,} bytes); download it again"
        )
    return Header(dtypes[0] if dtypes else "float32", parameters)


def hash_files(files: list[Path]) -> str:
    lines = "".join(f"{_hash_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _hash_file(file: Path) -> str:
    blob = os.path.basename(os.path.realpath(file))
    if file.is_symlink() and len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob  # the hub's cache names large files by their sha256, checked on download
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash_chat_template(folder: Path) -> str | None:
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8")
        template = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        if template:
            return hashlib.sha256(json.dumps(template).encode()).hexdigest()
    return None


def _window(config: dict[str, Any]) -> int | None:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"):
        if isinstance(config.get(name), int):
            return int(config[name])
    return None
