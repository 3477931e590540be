"""Best-of-n: the choice and the bound of its divergence on a discrete policy, and the checkpoint spec of evaluate."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import stages
from cases import write_lines
from commands import assert_one_line_error, refusal, run
from hypothesis import given
from hypothesis import strategies as st

from alignbench.evaluation import best_of_n
from alignbench.evaluation.best_of_n import BestOfN, kl_bound, parse
from alignbench.evaluation.evaluate import check_model, evaluate
from alignbench.evaluation.pipeline import Job
from alignbench.models.model import find_model
from alignbench.scorers.reward import RewardScorer
from alignbench.tasks import find_task
from alignbench.types.engine import Completion, Prompt, Sampling
from alignbench.types.task import TaskData

pytestmark = pytest.mark.usefixtures("one_thread")
folder = pytest.fixture(scope="module")(stages.prepare)


def distribution(probabilities, n):
    """Of the best of n draws, the rewards being 0, 1, 2, …"""
    below = np.concatenate([[0.0], np.cumsum(probabilities)])
    return below[1:] ** n - below[:-1] ** n


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=30), st.integers(2, 64))
def test_the_bound_holds_on_every_discrete_policy(weights, n):
    policy = np.array(weights) / sum(weights)
    best = np.clip(distribution(policy, n), 1e-300, None)
    assert (best * np.log(best / policy)).sum() <= kl_bound(n) + 1e-9


def test_the_bound_is_reached_by_a_policy_of_many_equally_likely_outputs():
    best = distribution(np.full(200_000, 1 / 200_000), 16)
    assert (best * np.log(best * 200_000)).sum() == pytest.approx(kl_bound(16), abs=1e-3)
    assert kl_bound(16) == pytest.approx(math.log(16) - 15 / 16)


class Dice:
    """A policy whose completions are the numbers 0 … 3, and a reward that prefers the larger one."""

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def generate(self, prompts, sampling, *, seed=0, chat=False):
        random = np.random.default_rng(seed)
        for index, _ in enumerate(prompts):
            drawn = random.choice(4, size=sampling.samples, p=self.probabilities)
            yield index, tuple(Completion(str(number)) for number in drawn)

    def rewards(self, pairs):
        return [float(output) if output != "3" else "too long" for _, output in pairs]


def test_the_choice_has_the_distribution_of_the_best_of_n_and_groups_of_samples_are_independent():
    dice = Dice([0.5, 0.3, 0.2, 0.0])
    engine = BestOfN(dice, dice, 3)
    ((_, found),) = engine.generate([Prompt("a", "roll")], Sampling(1, samples=20_000))
    counts = np.bincount([int(own.text) for own in found], minlength=4) / 20_000
    assert counts == pytest.approx([*distribution([0.5, 0.3, 0.2], 3), 0], abs=0.012)
    texts = [int(own.text) for own in found]
    assert np.corrcoef(texts[:-1], texts[1:])[0, 1] == pytest.approx(0, abs=0.03)


def test_a_group_with_an_output_that_the_reward_model_cannot_read_is_unscored():
    dice = Dice([0.0, 0.0, 0.0, 1.0])
    ((_, (found,)),) = BestOfN(dice, dice, 2).generate([Prompt("a", "roll")], Sampling(1))
    assert found.unscored == "reward: too long"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [("best-of-n:a:b:16", ("a", "b", 16)), ("best-of-n:org/a@main:org/b:2", ("org/a@main", "org/b", 2))],
)
def test_a_specification_names_policy_reward_and_n(spec, parts):
    assert parse(spec) == parts


def test_evaluate_takes_the_specification(folder, tmp_path):
    prompts = write_lines(
        tmp_path / "prompts.jsonl", [{"id": str(i), "prompt": q} for i, q in enumerate(stages.QUESTIONS[:3])]
    )
    policy, reward = str(folder / "model"), str(folder / "judge")
    settings = {"prompts": str(prompts), "gen_kwargs": {"max_tokens": 8}}
    (found,) = evaluate([f"best-of-n:{policy}:{reward}:4"], ["answers"], tmp_path / "runs", **settings)
    records = [
        json.loads(line) for line in (found.folder / found.folders[0] / "documents.jsonl").read_text().splitlines()
    ]
    engine, scorer = find_model(policy).open(), RewardScorer("reward", "model", reward, "cpu", False)
    keys = [Prompt(f"answers/{record['id']}", record["prompt"]) for record in records]
    for index, samples in engine.generate(keys, Sampling(8, samples=4, temperature=1.0), seed=0):
        texts = [own.text for own in samples]
        rewards = scorer.rewards([(records[index]["prompt"], text) for text in texts])
        assert len(set(texts)) > 1
        assert records[index]["outputs"][0]["text"] == texts[int(np.argmax(rewards))]
    about = json.loads((found.folder / "run.json").read_text())
    assert about["training"]["kl_bound"] == pytest.approx(kl_bound(4))
    assert [own["stage"] for own in about["lineage"]] == ["base", "best-of-n"]
    (other,) = evaluate([f"best-of-n:{policy}:{reward}:5"], ["answers"], tmp_path / "runs", **settings)
    assert other.folder != found.folder


def test_bad_input_is_one_line(folder, tmp_path):
    policy, reward = folder / "model", folder / "judge"
    prompts = write_lines(tmp_path / "p.jsonl", [{"prompt": "a"}])
    task = ["--tasks", "answers", "--prompts", prompts, "--out", tmp_path / "runs"]
    for wrong in (f"{policy}:{reward}", f"{policy}:{reward}:1", f"{policy}:16", f"{policy}:{reward}:x", "a:b:c:4"):
        assert_one_line_error(run("evaluate", f"best-of-n:{wrong}", *task), "write best-of-n:POLICY:REWARD:N")
    for wrong in (tmp_path / "nowhere", policy):  # the latter is no reward model
        assert_one_line_error(run("evaluate", f"best-of-n:{policy}:{wrong}:4", *task), str(wrong.name))


def test_tasks_that_score_given_text_are_refused(folder):
    model = best_of_n.find(f"best-of-n:{folder / 'model'}:{folder / 'judge'}:4")
    task = replace(find_task("hellaswag"), load=None)
    line = refusal(check_model, model, [Job(task, TaskData([], ()), None, 0)])
    assert "hellaswag needs log-probabilities of given text, which best-of-n does not offer" in line
