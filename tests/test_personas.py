"""Personas: fields parsed from generated text, and the distributions of their values."""

import json
import math
import time

import numpy as np
import pytest
from cases import cases, read_lines
from commands import assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from task_helpers import load

from alignbench.diversity.entropy import chao_shen, plug_in, spread
from alignbench.evaluation.evaluate import evaluate
from alignbench.evaluation.scoring import scored_record
from alignbench.runs.summary import summarise
from alignbench.tasks import find_task
from alignbench.tasks.persona_fields import FIELDS, MAX_CHARACTERS, is_whole, read_personas
from alignbench.types.engine import Completion
from alignbench.types.record import Document, Output, Record
from alignbench.types.scorer import Item

ANN, *CASES = cases("personas")
LINES = "Name: Ann Lee\nGender: Female\nAge: 34\nNationality: Irish\nReview: It hums. I like it."
PERSONA, VERBALISED = find_task("personas"), find_task("personas_verbalised")

# ---- parsing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "personas"), [(text, case["personas"]) for case in CASES for text in case.get("texts") or [case["text"]]]
)
def test_a_persona_is_parsed_in_any_format(text, personas):
    assert read_personas(text) == personas


def test_nested_json_and_long_texts_are_parsed_up_to_a_limit():
    assert read_personas("[" * 900 + json.dumps(ANN) + "]" * 900) == [ANN]  # deeper than Python recurses
    assert read_personas("." * MAX_CHARACTERS + f"\n{LINES}") == []
    assert read_personas("\n" * (MAX_CHARACTERS - 10) + LINES) == [{"name": "ann"}]


@pytest.mark.parametrize(
    "mark", [*"*_`#>- [({\"'", "[]", "{}", "[{", "Name", "Name:", "Age: ", "\nReview:", "**:", "1.", "\n", "\u2028"]
)
def test_the_time_of_parsing_is_linear(mark):
    for before in ("", "Name: ", "Gender: a", "Age", "Review: a"):
        began = time.process_time()
        read_personas(before + mark * 20_000)
        read_personas((before + mark) * 5_000)
        assert time.process_time() - began < 10  # quadratic: half a minute


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_parsed(text):
    read_personas("[" * 4000 + text + "]" * 4000)
    for persona in read_personas(text) + read_personas(f"Name: {text}\nAge: {text}") + read_personas("[{" + text):
        assert persona
        assert persona.keys() <= {*FIELDS, "probability"}
        assert all(isinstance(value, str) and value for value in persona.values())


def test_all_samples_have_one_prompt_with_up_to_three_examples():
    for name, count in (("personas", 100), ("personas_verbalised", 20)):
        documents = load(name).documents
        assert (len({d.id for d in documents}), len({d.prompt for d in documents}), len(documents)) == (count, 1, count)
        sampling = find_task(name).generation.sampling
        assert (sampling.samples, sampling.temperature, sampling.top_p, sampling.stop) == (1, 1.0, 1.0, ())
    none, three = (load("personas", shots=shots) for shots in (0, 3))
    assert (none.shots, three.shots) == (0, 3)
    plain, primed = (data.documents[0].prompt.removesuffix("Name:") for data in (none, three))
    assert [is_whole(persona) for persona in read_personas(primed.removeprefix(plain))] == [True] * 3
    assert_refused("4 shots requested, but there are only 3 examples", load, "personas", shots=4)


def record(task, identifier, text, sentiment=None):
    pending = Record.generated(Document(identifier, "p"), [Completion(text, "end")])
    return scored_record(task, pending, {} if sentiment is None else {"sentiment": [{"sentiment": sentiment}]})


def summary(task, records):
    result = summarise(task, records, shots=0, limit=None, seed=0, scorers={"sentiment": "s@1"})
    return {metric.metric: metric for metric in result.metrics}


def test_the_record_has_the_fields_and_none_for_a_missing_one():
    found = record(PERSONA, "a", "Name: Ann\nAge: 34")
    assert [found.statistics[field] for field in FIELDS] == [["ann"], [None], ["34"], [None], [None]]
    assert [found.metrics[name] for name in ("parse_failure", "missing_name", "missing_gender")] == [1, 0, 1]
    many = record(VERBALISED, "a", f"{LINES}\nProbability: .5\n\nName: Bo")
    assert (many.statistics["name"], many.statistics["probability"]) == (["ann lee", "bo"], ["0.5", None])
    assert (many.metrics["parse_failure"], many.metrics["missing_name"]) == pytest.approx((4 / 5, 3 / 5))


def test_the_distribution_of_each_field_is_over_the_values_that_were_parsed():
    ages = ["31", "39", "39", "52"] * 15
    records = [record(PERSONA, str(n), LINES.replace("34", age)) for n, age in enumerate(ages)]
    records += [record(PERSONA, f"e{n}", "nothing of the kind") for n in range(15)]
    found = summary(PERSONA, records)
    assert found["parse_failure"].value == pytest.approx(0.2)
    assert (found["age_decade_hill_0"].value, found["age_decade_hill_0"].n) == (2, 60)
    assert found["age_decade_hill_1"].value == pytest.approx(2 ** (-0.75 * math.log2(0.75) + 0.25 * 2))
    assert found["age_decade_top_share"].value == 0.75
    assert found["gender_entropy_at_50"].value == found["gender_entropy_chao_shen"].value == 0
    assert found["first_name_top_share"].value == 1
    assert found["review_distinct_1"].value == pytest.approx(5 / 420)
    assert not [name for name in found if name.endswith("_uncut")]
    assert found[PERSONA.headline].better == found["gender_hill_0"].better == "higher"
    assert found["gender_top_share"].better == found["parse_failure"].better == "lower"
    none = summary(PERSONA, [record(PERSONA, str(n), "bla bla bla") for n in range(3)])
    assert set(none) == {"parse_failure", *(f"missing_{field}" for field in FIELDS)}


def test_sentiment_is_of_the_review_alone_and_missing_without_one():
    assert PERSONA.generation.items(Document("a", "p"), [Output(LINES)]) == [Item(ANN["review"], group="a")]
    said = (("a", LINES, 0.5), ("b", "Name: Bo", 0.9), ("c", LINES, 0.8))
    whole, none, happy = (record(PERSONA, *own) for own in said)
    assert "sentiment" not in none.metrics
    found = summary(PERSONA, [whole, none, happy])
    assert (found["sentiment"].value, found["sentiment"].n) == (0.65, 2)
    assert found["sentiment_top_bin"].value == 0.5
    again = scored_record(PERSONA, whole, {"sentiment": [{"sentiment": 0.1}]})  # a rescored record
    assert (again.statistics["name"], again.metrics["sentiment"]) == (["ann lee"], 0.1)


def test_samples_of_the_one_prompt_differ_and_depend_on_the_seed(farm_model, tmp_path):
    def texts(seed, folder):
        (done,) = evaluate([str(farm_model)], ["personas"], tmp_path / folder, limit=4, seed=seed, template="none")
        (file,) = done.folder.glob("personas-*/documents.jsonl")
        return [record["outputs"][0]["text"] for record in read_lines(file)]

    once, other = texts(0, "once"), texts(1, "other")
    assert len({*once, *other}) == 8
    assert texts(0, "again") == once


def found_in(counts, **options):
    return named(spread([[str(value)] for value, count in enumerate(counts) for _ in range(count)], **options))


def named(estimates):
    return {metric.name: estimate for metric, estimate in estimates}


def test_reference_counts_in_bits():
    # protocols.md, section 7
    counts = (4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1)
    assert found_in(counts) == {}  # 19 are too few; twice as many of each have the same proportions
    found = {name: estimate.value for name, estimate in found_in([2 * c for c in counts]).items()}
    assert math.log(found["hill_1"]) == pytest.approx(1.96838, abs=1e-5)
    assert [found[f"hill_{q}"] for q in (0, 1, 2)] == pytest.approx([8, 7.1591, 6.5636], abs=1e-4)
    assert found["top_share"] == pytest.approx(4 / 19)
    assert found["entropy_chao_shen"] == pytest.approx(chao_shen([2 * c for c in counts]) / math.log(2))


def test_stated_probabilities_are_weights_and_every_list_has_the_same_total():
    # proportions of a: 3/4 in the first list, 1 in the second; the third states none
    values, weights = [["a", "b"], ["a"], ["b"]], [[0.6, 0.2], [0.1], [0.0]]
    found = named(spread(values * 10, weights * 10))
    assert found["top_share_weighted"].value == pytest.approx(7 / 8)
    assert found["entropy_weighted"].value == pytest.approx(-7 / 8 * math.log2(7 / 8) + 3 / 8)
    assert (found["entropy_weighted"].n, found["entropy_weighted"].clusters) == (30, 20)
    assert spread(values * 6, weights * 6) == []


def test_small_samples_and_rare_values_have_fewer_metrics():
    names = {n: set(found_in([n - 5, 3, 2], intervals=False)) for n in (19, 20, 49, 50)}
    assert names[19] == set()
    assert "entropy_chao_shen" in names[20] == names[49]
    assert names[50] - names[49] == {"entropy_at_50", "hill_0_at_50"}
    distinct = found_in([1] * 100, intervals=False)
    assert (distinct["entropy_at_50"].value, distinct["hill_0_at_50"].value) == (pytest.approx(math.log2(50)), 50)
    for counts, known in (([1] * 100, False), ([2] * 4 + [1] * 92, False), ([2] * 5 + [1] * 90, True)):
        assert ("entropy_chao_shen" in found_in(counts, intervals=False)) == known


def test_intervals_contain_the_estimate_and_resample_lists_as_a_whole():
    few = [[str(v)] for v in np.random.default_rng(3).choice(4, 50, p=[0.5, 0.3, 0.1, 0.1])]
    found, plain = named(spread(few)), named(spread(few, intervals=False))
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.values())
    assert named(spread(few)) == found != named(spread(few, seed=1))
    assert {(e.low, e.standard_error) for e in plain.values()} == {(None, None)}
    assert [e.value for e in plain.values()] == [e.value for e in found.values()]
    # ten values in two lists of equal values vary as two
    together, apart = spread([["a"] * 5, ["b"] * 5, ["a"] * 5, ["b"] * 5]), spread([["a"]] * 10 + [["b"]] * 10)
    errors = [named(found)["top_share"].standard_error for found in (together, apart)]
    assert errors[0] > 1.5 * errors[1]


@pytest.mark.slow
def test_the_interval_of_an_entropy_covers_the_true_value():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    draw = np.random.default_rng(0)
    fifty = [np.bincount(draw.choice(4, 50, p=p), minlength=4) for _ in range(4000)]
    truth = {
        "entropy_chao_shen": float(-(p * np.log2(p)).sum()),
        "entropy_at_50": float(np.mean([plug_in(counts) for counts in fifty])) / math.log(2),
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(20):
        found = named(spread([[str(v)] for v in draw.choice(4, 100, p=p)]))
        for name, value in truth.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert min(covered.values()) >= 17
