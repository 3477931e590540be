"""`alignbench judges validate`: agreement with people, and rates corrected for the errors of a judge."""

import json
import math

import numpy as np
import pytest
from cases import cases, read_lines, write_lines
from commands import assert_one_line_error, files_of, run
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from standin_server import StandIn

from alignbench.evaluation.score_file import judge_files
from alignbench.labels.judges import Unit, units_of, validate
from alignbench.labels.table import read_labels
from alignbench.stats.judges import Rate, corrected_rate, labels_needed, rate

CASES = cases("judge_validation")
SIDES = st.sampled_from([0.0, 0.5, 1.0])


def pairs(rows):
    """Units of two models: the judge's verdict and the votes of people, by prompt."""
    return [
        Unit(
            f"p{at}",
            f"p{at}",
            ("a" * 9, "b"),
            ("x", "y"),
            dict(enumerate(votes)),
            None if won is None else {"win": won},
        )
        for at, (won, votes) in enumerate(rows)
    ]


def values(units, **options):
    found = validate("j", units, resamples=100, **options)
    return {(own.statistic, own.who): own.estimate for own in found}


def test_a_small_table_by_hand():
    # wins, ties, losses; ann and ben
    found = values(pairs([(1, [1, 1]), (1, [0, 1]), (0.5, [1, 0.5]), (0, [0, 0]), (0, [0.5, 0]), (1, []), (0, [])]))
    assert found["agreement", "people"].value == 7 / 10
    assert found["agreement_ties_dropped", "people"].value == 6 / 7
    assert found["agreement_among_people", "people"].value == 2 / 5
    assert found["agreement_among_people_ties_dropped", "people"].value == 2 / 3
    assert found["relative_agreement", "people"].value == pytest.approx(0.7 / 0.4)
    assert found["relative_agreement_ties_dropped", "people"].value == pytest.approx((5 / 6) / (2 / 3))
    assert found["agreement", "labeler 0"].value == 2 / 5
    assert found["agreement_ties_dropped", "labeler 1"].value == 1
    assert [found["agreement", who].n for who in ("people", "labeler 0")] == [10, 5]
    assert (found["tie", ""].value, found["tie", "people"].value) == (1 / 7, 1 / 5)
    assert (found["prefers_longer", ""].value, found["prefers_longer", "people"].value) == (3 / 6, 2 / 4)
    # people: 1, ½, 1, 0, 0 for x; judge: 1, 1, ½, 0, 0
    assert found["win_rate_people", "x"].value == found["win_rate_judge", "x"].value == 0.5
    sensitivity, specificity = (1 + 0.5 + 0.5) / 2.5, 1 - 0.5 / 2.5
    assert found["sensitivity", "x"].value == pytest.approx(sensitivity)
    assert found["specificity", "x"].value == pytest.approx(specificity)
    assert found["win_rate_judge_unlabelled", "x"].value == found["win_rate_corrected", "x"].value == 0.5
    assert found["labels_without_judge", "x"].value == 385
    assert ("win_rate_people", "y") not in found  # the complement


@given(st.lists(st.tuples(SIDES, st.lists(SIDES, min_size=1, max_size=3)), min_size=2, max_size=12))
def test_kappa_is_symmetric_in_the_order_of_pairs_and_the_correction_of_the_labelled_units_is_exact(rows):
    units = pairs(rows)
    found = values(units)
    judged, people = [won for won, _ in rows], [unit.people for unit in units]
    both = [[str(x) for x in own] + [str(1 - x) for x in own] for own in (judged, people)]
    if len({*both[0], *both[1]}) > 1:
        assert found["cohen_kappa", "majority"].value == pytest.approx(cohen_kappa_score(*both))
    specificity, sensitivity = found.get(("specificity", "x")), found.get(("sensitivity", "x"))
    if specificity and sensitivity and specificity.value + sensitivity.value > 1 + 1e-9:
        sizes = (Rate(own.value, 10) for own in (found["win_rate_judge", "x"], specificity, sensitivity))
        assert corrected_rate(*sizes).value == pytest.approx(np.mean(people))


def test_without_names_of_models_both_sides_count_and_repetitions_are_compared():
    named = [(1, [1]), (1, [1]), (1, [0]), (0.5, [0])]
    units = [
        Unit(f"p{i}", "p", ("a", "bb"), ("", ""), dict(enumerate(v)), {"win": w}, (1.0, w, 1.0))
        for i, (w, v) in enumerate(named)
    ]
    found = values(units)
    assert found["sensitivity", ""].value == found["specificity", ""].value == (1 + 1 + 0 + 0.5) / 4
    assert not any(name.startswith("win_rate") for name, _ in found)
    assert found["repeatability", ""].value == pytest.approx((3 + 1 / 3) / 4)


def test_position_is_measured_from_the_two_orders():
    numbers = [{"win": 0.5, "first": 1.0, "second": 0.0, "consistent": 0.0}] * 3
    numbers += [{"win": 1.0, "first": 1.0, "second": 1.0, "consistent": 1.0}]
    found = values([Unit(f"p{at}", "p", ("a", "b"), ("x", "y"), {"ann": 1.0}, own) for at, own in enumerate(numbers)])
    assert found["position_consistency", ""].value == 1 / 4
    assert found["first_position", ""].value == (3 * 1 + 0.5) / 4


@pytest.mark.parametrize(("p", "q0", "q1", "n", "m0", "m1", "low", "high"), CASES["published"])
def test_the_corrected_interval_is_that_of_the_authors_package(p, q0, q1, n, m0, m1, low, high):
    found = corrected_rate(Rate(p, n), Rate(q0, m0), Rate(q1, m1))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.value == pytest.approx(min(max((p + q0 - 1) / (q0 + q1 - 1), 0), 1))


def test_a_judge_that_is_not_better_than_chance_corrects_nothing():
    assert corrected_rate(Rate(0.5, 100), Rate(0.4, 50), Rate(0.6, 50)).value is None
    assert labels_needed(0.1, 0.5, 0.4, 0.6) is None
    assert labels_needed(0.1, 0.5, 1.0, 1.0) == 0
    assert labels_needed(0.1, 0.5, 0.8, 0.8) == math.ceil(0.16 * (2 * 1.959964 / 0.1 / 0.6) ** 2)
    found = corrected_rate(Rate(0.5, 1e9), Rate(0.8, 683 / 2), Rate(0.8, 683 / 2))
    assert found.high - found.low == pytest.approx(0.1, abs=0.001)


def test_the_size_of_a_rate_is_that_of_independent_values():
    flips = np.random.default_rng(0).random(400) < 0.3
    alone = rate(flips)
    assert alone.size == pytest.approx(400, rel=0.01)
    assert rate(np.repeat(flips, 3), np.repeat(np.arange(400), 3).tolist()) == pytest.approx(alone)
    assert rate([1, 1, 1], ["p", "p", "q"]) == (1.0, 2.0)
    assert rate([1.0], weights=[0.0]) is None


@pytest.mark.slow
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("q0", "q1", "labels"), [(0.7, 0.9, 200), (0.85, 0.75, 100)])
def test_corrected_intervals_cover_the_truth(theta, q0, q1, labels):
    """Also with several units of a prompt, of which the judge and people are more alike than chance."""
    random, covered, naive = np.random.default_rng(7), 0, 0
    for _ in range(1000):
        truth = random.random(labels + 300) < theta
        verdict = np.where(truth, random.random(labels + 300) < q1, random.random(labels + 300) > q0)
        votes = [({"ann": float(t)} if at < labels else {}) for at, t in enumerate(truth)]
        units = [
            Unit(f"p{at}", "", ("a", "b"), ("x", "y"), v, {"win": float(w)})
            for at, (v, w) in enumerate(zip(votes, verdict, strict=True))
        ]
        own = ([u.prompt_id for u in units[:labels]], verdict[:labels].astype(float), truth[:labels].astype(float))
        test = rate(verdict[labels:].astype(float))
        sensitivity, specificity = rate(own[1], own[0], own[2]), rate(1 - own[1], own[0], 1 - own[2])
        found = corrected_rate(test, specificity, sensitivity)
        covered += found.low <= theta <= found.high
        naive += abs(test.value - theta) < 1.96 * math.sqrt(test.value * (1 - test.value) / 300)
    assert 0.93 <= covered / 1000 <= 0.985
    assert naive < covered


PROMPT = "What does cow {} say?"
ROWS = [
    {"prompt": PROMPT.format(n), "output_1": "moo " * (n + 1), "output_2": "baa", "labeler": who, "preference": p}
    for n in range(8)
    for who, p in (("ann", 0), ("ben", n % 2))
]


@pytest.fixture
def labels(tmp_path):
    return write_lines(tmp_path / "labels.jsonl", ROWS)


def findings(*arguments, cwd):
    done = run("judges", "validate", *arguments, "--json", "--resamples", 100, cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = {
        (own["judge"].partition("@")[0], own["statistic"], own["who"]): own["estimate"]["value"]
        for own in json.loads(done.stdout)
    }
    return found, done.stderr


def test_judges_of_a_file_of_labels_keep_their_verdicts_and_are_asked_once(labels, tmp_path):
    found, err = findings("--labels", labels, "--judge", "longer", "--judge", "labeler:ben", "--seeds", 2, cwd=tmp_path)
    # of the longer answer: always the first one (but "moo " against "baa"), as ann says; ben is the judge of others
    assert found["longer", "agreement", "labeler ann"] == 1
    assert ("longer", "agreement", "labeler ben") not in found
    assert found["labeler:ben", "agreement", "labeler ann"] == 0.5
    assert found["longer", "prefers_longer", ""] == 1
    assert "longer@1: it does not sample" in err
    before = files_of(tmp_path / "runs")
    again, err = findings("--labels", labels, "--judge", "preference=longer", "--limit", 8, cwd=tmp_path)
    assert again["longer", "agreement", "labeler ben"] == 0.5
    assert "already finished" in err
    assert files_of(tmp_path / "runs") == before


def test_the_verdicts_of_a_run_are_corrected_with_labels_of_some_of_its_prompts(tmp_path):
    texts = {"own": [f"moo {n}" * (1 + n % 3) for n in range(30)], "other": ["baa baa"] * 30}
    files = [
        write_lines(tmp_path / f"{name}.jsonl", [{"id": f"q{n}", "output": text} for n, text in enumerate(own)])
        for name, own in texts.items()
    ]
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"id": f"q{n}", "prompt": PROMPT.format(n)} for n in range(30)])
    judged = judge_files(*files, tmp_path / "runs", scorers=["preference=longer"], prompts=prompts)
    rows = [
        {
            "prompt": PROMPT.format(n),
            "output_1": "baa baa",
            "output_2": texts["own"][n],
            "preference": int(n % 3 > 0),
            "labeler": "ann",
        }
        for n in range(12)
    ]
    rows[1]["preference"] = 0
    labels = write_lines(tmp_path / "labels.jsonl", rows)
    found, _ = findings("--labels", labels, "--judge", f"run:{judged.folder}/{judged.folders[0]}", cwd=tmp_path)
    models = {who for _, statistic, who in found if statistic == "win_rate_corrected"}
    assert models == {min("other", judged.folder.name)}
    (model,) = models
    assert found["longer", "agreement", "labeler ann"] == 11 / 12
    own = judged.folder.name == model
    assert found["longer", "win_rate_people", model] == pytest.approx(7 / 12 if own else 5 / 12)
    assert found["longer", "win_rate_judge_unlabelled", model] == pytest.approx(2 / 3 if own else 1 / 3)
    expected = (2 / 3 + 4 / 5 - 1) / (1 + 4 / 5 - 1)
    assert found["longer", "win_rate_corrected", model] == pytest.approx(expected if own else 1 - expected)


def test_a_judge_that_generates_text_is_asked_again_with_other_seeds(labels, tmp_path):
    with StandIn() as standin:
        answer = standin._answer

        def instead(path, body):
            status, reply = answer(path, body)
            sampled = body.get("temperature") == 0.7 and body["seed"] % 2
            for choice in reply["choices"]:
                first = "moo" in body["messages"][0]["content"].split("<answer_b>")[0] if "messages" in body else True
                if "message" in choice and "<answer_a>" in body["messages"][0]["content"]:
                    choice |= {"finish_reason": "stop"}
                    choice["message"]["content"] = "[[C]]" if sampled else f"[[{'A' if first else 'B'}]]"
            return status, reply

        standin._answer = instead
        options = ("--seeds", 3, "--temperature", 0.7)
        spec = f"endpoint:{standin.spec}"
        found, _ = findings("--labels", labels, "--judge", spec, *options, cwd=tmp_path)
    name = f"endpoint:{standin.spec.partition('#')[2]}"
    assert found[name, "agreement", "labeler ann"] == 1
    assert found[name, "position_consistency", ""] == 1
    assert 0 < found[name, "repeatability", ""] < 1
    runs = list((tmp_path / "runs").glob("*/win_rate-*/task.json"))
    assert len(runs) == 4  # each seed has its own folder
    revisions = {json.loads(file.read_text())["scorers"][0]["revision"] for file in runs}
    assert sum("at temperature 0.7" in revision for revision in revisions) == 3


def test_votes_of_the_arena_and_ranked_conversations_are_labels(tmp_path):
    said = [
        [
            {"role": "user", "content": "Hi?"},
            {"role": "assistant", "content": f"{n} one"},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": f"{n} two"},
        ]
        for n in "ab"
    ]
    vote = {"question_id": 81, "model_a": "m", "model_b": "k", "conversation_a": said[0], "conversation_b": said[1]}
    rows = [
        vote | {"judge": ["gpt-4", "pair"], "turn": 2, "winner": "model_b"},
        vote | {"judge": "expert_1", "turn": 1, "winner": "tie (inconsistent)"},
    ]
    one, two = units_of(read_labels(str(write_lines(tmp_path / "votes.jsonl", rows))))
    assert (one.prompt, one.outputs, one.models, one.votes) == (
        "Hi?",
        ("b one", "a one"),
        ("k", "m"),
        {"expert_1": 0.5},
    )
    assert (two.prompt, two.outputs[1], two.votes) == ("Hi?\n\nAnd?", "a one\n\na two", {"gpt-4-pair": 1.0})
    rows = [{"prompt": [{"role": "user", "content": "Hi?"}], "responses": ["long one", "x", "yy"], "ranks": [1, 2, 2]}]
    rows += [{"prompt": [*said[0][:3]], "responses": ["x", "long one", "long"], "ranks": [1, 2, 3]}]
    found, _ = findings("--labels", write_lines(tmp_path / "ranked.jsonl", rows), "--judge", "longer", cwd=tmp_path)
    assert found["longer", "agreement", "people"] == 3 / 6
    assert found["longer", "prefers_longer", "people"] == 3 / 5
    records = [r for f in (tmp_path / "runs").glob("*/win_rate-*/documents.jsonl") for r in read_lines(f)]
    assert {r["prompt"] for r in records} == {"Hi?", "User: Hi?\n\nAssistant: a one\n\nUser: And?"}


def test_of_a_flag_a_labeler_is_validated(tmp_path):
    rows = [
        {"prompt_id": n, "output": f"text {n}", "labeler": who, "is_factual": value}
        for n, own in enumerate(["yyy", "yny", "nnn", "nyn", "nyy"])
        for who, value in zip("abc", own.replace("y", "1").replace("n", "0"), strict=True)
    ]
    file = write_lines(tmp_path / "flags.jsonl", rows)
    found, _ = findings("--labels", file, "--judge", "labeler:b", "--question", "is_factual", cwd=tmp_path)
    judge = "labeler:b"
    assert found[judge, "agreement", "people"] == 5 / 10
    assert found[judge, "agreement_among_people", "people"] == 4 / 5
    # people's majority without b: y, y, n, n, tie
    assert found[judge, "sensitivity", ""] == pytest.approx(1.5 / 2.5)
    assert found[judge, "specificity", ""] == pytest.approx(1 / 2.5)
    assert (judge, "tie", "") not in found


@pytest.mark.parametrize(("arguments", "words"), CASES["refused"])
def test_what_cannot_be_validated_is_one_line(arguments, words, labels, tmp_path):
    write_lines(tmp_path / "ids.jsonl", [{"prompt_id": "p", "output_1": "a", "output_2": "b", "preference": 1}])
    write_lines(tmp_path / "likert.jsonl", [{"prompt_id": "p", "output": "a", "labeler": "ann", "likert": 3}])
    vote = {"model_a": "m", "model_b": "k", "judge": "ann"}
    write_lines(tmp_path / "votes.jsonl", [vote | {"winner": "both"}])
    assert_one_line_error(run("judges", "validate", *arguments.split(), cwd=tmp_path), *words)


@pytest.mark.needs_data
@pytest.mark.parametrize(("turn", "expected"), CASES["mt_bench"].items())
def test_gpt_4_agrees_with_the_experts_of_mt_bench_as_published(turn, expected, data_dir, tmp_path):
    """Zheng et al. 2023, table 5 (experts; G4-Pair and humans, in both setups), with numbers of votes."""
    files = [data_dir / "mt-bench" / name for name in ("human.jsonl", "gpt4_pair.jsonl")]
    if not all(file.is_file() for file in files):
        pytest.skip("no votes of MT-bench: split human and gpt4_pair of lmsys/mt_bench_human_judgments")
    rows = [row for file in files for row in read_lines(file) if not str(row["judge"]).startswith("author")]
    file = write_lines(tmp_path / "votes.jsonl", [row for row in rows if row["turn"] == turn])
    found, _ = findings("--labels", file, "--judge", "labeler:gpt4_pair", cwd=tmp_path)
    for statistic, share in expected.items():
        assert round(found["labeler:gpt4_pair", statistic, "people"], 2) == share


@pytest.mark.needs_data
def test_accuracy_and_kappa_on_pandalm_are_as_published(data_dir, tmp_path):
    """Wang et al. 2024 (arXiv 2306.05087): kappa of the annotators, and accuracy of GPT-3.5 and PandaLM-7B."""
    folder = data_dir / "pandalm"
    if not folder.is_dir():
        pytest.skip("no folder pandalm: WeOpenML/PandaLM, data/")
    side = {"0": 0.5, "1": 0.0, "2": 1.0}
    test, gpt, own = (
        json.loads((folder / f"{name}testset-v1.json").read_text()) for name in ("", "gpt-3.5-turbo-", "pandalm-7b-")
    )
    rows = [
        {"prompt_id": row["idx"], "output_1": row["response1"], "output_2": row["response2"], "labeler": labeler}
        | {"preference": side.get(str(answer), 0.5)}
        for row, one, other in zip(test, gpt, own, strict=True)
        for labeler, answer in [
            *((f"annotator{number}", row[f"annotator{number}"]) for number in (1, 2, 3)),
            ("gpt-3.5", one["gpt_result"]),
            ("pandalm", other["pandalm_result"]),
        ]
    ]
    everyone = write_lines(tmp_path / "all.jsonl", rows)
    judges = ("--judge", "labeler:gpt-3.5", "--judge", "labeler:pandalm")
    found, _ = findings("--labels", everyone, *judges, cwd=tmp_path)
    for judge, expected in CASES["pandalm"]["accuracy"].items():
        assert found[f"labeler:{judge}", "agreement", "majority"] == pytest.approx(expected, abs=5e-5)
    for pair, expected in CASES["pandalm"]["kappa"].items():
        two = [row for row in rows if row["labeler"] in pair.split("-")]
        file = write_lines(tmp_path / f"{pair}.jsonl", two)
        found, _ = findings("--labels", file, "--judge", f"labeler:{pair.split('-')[0]}", cwd=tmp_path)
        assert round(found[f"labeler:{pair.split('-')[0]}", "cohen_kappa", "majority"], 2) == expected
