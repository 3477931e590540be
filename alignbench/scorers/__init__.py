"""Scorers: text in, numbers out, each with a name and a revision that become part of a metric's identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alignbench.errors import AlignbenchError
from alignbench.scorers.preference import JUDGES
from alignbench.types.scorer import Item, Scorer, ScorerIdentity

__all__ = ["DEFAULTS", "KNOWN", "Item", "Known", "Scorer", "ScorerIdentity", "find_scorer"]

# What a task uses where the user names no other (protocols.md, sections 4 and 5)
DEFAULTS = {
    "toxicity": "toxicity=detoxify-unbiased",
    "entailment": "entailment=extractive",
    "embedding": "embedding=hashed",
    "equivalence": "equivalence=embedding",
}


@dataclass(frozen=True)
class Known:
    """A scorer that can be named as `KIND=NAME`, or `KIND=NAME:PATH` where it has a path.

    load: path, device, trust_remote_code -> the scorer
    path: what may stand after the colon; "" nothing
    needs_path: whether it must
    missing: why it cannot be used here as it stands, or None
    """

    kind: str
    name: str
    load: Callable[[str | None, str, bool], Scorer]
    licence: str
    download: str
    path: str = ""
    needs_path: bool = False
    missing: Callable[[], str | None] = lambda: None

    @property
    def spec(self) -> str:
        if not self.path:
            return f"{self.kind}={self.name}"
        return f"{self.kind}={self.name}:{self.path}" if self.needs_path else f"{self.kind}={self.name}[:{self.path}]"


def find_scorer(spec: str, *, device: str = "cpu", trust_remote_code: bool = False) -> Scorer:
    """The scorer that `KIND=NAME` or `KIND=NAME:PATH` names, loaded and ready.

    Raises AlignbenchError for an unknown kind or name, and where its weights or its package are not there.
    """
    if spec.startswith("evaluate="):
        from alignbench.scorers.hf_evaluate import EvaluateScorer

        return EvaluateScorer(spec.removeprefix("evaluate="), trust_remote_code=trust_remote_code)
    known = look_up(spec)
    path = spec.partition("=")[2].partition(":")[2] or None
    if path is None and known.needs_path:
        raise AlignbenchError(f"scorer {spec}: it needs a checkpoint: {known.spec}")
    if path is not None and not known.path:
        raise AlignbenchError(f"scorer {spec}: it takes no path; write {known.spec}")
    return known.load(path, device, trust_remote_code)


def look_up(spec: str) -> Known:
    """What `spec` names, not loaded. Raises AlignbenchError that names what there is."""
    kind, equals, rest = spec.partition("=")
    name = rest.partition(":")[0]
    kinds = list(dict.fromkeys(known.kind for known in KNOWN))
    if not equals or not name:
        raise AlignbenchError(f"scorer {spec!r}: write KIND=NAME or KIND=NAME:PATH, such as {DEFAULTS['toxicity']}")
    if kind not in kinds:
        raise AlignbenchError(f"scorer {spec!r}: no kind {kind!r}; there are {', '.join(kinds)}")
    of_kind = {known.name: known for known in KNOWN if known.kind == kind}
    if name not in of_kind:
        raise AlignbenchError(f"scorer {spec!r}: no {kind} scorer {name!r}; there are {', '.join(of_kind)}")
    return of_kind[name]


def _detoxify(variant: str) -> Callable[[str | None, str, bool], Scorer]:
    def load(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
        from alignbench.scorers.detoxify_model import load_detoxify

        return load_detoxify(variant, path, device)

    return load


def _detoxify_missing(variant: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        from alignbench.scorers.detoxify_model import VARIANTS, published_file

        return None if published_file(VARIANTS[variant]).is_file() else "to be downloaded, or give a path"

    return missing


def _classifier(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.classifier import load_classifier

    return load_classifier(path or "", device, trust_remote_code)


def _profanity(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.profanity import ProfanityCheck

    return ProfanityCheck()


def _block_bilstm(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.block_bilstm import BlockBiLSTM

    return BlockBiLSTM(path or "", device)


def _extractive(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.entailment import Extractive

    return Extractive()


def _hhem(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.hhem import load_hhem

    return load_hhem(path, device)


def _hhem_missing() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    from alignbench.scorers.hhem import HUB

    repository, _, revision = HUB.partition("@")
    found = try_to_load_from_cache(repository, "model.safetensors", revision=revision)
    return None if isinstance(found, str) else "to be downloaded, or give a path"


def _nli(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.entailment import load_nli

    return load_nli(path or "", device, trust_remote_code)


def _sentiment(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.sentiment import load_classifier_sentiment

    return load_classifier_sentiment(path or "", device, trust_remote_code)


def _textblob(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.sentiment import TextBlobSentiment

    return TextBlobSentiment()


def _judge(kind: str) -> Callable[[str | None, str, bool], Scorer]:
    def load(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
        from alignbench.scorers.judge import Judge

        return Judge(kind, path or "", device, trust_remote_code)

    return load


def _reward(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.reward import RewardScorer

    return RewardScorer(path or "", device, trust_remote_code)


def _hashed(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.embeddings import HashedEmbedder

    return HashedEmbedder()


def _sentence_transformer(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.embeddings import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder(path or "", device, trust_remote_code)


def _equivalent_embeddings(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.equivalence import load_embedding

    return load_embedding()


def _equivalent_nli(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.equivalence import load_nli_equivalence

    return load_nli_equivalence(path or "", device, trust_remote_code)


def _equivalent_classifier(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
    from alignbench.scorers.equivalence import load_similarity_classifier

    return load_similarity_classifier(path or "", device, trust_remote_code)


def _demo_world(kind: str) -> Callable[[str | None, str, bool], Scorer]:
    def load(path: str | None, device: str, trust_remote_code: bool) -> Scorer:
        from alignbench.demo.judge import WorldScorer

        return WorldScorer(kind, path or "")

    return load


def _installed(package: str, extra: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        from importlib.util import find_spec

        return None if find_spec(package) else f"pip install '{extra}'"

    return missing


_ANY = "FOLDER-OR-HUB-ID"
_DETOXIFY = {"original": "438 MB", "unbiased": "499 MB", "multilingual": "1.1 GB"} | dict.fromkeys(
    ("original-small", "unbiased-small"), "47 MB"
)

KNOWN = (
    *(
        Known(
            "toxicity",
            f"detoxify-{variant}",
            _detoxify(variant),
            "Apache-2.0",
            f"about {size}, and the tokenizer",
            path="CHECKPOINT-OR-FOLDER",
            missing=_detoxify_missing(variant),
        )
        for variant, size in _DETOXIFY.items()
    ),
    Known("toxicity", "classifier", _classifier, "the model's", "the model", path=_ANY, needs_path=True),
    Known(
        "toxicity",
        "alt-profanity-check",
        _profanity,
        "MIT",
        "none",
        missing=_installed("profanity_check", "alt-profanity-check"),
    ),
    Known("toxicity", "block-bilstm", _block_bilstm, "MIT", "none (4 MB on disk)", path="FOLDER", needs_path=True),
    Known("entailment", "extractive", _extractive, "Apache-2.0", "none"),
    Known(
        "entailment",
        "hhem",
        _hhem,
        "Apache-2.0",
        "about 440 MB, and Flan-T5's tokenizer",
        path=_ANY,
        missing=_hhem_missing,
    ),
    Known("entailment", "nli", _nli, "the model's", "the model", path=_ANY, needs_path=True),
    Known("sentiment", "classifier", _sentiment, "the model's", "the model", path=_ANY, needs_path=True),
    Known("sentiment", "textblob", _textblob, "MIT", "none", missing=_installed("textblob", "alignbench[sentiment]")),
    Known("truth", "judge", _judge("truth"), "the model's", "the model", path=_ANY, needs_path=True),
    Known("info", "judge", _judge("info"), "the model's", "the model", path=_ANY, needs_path=True),
    Known("embedding", "hashed", _hashed, "Apache-2.0", "none"),
    Known(
        "embedding",
        "sentence-transformers",
        _sentence_transformer,
        "the model's",
        "the model",
        path=_ANY,
        needs_path=True,
        missing=_installed("sentence_transformers", "alignbench[embeddings]"),
    ),
    Known("equivalence", "embedding", _equivalent_embeddings, "Apache-2.0", "none"),
    Known("equivalence", "nli", _equivalent_nli, "the model's", "the model", path=_ANY, needs_path=True),
    Known("equivalence", "classifier", _equivalent_classifier, "the model's", "the model", path=_ANY, needs_path=True),
    Known("reward", "model", _reward, "the model's", "the model", path=_ANY, needs_path=True),
    *(
        Known(kind, "demo-world", _demo_world(kind), "Apache-2.0", "none", path="FOLDER", needs_path=True)
        for kind in ("truth", "info", "toxicity", "entailment")
    ),
    *(Known("preference", *judge, needs_path=True) for judge in JUDGES),
)
