"""`alignbench judges validate`: agreement with people, and rates corrected for the errors of a judge."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from cases import cases, read_lines, write_lines
from commands import assert_one_line_error, files_of, run
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from standin_server import MODEL, StandIn, asked_of

from alignbench.evaluation.score_file import judge_files
from alignbench.labels.judges import Unit, units_of, validate
from alignbench.labels.table import read_labels
from alignbench.stats.judges import Rate, corrected_rate, labels_needed, labels_without_judge, rate

CASES = cases("judge_validation")
SIDES = st.sampled_from([0.0, 0.5, 1.0])
PROMPT = "What does cow {} say?"
ROWS = [
    {"prompt": PROMPT.format(n), "output_1": "moo " * (n + 1), "output_2": "baa", "labeler": who, "preference": p}
    for n in range(8)
    for who, p in (("ann", 0), ("ben", n % 2))
]


def pairs(rows, models=("x", "y"), repeated=()):
    """Units of two models: the judge's verdict and the votes of people, a row for each prompt."""
    return [
        Unit(f"p{at}", "", ("a" * 9, "b"), models, dict(enumerate(votes)), {"win": won}, tuple(repeated))
        for at, (won, votes) in enumerate(rows)
    ]


def values(units):
    return {(own.statistic, own.who): own.estimate for own in validate("j", units, resamples=100)}


def test_a_small_table_by_hand():
    # wins, ties, losses of ann and ben; nobody labelled the last two
    found = values(pairs([(1, [1, 1]), (1, [0, 1]), (0.5, [1, 0.5]), (0, [0, 0]), (0, [0.5, 0]), (1, []), (0, [])]))
    assert found["agreement", "people"].value == 7 / 10
    assert found["agreement_ties_dropped", "people"].value == 6 / 7
    assert found["agreement_among_people", "people"].value == 2 / 5
    assert found["agreement_among_people_ties_dropped", "people"].value == 2 / 3
    assert found["relative_agreement", "people"].value == pytest.approx(0.7 / 0.4)
    assert found["relative_agreement_ties_dropped", "people"].value == pytest.approx((5 / 6) / (2 / 3))
    assert found["agreement", "labeler 0"].value == 2 / 5
    assert found["agreement_ties_dropped", "labeler 1"].value == 1
    assert found["agreement", "majority"].value == 3 / 5
    assert [found["agreement", who].n for who in ("people", "labeler 0")] == [10, 5]
    assert [found["tie", who].value for who in ("", "people")] == [1 / 7, 3 / 5]
    assert [found["prefers_longer", who].value for who in ("", "people")] == [3 / 6, 1 / 2]
    # most people: 1, ½, ½, 0, ½ for x; the judge: 1, 1, ½, 0, 0
    assert found["win_rate_people", "x"].value == found["win_rate_judge", "x"].value == 0.5
    assert found["sensitivity", "x"].value == pytest.approx((1 + 0.5 + 0.25) / 2.5)
    assert found["specificity", "x"].value == pytest.approx(1 - (0.5 + 0.25) / 2.5)
    assert found["win_rate_judge_unlabelled", "x"].value == found["win_rate_corrected", "x"].value == 0.5
    assert found["labels_without_judge", "x"].value == 193  # of ½, ½, ½, 0 and 1: half as many as without ties
    assert ("win_rate_people", "y") not in found  # the complement


@given(st.lists(st.tuples(SIDES, st.lists(SIDES, min_size=1, max_size=3)), min_size=2, max_size=12))
def test_kappa_ignores_the_order_of_a_pair_and_the_labelled_units_are_corrected_exactly(rows):
    units = pairs(rows)
    found = values(units)
    people = [unit.people for unit in units]
    both = [[str(x) for x in own] + [str(1 - x) for x in own] for own in ([won for won, _ in rows], people)]
    if len({*both[0], *both[1]}) > 1:
        assert found["cohen_kappa", "majority"].value == pytest.approx(cohen_kappa_score(*both))
    specificity, sensitivity = found.get(("specificity", "x")), found.get(("sensitivity", "x"))
    if specificity and sensitivity and specificity.value + sensitivity.value > 1 + 1e-9:
        rates = (Rate(own.value, 10) for own in (found["win_rate_judge", "x"], specificity, sensitivity))
        assert corrected_rate(*rates).value == pytest.approx(np.mean(people))


def test_without_names_of_models_both_sides_count_and_repetitions_are_compared():
    found = values(pairs([(1, [1]), (1, [1]), (1, [0]), (0.5, [0])], models=("", ""), repeated=(1.0, 0.5, 1.0)))
    assert found["sensitivity", ""].value == found["specificity", ""].value == (1 + 1 + 0 + 0.5) / 4
    assert not any(name.startswith("win_rate") for name, _ in found)
    assert found["repeatability", ""].value == pytest.approx(1 / 3)


def test_position_is_measured_from_the_two_orders():
    numbers = [{"win": 0.5, "first": 1.0, "second": 0.0, "consistent": 0.0}] * 3
    numbers += [{"win": 1.0, "first": 1.0, "second": 1.0, "consistent": 1.0}]
    found = values([Unit(f"p{at}", "p", ("a", "b"), ("x", "y"), {"ann": 1.0}, own) for at, own in enumerate(numbers)])
    assert found["position_consistency", ""].value == 1 / 4
    assert found["first_position", ""].value == (3 * 1 + 0.5) / 4


@pytest.mark.parametrize(("p", "q0", "q1", "n", "m0", "m1", "low", "high"), CASES["published"])
def test_the_corrected_interval_is_that_of_the_authors_package(p, q0, q1, n, m0, m1, low, high):
    found = corrected_rate(Rate(p, n), Rate(q0, m0), Rate(q1, m1))
    if low == high:  # all of it is outside [0, 1]
        assert found.low is found.high is None
    else:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.value == pytest.approx(min(max((p + q0 - 1) / (q0 + q1 - 1), 0), 1))


def test_a_judge_that_is_not_better_than_chance_corrects_nothing_and_more_labels_are_needed_than_by_people():
    assert corrected_rate(Rate(0.5, 100), Rate(0.4, 50), Rate(0.6, 50)).value is None
    assert labels_needed(0.1, 0.5, Rate(0.4, 50), Rate(0.6, 50), 100) is None
    assert labels_needed(0.1, 0.5, Rate(1.0, 50), Rate(1.0, 50), 100) == 0
    needed = labels_needed(0.1, 0.5, Rate(0.8, 50), Rate(0.8, 50), 100)
    assert needed == math.ceil(0.16 * (2 * 1.959964 / 0.1 / 0.6) ** 2)
    assert needed > labels_without_judge(0.1, Rate(0.5, 100), 100) == 385
    found = corrected_rate(Rate(0.5, 1e9), Rate(0.8, needed / 2), Rate(0.8, needed / 2))
    assert found.high - found.low == pytest.approx(0.1, abs=0.001)


def test_the_number_of_labels_is_that_of_prompts_and_ties_as_here():
    rows = [(won, [vote]) for won, vote in ((1, 1), (1, 1), (0, 1), (0, 0), (0, 0), (1, 0), (0, 0), (1, 1))] * 25
    once = values(pairs(rows))
    units = pairs(rows)
    thrice = values([replace(unit, outputs=(f"{unit.outputs[0]}{copy}", "b")) for unit in units for copy in "123"])
    tied = values(pairs([(won, [vote if at % 2 else 0.5]) for at, (won, (vote,)) in enumerate(rows)]))
    for name in ("labels_needed", "labels_without_judge"):
        assert thrice[name, "x"].value == pytest.approx(3 * once[name, "x"].value, abs=3)
    # half of the votes are ties, which have no variance
    assert tied["labels_without_judge", "x"].value == pytest.approx(
        once["labels_without_judge", "x"].value / 2, rel=0.02
    )
    # simulated: the interval of a corrected rate from so many labels and any number of verdicts has the width
    random, widths, labels = np.random.default_rng(3), [], 2_000
    for _ in range(20):
        people = random.choice([0, 0.5, 1], labels, p=[0.3, 0.4, 0.3])
        said = np.where(random.random(labels) < 0.8, people, 1 - people)
        q0, q1 = rate(1 - said, weights=1 - people), rate(said, weights=people)
        found = corrected_rate(Rate(said.mean(), 1e9), q0, q1)
        widths.append((found.high - found.low, labels_needed(found.high - found.low, 0.5, q0, q1, labels)))
    assert all(needed == pytest.approx(labels, rel=0.03) for _, needed in widths)


def test_no_interval_outside_of_what_is_possible_and_the_labels_of_both_classes_are_counted():
    known = [(won, [vote]) for won, vote in ((1, 1), (0, 1), (1, 0), (1, 0), (0, 0.5))] * 20
    found = values(pairs([*known, *[(0, [])] * 200]))
    assert found["win_rate_corrected", "x"].value is None  # not better than chance
    better = [(1, [1])] * 30 + [(0, [0])] * 20 + [(1, [0])] * 20
    found = values(pairs([*better, *[(0, [])] * 200]))
    estimate = found["win_rate_corrected", "x"]
    assert (estimate.value, estimate.low, estimate.n) == (0, None, 200)
    assert [found[name, "x"].n for name in ("sensitivity", "specificity")] == [30, 40]
    found = values(pairs(better, models=("", "")))
    assert [found[name, ""].n for name in ("sensitivity", "specificity")] == [70, 70]  # not 140
    assert found["labels_without_judge", ""].n == 0


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
    random, covered = np.random.default_rng(7), 0
    for _ in range(2000):
        truth = random.random(labels + 300) < theta
        said = np.where(truth, random.random(len(truth)) < q1, random.random(len(truth)) > q0).astype(float)
        people, verdicts = truth[:labels].astype(float), said[:labels]
        specificity, sensitivity = rate(1 - verdicts, weights=1 - people), rate(verdicts, weights=people)
        found = corrected_rate(rate(said[labels:]), specificity, sensitivity)
        covered += found.low is None or found.low <= theta <= found.high  # none if by chance the judge looks useless
    assert 0.935 <= covered / 2000 <= 0.985


@pytest.fixture
def labels(tmp_path):
    return write_lines(tmp_path / "labels.jsonl", ROWS)


def findings(*arguments, cwd):
    done = run("judges", "validate", *arguments, "--json", "--resamples", 100, cwd=cwd)
    assert done.returncode == 0, done.stderr
    rows = [(own, own["judge"].partition("@")[0]) for own in json.loads(done.stdout)]
    return {(name, own["statistic"], own["who"]): own["estimate"]["value"] for own, name in rows}, done.stderr


def test_judges_of_a_file_of_labels_keep_their_verdicts_and_are_asked_once(labels, tmp_path):
    judges = ("--judge", "longer", "--judge", "labeler:ben", "--seeds", 2)
    found, err = findings("--labels", labels, *judges, cwd=tmp_path)
    # the first output is always longer, and ann's choice; ben is the judge, so he is not among the people
    assert found["longer", "agreement", "labeler ann"] == found["longer", "prefers_longer", ""] == 1
    assert ("longer", "agreement", "labeler ben") not in found
    assert found["labeler:ben", "agreement", "labeler ann"] == 0.5
    assert "longer@1: it does not sample" in err
    before = files_of(tmp_path / "runs")
    again, err = findings("--labels", labels, "--judge", "preference=longer", "--limit", 8, cwd=tmp_path)
    assert again["longer", "agreement", "labeler ben"] == 0.5
    assert "already finished" in err
    assert files_of(tmp_path / "runs") == before


def test_the_verdicts_of_a_run_are_corrected_with_labels_of_some_of_its_prompts(tmp_path):
    texts = {"own": [f"moo {n}" * (1 + n % 3) for n in range(30)], "other": ["baa baa"] * 30}
    answers = {name: [{"id": f"q{n}", "output": text} for n, text in enumerate(own)] for name, own in texts.items()}
    files = [write_lines(tmp_path / f"{name}.jsonl", own) for name, own in answers.items()]
    asked = [{"id": f"q{n}", "prompt": PROMPT.format(n)} for n in range(30)]
    prompts = write_lines(tmp_path / "prompts.jsonl", asked)
    judged = judge_files(*files, tmp_path / "runs", scorers=["preference=longer"], prompts=prompts)
    rows = [
        {"prompt": PROMPT.format(n), "output_1": "baa baa", "output_2": texts["own"][n], "preference": int(n % 3 > 0)}
        for n in range(12)
    ]
    rows[1]["preference"] = 0  # for the other answer, which is shorter
    labels = write_lines(tmp_path / "labels.jsonl", rows)
    spec = f"run:{judged.folder}/{judged.folders[0]}"
    found, _ = findings("--labels", labels, "--judge", spec, cwd=tmp_path)
    model = judged.folder.name  # the run's own, though "other" is before it
    assert model > "other"
    assert found["longer", "agreement", "labeler unnamed"] == 11 / 12
    assert found["longer", "win_rate_people", model] == pytest.approx(7 / 12)
    assert found["longer", "win_rate_judge_unlabelled", model] == pytest.approx(2 / 3)
    corrected = (2 / 3 + 4 / 5 - 1) / (1 + 4 / 5 - 1)
    assert found["longer", "win_rate_corrected", model] == pytest.approx(corrected)


def test_a_judge_that_generates_text_is_asked_again_with_other_seeds(labels, tmp_path):

    def say(body):
        if "<answer_a>" in (text := asked_of(body)):
            sampled = body["temperature"] == 0.7 and body["seed"] % 2
            return f"[[{'C' if sampled else 'A' if 'moo' in text.partition('<answer_b>')[0] else 'B'}]]", "stop"
        return None

    with StandIn() as standin:
        standin.say = say
        options = ("--judge", f"endpoint:{standin.spec}", "--seeds", 3, "--temperature", 0.7)
        found, _ = findings("--labels", labels, *options, cwd=tmp_path)
    judge = f"endpoint:{MODEL}"
    assert found[judge, "agreement", "labeler ann"] == found[judge, "position_consistency", ""] == 1
    assert 0 < found[judge, "repeatability", ""] < 1
    files = list((tmp_path / "runs").glob("*/win_rate-*/task.json"))  # one for each seed
    revisions = {json.loads(file.read_text())["scorers"][0]["revision"] for file in files}
    assert (len(files), sum("at temperature 0.7" in revision for revision in revisions)) == (4, 3)


def test_votes_of_the_arena_and_ranked_conversations_are_labels(tmp_path):
    asked = [{"role": "user", "content": text} for text in ("Hi?", "And?")]
    said = [[{"role": "assistant", "content": f"{side} {turn}"} for turn in ("one", "two")] for side in "ab"]
    said = [[asked[0], own[0], asked[1], own[1]] for own in said]
    vote = {"question_id": 81, "model_a": "m", "model_b": "k", "conversation_a": said[0], "conversation_b": said[1]}
    votes = [vote | {"judge": ["gpt-4", "pair"], "turn": 2, "winner": "model_b"}]
    votes += [vote | {"judge": "expert_1", "turn": 1, "winner": "tie (inconsistent)"}]
    one, two = units_of(read_labels(str(write_lines(tmp_path / "votes.jsonl", votes))))
    assert (one.prompt, one.outputs, one.models) == ("Hi?", ("b one", "a one"), ("k", "m"))
    assert (one.votes, two.votes) == ({"expert_1": 0.5}, {"gpt-4-pair": 1.0})
    assert (two.prompt, two.outputs[1]) == ("Hi?\n\nAnd?", "a one\n\na two")
    rows = [{"prompt": asked[:1], "responses": ["long one", "x", "yy"], "ranks": [1, 2, 2]}]
    rows += [{"prompt": said[0][:3], "responses": ["x", "long one", "long"], "ranks": [1, 2, 3]}]
    ranked = write_lines(tmp_path / "ranked.jsonl", rows)
    found, _ = findings("--labels", ranked, "--judge", "longer", cwd=tmp_path)
    assert found["longer", "agreement", "people"] == 3 / 6
    assert found["longer", "prefers_longer", "people"] == 3 / 5
    (file,) = (tmp_path / "runs").glob("*/win_rate-*/documents.jsonl")
    prompts = {"Hi?", "User: Hi?\n\nAssistant: a one\n\nUser: And?"}
    assert {record["prompt"] for record in read_lines(file)} == prompts


def test_of_a_flag_a_labeler_is_validated(tmp_path):
    rows = [
        {"prompt_id": n, "output": f"text {n}", "labeler": who, "is_factual": {"y": "yes", "n": "no"}[answer]}
        for n, own in enumerate(["yyy", "yny", "nnn", "nyn", "nyy"])
        for who, answer in zip("abc", own, strict=True)
    ]
    file = write_lines(tmp_path / "flags.jsonl", rows)
    found, _ = findings("--labels", file, "--judge", "labeler:b", "--question", "is_factual", cwd=tmp_path)
    judge = "labeler:b"
    assert found[judge, "agreement", "people"] == 5 / 10
    assert found[judge, "agreement_among_people", "people"] == 4 / 5
    # the majority of a and c: yes, yes, no, no, tie
    assert found[judge, "sensitivity", ""] == pytest.approx(1.5 / 2.5)
    assert found[judge, "specificity", ""] == pytest.approx(1 / 2.5)
    assert (judge, "tie", "") not in found


@pytest.mark.parametrize(("arguments", "words"), CASES["refused"])
def test_what_cannot_be_validated_is_one_line(arguments, words, labels, tmp_path):
    write_lines(tmp_path / "ids.jsonl", [{"prompt_id": "p", "output_1": "a", "output_2": "b", "preference": 1}])
    write_lines(tmp_path / "alone.jsonl", [{"prompt": "p", "output_1": "a", "output_2": "b", "preference": 1}])
    write_lines(tmp_path / "likert.jsonl", [{"prompt_id": "p", "output": "a", "labeler": "ann", "likert": 3}])
    write_lines(tmp_path / "other.jsonl", [ROWS[0] | {"prompt": "Who?"}])
    write_lines(tmp_path / "votes.jsonl", [{"model_a": "m", "model_b": "k", "judge": "ann", "winner": "both"}])
    assert_one_line_error(run("judges", "validate", *arguments.split(), cwd=tmp_path), *words)


@pytest.mark.needs_data
@pytest.mark.parametrize(("turn", "expected"), CASES["mt_bench"].items())
def test_gpt_4_agrees_with_the_experts_of_mt_bench_as_published(turn, expected, data_dir, tmp_path):
    """Zheng et al. 2023, table 5: G4-Pair with humans and humans with each other, setups S1 and S2."""
    files = [data_dir / "mt-bench" / name for name in ("human.jsonl", "gpt4_pair.jsonl")]
    if not all(file.is_file() for file in files):
        pytest.skip("no votes of MT-bench: splits human and gpt4_pair of lmsys/mt_bench_human_judgments")
    votes = [own for file in files for own in read_lines(file) if not str(own["judge"]).startswith("author")]
    file = write_lines(tmp_path / "votes.jsonl", [own for own in votes if own["turn"] == turn])
    found, _ = findings("--labels", file, "--judge", "labeler:gpt4_pair", cwd=tmp_path)
    assert {name: round(found["labeler:gpt4_pair", name, "people"], 2) for name in expected} == expected


@pytest.mark.needs_data
def test_accuracy_and_kappa_on_pandalm_are_as_published(data_dir, tmp_path):
    """Wang et al. 2024 (arXiv 2306.05087): kappa of the annotators; accuracy of GPT-3.5 and PandaLM-7B."""
    folder, side = data_dir / "pandalm", {"1": 0.0, "2": 1.0}
    if not folder.is_dir():
        pytest.skip("no folder pandalm: the folder data of WeOpenML/PandaLM")
    read = [
        json.loads((folder / f"{name}testset-v1.json").read_text()) for name in ("", "gpt-3.5-turbo-", "pandalm-7b-")
    ]
    rows = []
    for test, gpt, own in zip(*read, strict=True):
        verdicts = {name: test[name] for name in ("annotator1", "annotator2", "annotator3")}
        verdicts |= {"gpt-3.5": gpt["gpt_result"], "pandalm": own["pandalm_result"]}
        pair = {"prompt_id": test["idx"], "output_1": str(test["response1"]), "output_2": str(test["response2"])}
        rows += [pair | {"labeler": who, "preference": side.get(str(won), 0.5)} for who, won in verdicts.items()]
    everyone = write_lines(tmp_path / "all.jsonl", rows)
    for judge, accuracy in CASES["pandalm"]["accuracy"].items():
        others = ("--judge", "labeler:gpt-3.5", "--judge", "labeler:pandalm")
        found, _ = findings("--labels", everyone, *others, cwd=tmp_path)
        assert found[f"labeler:{judge}", "agreement", "majority"] == pytest.approx(accuracy, abs=5e-5)
    for (one, other), kappa in ((own["pair"], own["value"]) for own in CASES["pandalm"]["kappa"]):
        two = write_lines(tmp_path / f"{one}{other}.jsonl", [row for row in rows if row["labeler"] in (one, other)])
        found, _ = findings("--labels", two, "--judge", f"labeler:{one}", cwd=tmp_path)
        assert round(found[f"labeler:{one}", "cohen_kappa", "majority"], 2) == kappa
