"""Models that processes share by FSDP2: created without memory, sharded, then read from safetensors in parts."""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from alignbench.models.checkpoint import Checkpoint, weight_files
from alignbench.models.load import load_tokenizer, loading


def load_empty(
    checkpoint: Checkpoint, auto_class: Any, what: str, *, dtype: Any, **options: Any
) -> tuple[Any, Any, list[str]] | None:
    """As `load_model`, but weights have no memory (they are on `meta`): `shard` reads them.

    None if `load_model` has to load it: the files have other names, shapes or number formats than the model.
    """
    shapes = dict[str, list[int]]()
    with loading(checkpoint, what):
        tokenizer = load_tokenizer(checkpoint)
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, **options)
        with init_empty_weights():
            model = auto_class.from_config(config, dtype=dtype).eval()
        model.tie_weights()
        if checkpoint.generation_config_sha256 is not None and model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.path)
        for file in weight_files(checkpoint.path):
            with safe_open(file, "pt") as stream:
                shapes |= {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
    names, weights = _names_in_files(model, shapes), dict(model.named_parameters())
    missing = sorted(weights.keys() - names.keys())
    same = all(list(weights[name].shape) == shapes[own] for name, own in names.items())
    persistent = model.state_dict().keys() & dict(model.named_buffers()).keys()
    if checkpoint.quantization is not None or not same or persistent or missing not in ([], ["score.weight"]):
        return None
    return model, tokenizer, missing


def shard(module: nn.Module, model: Any, device: torch.device, processes: int, *, half: bool, offload: bool) -> bool:
    """Divide a module that contains `model`, with a unit for each layer and one for the rest. Each process reads its
    part of the weights that `load_empty` left without memory; False if there are none.

    half: weights are gathered in bf16, and gradients summed in fp32; offload: the parts stay in CPU memory
    """
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (processes,)), "reshard_after_forward": True}
    if half:
        options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    if offload and device.type != "cpu":
        options["offload_policy"], device = CPUOffloadPolicy(), torch.device("cpu")
    for part in (*(m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)), module):
        fully_shard(part, **options)
    if not any(parameter.is_meta for parameter in model.parameters()):
        return False
    _read_shards(model, Path(model.config.name_or_path), device)
    return True


def _read_shards(model: Any, folder: Path, device: torch.device) -> None:
    """Fill the weights on `meta` of a sharded model. Each process reads the rows of its own shards only."""
    shards = dict[str, Any]()
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, "pt")) for file in weight_files(folder)]
        streams = {name: stream for stream in files for name in stream.keys()}  # noqa: SIM118
        for name, own in _names_in_files(model, streams).items():
            empty = model.get_parameter(name)
            if not empty.is_meta:
                continue
            layout = empty.device_mesh, empty.placements
            (rows, *_), (start, *_) = compute_local_shape_and_global_offset(empty.shape, *layout)
            part = streams[own].get_slice(own)[start : start + rows].to(device, empty.dtype)
            shards[name] = DTensor.from_local(part, *layout, run_check=False, shape=empty.shape, stride=empty.stride())
    model.load_state_dict(shards, strict=False, assign=True)
    model.tie_weights()


def _names_in_files(model: Any, names: Collection[str]) -> dict[str, str]:
    """Parameter -> its name in the files, which may be those of the model without a head; without those that lack."""
    prefix = f"{model.base_model_prefix}."
    pairs = ((name, own) for name, _ in model.named_parameters() for own in (name.removeprefix(prefix), name))
    return {name: own for name, own in pairs if own in names}
