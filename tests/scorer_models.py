"""Tiny seeded classifiers and encoders with random weights: real architectures, no download."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from cases import cases
from tiny import ARCHITECTURES, tiny_tokenizer
from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast, RobertaTokenizer

TEXTS = tuple(cases("scorers")["texts"])
DETOXIFY_CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


def pair_tokenizer() -> PreTrainedTokenizerFast:
    """With RoBERTa's special tokens: <s> A </s>, and <s> A </s></s> B </s>."""
    tokenizer = tiny_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=special
    )
    return tokenizer


def randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Random weights large enough for the text to determine the logits."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in sorted(model.named_parameters()):
            if not name.lower().endswith(("norm.weight", "layer_norm.weight")):
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def save_classifier(
    folder: Path, labels: tuple[str, ...], architecture: str = "Roberta", positions: int = 67, seed: int = 0, **config
) -> Path:
    """A sequence classifier of transformers with its tokenizer, as a folder."""
    tokenizer = pair_tokenizer()
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id} | ARCHITECTURES["gpt_neox"][1]
    settings |= {"max_position_embeddings": positions, "id2label": dict(enumerate(labels))} | config
    if architecture == "DebertaV2":  # as DeBERTa-v3: relative positions in attention
        settings |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    model_class = getattr(transformers, f"{architecture}ForSequenceClassification")
    model = model_class(model_class.config_class(**settings))
    randomised(model, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _stock(folder: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer, transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()


def stock_logits(folder: Path, *texts: str, **options: bool) -> np.ndarray:
    """(labels,) logits of one text (or pair) by transformers, without batching or padding."""
    tokenizer, model = _stock(folder)
    with torch.no_grad():
        # in lists, since an empty second text alone counts as none
        inputs = tokenizer(*([text] for text in texts), return_tensors="pt", **options)
        return model(**inputs).logits[0].double().numpy()


def stock_logprob(folder: Path, context: str, continuation: str, **options: bool) -> float:
    """Log-probability of a continuation (nats), by a stock forward of both in float64."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    start = len(tokenizer(context, **options)["input_ids"])
    ids = torch.tensor([tokenizer(context + continuation, **options)["input_ids"]])
    with torch.no_grad():
        logits = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits[0, :-1]
    return float(logits.double().log_softmax(-1).gather(-1, ids[0, 1:, None])[start - 1 :].sum())


def save_detoxify(folder: Path, config_labels: int = 2) -> Path:
    """A checkpoint of detoxify's form (its six outputs and two for identities), with the base model's configuration and
    tokenizer beside it. Returns the checkpoint file."""
    folder.mkdir(parents=True, exist_ok=True)
    pair_tokenizer().backend_tokenizer.model.save(str(folder))
    tokenizer = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 66, "pad_token_id": 1}
    settings = ARCHITECTURES["gpt_neox"][1] | sizes
    transformers.RobertaConfig(**settings, num_labels=config_labels).save_pretrained(folder)
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**settings, num_labels=8))
    names = {"model_type": str(folder), "model_name": type(model).__name__, "tokenizer_name": "RobertaTokenizer"}
    config = {"arch": {"args": names | {"num_classes": 8}}, "dataset": {"args": {"classes": DETOXIFY_CLASSES}}}
    file = folder / "toxic.ckpt"
    torch.save({"config": config, "state_dict": randomised(model).state_dict()}, file)
    return file


def save_hhem(folder: Path) -> transformers.T5ForTokenClassification:
    """A folder like HHEM's on the hub: prefixed T5 weights, each once; the configuration asks for custom code."""
    from safetensors.torch import save_file

    tokenizer = pair_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", num_labels=2, **sizes)
    model = randomised(transformers.T5ForTokenClassification(config))
    weights = {f"t5.{k}": tensor.clone() for k, tensor in model.state_dict().items() if "embed_tokens" not in k}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "HHEMv2Config", "auto_map": {"AutoConfig": "x.HHEMv2Config"}}')
    return model
