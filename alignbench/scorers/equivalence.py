"""Which outputs of one prompt say the same: classes for NoveltyBench's counts and for semantic entropy.

An output is compared with the first of each class so far (diversity/novelty.py) and joins the first class that it
equals. The numbers of every scorer here: "class", 0, 1, … in order of appearance within the item's group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.diversity.semantic import partition, unit
from alignbench.errors import AlignbenchError
from alignbench.scorers.embeddings import HashedEmbedder, groups
from alignbench.scorers.entailment import PairReader, load_nli
from alignbench.scorers.sequence import SequenceModel, encodable, load_sequence_classifier, probabilities
from alignbench.types.scorer import Embedder, Item

# Of 160 pairs of Tatoeba's English sentences with one French translation, .81 reach it, and of 1,500 sentences with
# the nearest other one of 11,872 .18; .5 and .7 tell the two apart less well. It is a matter of wording: a right and a
# wrong answer to a question of TruthfulQA are as near as two right ones (AUC .53), and long answers to one prompt come
# near by its words alone (.38 of text-davinci-002's and 003's on Self-Instruct's 252 reach it, .08 are identical).
COSINE = 0.6
# NoveltyBench's own (its src/partition.py): the classifier's threshold, the tokens it reads of each output, and the
# length in words up to which outputs are compared word by word
SIMILAR, READ, SHORT = 0.102, 128, 5

Pairs = Sequence[tuple[Item, Item]]


class EmbeddingEquivalence:
    """Same where the cosine of two outputs is at least the threshold."""

    kind = "equivalence"
    name = "embedding"

    def __init__(self, embedder: Embedder, threshold: float = COSINE) -> None:
        self.embedder, self.threshold = embedder, threshold
        self.revision = f"{threshold}-{embedder.name}-{embedder.revision}"

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        vectors = unit(self.embedder.embed([item.output for item in items]))
        labels = [0] * len(items)
        for members in groups(items):
            found = partition(self._finder(vectors[members]), len(members))
            for member, label in zip(members, found, strict=True):
                labels[member] = label
        return [{"class": float(label)} for label in labels]

    def _finder(self, vectors: NDArray[np.floating]) -> Callable[[int, Sequence[int]], int | None]:
        def find(new: int, firsts: Sequence[int]) -> int | None:
            near = np.flatnonzero(vectors[list(firsts)] @ vectors[new] >= self.threshold)
            return int(near[0]) if len(near) else None

        return find


class PairEquivalence:
    """Same where a model of pairs says so. Outputs that are written alike are not put to it: they are the same; nor
    are empty ones, which are unlike all others.

    same: pairs of items, an earlier one and a later one -> is each equivalent?
    """

    kind = "equivalence"

    def __init__(self, same: Callable[[Pairs], list[bool]], name: str, revision: str) -> None:
        self.same, self.name, self.revision = same, name, revision

    def score(self, items: Sequence[Item]) -> list[dict[str, float]]:
        labels = [0] * len(items)
        for members in groups(items):
            own = [items[member] for member in members]
            for member, label in zip(members, partition(self._finder(own), len(own)), strict=True):
                labels[member] = label
        return [{"class": float(label)} for label in labels]

    def _finder(self, items: Sequence[Item]) -> Callable[[int, Sequence[int]], int | None]:
        said = [item.output.strip() for item in items]

        def find(new: int, firsts: Sequence[int]) -> int | None:
            for place, first in enumerate(firsts):
                if said[first] == said[new]:
                    return place
            asked = [place for place, first in enumerate(firsts) if said[first] and said[new]]
            answers = self.same([(items[firsts[place]], items[new]) for place in asked]) if asked else []
            return next((place for place, answer in zip(asked, answers, strict=True) if answer), None)

        return find


def load_embedding() -> EmbeddingEquivalence:
    return EmbeddingEquivalence(HashedEmbedder())


def load_nli_equivalence(path: str, device: str, trust_remote_code: bool) -> PairEquivalence:
    """Each output is entailed by the other (Kuhn et al. 2023, arXiv 2302.09664, section 3.2): entailment is the most
    likely label in both directions."""
    nli = load_nli(path, device, trust_remote_code)
    return PairEquivalence(lambda pairs: entail_each_other(nli.reader, pairs), nli.name, nli.revision)


def entail_each_other(reader: PairReader, pairs: Pairs) -> list[bool]:
    """The prompt stands before each output, as in the paper, unless the two would then not fit the window: a prompt
    whose answers are cut off would make all of them the same."""
    texts = [pair for one, two in pairs for pair in _both_ways(reader, one, two)]
    logits, _ = reader.model.logits(texts)
    entailed = (logits.argmax(axis=1) == reader.entailed).reshape(-1, 2)
    return [bool(both) for both in entailed.all(axis=1)]


def load_similarity_classifier(path: str, device: str, trust_remote_code: bool) -> PairEquivalence:
    """A classifier of two outputs whose second label means similar, used as NoveltyBench (arXiv 2504.05228) uses its
    own, yimingzhang/deberta-v3-large-generation-similarity: see `are_similar`."""
    model = load_sequence_classifier(path, device=device, trust_remote_code=trust_remote_code)
    if len(model.labels) != 2:
        raise AlignbenchError(
            f"equivalence classifier {model.name}: it has {len(model.labels)} labels "
            f"({', '.join(model.labels)}); a classifier of pairs has two: different, similar"
        )
    return PairEquivalence(lambda pairs: are_similar(model, pairs), f"classifier:{model.name}", model.revision)


def are_similar(model: SequenceModel, pairs: Pairs) -> list[bool]:
    """Outputs of at most 5 words: half of the longer one's words are common to both. Others: the second label of the
    first 128 tokens of each has a probability above .102, the value that NoveltyBench chose for its classifier."""
    answers = [_share_words(one.output, two.output) for one, two in pairs]
    open_ = [number for number, answer in enumerate(answers) if answer is None]
    texts = [(_beginning(model, pairs[n][0].output), _beginning(model, pairs[n][1].output)) for n in open_]
    logits, _ = model.logits(texts)
    for number, row in zip(open_, probabilities(logits, independent=False), strict=True):
        answers[number] = bool(row[1] > SIMILAR)
    return [bool(answer) for answer in answers]


def _both_ways(reader: PairReader, one: Item, two: Item) -> list[str | tuple[str, str]]:
    with_prompt = [f"{item.prompt} {item.output}".strip() for item in (one, two)]
    fits = sum(reader.model.length(text) for text in with_prompt) <= reader.room
    first, second = with_prompt if fits else (one.output, two.output)
    return [reader.write(first, second), reader.write(second, first)]


def _share_words(one: str, two: str) -> bool | None:
    first, second = one.lower().split(), two.lower().split()
    longer = max(len(first), len(second))
    return None if longer > SHORT else 2 * len(set(first) & set(second)) >= longer


def _beginning(model: SequenceModel, text: str) -> str:
    text = encodable(text)
    found = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = found["offset_mapping"]
    return text if len(offsets) <= READ else text[: offsets[READ - 1][1]]
