"""Toxicity by detoxify (Hanu and Unitary team, 2020, https://github.com/unitaryai/detoxify; Apache-2.0).

Its weights are pickles on GitHub, which detoxify opens without restriction. Here their sha256 is checked and they are
opened with `weights_only`, or a folder with safetensors replaces them. The variants are trained on different labels and
are not on one scale.
"""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import torch

from alignbench.data.fetch import sha256_of
from alignbench.errors import AlignbenchError, first_line
from alignbench.hub import offline
from alignbench.models.load import quiet, resolve_device
from alignbench.scorers.classifier import ClassifierScorer, toxic_label
from alignbench.scorers.registry import look_up
from alignbench.scorers.sequence import SequenceModel, load_sequence_classifier, window

# Labels of the data sets -> detoxify's standard names
STANDARD = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
# variant -> the hub model whose configuration and tokenizer it uses
BASES = {
    "original": "bert-base-uncased",
    "unbiased": "roberta-base",
    "multilingual": "xlm-roberta-base",
    "original-small": "albert-base-v2",
    "unbiased-small": "albert-base-v2",
}
# Known sha256 of published files. The first eight digits of every file's sha256 are part of its name.
SHA256 = {"original": "c1212f89ac23307ab33932ce29dc446a6e030fb3f384a500890bbe662b7b544a"}


def load_detoxify(name: str, path: str | None, device: str) -> ClassifierScorer:
    """Load `detoxify-VARIANT`.

    path: a checkpoint of detoxify, a folder that holds one, or a folder with the model as safetensors (such as
        unitary/unbiased-toxic-roberta); None: the published weights, from torch's cache or downloaded. config.json and
        the tokenizer are read from the checkpoint's folder if they are there, else from the hub.
    """
    file = _download(name) if path is None else Path(path).expanduser()
    if not any(file.glob("*.safetensors")) and len(found := list(file.glob("*.ckpt"))) == 1:
        file = found[0]
    if file.is_file():
        reader, toxic = _from_checkpoint(name, file, device), "toxicity"
    else:
        reader = load_sequence_classifier(str(path), device)
        reader = replace(reader, labels=tuple(STANDARD.get(label, label) for label in reader.labels))
        toxic = toxic_label(reader.labels, reader.name)
    return ClassifierScorer("toxicity", name, reader, [label == toxic for label in reader.labels], independent=True)


def is_cached(name: str) -> bool:
    return published(name)[1].is_file()


def published(name: str) -> tuple[str, Path, str]:
    """URL of the published weights, their file in torch's cache (which detoxify uses too), and their sha256 or its
    first eight digits."""
    from detoxify.detoxify import MODEL_URLS

    variant = name.removeprefix("detoxify-")
    url = str(MODEL_URLS[variant])
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return url, file, SHA256.get(variant) or file.stem.rpartition("-")[2]


def _download(name: str) -> Path:
    """The published weights, downloaded if they are not in torch's cache."""
    url, file, sha256 = published(name)
    try:
        if not file.is_file():
            if offline():
                raise OSError("HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set")
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # RuntimeError: another sha256
        raise _missing(name, f"its weights {file.name} could not be fetched ({error})") from None
    return file


def _missing(name: str, what: str) -> AlignbenchError:
    (url, file, _), size = published(name), look_up(f"toxicity={name}")[0].download
    beside = f"put config.json and the tokenizer of {BASES[name.removeprefix('detoxify-')]} beside it"
    other = "or use toxicity=alt-profanity-check, which needs no download"
    advice = f"download {url} ({size}), {beside} and pass toxicity={name}:/path/to/{file.name}, {other}"
    return AlignbenchError(f"toxicity scorer {name}: {what}; {advice}")


def _from_checkpoint(name: str, file: Path, device: str) -> SequenceModel:
    """Load a checkpoint of detoxify. detoxify's own function would take the number of labels from a local config.json,
    which is the base model's."""
    import transformers

    sha256, (_, cached, expected) = sha256_of(file), published(name)
    if file.name == cached.name and not sha256.startswith(expected):
        raise AlignbenchError(f"toxicity scorer {name}: {file} has sha256 {sha256}, not {expected}…; download it again")
    try:
        whole = torch.load(file, map_location="cpu", weights_only=True)
        state, arguments = dict(whole["state_dict"]), dict(whole["config"]["arch"]["args"])
        classes = list(whole["config"]["dataset"]["args"]["classes"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        problem = f"{file} is not a checkpoint of detoxify that opens as tensors alone ({first_line(error)})"
        raise AlignbenchError(f"toxicity scorer {name}: {problem}") from None
    quiet()
    local = (file.parent / "config.json").is_file()
    base = str(file.parent if local else arguments.get("model_type", BASES[name.removeprefix("detoxify-")]))
    try:
        model_class = getattr(transformers, arguments["model_name"])
        labels = arguments["num_classes"]
        config = model_class.config_class.from_pretrained(base, num_labels=labels, local_files_only=local)
        tokenizer = getattr(transformers, arguments["tokenizer_name"]).from_pretrained(base, local_files_only=local)
        model, loading = model_class.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except OSError:
        raise _missing(name, f"configuration and tokenizer of {base} are not on this machine") from None
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AlignbenchError(f"toxicity scorer {name}: {file} does not make a model ({first_line(error)})") from None
    if absent := sorted(loading["missing_keys"]):
        lacks = f"lacks {len(absent)} weights of its architecture (first: {absent[0]})"
        raise AlignbenchError(f"toxicity scorer {name}: {file} {lacks}")
    return SequenceModel(
        name=name,
        revision=sha256,
        model=model.float().to(resolve_device(device)).eval(),
        tokenizer=tokenizer,
        window=window(getattr(model.config, "max_position_embeddings", None), model.config, tokenizer),
        # some variants have further logits for identities, which detoxify does not report either
        labels=tuple(STANDARD.get(label, label) for label in classes),
    )
