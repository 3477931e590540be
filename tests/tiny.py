"""Tiny seeded language models of real architectures, and a tokenizer trained on the spot: no download."""

import functools
from pathlib import Path

import pytest
import torch
import transformers
from cases import cases
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.attention import flex_attention
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from alignbench.models.encode import Encoder
from alignbench.models.local import LocalEngine

SENTENCES = tuple(cases("sentences"))
ARCHITECTURES = cases("architectures")
TREE = ["llama", "gpt2", "gpt_neox", "qwen2", "mistral", "gemma", "gemma2", "opt"]  # the engine's fast paths
PLAIN = ["bloom", "mpt", "falcon", "mamba"]  # padded rows, and one prompt at a time
# the rest of them runs in `make test-slow`, where a test is less about the architecture
SOME = [
    name if name in ("llama", "gpt2", "gemma2", "bloom", "mamba") else pytest.param(name, marks=pytest.mark.slow)
    for name in TREE + PLAIN
]
WITHOUT_BOS = {"gpt2", "gpt_neox", "qwen2"}  # as their own tokenizers


def tiny_tokenizer(
    *, bos: bool = True, pad: bool = True, ends: bool = False, ascii_only: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE that encodes any text, or `ascii_only`. bos: begin each text with a start token (as Llama,
    unlike GPT-2); ends: add an end token after each (as Llama with add_eos_token)"""
    special = ["</s>"] + ["<s>"] * bos + ["<pad>"] * pad
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(letter for letter in pre_tokenizers.ByteLevel.alphabet() if not ascii_only or letter <= "~")
    options = {"initial_alphabet": alphabet, "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, **options)
    tokenizer.train_from_iterator(filter(str.isascii, SENTENCES) if ascii_only else SENTENCES, trainer)
    form = "<s> " * bos + "$A" + " </s>" * ends
    if bos or ends:
        added = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>") if token in form]
        tokenizer.post_processor = processors.TemplateProcessing(single=form, pair=f"{form} $B", special_tokens=added)
    tokens = {"eos_token": "</s>", "bos_token": "<s>" if bos else None, "pad_token": "<pad>" if pad else None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def tiny_model(architecture: str, tokenizer: PreTrainedTokenizerFast, **overrides) -> PreTrainedModel:
    """A causal language model of a few thousand random weights, large enough that the context affects the output.

    overrides: fields of the configuration class, or `seed` (of the weights, default 0) or `dtype`
    """
    seed, dtype = overrides.pop("seed", 0), overrides.pop("dtype", torch.float32)
    name, common = ARCHITECTURES[architecture]
    tokens = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = getattr(transformers, f"{name}Config")(**({"vocab_size": len(tokenizer)} | tokens | common | overrides))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter_name, parameter in sorted(model.named_parameters()):
            if not parameter_name.endswith(("A_log", "norm.weight")):
                noise = torch.randn(parameter.shape)
                parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.to(dtype).eval()


def save_tiny_checkpoint(folder: Path, architecture: str = "llama", *, tokenizer=None, shard_size="1GB", **options):
    """Save a tiny model (safetensors; options as of tiny_model) and its tokenizer as transformers can load them."""
    tokenizer = tokenizer or tiny_tokenizer()
    tiny_model(architecture, tokenizer, **options).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def engine_of(model, tokenizer, notes=None, *, trees=None, packs=None, most_rows=None, gpu=False, **options):
    """A local engine with small pages, so that short texts fill several.

    trees, packs: False for the plain computation; gpu: compute as on a GPU, on whatever device the model is"""
    engine = LocalEngine(model, Encoder(tokenizer), notify=[].append if notes is None else notes.append, **options)
    engine.trees, engine.packs, engine.packed.page = trees, packs, 32
    engine.packed.most_rows = engine.batched.most_rows = most_rows
    if gpu:
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True  # compiling takes seconds
        engine.forward.flex, engine.paged = True, False
    return engine


class Calls:
    """Records the arguments of each call of a model's forward. It runs out of memory above `most_tokens`."""

    def __init__(self, model: PreTrainedModel, most_tokens: int | None = None) -> None:
        self.arguments, forward = [], model.forward

        @functools.wraps(forward)  # the engine reads the signature
        def recording(**arguments):
            if most_tokens is not None and arguments["input_ids"].numel() > most_tokens:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            self.arguments.append(arguments)
            return forward(**arguments)

        model.forward = recording

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(arguments["input_ids"].shape) for arguments in self.arguments]
