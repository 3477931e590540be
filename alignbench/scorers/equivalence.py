"""Classes of equivalent outputs of one prompt, for NoveltyBench's counts and semantic entropy.

An output is compared with the first output of each class so far, and joins the first class that it is equivalent to
(`diversity.semantic.partition`). Numbers of every scorer here: "class": 0, 1, … in order of appearance within the
item's group.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from alignbench.diversity.semantic import partition, unit
from alignbench.errors import AlignbenchError
from alignbench.scorers.embeddings import HashedEmbedder, by_group, load_minilm
from alignbench.scorers.entailment import PairReader, load_nli
from alignbench.scorers.sequence import SequenceModel, load_sequence_classifier, probabilities
from alignbench.types.scorer import Embedder, Item

# cosines from which on two outputs are equivalent, measured with translations of one sentence: docs/metrics.md
COSINE, MINILM_COSINE = 0.6, 0.8
# NoveltyBench's (its src/partition.py): the classifier's threshold, the tokens of each output that it reads, and the
# length in words up to which outputs are compared word by word
SIMILAR, READ, SHORT = 0.102, 128, 5

Pairs = Sequence[tuple[Item, Item]]
# the index of an item, and of the first item of each class -> the place of the class that it belongs to, if any
Find = Callable[[int, Sequence[int]], int | None]


class Equivalence:
    """find: items -> a function that finds the class of one of them"""

    kind = "equivalence"

    def __init__(self, find: Callable[[Sequence[Item]], Find], name: str, revision: str) -> None:
        self._find, self.name, self.revision = find, name, revision

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        find = self._find(items)

        def classes(own: list[int]) -> list[dict[str, float]]:
            labels = partition(lambda new, firsts: find(own[new], [own[first] for first in firsts]), len(own))
            return [{"class": float(label)} for label in labels]

        return by_group(items, classes)


def by_cosine(embedder: Embedder, least: float, items: Sequence[Item]) -> Find:
    """Equivalent if the cosine of two outputs is at least `least`."""
    vectors = unit(embedder.embed([item.output for item in items]))

    def find(new: int, firsts: Sequence[int]) -> int | None:
        near = np.flatnonzero(vectors[list(firsts)] @ vectors[new] >= least)
        return int(near[0]) if len(near) else None

    return find


def by_pairs(same: Callable[[Pairs], Sequence[bool]], items: Sequence[Item]) -> Find:
    """Equivalent if identical after stripping, or by a model of pairs (an earlier and a later item). Empty outputs are
    equivalent only to each other; the model does not read them."""
    texts = [item.output.strip() for item in items]

    def find(new: int, firsts: Sequence[int]) -> int | None:
        known = [texts[first] for first in firsts]
        if texts[new] in known:
            return known.index(texts[new])
        places = [place for place, text in enumerate(known) if text and texts[new]]
        answers = same([(items[firsts[place]], items[new]) for place in places]) if places else []
        return next((place for place, answer in zip(places, answers, strict=True) if answer), None)

    return find


def load_embedding() -> Equivalence:
    embedder = HashedEmbedder()
    name = f"{COSINE}-{embedder.name}-{embedder.revision}"
    return Equivalence(partial(by_cosine, embedder, COSINE), "embedding", name)


def load_minilm_equivalence(device: str) -> Equivalence:
    embedder = load_minilm(device)
    return Equivalence(partial(by_cosine, embedder, MINILM_COSINE), "minilm", f"{MINILM_COSINE}-{embedder.revision}")


def load_nli_equivalence(path: str, device: str, trust_remote_code: bool) -> Equivalence:
    """Each output entails the other (Kuhn et al. 2023, arXiv 2302.09664, section 3.2): entailment is the most likely
    label in both directions."""
    nli = load_nli(path, device, trust_remote_code)
    return Equivalence(partial(by_pairs, partial(entail_each_other, nli.reader)), nli.name, nli.revision)


def entail_each_other(reader: PairReader, pairs: Pairs) -> list[bool]:
    """The prompt precedes each output, as in the paper, unless the two would then not fit into the window: truncation
    of the answers would make all of them equivalent."""
    texts = []
    for pair in pairs:
        first, second = (f"{item.prompt} {item.output}".strip() for item in pair)
        if reader.model.length(first) + reader.model.length(second) > reader.room:
            first, second = (item.output for item in pair)
        texts += [reader.write(first, second), reader.write(second, first)]
    entailed = reader.model.logits(texts)[0].argmax(axis=1) == reader.entailed
    return [bool(both) for both in entailed.reshape(-1, 2).all(axis=1)]


def load_similarity_classifier(path: str, device: str, trust_remote_code: bool) -> Equivalence:
    """A classifier of two outputs whose second label means similar, such as NoveltyBench's (arXiv 2504.05228),
    yimingzhang/deberta-v3-large-generation-similarity; see `are_similar`."""
    model = load_sequence_classifier(path, device, trust_remote_code)
    if len(model.labels) != 2:
        labels = f"it has {len(model.labels)} labels ({', '.join(model.labels)})"
        advice = "a classifier of pairs has two: different, similar"
        raise AlignbenchError(f"equivalence classifier {model.name}: {labels}; {advice}")
    return Equivalence(partial(by_pairs, partial(are_similar, model)), f"classifier:{model.name}", model.revision)


def are_similar(model: SequenceModel, pairs: Pairs) -> list[bool]:
    """Outputs of at most 5 words: the two share at least half as many words as the longer one has. Others: the
    probability of the second label, given the first 128 tokens of each, is above .102 (NoveltyBench's threshold)."""

    def beginning(text: str) -> str:
        spans = model.spans(text)
        return text if len(spans) <= READ else text[: spans[READ - 1][1]]

    words = [(one.output.lower().split(), two.output.lower().split()) for one, two in pairs]
    same = [2 * len(set(a) & set(b)) >= max(len(a), len(b)) for a, b in words]
    read = [number for number, both in enumerate(words) if max(map(len, both)) > SHORT]
    texts = [(beginning(pairs[number][0].output), beginning(pairs[number][1].output)) for number in read]
    for number, row in zip(read, probabilities(model.logits(texts)[0]), strict=True):
        same[number] = bool(row[1] > SIMILAR)
    return same
