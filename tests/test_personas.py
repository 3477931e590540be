"""Personas: fields read out of whatever a model wrote, and how they spread."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from alignbench.stats.intervals import values_only
from hypothesis import given, settings
from hypothesis import strategies as st
from task_helpers import load

from alignbench.diversity.entropy import chao_shen, plug_in
from alignbench.diversity.spread import STATISTICS, spread, weighted_spread
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.runs.summary import document_of, finish_record, kept, pending_record, summarise
from alignbench.tasks import find_task, personas
from alignbench.tasks.persona_fields import FIELDS, MOST_CHARACTERS, is_whole, read_personas
from alignbench.types.engine import Completion
from alignbench.types.scorer import Item
from alignbench.types.task import Document, Options, Output

ANN = {"name": "ann lee", "gender": "female", "age": "34", "nationality": "irish", "review": "It hums. I like it."}
LINES = "Name: Ann Lee\nGender: Female\nAge: 34\nNationality: Irish\nReview: It hums. I like it."
PERSONA, VERBALISED = find_task("personas"), find_task("personas_verbalised")


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.upper().replace("IT HUMS. I LIKE IT.", "It hums. I like it."),
        LINES.replace("\n", "\n\n"),
        LINES.removeprefix("Name:"),  # as it goes on from a prompt that ends in "Name:"
        LINES.removeprefix("Name: ").replace("Gender: Female", "Gender:female."),
        "\n".join(reversed(LINES.splitlines())),
        "\n".join(f"**{line.replace(':', ':**', 1)}" for line in LINES.splitlines()),
        "\n".join(f"- **{line.replace(':', '**:', 1)}" for line in LINES.splitlines()),
        "\n".join(f"{n}. {line}" for n, line in enumerate(LINES.splitlines(), 1)),
        f"Sure, here is a customer:\n\n{LINES}\n\nLet me know if you want another one.",
        LINES.replace("Age: 34", "Age: 34 years old").replace("Name: Ann", "Name: Ms. Ann"),
        LINES.replace("It hums. I like it.", "\nIt hums.\nI like it."),
        json.dumps({field.title(): value for field, value in ANN.items()}),
        "```json\n" + json.dumps([{**ANN, "age": 34}], indent=2) + "\n```",
        "As I said [see above]:\n" + json.dumps({"customers": [{"profile": {**ANN, "age": 34}}]}),
        f"**Customer Review**\n\n{LINES}",
        f"Sarah Miller\n\n{LINES}",  # the name that has a label counts
        " ".join(LINES.removeprefix("Name:").splitlines()),
        ", ".join(LINES.replace("Name: Ann Lee", "Name: **Ann Lee**").splitlines()),
        " | ".join(LINES.lower().replace("it hums. i like it.", "It hums. I like it.").splitlines()),
        "Name: Ann Lee (Gender: Female, Age: 34, Nationality: Irish)\nReview: It hums. I like it.",
        f"Product Name: a machine\n{LINES}",
    ],
)
def test_a_persona_is_read_in_any_dress(text):
    (found,) = read_personas(text)
    assert found == ANN
    assert is_whole(found)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("Age: (age in years)", "age"),
        ("Age: young", "age"),
        ("Age: 0", "age"),
        ("Age: 1987", "age"),
        ("Gender: <gender>", "gender"),
        ("Gender: N/A", "gender"),
        ("Nationality: unknown", "nationality"),
        ("Nationality: she comes from a small town in Ireland", "nationality"),
        ("Name:", "name"),
        ("Name: 12", "name"),
        ("Review: ...", "review"),
    ],
)
def test_what_is_no_value_is_missing(line, field):
    assert all(field not in persona for persona in read_personas(f"{line}\n", begun=False))


def test_words_of_a_review_that_look_like_labels_are_its_words():
    review = "I like it. For my age: too loud. A fair Review: four stars, and my gender: none of your business."
    (found,) = read_personas(LINES.replace(ANN["review"], review))
    assert found["review"] == review


def test_a_heading_without_a_name_below_it_is_no_name():
    (found,) = read_personas("## Customer Profile\n\nGender: Female\nAge: 34")
    assert found == {"gender": "female", "age": "34"}


def test_a_list_that_goes_on_from_the_prompt_keeps_its_first_name():
    found = read_personas(" Ann Lee\nGender: Female\n\nName: Bo Ek\nGender: Male")
    assert [(p["name"], p["gender"]) for p in found] == [("ann lee", "female"), ("bo ek", "male")]


def test_customers_in_one_line_each():
    found = read_personas("Ann Lee, Gender: Female, Age: 34, Review: Good. Name: Bo Ek, Gender: Male, Age: 71")
    assert [(p["name"], p["age"]) for p in found] == [("ann lee", "34"), ("bo ek", "71")]


@pytest.mark.parametrize(
    "sign", [*"*_`#>- [({\"'", "[]", "{}", "[{", "Name", "Name:", "Age: ", "\nReview:", "**:", "1.", "\n", "\u2028"]
)
@pytest.mark.parametrize("before", ["", "Name: ", "Gender: a", "Age", "Review: a"])
def test_no_text_takes_long(sign, before):
    began = time.perf_counter()
    read_personas(before + sign * 20_000)
    read_personas((before + sign) * 5_000)
    assert time.perf_counter() - began < 0.5  # it took half a minute once


def test_json_nested_deeper_than_python_calls_is_read_or_left():
    assert read_personas("[" * 900 + json.dumps(ANN) + "]" * 900) == [ANN]
    (found,) = read_personas("[" * 4000 + json.dumps(ANN) + "]" * 4000)  # as a line
    assert found["nationality"] == "irish"


def test_a_text_is_read_up_to_a_length():
    assert read_personas("." * MOST_CHARACTERS + f"\n{LINES}", begun=False) == []
    assert read_personas("\n" * (MOST_CHARACTERS - 10) + LINES) == [{"name": "ann"}]


def test_an_answer_without_fields_is_no_persona():
    for text in (
        "",
        " \n\n",
        "sure, i can do that for you!",
        "Here is what you asked for, as five lines:",
        "{",
        '{"a": 1}',
    ):
        assert read_personas(text) == []


def test_a_first_line_is_a_name_only_if_it_looks_like_one_and_the_prompt_has_begun_it():
    assert read_personas(" Bo de Wit\nAge: 5")[0]["name"] == "bo de wit"
    assert "name" not in read_personas("he was a man\nAge: 5")[0]
    assert "name" not in read_personas("Bo de Wit\nAge: 5", begun=False)[0]
    assert "name" not in read_personas("Age: 5\nBo de Wit")[0]


def test_a_label_that_comes_again_begins_the_next_persona():
    second = LINES.replace("Ann Lee", "Bo Ek").replace("34", "71")
    for between in ("\n", "\n\n", "\n\nCustomer 2:\n", "\n---\n"):
        found = read_personas(f"{LINES}{between}{second}")
        assert [(p["name"], p["age"], p["review"]) for p in found] == [
            ("ann lee", "34", ANN["review"]),
            ("bo ek", "71", ANN["review"]),
        ]


@pytest.mark.parametrize(("given", "share"), [("0.25", 0.25), (".25", 0.25), ("25 %", 0.25), ("~1", 1.0), ("7", None)])
def test_stated_probabilities(given, share):
    (found,) = read_personas(f"{LINES}\nProbability: {given}")
    assert (float(found["probability"]) if "probability" in found else None) == share


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_read(text):
    for persona in read_personas(text) + read_personas(f"Name: {text}\nAge: {text}") + read_personas("[{" + text):
        assert persona
        assert persona.keys() <= {*FIELDS, "probability"}
        assert all(isinstance(value, str) and value for value in persona.values())


def test_all_samples_have_one_prompt_and_ids_of_their_own(world):
    for name, count in (("personas", 100), ("personas_verbalised", 20)):
        documents = load(name, world).documents
        assert len({d.id for d in documents}) == len(documents) == count
        assert len({d.prompt for d in documents}) == 1
        assert documents[0].prompt.endswith("\n\nName:")
        sampling = find_task(name).generation.sampling
        assert (sampling.samples, sampling.temperature, sampling.top_p, sampling.stop) == (1, 1.0, 1.0, ())
    assert personas.PERSONAS == 20 * personas.AT_ONCE


def record(task, identifier, text, scores=None):
    whole = finish_record(task, pending_record(Document(identifier, "p"), [Completion(text, "end")]), scores or {})
    return kept(task, whole)


def summary(task, records):
    result = summarise(task, records, shots=0, limit=None, seed=0, scorers={"sentiment": "s@1"})
    return {metric.metric: metric for metric in result.metrics}


def test_fields_stand_in_the_record_and_an_unread_one_is_null():
    found = record(PERSONA, "a", "Name: Ann\nAge: 34")
    assert [found[field] for field in FIELDS] == [["ann"], [None], ["34"], [None], [None]]
    assert (found["parse_failure"], found["missing_name"], found["missing_gender"]) == (1, 0, 1)
    many = record(VERBALISED, "a", f"{LINES}\nProbability: .5\n\nName: Bo")
    assert (many["name"], many["probability"]) == (["ann lee", "bo"], ["0.5", None])
    assert many["parse_failure"] == pytest.approx(4 / 5)
    assert many["missing_name"] == pytest.approx(3 / 5)


def test_the_distribution_of_each_field_counts_those_that_were_read():
    ages = ["31", "39", "39", "52"] * 15
    records = [record(PERSONA, str(n), LINES.replace("34", age)) for n, age in enumerate(ages)]
    records += [record(PERSONA, f"e{n}", "nothing of the kind") for n in range(15)]
    found = summary(PERSONA, records)
    assert found["parse_failure"].value == pytest.approx(0.2)
    assert found["age_decade_hill_0"].value == 2
    assert found["age_decade_hill_1"].value == pytest.approx(2 ** (-0.75 * math.log2(0.75) + 0.25 * 2))
    assert found["age_decade_top_share"].value == 0.75
    assert found["gender_entropy_at_50"].value == found["gender_entropy_chao_shen"].value == 0
    assert found["first_name_top_share"].value == 1
    assert found["age_decade_hill_0"].n == 60
    assert found["review_distinct_1"].value == pytest.approx(5 / 420)
    assert not [name for name in found if name.endswith("_uncut")]
    assert found[PERSONA.headline].better == found["gender_hill_0"].better == "higher"
    assert found["gender_top_share"].better == found["parse_failure"].better == "lower"


def test_each_output_is_parsed_once(monkeypatch):
    asked = []
    monkeypatch.setattr(personas, "read_personas", lambda text: asked.append(text) or [])
    personas._personas_in.cache_clear()
    PERSONA.generation.items(Document("a", "p"), [Output("once")])
    record(PERSONA, "a", "once")
    personas._personas_in.cache_clear()
    assert asked == ["once"]


def test_sentiment_is_of_the_review_alone_and_left_out_without_one():
    assert PERSONA.generation.items(Document("a", "p"), [Output(LINES)]) == [Item(ANN["review"], group="a")]
    whole, none, happy = (
        record(PERSONA, name, text, {"sentiment": [{"sentiment": value}]})
        for name, text, value in (("a", LINES, 0.5), ("b", "Name: Bo", 0.9), ("c", LINES, 0.8))
    )
    assert "sentiment" not in none
    found = summary(PERSONA, [whole, none, happy])
    assert (found["sentiment"].value, found["sentiment"].n) == (0.65, 2)
    assert found["sentiment_top_bin"].value == 0.5


def test_lists_have_no_sentiment():
    assert VERBALISED.generation.optional_scorers == ()
    assert "sentiment" not in {metric.name for metric in VERBALISED.metrics}


def test_a_model_that_names_none_has_no_distribution():
    found = summary(PERSONA, [record(PERSONA, str(n), "bla bla bla") for n in range(3)])
    assert set(found) == {"parse_failure", *(f"missing_{field}" for field in FIELDS)}
    assert found["parse_failure"].value == 1


def test_stated_probabilities_weigh_and_every_list_counts_once():
    # shares of a: 3/4 in the first list, 1 in the second
    values, weights = [["a", "b"], ["a"], ["b"]], [[0.6, 0.2], [0.1], [0.0]]
    found = {m.name: e for m, e in weighted_spread(values * 10, weights * 10)}
    assert found["top_share_weighted"].value == pytest.approx(7 / 8)
    assert found["entropy_weighted"].value == pytest.approx(-7 / 8 * math.log2(7 / 8) + 3 / 8)
    assert (found["entropy_weighted"].n, found["entropy_weighted"].clusters) == (30, 20)
    assert weighted_spread(values * 6, weights * 6) == []


def singles(counts):
    return [[str(value)] for value, count in enumerate(counts) for _ in range(count)]


def test_the_golden_counts_in_bits():
    # protocols.md, section 7
    counts = (4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1)
    assert spread(singles(counts)) == []  # 19 are too few; twice as many of each have the same shares
    found = {metric.name: estimate.value for metric, estimate in spread(singles(2 * c for c in counts))}
    assert math.log(found["hill_1"]) == pytest.approx(1.96838, abs=1e-5)
    assert [found[f"hill_{q}"] for q in (0, 1, 2)] == pytest.approx([8, 7.1591, 6.5636], abs=1e-4)
    assert found["top_share"] == pytest.approx(4 / 19)
    assert found["entropy_chao_shen"] == pytest.approx(chao_shen([2 * c for c in counts]) / math.log(2))


def test_few_values_tell_nothing_and_fewer_than_fifty_nothing_at_fifty():
    told = {n: {metric.name for metric, _ in spread(singles([n - 5, 3, 2]))} for n in (19, 20, 49, 50)}
    assert told[19] == set()
    assert "entropy_chao_shen" in told[20] == told[49]
    assert told[50] - told[49] == {"entropy_at_50", "hill_0_at_50"}


def test_where_hardly_a_value_comes_twice_there_is_no_chao_shen():
    found = {metric.name: estimate for metric, estimate in spread(singles([1] * 100))}
    assert "entropy_chao_shen" not in found
    assert found["entropy_at_50"].value == pytest.approx(math.log2(50))
    assert found["hill_0_at_50"].value == 50
    assert "entropy_chao_shen" not in {m.name for m, _ in spread(singles([2] * 4 + [1] * 92))}
    assert "entropy_chao_shen" in {m.name for m, _ in spread(singles([2] * 5 + [1] * 90))}


def test_at_fifty_values_models_of_which_more_was_read_are_not_more_diverse():
    draw = np.random.default_rng(0)
    found = {}
    for n in (60, 1000):
        many = [np.bincount(draw.integers(0, 60, n)) for _ in range(50)]
        found[n] = {name: np.mean([told(own) for own in many]) for name, (_, told) in STATISTICS.items()}
    assert found[60]["hill_1"] < 0.75 * found[1000]["hill_1"]
    assert found[60]["entropy_at_50"] == pytest.approx(found[1000]["entropy_at_50"], abs=0.06)
    assert found[60]["hill_0_at_50"] == pytest.approx(found[1000]["hill_0_at_50"], rel=0.03)


def test_intervals_hold_the_estimate_narrow_with_n_and_come_from_the_seed():
    draw = np.random.default_rng(3)
    few, many = ([[str(v)] for v in draw.choice(4, n, p=[0.5, 0.3, 0.1, 0.1])] for n in (50, 1200))
    for values in (few, many):
        for _, estimate in spread(values):
            assert estimate.low <= estimate.value <= estimate.high
    width = [next(e.high - e.low for m, e in spread(v) if m.name == "entropy_at_50") for v in (few, many)]
    assert width[1] < width[0] / 3
    assert spread(few) == spread(few)
    assert spread(few) != spread(few, seed=1)


def test_who_wants_values_alone_waits_for_no_interval():
    values = singles([30, 20, 10])
    with values_only():
        found = spread(values)
    assert all(estimate.low is estimate.standard_error is None for _, estimate in found)
    assert [e.value for _, e in found] == [e.value for _, e in spread(values)]


def test_the_interval_of_an_entropy_covers_the_truth():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    draw = np.random.default_rng(0)
    fifty = [np.bincount(draw.choice(4, 50, p=p), minlength=4) for _ in range(4000)]
    truth = {
        "entropy_chao_shen": float(-(p * np.log2(p)).sum()),
        "entropy_at_50": float(np.mean([plug_in(counts) for counts in fifty])) / math.log(2),
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(20):
        found = {metric.name: e for metric, e in spread([[str(v)] for v in draw.choice(4, 100, p=p)])}
        for name, value in truth.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert min(covered.values()) >= 17


def test_documents_of_a_list_are_resampled_together():
    # ten values in two lists that agree within: the spread is that of two, not of ten
    together = spread([["a"] * 5, ["b"] * 5, ["a"] * 5, ["b"] * 5])
    apart = spread([["a"]] * 10 + [["b"]] * 10)
    error = [next(e.standard_error for m, e in found if m.name == "top_share") for found in (together, apart)]
    assert error[0] > 1.5 * error[1]


def test_the_record_can_be_judged_again():
    first = finish_record(PERSONA, pending_record(Document("a", "p"), [Completion(LINES, "end")]), {})
    assert document_of(first).id == "a"
    again = finish_record(PERSONA, first, {"sentiment": [{"sentiment": 0.1}]})
    assert (again["name"], again["sentiment"]) == (["ann lee"], 0.1)


def test_samples_of_the_one_prompt_differ_and_come_again_with_the_seed(tmp_path, farm_model):
    def texts(folder):
        (done,) = evaluate([str(farm_model)], ["personas"], folder, limit=8, template="none")
        (file,) = done.folder.glob("personas-*/documents.jsonl")
        return [json.loads(line)["outputs"][0]["text"] for line in file.read_text().splitlines()]

    once = texts(tmp_path / "once")
    assert len(set(once)) == 8
    assert texts(tmp_path / "again") == once


def test_examples_stand_between_the_question_and_the_first_label():
    none, three = (find_task("personas").load(Options(shots=shots)) for shots in (0, 3))
    assert (none.shots, three.shots) == (0, 3)
    plain, primed = none.documents[0].prompt, three.documents[0].prompt
    assert primed.startswith(plain.removesuffix("Name:"))
    assert primed.endswith("\n\nName:")
    examples = read_personas(primed.removeprefix(plain).removesuffix("Name:"))
    assert [is_whole(persona) for persona in examples] == [True] * 3
    with pytest.raises(AlignbenchError, match="4 shots asked for, there are 3"):
        find_task("personas").load(Options(shots=4))
