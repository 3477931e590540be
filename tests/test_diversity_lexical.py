"""Diversity of wording: hand-made cases, published values, and equality with the definitions written out."""

from __future__ import annotations

import math
import random

import diversity_plain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.diversity.lexical import (
    LONGEST,
    adjusted,
    compression_ratio,
    cut,
    distinct,
    distinct_pairs,
    expectation_adjusted,
    mean_pairwise_rouge_l,
    ngrams,
    self_bleu,
    words,
)
from alignbench.diversity.sets import METRICS, measure, measure_vectors
from alignbench.scorers.embeddings import HashedEmbedder

TEXT = st.lists(st.sampled_from("abcdef"), max_size=9)  # few words, so that texts share many
TEXTS = st.lists(TEXT, min_size=2, max_size=9)
EMBEDDER = HashedEmbedder()
SENTENCES = (
    "A fox crossed the frozen river at dawn.",
    "At dawn a fox crossed the frozen river.",
    "My grandmother bakes bread on Sundays, and nobody may help her.",
    "The lighthouse keeper counted ships until he fell asleep.",
    "Nobody may help the lighthouse keeper on Sundays.",
)


def measured(texts):
    return measure(texts) | measure_vectors(EMBEDDER.embed(texts))


def test_words_are_lower_case_and_other_marks_are_words():
    assert " ".join(words("Don't shout: “Öl”,\n3.5%!")) == "don ' t shout : “ öl ” , 3 . 5 % !"
    assert words(" \n\t") == words("") == []


def test_a_cut_text_keeps_its_spelling():
    text = "  One,  Two\nthree. "
    assert [cut(text, n) for n in range(5)] == ["", "  One", "  One,", "  One,  Two", "  One,  Two\nthree"]
    assert cut(text, 5) == cut(text, 100) == text


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=40), st.integers(0, 20))
def test_a_cut_text_has_the_first_words_of_the_whole(text, n):
    assert words(cut(text, n)) == words(text)[:n]
    assert text.startswith(cut(text, n))


# Distinct-n


def test_distinct_n_by_hand():
    texts = [["a", "b", "a", "b"], ["b", "a"]]
    assert [distinct(texts, n) for n in (1, 2, 3)] == [2 / 6, 2 / 4, 1]  # "b b" would be across two texts
    assert math.isnan(distinct(texts, 5))
    assert math.isnan(distinct([], 1))


def test_expectation_adjusted_distinct_n_by_hand_and_published():
    assert adjusted(50, 100, 50257) == pytest.approx(0.50049, abs=5e-6)
    texts, each = [["a", "b", "a"]], [adjusted(2, 3, 10), adjusted(2, 2, 10), adjusted(1, 1, 10)]
    assert expectation_adjusted(texts, vocabulary=10) == pytest.approx(np.mean(each))
    assert expectation_adjusted(texts, (2,), 10) == pytest.approx(each[1])
    assert math.isnan(expectation_adjusted([[]]))


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_ngrams_are_those_of_the_definition(texts):
    for n, found in enumerate(ngrams(texts, 5), 1):
        plain = diversity_plain.ngrams_of(texts, n)
        assert len(found.ids) == len(plain)
        assert found.different == len(set(plain)) == len(set(found.ids.tolist()))
        assert len(set(zip(plain, found.ids.tolist(), strict=True))) == found.different  # one number each
        assert np.bincount(found.owners, minlength=len(texts)).tolist() == [max(len(t) - n + 1, 0) for t in texts]


# Self-BLEU and ROUGE-L


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_self_bleu_is_the_mean_of_sacrebleus_with_all_others_as_references(texts, order):
    assert self_bleu(texts, order) == pytest.approx(diversity_plain.self_bleu(texts, order), abs=1e-9)


def test_self_bleu_equals_sacrebleus_for_many_lengths_and_repetitions():
    draw = random.Random(0)
    texts = [[draw.choice("abcdefghijkl") for _ in range(draw.randint(1, 40))] for _ in range(60)]
    assert self_bleu(texts) == pytest.approx(diversity_plain.self_bleu(texts), abs=1e-9)
    assert self_bleu([["a", "b"], ["c"], ["d", "e", "f"]]) == 0
    assert math.isnan(self_bleu([["a"]]))


@settings(deadline=None, max_examples=30)
@given(TEXT.filter(len), st.integers(2, 6))
def test_identical_texts_have_the_highest_overlap_and_the_lowest_distinct_n(text, copies):
    assert self_bleu([text] * copies) == pytest.approx(100)
    assert mean_pairwise_rouge_l([text] * copies) == pytest.approx(1)
    assert distinct([text] * copies, 1) == pytest.approx(distinct([text], 1) / copies)


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_rouge_l_is_that_of_the_package_over_all_pairs(texts):
    assert mean_pairwise_rouge_l(texts) == pytest.approx(diversity_plain.rouge_l(texts), abs=1e-12)


def test_rouge_l_of_random_pairs_is_close_to_that_of_all_and_determined_by_the_seed():
    draw = random.Random(0)
    texts = [[draw.choice("abcdefghij") for _ in range(draw.randint(3, 20))] for _ in range(150)]
    exact, sampled = mean_pairwise_rouge_l(texts), mean_pairwise_rouge_l(texts, pairs=3000)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.01)
    assert mean_pairwise_rouge_l(texts, 3000) == sampled != mean_pairwise_rouge_l(texts, 3000, seed=1)
    assert math.isnan(mean_pairwise_rouge_l([["a"]]))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 60), st.integers(1, 2000), st.integers(0, 9))
def test_pairs_are_of_different_texts_and_distinct(n, most, seed):
    first, second = distinct_pairs(n, most, seed)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(first) == min(most, n * (n - 1) // 2)
    assert all(0 <= a < b < n for a, b in found)


def test_pairs_of_millions_of_texts_are_valid():
    first, second = distinct_pairs(3_000_000, 1000, 0)  # of 4.5 · 10¹² pairs
    assert (first >= 0).all()
    assert (first < second).all()
    assert second.max() < 3_000_000


def test_rouge_l_compares_the_beginnings_of_very_long_texts():
    begin = [[f"{text}{n}" for n in range(LONGEST - 100)] + ["common"] * 100 for text in "ab"]
    assert mean_pairwise_rouge_l([text + ["common"] * 30_000 for text in begin]) == mean_pairwise_rouge_l(begin)
    assert mean_pairwise_rouge_l(begin) == pytest.approx(100 / LONGEST)


# All metrics of a set


def test_repetitions_compress():
    assert compression_ratio(SENTENCES[2:3] * 20) > 5 > compression_ratio(SENTENCES)
    assert compression_ratio(SENTENCES) == pytest.approx(diversity_plain.compression_ratio(SENTENCES))
    assert compression_ratio(["half a character: \ud83d"]) > 0
    assert math.isnan(compression_ratio([]))


def test_all_metrics_equal_their_definitions_on_a_small_set():
    texts = [text.replace("fox", animal) for text in SENTENCES for animal in ("fox", "wolf", "Fox")]
    vectors = EMBEDDER.embed(texts)
    found, plain = measured(texts), diversity_plain.measure(texts, vectors)
    assert {name: found[name] for name in plain} == pytest.approx(plain, rel=1e-6)
    assert set(found) | {"silhouette"} == {metric.name for metric in METRICS}  # a single cluster has no silhouette


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from((*SENTENCES, "", " \n", "?", "No.")), max_size=6), st.randoms(), st.booleans())
def test_metrics_are_finite_within_their_bounds_and_independent_of_the_order(texts, shuffler, embedded):
    numbers = measured if embedded else measure
    found = numbers(texts)
    bounds = {metric.name: metric.bounds for metric in METRICS}
    for name, value in found.items():
        low, high = bounds[name]
        assert math.isfinite(value)
        assert (-math.inf if low is None else low) - 1e-6 <= value <= (math.inf if high is None else high) + 1e-6
    turned = list(texts)
    shuffler.shuffle(turned)
    again = numbers(turned)
    for name in found.keys() - {"compression_ratio", "clusters", "silhouette"}:  # gzip and k-means depend on the order
        assert again[name] == pytest.approx(found[name], rel=1e-5, abs=1e-6)


def test_one_text_has_only_metrics_that_compare_no_texts():
    assert set(measured(["One text alone."])) == {"distinct_1", "distinct_2", "distinct_3", "ead"}
    assert measured([]) == {}


def test_a_model_that_writes_nothing_is_not_diverse():
    silent = measured([""] * 8)
    assert silent["self_bleu"] == pytest.approx(100)
    assert (silent["rouge_l_overlap"], silent["distinct_1"]) == (1, 1 / 8)
    assert (silent["cosine_distance"], silent["clusters"]) == (0, 1)
    assert silent["vendi"] == pytest.approx(1)


def test_different_texts_are_more_diverse_than_variations_of_one():
    alike = [SENTENCES[0].replace("fox", animal) for animal in ("fox", "wolf", "cat", "dog", "hen")]
    narrow, wide = measured(alike), measured(SENTENCES)
    for metric in METRICS:
        if metric.better != "–":
            more = wide[metric.name] - narrow[metric.name]
            assert (more > 0) == (metric.better == "higher"), metric.name
