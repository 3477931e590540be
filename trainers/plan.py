"""The memory that a training needs on each device, from config.json alone: `alignbench train STAGE … --plan`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from alignbench.errors import AlignbenchError, first_line
from trainers.run import is_checkpoint

GIB = 2**30
PROMPT_TOKENS = 512  # of a sampled response, assumed
RESERVE = 0.9  # of a device; the rest is for its driver, communication and fragments
# settings that need less memory, those that cost the least time first
REMEDIES: tuple[dict[str, Any], ...] = (
    {"mixed_precision": "bf16"}, {"micro_tokens": 2048}, {"offload": True}, {"optimizer": "adam-8bit"},
    {"gradient_checkpointing": True}, {"lora": 16},
)  # fmt: skip


def sizes(spec: str, rank: int = 0) -> dict[str, int]:
    """Parameters of a causal model, those of LoRA adapters on its linear layers, and its dimensions.

    Raises AlignbenchError if the configuration does not load.
    """
    try:
        config = AutoConfig.from_pretrained(spec)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers raises errors of many kinds
        raise AlignbenchError(
            f"--plan: {spec}: its config.json does not give a causal model ({first_line(error)})"
        ) from error
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    linear = [tuple(m.weight.shape) for m in layers]  # the two sides, in either order
    outputs = sum(m.nf if isinstance(m, Conv1D) else m.out_features for m in layers)
    width, heads = config.hidden_size, config.num_attention_heads
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "adapters": rank * sum(map(sum, linear)),
        "layers": config.num_hidden_layers,
        "width": width,
        # inputs and outputs of a layer's products, norms and residuals
        "kept": outputs // config.num_hidden_layers * 2 + 4 * width,
        "keys": 2 * getattr(config, "num_key_value_heads", heads) * (getattr(config, "head_dim", 0) or width // heads),
        "vocabulary": config.vocab_size,
    }


def plan(stage: str, config: Any, gpus: int = 1) -> dict[str, float]:
    """Bytes on each device by purpose: weights and states exactly, activations and sampling as estimates.

    Models, gradients and states of all-weight training are sharded (FSDP2), those of LoRA are on every device (DDP).
    """
    rank = getattr(config, "lora", 0)
    policy = sizes(config.model, rank)
    trained, frozen = [policy], list[dict[str, int]]()
    spec = getattr(config, "reward", None)
    reward = sizes(spec) if stage != "reward" and isinstance(spec, str) and is_checkpoint(spec) else None
    frozen += [reward] if reward else []
    if stage in ("ppo", "rloo"):
        if config.reference or not rank:
            frozen.append(sizes(config.reference or config.model))
        if stage == "ppo":
            value = getattr(config, "value", None) or (spec if reward else config.model)
            trained.append(sizes(str(value), rank))
    half, item = config.mixed_precision == "bf16", 2 if config.mixed_precision == "bf16" else 4
    shards = 1 if rank else gpus
    learned = [model["adapters"] if rank else model["parameters"] for model in trained]
    base = sum(model["parameters"] for model in trained) * item if rank else 0
    largest = max(learned)
    found: dict[str, float] = {
        "trained models": (base + 4 * sum(learned)) / shards,
        "gradients, of one model at a time": 4 * largest / shards,
        "optimizer": sum(learned) * (2 if config.optimizer == "adam-8bit" else 8) / shards,
        "averaged weights": 0 if config.offload or not getattr(config, "ema", 0) else 4 * learned[0] / shards,
        "frozen models": 0 if config.offload else item * sum(model["parameters"] for model in frozen) / shards,
        # one layer's under FSDP2, else of all weights during a forward pass
        "half-precision copies": 0 if not half else 2 * largest / (policy["layers"] if shards > 1 else 1),
    }
    layers = policy["layers"] * (policy["width"] if config.gradient_checkpointing else policy["kept"])
    layers += policy["kept"] if config.gradient_checkpointing else 0
    found["activations"] = config.micro_tokens * layers * item
    if stage != "reward":  # every token may be a response token
        found["logits"] = config.micro_tokens * policy["vocabulary"] * item
    if stage in ("ppo", "rloo") and config.rollouts == "local":  # vLLM has a part of the device of its own
        rows, length = config.batch / gpus, config.max_tokens + PROMPT_TOKENS
        cache = rows * length * policy["layers"] * policy["keys"] * item
        copy = policy["parameters"] * item if (half and not rank) or shards > 1 else 0
        # gradients, activations and logits do not exist while responses are sampled
        passing = ("gradients, of one model at a time", "half-precision copies", "activations", "logits")
        found["sampling, beyond what training needs"] = max(0, cache + copy - sum(found[name] for name in passing))
    return found


def advise(stage: str, config: Any, gpus: int, memory: float) -> str:
    """Whether a training fits into `memory` GiB of each device, else the first settings with which it does."""
    of_vllm = config.vllm_memory if getattr(config, "rollouts", "local") == "vllm" else 0
    room, changed = (RESERVE - of_vllm) * memory * GIB, dict[str, Any]()

    def needed(changes: Mapping[str, Any]) -> float:
        return sum(plan(stage, replace(config, **changes), gpus).values())

    if needed({}) <= room:
        return "fits"
    for remedy in REMEDIES:
        ((name, value),) = remedy.items()
        now = getattr(config, name, None)
        if now is None or now == value or (name in ("micro_tokens", "lora") and now and now <= value):
            continue
        changed |= remedy
        if needed(changed) <= room:
            return "does not fit; it does with " + " ".join(f"{n}={str(v).lower()}" for n, v in changed.items())
    return "does not fit; use more or larger devices, a smaller batch, or a smaller model"


def table(stage: str, config: Any, gpus: int, memory: float) -> tuple[list[list[str]], str]:
    """Rows (purpose, GiB on each device, the same in bytes per parameter of the policy), and the advice."""
    found, parameters = plan(stage, config, gpus), sizes(config.model)["parameters"]
    rows = [[n, f"{b / GIB:.2f}", f"{b / parameters:.2f}"] for n, b in (found | {"total": sum(found.values())}).items()]
    return rows, f"{gpus} x {memory:g} GiB, {RESERVE:.0%} of it used: {advise(stage, config, gpus, memory)}"
