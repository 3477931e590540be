"""Scorers that compare texts: embeddings, entailment by a source, equivalence of outputs."""

import itertools
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from cases import cases
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scorer_models import TEXTS, save_classifier, save_hhem, stock_logits

from alignbench.diversity.semantic import vendi
from alignbench.scorers import DEFAULTS, Item, find_scorer
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.scorers.entailment import HHEM_PROMPT, Entailment, chunks
from alignbench.scorers.equivalence import Equivalence, are_similar, by_pairs, entail_each_other
from alignbench.scorers.sequence import load_sequence_classifier

NLI = ("contradiction", "entailment", "neutral")
STATEMENTS = cases("scorers")["statements"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    """A seed with which statements entail each other in both directions, in one, and in none."""
    return save_classifier(tmp_path_factory.mktemp("nli"), NLI, "Bert", seed=4)


@given(st.lists(st.integers(1, 12), max_size=12), st.integers(2, 15))
def test_chunks_hold_every_sentence_within_the_limit_and_overlap_by_one(counts, most):
    def split(text, most):
        pieces = [text.split()[i : i + most] for i in range(0, len(text.split()), most)]
        return [(" ".join(piece), len(piece)) for piece in pieces]

    source = [(" ".join(f"s{i}w{j}" for j in range(count)), count) for i, count in enumerate(counts)]
    found = chunks(source, most, split)
    assert all(len(chunk.split()) <= most for chunk in found)
    parts = [part for sentence, _ in source for part, _ in split(sentence, most)]
    assert [part for part in parts if not any(part in chunk for chunk in found)] == []
    for before, after in itertools.pairwise(found):
        last = max((part for part in parts if before.endswith(part)), key=len)
        following = parts[parts.index(last) + 1]
        fits = len(last.split()) + 1 + len(following.split()) <= most  # a space may be a token
        assert after.startswith(last if fits else following)


def test_the_support_of_a_sentence_is_that_of_its_best_chunk(tmp_path):
    folder = save_classifier(tmp_path, NLI, "DebertaV2", positions=40)
    source = "The bees make honey. The doctor was late. Mars is a planet. The hive is made of wax. It is red."
    output = ("Mars is red.", "Bees make wax.")
    numbers = find_scorer(f"entailment=nli:{folder}").score([Item("No."), Item(" ".join(output), source=source)])[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    counted = [(text, len(tokenizer(text, add_special_tokens=False)["input_ids"])) for text in output]
    counted += [(f"{text}.", len(tokenizer(f"{text}.")["input_ids"]) - 2) for text in source[:-1].split(". ")]
    premises = chunks(counted[2:], 40 - 4 - max(tokens for _, tokens in counted[:2]), lambda text, most: [])
    assert len(premises) > 1
    supports = [max(softmax(stock_logits(folder, premise, said))[1] for premise in premises) for said in output]
    assert numbers["support"] == pytest.approx(min(supports), abs=1e-5)
    assert numbers["sentences"] == 2
    assert numbers["flagged_share"] == sum(support < 0.5 for support in supports) / 2


def share_of_words(pairs):
    """A model's substitute: a sentence's support is the proportion of its words in the chunk. A token is a word."""
    words = [(premise.lower().split(), hypothesis.lower().split()) for premise, hypothesis in pairs]
    return np.array([np.mean([word in premise for word in hypothesis]) for premise, hypothesis in words])


@pytest.mark.parametrize(
    ("output", "source", "numbers"), [(*row[:2], row[2:]) for row in cases("scorers")["entailment"]]
)
def test_one_unsupported_sentence_flags_the_output(output, source, numbers):
    model = SimpleNamespace(
        length=lambda text: len(text.split()), spans=lambda text: [match.span() for match in re.finditer(r"\S+", text)]
    )
    scorer = Entailment(SimpleNamespace(room=12, model=model, support=share_of_words), "overlap", "1")
    found = scorer.score([Item(output), Item(output, source=source)])
    assert found == [{}, dict(zip(("flagged", "flagged_share", "support", "sentences", "cut"), numbers, strict=True))]


def test_hhem_runs_without_its_own_code(tmp_path):
    model = save_hhem(tmp_path)
    scorer = find_scorer(f"entailment=hhem:{tmp_path}")
    source, output = "Bees make honey.", "Bees make wax."
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoded = tokenizer(HHEM_PROMPT.format(source, output), return_tensors="pt")
    assert encoded["input_ids"][0, 0] == tokenizer.pad_token_id  # the prompt's <pad> is the token, not its letters
    with torch.no_grad():
        expected = model(**encoded).logits[0, 0].softmax(-1)[1].item()
    longer = Item("The doctor was late.", source="The nurse told the doctor that he was wrong, and she was right.")
    numbers = scorer.score([longer, Item(output, source=source)])[1]
    assert numbers["support"] == pytest.approx(expected, abs=1e-5)
    assert (scorer.name, len(scorer.revision)) == ("hhem", 64)


def classes_of(scorer, outputs, prompt=""):
    return [int(numbers["class"]) for numbers in scorer.score([Item(text, prompt) for text in outputs])]


def test_outputs_of_similar_wording_are_one_class_and_empty_ones_another():
    scorer = find_scorer(DEFAULTS["equivalence"])
    outputs = ["Bees make honey.", "", "The bees make honey!", "Mars is the red planet.", " ", "Mars is a red planet"]
    assert classes_of(scorer, outputs) == [0, 1, 0, 2, 1, 2]
    items = [Item("Bees make honey.", group=group) for group in "aab"] + [Item("Mars is red.", group="b")]
    assert [numbers["class"] for numbers in scorer.score(items)] == [0, 0, 0, 1]
    seen = []  # identical and empty outputs are not passed to a model

    def never(pairs):
        seen.extend((one.output, two.output) for one, two in pairs)
        return [False] * len(pairs)

    assert classes_of(Equivalence(partial(by_pairs, never), "never", "1"), ["Bees", "", " Bees\n", "Mars", ""]) == [
        0, 1, 0, 2, 1,
    ]  # fmt: skip
    assert seen == [("Bees", "Mars")]


@pytest.mark.parametrize("prompt", ["", "What is red?"])
def test_nli_equivalence_is_entailment_in_both_directions_after_the_prompt_if_it_fits(nli, prompt):
    whole = {text: f"{prompt} {text}".strip() for text in STATEMENTS}
    ordered = itertools.permutations(STATEMENTS, 2)
    entails = {(a, b): stock_logits(nli, whole[a], whole[b]).argmax() == 1 for a, b in ordered}
    pairs = list(itertools.combinations(STATEMENTS, 2))
    expected = [bool(entails[a, b] and entails[b, a]) for a, b in pairs]
    reader, long = find_scorer(f"entailment=nli:{nli}").reader, "long prompt " * 50
    for asked in (prompt, long) if not prompt else (prompt,):
        assert entail_each_other(reader, [(Item(a, asked), Item(b, asked)) for a, b in pairs]) == expected
    assert any(expected)
    assert any(entails[a, b] != entails[b, a] for a, b in pairs)


def test_the_similarity_classifier_is_used_as_in_noveltybench(tmp_path):
    folder = save_classifier(tmp_path, ("different", "similar"), "Bert", positions=600, seed=5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    outputs = [" ".join([text] * times) for text in STATEMENTS[:5] for times in (6, 40)]
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in outputs}
    first = {text: tokenizer.decode(own[:128]) for text, own in ids.items()}
    assert any(first[output] != output for output in outputs)
    pairs = list(itertools.combinations(outputs, 2))
    model = load_sequence_classifier(str(folder), "cpu")
    found = are_similar(model, [(Item(a), Item(b)) for a, b in pairs])
    assert found == [softmax(stock_logits(folder, first[a], first[b]))[1] > 0.102 for a, b in pairs]
    assert 0 < sum(found) < len(found)
    # short outputs: half of the longer one's words are common
    short = [("red", "Red"), ("red", "blue"), ("a red fox", "a red hen"), ("a red old fox", "red"), ("", "red")]
    assert are_similar(model, [(Item(a), Item(b)) for a, b in short]) == [True, False, True, False, False]
    assert classes_of(find_scorer(f"equivalence=classifier:{folder}"), ["red", "blue", "Red"]) == [0, 1, 0]


def test_hashed_vectors_have_length_one_and_reflect_wording():
    embedder = HashedEmbedder()
    texts = ["The bee makes honey.", "The bees make honey!", "Mars is red.", "?", "", " \n"]
    vectors = embedder.embed(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1, 0, 0], abs=1e-6)
    bee, bees, mars = vectors[:3]
    assert bee @ bees > 0.3 > abs(bee @ mars)
    assert np.array_equal(embedder.embed(["Mars is red."])[0], mars)
    assert embedder.embed([]).shape == (0, len(mars))
    assert np.array_equal(*embedder.embed(["half \ud83d", "half ?"]))


def test_an_output_is_compared_with_the_others_of_its_prompt_only():
    embedder = find_scorer(DEFAULTS["embedding"])
    first = ["a bee", "a bee", "the red planet Mars", ""]
    items = [*(Item(text, group="1") for text in first), Item("one text alone", group="2")]
    *found, alone = embedder.score(items)
    cosines = embedder.embed(first) @ embedder.embed(first).T
    for row, numbers in enumerate(found):
        assert numbers["distance"] == pytest.approx(1 - np.delete(cosines[row], row).mean(), abs=1e-6)
        assert numbers["vendi"] == pytest.approx(vendi(embedder.embed(first)))
    assert alone == {"vendi": pytest.approx(1)}
    assert (embedder.score(items[:4]), embedder.score([])) == (found, [])


def test_a_sentence_transformer_gives_its_pooled_states_at_length_one(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra `embeddings` is not installed")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    base = save_classifier(tmp_path / "base", ("a", "b"), "Bert")
    transformers.BertModel.from_pretrained(base).save_pretrained(base)
    parts = [Transformer(str(base)), Pooling(32, "mean")]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(tmp_path / "st"))
    embedder = find_scorer(f"embedding=sentence-transformers:{tmp_path / 'st'}")
    found = embedder.embed(TEXTS[:3])
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(base), transformers.BertModel.from_pretrained(base)
    with torch.no_grad():
        mean = model.eval()(**tokenizer(TEXTS[2], return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
    assert found[2] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert embedder.embed([]).shape == (0, 32)
    one, two = embedder.score([Item(text) for text in TEXTS[:2]])
    assert one["distance"] == pytest.approx(1 - float(found[0] @ found[1]), abs=1e-5) == two["distance"]
    (tmp_path / "st" / "tokenizer.json").write_text("{}")
    spec = f"embedding=sentence-transformers:{tmp_path / 'st'}"
    assert_refused("does not load as a sentence-transformers model", find_scorer, spec)
