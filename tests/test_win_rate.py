"""Win rates and rankings: answers are generated once, verdicts once per judge and pair."""

import csv
from pathlib import Path

import numpy as np
import pytest
from cases import read_lines, update, write_lines
from commands import assert_refused
from sklearn.linear_model import LogisticRegression

from alignbench.errors import AlignbenchError
from alignbench.evaluation.rank import find_systems, rank_systems
from alignbench.evaluation.score_file import judge_files, score_file
from alignbench.evaluation.win_rate import find_answers, judge
from alignbench.labels.table import read_labels, write_labels
from alignbench.progress import Progress
from alignbench.runs.folder import lock_run
from alignbench.stats.win_rate import RIDGE, length_controlled
from alignbench.types.scorer import ScorerGoneError

QUESTIONS = [f"What does cow {number} say?" for number in range(30)]


class Taste:
    """Likes what a function says: 1 for the model's answer, ½, or 0; fails when it has been asked so often."""

    kind, revision, weights_sha256 = "preference", "1", None

    def __init__(self, likes, left: int | None = None, failure=None, name: str = "taste", **more: float) -> None:
        self.likes, self.left, self.failure, self.name, self.more, self.seen = likes, left, failure, name, more, []

    def score(self, items):
        found = []
        for item in items:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise self.failure
            if "poison" in item.output:
                raise ValueError("the judge gave no verdict")
            self.seen.append(item.group)
            found.append({"win": self.likes(item.output, item.references[0]), **self.more})
        return found


def longer(own: str, other: str) -> float:
    return (1 + (len(own) > len(other)) - (len(own) < len(other))) / 2


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", [{"id": f"q{i}", "prompt": q} for i, q in enumerate(QUESTIONS)])


def outputs(file: Path, texts) -> Path:
    return write_lines(file, [{"id": f"q{i}", "output": text} for i, text in enumerate(texts)])


def answers(tmp_path: Path, prompts: Path, name: str, texts):
    file = outputs(tmp_path / f"{name}.jsonl", texts)
    run = score_file(file, tmp_path / "runs", task="answers", prompts=prompts)
    return find_answers(run.folder)


def values(result) -> dict[str, float]:
    return {metric.metric: metric.value for metric in result.metrics}


@pytest.fixture
def judged(tmp_path, prompts):
    """Judge the answers of one system against another's: 30 times the same text, or a list of texts."""

    def run(own, other, taste):
        systems = (answers(tmp_path, prompts, name, texts) for name, texts in (("own", own), ("other", other)))
        return judge(*systems, taste)

    return run


@pytest.fixture
def pair(tmp_path, prompts):
    """Two systems with 30 answers each."""
    return answers(tmp_path, prompts, "own", ["moo"] * 30), answers(tmp_path, prompts, "other", ["baa"] * 30)


def test_a_win_rate_counts_ties_half_and_is_reported_with_lengths(judged):
    texts = ["moo moo"] * 10 + ["moo"] * 10 + ["m"] * 10
    verdicts = judged(texts, ["moo"] * 30, Taste(lambda a, b: 0.5 if a == "moo" else 1.0))
    found = values(verdicts.result)
    assert found["win_rate"] == pytest.approx(25 / 30)
    assert found["tie"] == pytest.approx(1 / 3)
    assert found["longer"] == pytest.approx(0.5)  # 10 longer, 10 as long, 10 shorter
    assert found["agrees_with_longer"] == pytest.approx(0.5)  # of the 20 decided, the 10 longer ones
    assert (found["baseline_words"], found["words"]) == (1, pytest.approx(40 / 30))
    assert "position_consistency" not in found  # this judge sees no order
    rate = next(metric for metric in verdicts.result.metrics if metric.metric == "win_rate")
    assert (rate.scorer, rate.chance) == ("taste@1", 0.5)
    assert 0.7 < rate.low < rate.value < rate.high < 0.95


def test_length_control_moves_the_rate_of_a_length_judge_to_one_half_and_is_fitted_on_probabilities(judged, pair):
    texts = ["moo" * (1 + i % 5) for i in range(30)], ["moo" * 2] * 30
    found = values(judged(*texts, Taste(longer)).result)
    assert found["agrees_with_longer"] == 1
    assert abs(found["win_rate_length_controlled"] - 0.5) < abs(found["win_rate"] - 0.5)
    found = values(judge(pair[0], pair[0], Taste(lambda a, b: 0.5)).result)
    assert found["win_rate"] == found["win_rate_length_controlled"] == 0.5
    found = values(judged(*texts, Taste(longer, name="model", probability=0.625)).result)
    assert (found["probability"], found["win_rate_length_controlled"]) == (0.625, 0.625)
    assert found["win_rate"] == pytest.approx((18 + 6 / 2) / 30)


def test_graded_preferences_are_the_win_rate_and_have_no_ties(tmp_path, prompts):
    graded = [0.25 + i / 60 for i in range(30)]
    texts = [f"moo{'!' * (i % 7)} {i}" for i in range(30)]
    given = dict(zip(texts, graded, strict=True))

    class Graded(Taste):
        def score(self, items):
            found = [given.get(item.output) or 1 - given[item.references[0]] for item in items]
            return [{"win": 1.0 * (own > 0.5) + 0.5 * (own == 0.5), "preference": own} for own in found]

    systems = [answers(tmp_path, prompts, *own) for own in (("own", texts), ("other", ["moo!! 12"] * 30))]
    rates = values(judge(*systems, Graded(longer)).result)
    discrete = pytest.approx((14 + 1 / 2) / 30)
    assert (rates["win_rate"], rates["win_rate_discrete"]) == (pytest.approx(np.mean(graded)), discrete)
    assert "tie" not in rates
    differences = [len(text) - len("moo!! 12") for text in texts]
    assert rates["win_rate_length_controlled"] == pytest.approx(length_controlled(graded, differences).value)
    assert rank_systems(systems, Graded(longer)).pairs["own", "other"].value == discrete


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("model", "graded", "discrete", "minimal", "published"),
    [("FuseChat-Llama-3.1-8B-Instruct", 63.33, 64.41, 65.07, 65.39), ("NullModel", 76.92, 83.98, 84.69, 86.46)],
)
def test_win_rates_of_alpaca_eval_are_the_published_ones(
    tmp_path, data_dir, model, graded, discrete, minimal, published
):
    with (data_dir / "alpaca-eval-preferences" / f"{model}.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    texts = [["b" * int(row["characters_baseline"]), "m" * int(row["characters_model"])] for row in rows]
    prompts = [{"id": str(n), "prompt": f"What does cow {n} say?"} for n in range(len(rows))]
    annotations = [
        {"instruction": prompt["prompt"], "output_1": texts[n][0], "generator_1": "gpt4_1106_preview", "output_2":
         texts[n][1], "generator_2": model, "annotator": "gpt4_turbo", "preference": rows[n]["preference"], "price": 1}
        for n, prompt in enumerate(prompts)
    ]  # fmt: skip
    labels = read_labels(str(write_lines(tmp_path / "annotations.jsonl", annotations)))
    write_labels(labels, tmp_path / "labels.jsonl")
    files = [
        write_lines(tmp_path / f"{name}.jsonl", [{"output": pair[side]} for pair in texts])
        for side, name in enumerate(("baseline", "model"))
    ]
    run = judge_files(
        files[1], files[0], tmp_path / "runs", in_order=True, prompts=write_lines(tmp_path / "prompts.jsonl", prompts),
        scorers=[f"preference=labels:{tmp_path / 'labels.jsonl'}"],
    )  # fmt: skip
    found = values(run.results[0])
    assert round(100 * found["win_rate"], 2) == graded
    assert round(100 * found["win_rate_discrete"], 2) == discrete
    # the same formula by scikit-learn: each row once as a win and once as a loss, weighted by the preference
    preference = np.array([row["preference"] - 1 for row in rows])
    delta = np.array([len(own) - len(other) for other, own in texts])
    features, ones = np.tanh(delta / delta.std())[:, None], np.ones(len(rows))
    fitted = LogisticRegression(C=1 / RIDGE, tol=1e-10, max_iter=1000).fit(
        np.tile(features, (2, 1)), np.r_[ones, 0 * ones], sample_weight=np.r_[preference, 1 - preference]
    )
    controlled = found["win_rate_length_controlled"]
    assert controlled == pytest.approx(1 / (1 + np.exp(-fitted.intercept_[0])), abs=1e-6)
    assert round(100 * controlled, 2) == minimal
    assert abs(minimal - published) < 1.8  # the largest difference that docs/win_rate.md states


def test_each_judge_has_its_own_verdicts_which_are_read_without_a_lock(pair):
    assert values(judge(*pair, Taste(lambda a, b: 1.0)).result)["win_rate"] == 1
    again = Taste(lambda a, b: 1.0)
    with lock_run(pair[0].run):
        assert values(judge(*pair, again).result)["win_rate"] == 1
    assert again.seen == []
    assert values(judge(*pair, Taste(lambda a, b: 0.0, name="severe")).result)["win_rate"] == 0
    assert len(list(pair[0].run.glob("win_rate-*"))) == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt("^C"), ScorerGoneError("taste: no answer any more")])
def test_a_judge_that_is_interrupted_or_stops_answering_resumes_to_the_same_files(tmp_path, prompts, failure):
    texts = ["moo" * (1 + i % 3) for i in range(30)]
    whole, torn = (answers(tmp_path, prompts, name, texts) for name in ("whole", "torn"))
    other = answers(tmp_path, prompts, "other", ["moomoo"] * 30)
    judge(whole, other, Taste(longer))
    with pytest.raises((KeyboardInterrupt, AlignbenchError), match=str(failure).replace("^", r"\^")):
        judge(torn, other, Taste(longer, left=11, failure=failure))
    judge(torn, other, Taste(longer))
    files = [next(own.run.glob("win_rate-*/documents.jsonl")) for own in (whole, torn)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_prompts_without_a_verdict_or_without_an_answer_of_the_baseline_are_unscored(judged):
    verdicts = judged(["moo"] * 28 + ["poison and more", "moo"], ["baa"] * 29, Taste(lambda a, b: 1.0))
    reasons = {record.id: record.unscored for record in verdicts.records()}
    assert reasons["q28"] == "preference: taste failed (the judge gave no verdict)"
    assert reasons["q29"] == "the baseline: the file has no output for it"
    assert verdicts.result.n_scored == 28
    assert {m.n for m in verdicts.result.metrics if m.n} == {28}  # all metrics are of the prompts with a verdict
    assert (values(verdicts.result)["win_rate"], values(verdicts.result)["words"]) == (1, 1)


def test_a_judge_with_position_bias_or_that_a_policy_was_trained_against_gives_a_warning(pair):
    always_a, said = Taste(lambda a, b: 0.5, consistent=0.0, first=1.0, second=0.0), []
    found = values(judge(*pair, always_a).result)
    assert (found["position_consistency"], found["tie"]) == (0, 1)
    assert "agrees_with_longer" not in found  # nothing is decided
    table = rank_systems(pair, always_a)
    assert (table.position_consistency.value, table.pairs["own", "other"].value) == (0, 0.5)
    (warning,) = table.warnings
    assert warning.startswith("taste gave the same verdict in both orders on 0% of the prompts")
    assert rank_systems(pair, Taste(lambda a, b: 0.5, name="calm", consistent=1.0)).warnings == ()
    update(pair[0].run / "run.json", training={"rewards": ["abc"], "kl": 4.5})
    taste, heard = Taste(longer, name="known"), Progress()
    taste.weights_sha256, heard.say = "abc", said.append
    table = rank_systems([find_answers(pair[0].run), pair[1]], taste, progress=heard)
    assert any("own was trained against this judge, known" in line for line in said)
    assert table.warnings == ("own was trained against this judge, known: its win rate is too high",)
    assert {standing.name: standing.kl for standing in table.standings} == {"own": 4.5, "other": None}


def test_a_changed_answer_is_judged_again(tmp_path, prompts):
    own, other = (answers(tmp_path, prompts, name, ["moo"] * n) for name, n in (("own", 29), ("other", 30)))
    assert judge(own, other, Taste(longer)).result.n_scored == 29
    file = own.folder.path / "documents.jsonl"
    whole = read_lines(file)
    whole[29]["outputs"][0] |= {"text": "moo", "unscored": None}
    write_lines(file, whole)
    result = own.folder.path / "result.json"
    result.write_text(result.read_text().replace("records_sha256", "of_the_old_records"))
    assert judge(find_answers(own.run), other, Taste(longer)).result.n_scored == 30


def test_no_verdict_at_all_and_no_common_prompt_are_errors(pair, tmp_path, prompts):
    poison = answers(tmp_path, prompts, "poison", ["poison"] * 30)
    line = r"^poison against other: no verdict on any of 30 prompts \(pref"
    assert_refused(line, judge, poison, pair[1], Taste(longer))
    elsewhere = write_lines(tmp_path / "more.jsonl", [{"id": "q0", "prompt": "What does the goat say?"}])
    goat = answers(tmp_path, elsewhere, "goat", ["meh"])
    assert_refused("own and goat: no prompt that both answered", judge, pair[0], goat, Taste(longer))


def test_a_ranking_finds_the_order_of_systems_which_may_be_renamed_and_reuses_verdicts(tmp_path, prompts):
    files = [
        outputs(tmp_path / f"{name}.jsonl", ["moo" * ((n + i) % 4 + n) for i in range(30)])
        for n, name in enumerate(("short", "middle", "file"), start=1)
    ]
    systems = find_systems([*map(str, files[:2]), f"long={files[2]}"], tmp_path / "runs", prompts=prompts)
    table = rank_systems(systems, Taste(longer), baseline="middle")
    assert [standing.name for standing in table.standings] == ["long", "middle", "short"]
    assert {s.name: s.strength.strength.value for s in table.standings}["middle"] == 0
    assert set(table.pairs) == {("short", "middle"), ("short", "long"), ("middle", "long")}
    assert (table.battles, table.prompts, table.longer.value) == (90, 30, 1)
    taste = Taste(longer)
    assert rank_systems(systems, taste, baseline="middle") == table
    turned = rank_systems(systems[::-1], taste, baseline="middle")
    assert turned.standings == table.standings
    assert turned.pairs["long", "short"].value == 1 - table.pairs["short", "long"].value
    assert taste.seen == []
