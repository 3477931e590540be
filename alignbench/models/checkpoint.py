"""Find a checkpoint, verify that it is complete and safe to open, and identify it by hashes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError, first_line
from alignbench.hub import unreachable_reason
from alignbench.models.lineage import ALIGNED, recorded_lineage
from alignbench.models.lineage import Ancestor as Ancestor
from alignbench.models.steps import saved_during
from alignbench.parse import find_path, read_object, read_text

TOKENIZER_FILES = (
    *("tokenizer.json", "tekken.json", "vocab.json", "merges.txt", "vocab.txt", "dict.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
TOKENIZER_SUFFIXES = (".model", ".spm", ".tiktoken", ".codes")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
# settings of quantisation outside config.json, which vLLM reads
QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# fields of config.json on which no number depends; the number format is a setting of the engine
NEUTRAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_from_model_config"}
# likewise of adapter_config.json: the base is identified by its own files, wherever it lies
NEUTRAL_OF_ADAPTER = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}
# of a configuration: the maximum sequence length in tokens
WINDOWS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# pickled files of transformers' Trainer that are not weights
STATES = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
# safetensors' names of floating-point dtypes -> torch's
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class CheckpointError(AlignbenchError):
    def __init__(self, spec: str, message: str) -> None:
        super().__init__(f"checkpoint {spec}: {message}")


@contextmanager
def naming(spec: str) -> Iterator[None]:
    """Raise a CheckpointError with the name of the checkpoint for every problem with its files."""
    try:
        yield
    except FileNotFoundError as error:
        file = Path(error.filename)
        raise CheckpointError(spec, f"no {file.name} in {file.parent}") from error
    except OSError as error:
        raise CheckpointError(spec, f"{error.filename}: cannot be read ({error.strerror})") from error
    except CheckpointError:
        raise
    except AlignbenchError as error:
        raise CheckpointError(spec, str(error)) from error


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model on disk and its identity.

    name: Hub id or folder name; revision: commit on the Hub, None for a local folder
    weights_sha256, tokenizer_sha256, code_sha256: of the files (see `hash_files`); None without
    adapter_sha256: of a LoRA adapter's configuration and weights; `base` is then the checkpoint without it,
        `weights_sha256` is of both, and what the adapter's folder lacks is as in the base
    config_sha256: of config.json, without fields that change no number, and of the files with settings of quantisation
    generation_config_sha256: likewise; chat_template_sha256: of the text; None without
    quantization: method by which the weights are quantised, None if they are not
    window: maximum sequence length in tokens, None if the configuration has none
    custom_code: it contains Python code that the user has allowed to run
    lineage: from base to this checkpoint, as far as its recipe, model card or adapter names it
    training: the record of the last stage, if our trainers produced it (docs/run_folder.md has its fields)
    """

    name: str
    path: Path
    revision: str | None
    model_type: str
    weights_sha256: str
    tokenizer_sha256: str
    config_sha256: str
    generation_config_sha256: str | None
    adapter_sha256: str | None
    code_sha256: str | None
    chat_template_sha256: str | None
    quantization: str | None
    dtype: str
    window: int | None
    custom_code: bool = False
    parameters: int = 0
    lineage: tuple[Ancestor, ...] = ()
    training: dict[str, Any] | None = None
    base: Checkpoint | None = None

    @property
    def tokenizer_path(self) -> Path:
        return self.path if self.base is None or tokenizer_files(self.path) else self.base.path

    @property
    def sha256(self) -> str:
        """Of all that its numbers depend on."""
        own = (name for name in self.__dataclass_fields__ if name.endswith("_sha256"))
        return _hash_json({name: getattr(self, name) for name in own})


def find_checkpoint(spec: str, *, trust_remote_code: bool = False) -> Checkpoint:
    """Find `spec`, a local folder or a Hub id with an optional `@revision`, and verify it without loading it. A LoRA
    adapter is found with its base, which its configuration names, unless full weights are beside it.

    Raises AlignbenchError for what would fail or be unsafe later, such as pickled weights or code without consent.
    """
    find_path(spec)
    with naming(spec):
        folder, name, revision = place = _locate(spec, trust_remote_code)
        if not (folder / ADAPTER_CONFIG).is_file():
            return _describe(*place, trust_remote_code)
        settings = read_object(folder / ADAPTER_CONFIG)
        adapter_sha256, parameters = _check_adapter(settings, folder)
        if any(not file.name.startswith("adapter_") for file in folder.glob("*.safetensors*")):
            base = _describe(*place, trust_remote_code)
        else:
            base = _find_base(settings, folder, trust_remote_code)
        own = tokenizer_files(folder)
        weights_sha256 = _hash_json([base.weights_sha256, adapter_sha256])
        ancestors = base.lineage or (Ancestor("base", base.name, base.weights_sha256),)
        recorded = recorded_lineage(folder, name)  # says how the adapter was trained, if a card or a log does
        stage = recorded[-1].stage if recorded and recorded[-1].stage != ALIGNED else "adapter"
        return replace(
            base,
            name=name,
            path=folder,
            revision=revision and f"{revision}+{base.weights_sha256[:8]}",
            weights_sha256=weights_sha256,
            tokenizer_sha256=hash_files(own) if own else base.tokenizer_sha256,
            adapter_sha256=adapter_sha256,
            chat_template_sha256=_hash_chat_template(folder) if own else base.chat_template_sha256,
            parameters=base.parameters + parameters,
            lineage=(*ancestors, Ancestor(stage, name, weights_sha256)),
            base=base,
        )


def _locate(spec: str, trust_remote_code: bool) -> tuple[Path, str, str | None]:
    """Folder, name and, on the Hub, commit."""
    folder = find_path(spec)
    if folder.is_dir():
        return folder, _folder_name(folder.resolve()), None
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise AlignbenchError("no such folder, and not a Hub id (owner/name or owner/name@revision)")
    return download_checkpoint(spec, trust_remote_code)


def _describe(folder: Path, name: str, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    """The checkpoint of a folder with full weights."""
    tokenizer, tokenizer_config = tokenizer_files(folder), folder / "tokenizer_config.json"
    config = read_object(folder / "config.json")
    custom_code = "auto_map" in config or (
        tokenizer_config in tokenizer and "auto_map" in read_object(tokenizer_config)
    )
    if custom_code and not trust_remote_code:
        raise AlignbenchError("it contains Python code; review it, then allow it with --trust-remote-code")
    weights = weight_files(folder)
    headers = [check_safetensors(file) for file in weights]
    if not tokenizer:
        raise AlignbenchError(f"no tokenizer files (such as tokenizer.json) in {folder}")
    weights_sha256 = hash_files(weights)
    lineage, training = _recipe(folder, name, weights_sha256)
    text_config, settings = config.get("text_config") or {}, config.get("quantization_config") or {}
    if not isinstance(text_config, dict) or not isinstance(settings, dict):
        raise AlignbenchError(f"{folder / 'config.json'}: text_config or quantization_config is not an object")
    both = config | text_config
    window = next((both[name] for name in WINDOWS if both.get(name) is not None), None)
    if window is not None and (type(window) is not int or not 0 < window < 2**31):
        raise AlignbenchError(f"{folder / 'config.json'}: the maximum sequence length is {str(window)[:20]}")
    quantization = [read_object(folder / name) for name in QUANTIZATION_FILES if (folder / name).is_file()]
    settings = settings or (quantization[0] if quantization else {})
    generation = folder / "generation_config.json"
    return Checkpoint(
        name=name,
        path=folder,
        revision=revision,
        model_type=str(config.get("model_type", "unknown")),
        weights_sha256=weights_sha256,
        tokenizer_sha256=hash_files(tokenizer),
        config_sha256=_hash_json([_without_neutral(config), *quantization]),
        generation_config_sha256=_hash_json(_without_neutral(read_object(generation)))
        if generation.is_file()
        else None,
        adapter_sha256=None,
        code_sha256=hash_files(sorted(folder.glob("*.py"))) if custom_code else None,
        chat_template_sha256=_hash_chat_template(folder),
        quantization=str(settings.get("quant_method", "unknown")) if settings else None,
        dtype=str(config.get("dtype") or config.get("torch_dtype") or text_config.get("dtype") or headers[0][0]),
        window=window,
        custom_code=custom_code,
        parameters=sum(parameters for _, parameters in headers),
        lineage=lineage,
        training={**(training or {}), **saved_during(folder)} or None,
    )


def download_checkpoint(spec: str, trust_remote_code: bool) -> tuple[Path, str, str]:
    """Folder, name and commit of a Hub checkpoint, downloaded (safetensors, configuration and tokenizer) or cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = spec.partition("@")
    unreachable = unreachable_reason()
    patterns = ["README.md", "*.json", "*.safetensors", "*.txt", "*.jinja", *(f"*{own}" for own in TOKENIZER_SUFFIXES)]
    patterns += ["*.py"] if trust_remote_code else []
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=patterns, local_files_only=unreachable is not None
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = f"no such folder, and not available from the Hub ({unreachable or first_line(error)})"
        raise CheckpointError(spec, f"{reason}; give a local folder, or download it with network access") from error
    return Path(folder), name, Path(folder).name  # a snapshot's folder is named after its commit


def _folder_name(folder: Path) -> str:
    """The name of a local checkpoint. Trained ones include the run's name, since their folders share names."""
    if not (folder / "recipe.json").is_file():
        saved = saved_during(folder)
        return f"{saved['run']}-{folder.name}" if saved else folder.name
    if folder.name == "final":
        return folder.parent.name
    if folder.parent.name == "checkpoints":
        return f"{folder.parent.parent.name}-{folder.name}"
    average = folder.name.startswith("alpha-")  # of `alignbench average`
    return f"{folder.parent.name}-{folder.name}" if average else folder.name


def _recipe(folder: Path, name: str, weights: str) -> tuple[tuple[Ancestor, ...], dict[str, Any] | None]:
    """Lineage and training of a checkpoint of our trainers; of others the lineage that their files record."""
    if not (folder / "recipe.json").is_file():
        return recorded_lineage(folder, name, weights), None
    recipe = read_object(folder / "recipe.json")
    try:
        metrics, models, config = (recipe.get(key, {}) for key in ("metrics", "models", "config"))
        kl, iterations, batch = metrics.get("kl"), metrics.get("iterations"), config.get("batch")
        ancestors = [Ancestor(**entry) for entry in recipe["lineage"]]
        texts = (recipe["stage"], *chain.from_iterable(map(astuple, ancestors)))
        numbers = (iterations, batch, config.get("beta"), config.get("ptx"))
        if {*map(type, texts)} != {str} or not {*map(type, numbers)} <= {int, float, type(None)}:
            raise TypeError
        training = {
            "rewards": [models["reward"]["weights_sha256"]] if "reward" in models else [],
            "kl": float(kl) if isinstance(kl, int | float) else None,
            "beta": config.get("beta"),
            "gamma": config.get("ptx"),
            "episodes": iterations * batch if iterations is not None and batch is not None else None,
        }
        return (*ancestors, Ancestor(recipe["stage"], name, weights)), training
    except (KeyError, TypeError, AttributeError) as error:
        message = f"{folder / 'recipe.json'} is not a recipe of our trainers; fix it or remove it"
        raise AlignbenchError(message) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads: those that config.json names in `transformers_weights`, or else
    model.safetensors, or else all files in the index."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    config = folder / "config.json"
    named = read_object(config).get("transformers_weights") if config.is_file() else None
    if named is not None:
        if not isinstance(named, str) or Path(named).name != named or not (folder / named).is_file():
            raise AlignbenchError(f"{config}: transformers_weights is {named!r}, not a file in this folder")
        single = index = folder / named
    if single.is_file() and single.suffix == ".safetensors":
        return [single]
    if index.is_file():
        weight_map = read_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise AlignbenchError(f"{index} has no weight_map")
        files = sorted({folder / Path(str(name)).name for name in weight_map.values()})
        if missing := [file.name for file in files if not file.is_file()]:
            raise AlignbenchError(f"{index.name} names {missing[0]}, which is not in {folder}")
        return files
    names = (file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled := sorted(name for name in names if not name.startswith(STATES)):
        message = f"its weights are pickled ({pickled[0]}), which can run code when opened; "
        raise AlignbenchError(message + "convert them to safetensors (save_pretrained) if you trust them")
    raise AlignbenchError(f"no weights (model.safetensors) in {folder}")


def check_safetensors(file: Path) -> tuple[str, int]:
    """Dtype of the first floating-point tensor and number of parameters, from the header. Raises AlignbenchError if it
    is damaged or does not match the file's length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as stream:
            tensors = [stream.get_slice(name) for name in stream.offset_keys()]
            dtypes = [SAFETENSORS_DTYPES.get(tensor.get_dtype()) for tensor in tensors]
            parameters = sum(math.prod(tensor.get_shape()) for tensor in tensors)
    except (SafetensorError, OSError) as error:
        message = f"{file} is truncated or damaged ({first_line(error)}); download it again"
        raise AlignbenchError(message) from error
    return next(filter(None, dtypes), "float32"), parameters


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that a tokenizer may be loaded from."""
    found = (file for file in folder.iterdir() if file.name in TOKENIZER_FILES or file.suffix in TOKENIZER_SUFFIXES)
    return sorted(file for file in found if file.is_file())


def hash_files(files: list[Path]) -> str:
    """SHA-256 of the lines `sha256  name` of the files."""
    lines = "".join(f"{_hash_file(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(os.fsencode(lines)).hexdigest()


def _hash_file(file: Path) -> str:
    blob = os.path.basename(os.path.realpath(file))
    if file.is_symlink() and len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob  # the Hub's cache names large files by their SHA-256, verified on download
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash_json(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without_neutral(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the fields on which no number depends."""
    text = config.get("text_config")
    parts = {"text_config": _without_neutral(text)} if isinstance(text, dict) else {}
    return {name: value for name, value in config.items() if name not in NEUTRAL} | parts


def _check_adapter(settings: dict[str, Any], folder: Path) -> tuple[str, int]:
    """Hash and number of parameters of the adapter in a folder. Raises AlignbenchError if it cannot be used."""
    weights, kind = folder / ADAPTER_WEIGHTS, settings.get("peft_type")
    if kind != "LORA":
        raise AlignbenchError(f"its adapter is of type {kind}, not LORA; merge it into its model first")
    if importlib.util.find_spec("peft") is None:
        message = (
            f"it has an adapter ({ADAPTER_CONFIG}), which needs the package peft: pip install 'alignbench[adapters]'"
        )
        raise AlignbenchError(message)
    if not weights.is_file():
        if (pickled := weights.with_suffix(".bin")).is_file():
            message = f"its adapter is pickled ({pickled.name}), which can run code when opened; save it as safetensors"
            raise AlignbenchError(message)
        raise AlignbenchError(f"{ADAPTER_CONFIG} is there, but its weights ({weights.name}) are not in {folder}")
    _, parameters = check_safetensors(weights)
    numbers = {name: value for name, value in settings.items() if value is not None and name not in NEUTRAL_OF_ADAPTER}
    return _hash_json([numbers, hash_files([weights])]), parameters


def _find_base(settings: dict[str, Any], folder: Path, trust_remote_code: bool) -> Checkpoint:
    """The checkpoint that an adapter was trained on: a folder, also relative to the adapter's, or a Hub id."""
    named, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    fix = f"set base_model_name_or_path in its {ADAPTER_CONFIG} to the folder or Hub id of its base"
    if not isinstance(named, str) or not named:
        raise AlignbenchError(f"an adapter that names no base; {fix}")
    try:
        near = next((path for path in (find_path(named), find_path(folder / named)) if path.is_dir()), None)
        base = str(near) if near else f"{named}@{revision}" if revision and "@" not in named else named
        with naming(base):
            place = _locate(base, trust_remote_code)
            if (place[0] / ADAPTER_CONFIG).is_file():
                raise AlignbenchError("it is an adapter itself; merge it into its model first")
            return _describe(*place, trust_remote_code)
    except AlignbenchError as error:
        raise AlignbenchError(f"the base of this adapter cannot be used ({error}); {fix}") from error


def _hash_chat_template(folder: Path) -> str | None:
    for file in (folder / name for name in (*TEMPLATE_FILES, "tokenizer_config.json")):
        if file.is_file():
            template = read_text(file) if file.suffix == ".jinja" else read_object(file).get("chat_template")
            if template:
                return hashlib.sha256(json.dumps(template).encode()).hexdigest()
    return None
