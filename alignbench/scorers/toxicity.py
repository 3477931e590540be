"""Toxicity by a Hugging Face classifier, by detoxify, or by alt-profanity-check.

detoxify (Hanu and Unitary team, 2020, https://github.com/unitaryai/detoxify; Apache-2.0) publishes its weights as
pickles on GitHub and opens them without restriction. Here their sha256 is checked and they are opened with
`weights_only`; a folder with safetensors can be used instead. Its variants are trained on different labels and are not
on one scale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alignbench.data.fetch import sha256_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.hub import offline
from alignbench.models.checkpoint import resolve_device
from alignbench.scorers.registry import DETOXIFY
from alignbench.scorers.sequence import ClassifierScorer, SequenceModel, load_sequence_classifier, quiet, window
from alignbench.types.scorer import Item

TOXIC_WORDS = ("toxic", "hate", "offensive")  # in order of preference
NEGATED = re.compile(r"(no|non|not|un)[-_ ]?(?=toxic|hate|offensive)")
# Labels of the data sets -> detoxify's standard names
STANDARD = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
# Known sha256 of published files. The first eight digits of every file's sha256 are part of its name.
SHA256 = {"original": "c1212f89ac23307ab33932ce29dc446a6e030fb3f384a500890bbe662b7b544a"}


def load_classifier(path: str, device: str, trust_remote_code: bool) -> ClassifierScorer:
    """Load any sequence classifier with a toxic label. Numbers: "toxicity" (0..1); see `ClassifierScorer`."""
    reader = load_sequence_classifier(path, device=device, trust_remote_code=trust_remote_code)
    toxic = toxic_label(reader.labels, reader.name)
    independent = are_independent(reader.model.config, reader.labels)
    return _scorer(reader, toxic, independent, f"classifier:{reader.name}[{toxic}]")


def toxic_label(labels: Sequence[str], name: str) -> str:
    """Return the label that means toxic: by its name, or the second of two unnamed labels.

    Raises AlignbenchError if there is none.
    """
    for word in TOXIC_WORDS:
        named = [label for label in labels if _contains(label, word)]
        if named:
            return min(named, key=len)  # "toxicity" rather than "severe_toxicity"
    if tuple(labels) == ("LABEL_0", "LABEL_1"):
        return "LABEL_1"
    raise AlignbenchError(
        f"classifier {name}: none of its labels ({', '.join(labels)}) contains toxic, hate or offensive; "
        "name them in id2label of its config.json"
    )


def are_independent(config: Any, labels: Sequence[str]) -> bool:
    """Return True if labels do not exclude each other: by the configuration, or if several of them mean toxic."""
    if config.problem_type is not None:
        return bool(config.problem_type != "single_label_classification")
    return len(labels) == 1 or sum(_contains(label, "toxic") for label in labels) > 1


def _contains(label: str, word: str) -> bool:
    return word in label.lower() and not NEGATED.search(label.lower())


def _scorer(reader: SequenceModel, toxic: str, independent: bool, name: str) -> ClassifierScorer:
    values = [float(label == toxic) for label in reader.labels]
    return ClassifierScorer("toxicity", reader, values, independent=independent, name=name)


def load_detoxify(name: str, path: str | None, device: str) -> ClassifierScorer:
    """Load `detoxify-VARIANT`.

    path: a checkpoint file of detoxify, a folder that holds one, or a folder with the model as safetensors (such as
        unitary/unbiased-toxic-roberta); None: the published weights, from torch's cache or downloaded. config.json and
        the tokenizer are read from the checkpoint's folder if they are there, else from the hub.
    """
    file = _published(name) if path is None else Path(path).expanduser()
    if file.is_dir() and not any(file.glob("*.safetensors")) and len(found := sorted(file.glob("*.ckpt"))) == 1:
        file = found[0]
    if file.is_file():
        return _scorer(_from_checkpoint(name, file, device), "toxicity", True, name)
    reader = load_sequence_classifier(str(path), device=device)
    reader = replace(reader, labels=tuple(STANDARD.get(label, label) for label in reader.labels))
    return _scorer(reader, toxic_label(reader.labels, reader.name), True, name)


def detoxify_is_cached(name: str) -> bool:
    return published_file(name).is_file()


def published_file(name: str) -> Path:
    """Where torch's cache, which detoxify uses too, keeps the published weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / _url(name).rpartition("/")[2]


def _url(name: str) -> str:
    from detoxify.detoxify import MODEL_URLS

    return str(MODEL_URLS[name.removeprefix("detoxify-")])


def _size_and_base(name: str) -> tuple[str, str]:
    return DETOXIFY[name.removeprefix("detoxify-")]


def _sha256(name: str) -> str:
    """The sha256 of the published file, or its first eight digits."""
    return SHA256.get(name.removeprefix("detoxify-")) or _url(name).rpartition("-")[2].removesuffix(".ckpt")


def _published(name: str) -> Path:
    """The published weights, downloaded if they are not in torch's cache."""
    import torch

    file = published_file(name)
    if file.is_file():
        return file
    try:
        if offline():
            raise OSError("HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set")
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_url(name), str(file), hash_prefix=_sha256(name), progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # RuntimeError: another sha256
        raise _missing(name, f"its weights {file.name} could not be fetched ({error})") from None
    return file


def _missing(name: str, what: str) -> AlignbenchError:
    size, base = _size_and_base(name)
    return AlignbenchError(
        f"toxicity scorer {name}: {what}; download {_url(name)} (about {size}), put config.json and the tokenizer of "
        f"{base} beside it and pass toxicity={name}:/path/to/{published_file(name).name}, or use "
        "toxicity=alt-profanity-check, which needs no download"
    )


def _from_checkpoint(name: str, file: Path, device: str) -> SequenceModel:
    """Load a checkpoint of detoxify. detoxify's own function would take the number of labels from a local config.json,
    which is the base model's."""
    import pickle

    import torch
    import transformers

    sha256 = sha256_of(file)
    if file.name == published_file(name).name and not sha256.startswith(_sha256(name)):
        raise AlignbenchError(
            f"toxicity scorer {name}: {file} has sha256 {sha256}, not {_sha256(name)}…; download it again"
        )
    try:
        whole = torch.load(file, map_location="cpu", weights_only=True)
        state, arguments = dict(whole["state_dict"]), dict(whole["config"]["arch"]["args"])
        classes = list(whole["config"]["dataset"]["args"]["classes"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise AlignbenchError(
            f"toxicity scorer {name}: {file} is not a checkpoint of detoxify that opens as tensors alone "
            f"({first_line(error)})"
        ) from None
    quiet()
    local = (file.parent / "config.json").is_file()
    base = str(file.parent) if local else str(arguments.get("model_type", _size_and_base(name)[1]))
    try:
        model_class = getattr(transformers, arguments["model_name"])
        tokenizer_class = getattr(transformers, arguments["tokenizer_name"])
        labels = arguments["num_classes"]
        config = model_class.config_class.from_pretrained(base, num_labels=labels, local_files_only=local)
        tokenizer = tokenizer_class.from_pretrained(base, local_files_only=local)
        model, loading = model_class.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except OSError:
        raise _missing(name, f"configuration and tokenizer of {base} are not on this machine") from None
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AlignbenchError(f"toxicity scorer {name}: {file} does not make a model ({first_line(error)})") from None
    if absent := sorted(loading["missing_keys"]):
        raise AlignbenchError(
            f"toxicity scorer {name}: {file} lacks {len(absent)} weights of its architecture (first: {absent[0]})"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    return SequenceModel(
        name=name,
        revision=sha256,
        model=model.float().to(resolve_device(device)).eval(),
        tokenizer=tokenizer,
        window=window(positions, model.config, tokenizer),
        # some variants have further logits for identities, which detoxify does not report either
        labels=tuple(STANDARD.get(label, label) for label in classes),
    )


class ProfanityCheck:
    """alt-profanity-check: a linear model over word counts, whose weights are part of its PyPI package.

    English, trained on comments and tweets; it does not see whom a word is about. For its false alarms see
    `alignbench scorers validate toxicity`. Numbers: "toxicity", the probability that the text is profane or offensive.
    """

    kind = "toxicity"
    name = "alt-profanity-check"

    def __init__(self) -> None:
        from profanity_check import predict_prob

        self.revision = version(self.name)
        self._predict = predict_prob

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        found = self._predict([item.output for item in items]) if items else []
        return [{"toxicity": float(probability)} for probability in found]
