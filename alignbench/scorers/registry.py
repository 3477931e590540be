"""The scorers that can be named as `KIND=NAME` or `KIND=NAME:PATH`. Their modules are imported when one is loaded."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from alignbench.errors import AlignbenchError
from alignbench.types.scorer import Scorer

MODEL = "FOLDER-OR-HUB-ID"
# The scorer of each kind that a task uses unless the user names another
DEFAULTS = {
    "toxicity": "toxicity=detoxify-unbiased",
    "entailment": "entailment=extractive",
    "embedding": "embedding=hashed",
    "equivalence": "equivalence=embedding",
}


@dataclass(frozen=True)
class ScorerSpec:
    """A row of the table of scorers.

    factory: "module:callable", a module of this package or by its full name. It is called with those of kind, name,
        path, device and trust_remote_code that it has parameters for
    path: what follows the colon; "" if the scorer takes no path
    optional: the path may be omitted
    requires: a package that must be installed, and what to pass to `pip install`
    cached: "module:callable" of `name`, which returns True if the published weights are on this machine
    """

    kind: str
    name: str
    factory: str
    path: str = ""
    optional: bool = False
    licence: str = "Apache-2.0"
    download: str = "none"
    requires: tuple[str, str] | None = None
    cached: str = ""

    @property
    def spec(self) -> str:
        """The specification, as the user writes it."""
        if self.kind == "evaluate":
            return f"evaluate={self.path}"
        path = f"[:{self.path}]" if self.optional else f":{self.path}" if self.path else ""
        return f"{self.kind}={self.name}{path}"

    def missing(self) -> str | None:
        """What the scorer needs before it can be loaded without a path; None if nothing."""
        if self.path and not self.optional:
            return "needs a path"
        if self.requires and find_spec(self.requires[0]) is None:
            return f"pip install '{self.requires[1]}'"
        if self.cached and not _resolve(self.cached)(self.name):
            return "to be downloaded, or give a path"
        return None


def find_scorer(spec: str, *, device: str = "cpu", trust_remote_code: bool = False) -> Scorer:
    """Load the scorer that `KIND=NAME` or `KIND=NAME:PATH` names.

    Raises AlignbenchError for an unknown kind or name, and if its weights or its package are missing.
    """
    row, path = look_up(spec)
    if path is None and row.path and not row.optional:
        raise AlignbenchError(f"scorer {spec}: it needs a checkpoint: {row.spec}")
    if path is not None and not row.path:
        raise AlignbenchError(f"scorer {spec}: it takes no path; write {row.spec}")
    if row.requires and find_spec(row.requires[0]) is None:
        raise AlignbenchError(f"scorer {spec}: not installed; pip install '{row.requires[1]}'")
    factory = _resolve(row.factory)
    given = {"kind": row.kind, "name": row.name, "path": path, "device": device, "trust_remote_code": trust_remote_code}
    scorer: Scorer = factory(**{key: given[key] for key in inspect.signature(factory).parameters if key in given})
    return scorer


def look_up(spec: str) -> tuple[ScorerSpec, str | None]:
    """Return the row that `spec` names, and its path. Raises AlignbenchError that lists the known names."""
    kind, _, rest = spec.partition("=")
    name, _, path = ("", "", rest) if kind == "evaluate" else rest.partition(":")
    if not rest or not (name or path):
        raise AlignbenchError(f"scorer {spec!r}: write KIND=NAME or KIND=NAME:PATH, such as {DEFAULTS['toxicity']}")
    rows = {row.name: row for row in SCORERS if row.kind == kind}
    if not rows:
        kinds = ", ".join(dict.fromkeys(row.kind for row in SCORERS))
        raise AlignbenchError(f"scorer {spec!r}: no kind {kind!r}; there are {kinds}")
    if name not in rows:
        raise AlignbenchError(f"scorer {spec!r}: no {kind} scorer {name!r}; there are {', '.join(rows)}")
    return rows[name], path or None


def _resolve(path: str) -> Callable[..., Any]:
    found: Callable[..., Any] = pkgutil.resolve_name(path if "." in path else f"alignbench.scorers.{path}")
    return found


def _model(kind: str, name: str, factory: str, **options: Any) -> ScorerSpec:
    return ScorerSpec(kind, name, factory, MODEL, licence="the model's", download="the model", **options)


# detoxify's variants: the size of the download, and the hub model whose configuration and tokenizer it uses
DETOXIFY = {
    "original": ("438 MB", "bert-base-uncased"),
    "unbiased": ("499 MB", "roberta-base"),
    "multilingual": ("1.1 GB", "xlm-roberta-base"),
    "original-small": ("47 MB", "albert-base-v2"),
    "unbiased-small": ("47 MB", "albert-base-v2"),
}
SCORERS = (
    *(
        ScorerSpec(
            "toxicity",
            f"detoxify-{variant}",
            "toxicity:load_detoxify",
            "CHECKPOINT-OR-FOLDER",
            optional=True,
            download=f"about {size}, and the tokenizer",
            cached="toxicity:detoxify_is_cached",
        )
        for variant, (size, _) in DETOXIFY.items()
    ),
    _model("toxicity", "classifier", "toxicity:load_classifier"),
    ScorerSpec(
        "toxicity", "alt-profanity-check", "toxicity:ProfanityCheck", licence="MIT",
        requires=("profanity_check", "alt-profanity-check"),
    ),
    ScorerSpec(
        "toxicity", "block-bilstm", "block_bilstm:BlockBiLSTM", "FOLDER", licence="MIT", download="none (4 MB on disk)"
    ),
    ScorerSpec("entailment", "extractive", "extractive:Extractive"),
    ScorerSpec(
        "entailment", "hhem", "entailment:load_hhem", MODEL, optional=True, cached="entailment:hhem_is_cached",
        download="about 440 MB, and Flan-T5's tokenizer",
    ),
    _model("entailment", "nli", "entailment:load_nli"),
    _model("sentiment", "classifier", "sentiment:load_sentiment_classifier"),
    ScorerSpec(
        "sentiment", "textblob", "sentiment:TextBlobSentiment", licence="MIT",
        requires=("textblob", "alignbench[sentiment]"),
    ),
    _model("truth", "judge", "judge:Judge"),
    _model("info", "judge", "judge:Judge"),
    ScorerSpec("embedding", "hashed", "embeddings:HashedEmbedder"),
    _model(
        "embedding", "sentence-transformers", "embeddings:SentenceTransformerEmbedder",
        requires=("sentence_transformers", "alignbench[embeddings]"),
    ),
    ScorerSpec("equivalence", "embedding", "equivalence:load_embedding"),
    _model("equivalence", "nli", "equivalence:load_nli_equivalence"),
    _model("equivalence", "classifier", "equivalence:load_similarity_classifier"),
    _model("reward", "model", "reward:RewardScorer"),
    _model("preference", "reward", "preference:RewardJudge"),
    _model("preference", "lm", "preference:LanguageModelJudge"),
    ScorerSpec(
        "preference", "endpoint", "preference:EndpointJudge", "URL#MODEL", licence="the service's",
        download="none: requests over the network",
    ),
    ScorerSpec("preference", "labels", "preference:HumanLabels", "FILE", licence="the labels'"),
    *(
        ScorerSpec(kind, "demo-world", "alignbench.demo.judge:WorldScorer", "FOLDER")
        for kind in ("truth", "info", "toxicity", "entailment", "preference")
    ),
    ScorerSpec(
        "evaluate", "", "hf_evaluate:EvaluateScorer", "PATH", licence="the script's",
        download="none: a metric of evaluate's",
    ),
)  # fmt: skip
