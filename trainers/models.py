"""The models of the recipe: a policy, which is sampled from, and a scalar head that gives rewards and values."""

import copy
import inspect
import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, cpu_offload
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.attention import replaced_attention
from alignbench.models.causal_lm import attention_span
from alignbench.models.checkpoint import Checkpoint, CheckpointError, find_checkpoint
from alignbench.models.encode import Encoder
from alignbench.models.generate.decoding import end_tokens
from alignbench.models.load import load_model
from alignbench.models.onednn import choose_products
from alignbench.models.shard import load_empty, shard
from trainers.losses import token_logprobs
from trainers.packing import PACKED, Example, Packed, pack

BIAS = "alignbench_reward_bias"  # the field of config.json that is added to the output of the head
SUBLAYERS = ("self_attn", "attn", "attention", "self_attention", "mlp", "feed_forward", "fc2")
ADAPTER = "a LoRA adapter; merge it into its model first (merge_and_unload)"
AGREEMENT = 1e-3  # nats that packed rows may differ from the stock model in fp32


class Policy(nn.Module):
    """A causal language model that gives the log-probability of each response token of a packed row.

    temperature: divides the logits, for the old, new and reference log-probabilities alike (detail 5)
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, packed: Packed, *, stock: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities, with gradient, and entropies, without, of `packed.targets`: (targets,) each, in nats.

        stock: a row of one response, computed as transformers does
        """
        if stock:
            logits = self.model(input_ids=packed.tokens, use_cache=False).logits[0, packed.before]
        else:
            with replaced_attention(base_model(self.model), PACKED):
                logits = self.model(
                    input_ids=packed.tokens, position_ids=packed.positions, use_cache=False, packed=packed,
                    logits_to_keep=packed.before,  # the LM head runs at these columns only
                ).logits.squeeze(0)  # fmt: skip
        return token_logprobs(logits / self.temperature if self.temperature != 1 else logits, packed.targets)


class Scalar(nn.Module):
    """A sequence classifier with one label: a reward model read at last tokens, a value read before every token.

    The bias in the configuration's field BIAS is added, which the stock head of transformers ignores.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, packed: Packed, columns: torch.Tensor, *, stock: bool = False) -> torch.Tensor:
        """Scores at these columns: (columns,), fp32. stock: see `Policy.forward`"""
        model = base_model(self.model)
        options = {} if stock else {"position_ids": packed.positions, "packed": packed}
        with nullcontext() if stock else replaced_attention(model, PACKED):
            backbone = getattr(model, model.base_model_prefix)
            states = backbone(input_ids=packed.tokens, use_cache=False, **options).last_hidden_state.squeeze(0)
        scores: torch.Tensor = model.score(states.index_select(0, columns))[:, 0]
        return scores.float() + float(getattr(model.config, BIAS, 0.0))


def base_model(model: Any) -> Any:
    """The transformers model, without its peft wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_plain(spec: str) -> Checkpoint:
    """`find_checkpoint`, which also raises AlignbenchError for an adapter, and for own Python code."""
    if (Path(spec).expanduser() / "adapter_config.json").is_file():
        raise CheckpointError(spec, ADAPTER)
    checkpoint = find_checkpoint(spec, trust_remote_code=True)  # allowed for this message only; no code is run
    if checkpoint.base is not None:
        raise CheckpointError(spec, ADAPTER)
    if checkpoint.custom_code:
        raise CheckpointError(spec, "it needs custom Python code, which is run for evaluation only")
    return checkpoint


def load(
    spec: str, kind: Literal["causal", "reward"], accelerator: Accelerator | None = None, *, new_head: int | None = None
) -> tuple[Any, Tokenizer, Checkpoint]:
    """A checkpoint in fp32 for training, its tokenizer, and its identity.

    accelerator: under FSDP2 its weights have no memory before `place`
    new_head: the seed of a head N(0, 1/(width + 1)) (arXiv 2009.01325, App. B) for a checkpoint that has none
    Raises AlignbenchError if the checkpoint does not load as such a model, or cannot be trained on packed rows.
    """
    checkpoint = find_plain(spec)
    auto, options = AutoModelForCausalLM, dict[str, Any]()
    if kind == "reward":
        auto, options = AutoModelForSequenceClassification, {"num_labels": 1}
    options["dtype"], what = torch.float32, f"a {kind} model"
    empty = load_empty(checkpoint, auto, what, **options) if accelerator and is_sharded(accelerator) else None
    model, tokenizer, missing = empty or load_model(checkpoint, auto, what, **options)
    if kind == "reward" and not isinstance(getattr(model, "score", None), nn.Linear):
        reason = f"a {checkpoint.model_type} has no scalar head over a causal model"
        raise CheckpointError(spec, f"{reason}; give the reward as a function, module:function")
    if new_head is not None and "score.weight" in missing:
        missing.remove("score.weight")
        generator, width = torch.Generator().manual_seed(new_head), model.score.to_empty(device="cpu").weight.shape[1]
        nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5, generator=generator)
    if missing:
        raise CheckpointError(spec, f"{len(missing)} weights are not in its files (first: {missing[0]})")
    if not empty:
        check_packing(Policy(model) if kind == "causal" else Scalar(model), spec)
    choose_products(model)
    span = attention_span(model)  # packed rows have no sliding window: sequences must fit into it
    if math.isfinite(span):
        checkpoint = replace(checkpoint, window=min(int(span), checkpoint.window or int(span)))
    return model, tokenizer, checkpoint


def place(
    module: Any, accelerator: Accelerator, *, frozen: bool = False, offload: bool = False, recompute: bool = False
) -> Any:
    """Move a Policy or Scalar to the accelerator's device; weights without gradient are in bf16 under bf16.

    Under FSDP2 it is divided among the processes layer by layer, and each reads its part from the checkpoint's files.
    frozen: the module is not trained; offload: a frozen module's weights stay in CPU memory, and are copied to the
    device layer by layer; recompute: the backward pass computes the layers' activations again
    """
    if frozen:
        module.eval().requires_grad_(False)
    for parameter in module.parameters() if accelerator.mixed_precision == "bf16" else ():
        if not parameter.requires_grad:  # buffers stay in fp32: rotary frequencies need it
            parameter.data = parameter.data.bfloat16()
    if recompute and not frozen:
        recompute_layers(base_model(module.model))
    if is_sharded(accelerator):
        half, count = accelerator.mixed_precision == "bf16", accelerator.num_processes
        if shard(module, module.model, accelerator.device, count, half=half, offload=frozen and offload):
            check_packing(module, module.model.config.name_or_path, half=half)
        return module
    return cpu_offload(module, accelerator.device) if frozen and offload else module.to(accelerator.device)


def is_sharded(accelerator: Accelerator) -> bool:
    return bool(accelerator.distributed_type == "FSDP")


def recompute_layers(model: nn.Module) -> None:
    """Gradient checkpointing (arXiv 1604.06174) on packed rows, also in evaluation mode, in which PPO trains."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise AlignbenchError(f"gradient_checkpointing: a {type(model).__name__} does not support it; set it to false")
    for layer in layers:
        layer.forward = partial(
            recomputed, layer.forward, use_reentrant=False,
            context_fn=lambda: (nullcontext(), replaced_attention(model, PACKED)),  # of the pass and of its repetition
        )  # fmt: skip


@torch.no_grad()
def check_packing(module: Policy | Scalar, spec: str, *, half: bool = False) -> None:
    """Raise AlignbenchError unless a packed row of a few tokens gives the same results as the stock model.

    half: it computes in bf16, whose rounding is compared with the results
    """
    model, device = module.model, next(module.parameters()).device
    ids = np.linspace(0, model.get_input_embeddings().num_embeddings - 1, 12).astype(int).tolist()
    examples = [Example(ids[:4], [ids[4:8], ids[8:]]), Example(ids[:5], [ids[5:]])]
    rows = [examples, *([Example(e.prompt, [r])] for e in examples for r in e.responses)]
    packed, *alone = (pack(row, device) for row in rows)
    try:
        if isinstance(module, Scalar):
            found, *stock = module(packed, packed.last), *(module(row, row.last, stock=True) for row in alone)
        elif "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise ValueError("its forward does not take logits_to_keep")
        else:
            found, *stock = module(packed)[0], *(module(row, stock=True)[0] for row in alone)
        worst = float((found - (expected := torch.cat(stock))).abs().max())
        if not worst <= (0.05 * max(1, float(expected.abs().max())) if half else AGREEMENT):
            raise ValueError(f"results differ by {worst:.2g}")
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        reason = f"{model.config.model_type} cannot be trained packed ({first_line(error)})"
        raise CheckpointError(spec, reason) from error


def residual_dropout(model: nn.Module, rate: float) -> None:
    """Apply dropout to the output of each attention and feed-forward block alone, in training (InstructGPT, C.1)."""

    def drop(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return drop(module, arguments, output[0]), *output[1:]
        return nn.functional.dropout(output, rate, module.training)

    paths = [(name.split("."), module) for name, module in model.named_modules()]
    blocks = [m for path, m in paths if len(path) > 1 and path[-1] in SUBLAYERS and not set(path[:-1]) & set(SUBLAYERS)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "layerdrop"):  # attributes of models without dropout modules
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    if not blocks and rate:
        raise AlignbenchError("dropout: the model's attention and feed-forward blocks were not found; set dropout=0")
    for block in blocks if rate else []:
        block.register_forward_hook(drop)


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """The model with LoRA adapters on all linear layers (arXiv 2106.09685); a scalar head is trained in full."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise AlignbenchError("lora: needs the package peft; pip install 'alignbench[train]'") from error
    heads = ["score"] if hasattr(model, "score") else None
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", modules_to_save=heads)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def save_model(folder: Path, accelerator: Accelerator, module: Any, tokenizer: Tokenizer) -> None:
    """Write a folder for `from_pretrained`; called on every process, the main one writes. LoRA adapters are merged, and
    also saved in its subfolder adapter/.

    module: a Policy, a Scalar or a transformers model, which is not wrapped
    """
    weights: dict[str, Any] | None = accelerator.get_state_dict(module)
    if not accelerator.is_main_process:
        return
    model = module
    if isinstance(module, Policy | Scalar):
        model, weights = module.model, {n.removeprefix("model."): w for n, w in (weights or {}).items()}
    if hasattr(model, "merge_and_unload"):  # adapters are never sharded
        model.save_pretrained(folder / "adapter")
        model, weights = copy.deepcopy(model).float().merge_and_unload(), None
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


class Texts:
    """Encodes texts to the token ids that rollouts have. model: refuse a token id that it has no embedding for."""

    def __init__(self, tokenizer: Tokenizer, model: Any = None) -> None:
        self.tokenizer, self.encoder = tokenizer, Encoder(tokenizer)
        self.ends = {tokenizer.eos_token_id, self.encoder.end_of_turn} - {None}
        self.embeddings = math.inf if model is None else model.get_input_embeddings().num_embeddings

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """Token ids as the generation engine encodes prompts. An empty prompt is the start token."""
        encoded = self.encoder.contexts(texts)
        if any(tokens is None or not len(tokens) for tokens in encoded):
            raise AlignbenchError("an empty prompt, and the tokenizer has no start token")
        return [self._known(tokens.tolist()) for tokens in encoded if tokens is not None]

    def response(self, prompt: str, prompt_ids: list[int], response: str) -> list[int]:
        """The tokens that follow the prompt's, and the end-of-sequence token unless the chat template ends the turn."""
        whole: list[int] = self.encoder.contexts([prompt + response])[0].tolist()  # type: ignore[union-attr]
        if whole[: len(prompt_ids)] == prompt_ids:
            ids = whole[len(prompt_ids) :]
        else:  # the tokenizer merges across the boundary, which never happens in a rollout
            ids = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return self._known(ids if end is None or (ids and ids[-1] in self.ends) else [*ids, int(end)])

    def example(self, prompt: str, responses: Iterable[str]) -> Example:
        (ids,) = self.prompts([prompt])
        return Example(ids, [self.response(prompt, ids, response) for response in responses])

    def _known(self, ids: list[int]) -> list[int]:
        if ids and (highest := max(ids)) >= self.embeddings:
            token = f"the tokenizer's {self.tokenizer.convert_ids_to_tokens(highest)!r} is token {highest}"
            advice = "resize them (resize_token_embeddings), or use the model's tokenizer"
            raise AlignbenchError(f"{token}, the model has embeddings for {self.embeddings}; {advice}")
        return ids


def end_at_turns(model: Any, tokenizer: Any) -> None:
    """Let responses also end at the token that ends a turn in the chat template; the saved generation config has it."""
    ends, end = end_tokens(model, tokenizer), Encoder(tokenizer).end_of_turn
    if end is not None and end not in ends:
        model.generation_config.eos_token_id = [*sorted(ends), end]
