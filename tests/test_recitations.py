"""Recitations: one prompt, one departure from it, and who returns."""

from __future__ import annotations

import numpy as np
import pytest
from task_helpers import load

from alignbench.evaluation.evaluate import draw
from alignbench.scorers import find_scorer
from alignbench.tasks import find_task, recitations
from alignbench.types.task import Scored

PLAIN = "Ilka Dorval was born by the sea and kept an eye on the weather for the boats, year after year, number {}."
OTHER = "A painter of horses lived far inland; her pictures hang in galleries of the capital city, room {}."


def test_as_many_plain_as_perturbed_and_the_perturbed_prompt_only_goes_further(world):
    data = load("recitations", world)
    of = {c: [d for d in data.documents if d.category == c] for c in ("plain", "perturbed")}
    assert [len(own) for own in of.values()] == [100, 100]
    assert {d.prompt for d in of["plain"]} == {recitations.PROMPT}
    assert {d.prompt for d in of["perturbed"]} == {f"{recitations.PROMPT} {recitations.DEPARTURE}"}
    assert all(fact in recitations.PROMPT for fact in recitations.FACTS)
    half = draw(data, 40, seed=0)
    assert sum(d.category == "plain" for d in half.documents) == 20


def scored(category, texts):
    vectors = find_scorer("embedding=hashed").embed(texts)
    return [Scored({}, None, category, {}, {}, (t,), v[None]) for t, v in zip(texts, vectors, strict=True)]


def numbers(documents):
    return {metric.name: estimate for metric, estimate in recitations.across(documents)}


def test_the_share_that_returns_to_the_larger_of_two_clusters():
    plain = [PLAIN.format(n) for n in range(20)] + [OTHER.format(n) for n in range(8)]
    back = [PLAIN.format(n) for n in range(50, 57)]
    away = [OTHER.format(n) for n in range(14)] + ["Nothing at all like either."] * 7
    found = numbers(scored("plain", plain) + scored("perturbed", back + away))
    assert found["clusters"].value == 2
    assert found["silhouette"].value > 0.5
    assert found["main_cluster_share"].value == pytest.approx(20 / 28)
    assert found["return_share"].value == pytest.approx(1 / 4)
    assert found["return_share"].n == 28


def test_with_one_cluster_there_is_none_to_return_to():
    plain = [PLAIN.format(n) for n in range(30)]
    found = numbers(scored("plain", plain) + scored("perturbed", plain[:10] + [OTHER.format(n) for n in range(20)]))
    assert found["clusters"].value == found["main_cluster_share"].value == 1
    assert "return_share" not in found
    assert found["perturbed_clusters"].value == 2


def test_one_text_again_and_again_is_one_cluster_without_distance():
    found = numbers(scored("plain", ["The same."] * 5) + scored("perturbed", ["The same."] * 5))
    assert found["cosine_distance"].value == pytest.approx(0, abs=1e-6)
    assert found["clusters"].value == 1
    assert found["vendi"].value == pytest.approx(1, abs=1e-6)
    assert not {"silhouette", "return_share"} & set(found)


def test_unequal_arms_are_cut_to_the_smaller():
    found = numbers(scored("plain", [PLAIN.format(n) for n in range(9)]) + scored("perturbed", ["Far away."] * 4))
    assert found["cosine_distance"].n == found["perturbed_cosine_distance"].n == found["main_cluster_share"].n == 4


def test_without_an_embedder_there_are_the_metrics_of_words_alone():
    documents = [Scored({}, None, c, {}, {}, (PLAIN.format(n),)) for c in ("plain", "perturbed") for n in range(3)]
    found = numbers(documents)
    assert {"distinct_2", "words", "perturbed_words"} <= set(found)
    assert not {"vendi", "return_share", "perturbed_distinct_2", "distinct_2_uncut"} & set(found)


def test_empty_recitations_do_not_stop_it():
    vectors = np.zeros((4, 3), np.float32)
    assert recitations.returns(vectors, vectors, np.zeros(4, np.int64)).all()
    assert recitations.returns(vectors, vectors, np.array([0, 1, 1, 0])).all()
    assert find_task("recitations").headline == "cosine_distance"


def test_a_chat_template_is_used_only_where_it_is_asked_for():
    assert find_task("recitations").generation.plain
    assert not find_task("personas").generation.plain
