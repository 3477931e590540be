"""The models of the recipe: a policy that gives log-probabilities, and a scalar head that gives rewards and values."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from alignbench.errors import AlignbenchError, first_line
from alignbench.models.causal_lm import attention_span
from alignbench.models.checkpoint import Checkpoint, find_checkpoint
from alignbench.models.encode import Encoder
from alignbench.models.onednn import use_onednn
from trainers.losses import token_logprobs
from trainers.packing import Example, Packed, pack, packed_attention

BIAS = "alignbench_reward_bias"  # the field of config.json that holds what is added to the head's output
SUBLAYERS = ("self_attn", "attn", "attention", "self_attention", "mlp", "feed_forward", "fc2")
AGREEMENT = 1e-3  # nats that packed rows may differ from the model as it is, in fp32


class Policy(nn.Module):
    """A causal language model that gives the log-probability of each response token of a packed row.

    temperature: divides the logits, for old, new and reference log-probabilities alike
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities, with gradient, and entropies, without, of `packed.targets`: (targets,) each, in nats."""
        with packed_attention(base_model(self.model)):
            logits = self.model(
                input_ids=packed.tokens, position_ids=packed.positions, use_cache=False, packed=packed,
                logits_to_keep=packed.before,  # the head runs at these columns alone
            ).logits.squeeze(0)  # fmt: skip
        return token_logprobs(logits / self.temperature if self.temperature != 1 else logits, packed.targets)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """With LoRA: the model without its adapter while open."""
        with self.model.disable_adapter():
            yield


class Scalar(nn.Module):
    """A sequence classifier with one label, read at chosen columns: a reward model at last tokens, a value at all.

    The bias that the configuration holds under BIAS is added. The stock class, whose heads have none, leaves it out:
    its logits plus `model.config.alignbench_reward_bias` are these scores.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def bias(self) -> float:
        return float(getattr(base_model(self.model).config, BIAS, 0.0))

    def forward(self, packed: Packed, columns: torch.Tensor) -> torch.Tensor:
        """(columns,) fp32"""
        model = base_model(self.model)
        with packed_attention(model):
            states = getattr(model, model.base_model_prefix)(
                input_ids=packed.tokens, position_ids=packed.positions, use_cache=False, packed=packed
            ).last_hidden_state.squeeze(0)
        scores: torch.Tensor = model.score(states.index_select(0, columns))[:, 0]
        return scores.float() + self.bias


class ActorCritic(nn.Module):
    """Policy and value as one module: one optimizer, and one thing for DDP or FSDP2 to wrap."""

    def __init__(self, policy: Policy, value: Scalar) -> None:
        super().__init__()
        self.policy = policy
        self.value = value

    def forward(self, packed: Packed, with_values: bool = True) -> tuple[torch.Tensor, ...]:
        """Log-probabilities and entropies of the targets, and the value before each: (targets,) each."""
        found = self.policy(packed)
        return (*found, self.value(packed, packed.before)) if with_values else found


def base_model(model: Any) -> Any:
    """The transformers model, which peft may have wrapped."""
    return model.get_base_model() if hasattr(model, "disable_adapter") and hasattr(model, "get_base_model") else model


def load(
    spec: str, kind: Literal["causal", "reward"], *, new_head: int | None = None
) -> tuple[Any, PreTrainedTokenizerBase, Checkpoint]:
    """A checkpoint in fp32 for training, its tokenizer, and what identifies it.

    new_head: the seed of a fresh scalar head, N(0, 1/(width + 1)) (Stiennon et al., arXiv 2009.01325, App. B), where
        the checkpoint has none
    Raises AlignbenchError where the checkpoint does not load as such a model, or cannot be packed.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    checkpoint = find_checkpoint(spec, trust_remote_code=True)  # to say the line below; none is ever run
    if checkpoint.custom_code:
        raise AlignbenchError(f"checkpoint {spec}: it needs Python code of its own, which the trainers do not run")
    form = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    options: dict[str, Any] = {} if kind == "causal" else {"num_labels": 1}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
        model, loading = form.from_pretrained(
            checkpoint.path,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # transformers raises whatever its parts raise: all of it is about this folder
        raise AlignbenchError(f"checkpoint {spec}: it does not load as a {kind} model ({first_line(error)})") from error
    if kind == "reward" and not isinstance(getattr(model, "score", None), nn.Linear):
        raise AlignbenchError(
            f"checkpoint {spec}: a {checkpoint.model_type} has no scalar head over a causal model; "
            "give it as a function, module:function"
        )
    missing = set(loading["missing_keys"])
    if kind == "reward" and new_head is not None and "score.weight" in missing:
        missing.discard("score.weight")
        generator = torch.Generator().manual_seed(new_head)
        width = model.score.weight.shape[1]
        nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5, generator=generator)
    if missing:
        raise AlignbenchError(f"checkpoint {spec}: {len(missing)} weights are not in its files (first: {min(missing)})")
    check_packing(model, spec, kind)
    use_onednn(model)
    span = attention_span(model)  # packed rows do not slide the window: within it there is no difference
    if math.isfinite(span):
        checkpoint = replace(checkpoint, window=min(int(span), checkpoint.window or int(span)))
    return model.eval(), tokenizer, checkpoint


@torch.no_grad()
def check_packing(model: Any, spec: str, kind: str) -> None:
    """Raise AlignbenchError unless packed rows give what the model as it is gives, tried on a few tokens."""
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = [int(i) for i in np.linspace(0, vocabulary - 1, 12)]
    examples = [Example(ids[:4], [ids[4:8], ids[8:]]), Example(ids[:5], [ids[5:]])]
    packed = pack(examples)
    sequences = [list(e.prompt) + list(r) for e in examples for r in e.responses]
    try:
        if kind == "causal":
            if "logits_to_keep" not in inspect.signature(model.forward).parameters:
                raise ValueError("its forward does not take logits_to_keep")
            found = Policy(model)(packed)[0]
            plain = [
                torch.log_softmax(model(torch.tensor([s])).logits[0, -len(r) - 1 : -1], -1).gather(
                    -1, torch.tensor(list(r))[:, None]
                )[:, 0]
                for s, r in zip(sequences, [r for e in examples for r in e.responses], strict=True)
            ]
            expected = torch.cat(plain)
        else:
            found = Scalar(model)(packed, packed.last)
            backbone = getattr(model, model.base_model_prefix)
            ends = [backbone(torch.tensor([s])).last_hidden_state[0, -1] for s in sequences]
            expected = model.score(torch.stack(ends))[:, 0] + getattr(model.config, BIAS, 0.0)
        worst = float((found - expected).abs().max())
        reason = None if worst <= AGREEMENT else f"results differ by {worst:.2g}"
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError) as error:
        reason = first_line(error)
    if reason:
        raise AlignbenchError(f"checkpoint {spec}: {model.config.model_type} cannot be trained packed ({reason})")


def residual_dropout(model: nn.Module, share: float) -> None:
    """Drop out `share` of what each attention and feed-forward block adds to the residual stream, and nothing else.

    InstructGPT, C.1. Off in evaluation mode.
    """

    def drop(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], share, module.training), *output[1:])
        return nn.functional.dropout(output, share, module.training)

    paths = [(name.split("."), module) for name, module in model.named_modules()]
    blocks = [m for path, m in paths if len(path) > 1 and path[-1] in SUBLAYERS and not set(path[:-1]) & set(SUBLAYERS)]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "layerdrop"):  # where they are no modules
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    if not blocks and share:
        raise AlignbenchError("dropout: the model's attention and feed-forward blocks were not found; set dropout=0")
    for block in blocks if share else []:
        block.register_forward_hook(drop)


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """The model with LoRA adapters of this rank on all its linear layers (arXiv 2106.09685); a scalar head is trained
    whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise AlignbenchError("lora: needs the package peft; pip install 'alignbench[train]'") from error
    heads = ["score"] if hasattr(model, "score") else None
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", modules_to_save=heads)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def save_model(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Any] | None) -> None:
    """Write a folder that `from_pretrained` loads; LoRA adapters are merged into it, and kept beside it.

    weights: the whole state dict where the model itself holds shards; adapters are never sharded
    """
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / "adapter")
        model, weights = copy.deepcopy(model).merge_and_unload(), None
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def part(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a module's state dict holds of one of its modules."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def scalar_padding(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """A pad token for the configuration of a reward model that is not its end token.

    transformers takes the score at the last token that is no pad: with pad = EOS the end of a response would not count.
    """
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token is not None and token != tokenizer.eos_token_id:
            return int(token)
    return None


class Texts:
    """Prompts and responses as token ids, the way that rollouts have them.

    model: the one that reads them; an id for which it has no embedding raises AlignbenchError
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: Any = None) -> None:
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.embeddings = math.inf if model is None else model.get_input_embeddings().num_embeddings

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """As the generation engine encodes them. An empty prompt is the start token alone."""
        encoded = self.encoder.contexts(texts)
        if any(tokens is None or not len(tokens) for tokens in encoded):
            raise AlignbenchError("an empty prompt, and the tokenizer has no token to begin with")
        return [self._known(tokens.tolist()) for tokens in encoded if tokens is not None]

    def response(self, prompt: str, prompt_ids: list[int], response: str) -> list[int]:
        """The tokens that follow the prompt's, and the end-of-sequence token."""
        whole: list[int] = self.encoder.contexts([prompt + response])[0].tolist()  # type: ignore[union-attr]
        if whole[: len(prompt_ids)] == prompt_ids:
            ids = whole[len(prompt_ids) :]
        else:  # a merge across the border: the model never sees one when it writes
            ids = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return self._known(ids if end is None or (ids and ids[-1] == end) else [*ids, int(end)])

    def example(self, prompt: str, responses: Iterable[str]) -> Example:
        """A prompt and its responses."""
        (ids,) = self.prompts([prompt])
        return Example(ids, [self.response(prompt, ids, response) for response in responses])

    def _known(self, ids: list[int]) -> list[int]:
        if ids and (highest := max(ids)) >= self.embeddings:
            raise AlignbenchError(
                f"the tokenizer's {self.tokenizer.convert_ids_to_tokens(highest)!r} is token {highest}, the model has "
                f"embeddings for {self.embeddings}; resize them (resize_token_embeddings) or take its own tokenizer"
            )
        return ids
