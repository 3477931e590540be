"""A training is not reused for another reward function; stops, extensions and odd numbers do not prevent a resume."""

import copy
from functools import partial

import numpy as np
import pytest
import stages
from cases import read_lines
from commands import refusal

from alignbench.progress import Progress
from alignbench.provenance import function_identity
from trainers import ppo, reward, sft
from trainers.rollouts import RolloutConfig

folder = pytest.fixture(scope="module")(stages.prepare)
optimise, train_reward, train_sft = (stages.runner(stage) for stage in ("ppo", "reward", "sft"))


def weigh(prompts, responses, weight=1):
    return [weight * len(response) for response in responses]


def count(prompts, responses):
    return [1.0] * len(responses)


def closure(weight):
    def scores(prompts, responses):
        return [weight * len(response) for response in responses]

    return scores


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, prompts, responses):
        return weigh(prompts, responses, self.weight)


def typed(text):
    """A function as it is typed into an interpreter, without a file that has its source."""
    namespace = {}
    exec(text, namespace)
    return namespace["f"]


PAIRS = [
    (weigh, count),
    (partial(weigh, weight=1), partial(weigh, weight=-1)),
    (partial(weigh), partial(count)),
    (closure(1), closure(-1)),
    (closure([1, {"a": 2}]), closure([1, {"a": 3}])),
    (Weighted(1), Weighted(-1)),
    (Weighted(1).__call__, Weighted(2).__call__),
    (lambda p, r: [len(x) for x in r], lambda p, r: [-len(x) for x in r]),
    (typed("def f(p, r): return [len(x) for x in r]"), typed("def f(p, r): return [-len(x) for x in r]")),
    (typed("class f:\n def __call__(s, p, r): return r")(), typed("class f:\n def __call__(s, p, r): return p")()),
]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=range(len(PAIRS)))
def test_functions_with_another_source_or_other_values_have_another_identity(one, other):
    identity = function_identity(one)
    assert identity != function_identity(other)
    assert identity == function_identity(one)
    if not hasattr(one, "__self__"):
        assert identity == function_identity(copy.copy(one))


def test_a_function_may_refer_to_itself_and_its_identity_has_no_address():
    def scores(prompts, responses):
        return scores

    assert function_identity(scores) == function_identity(scores)
    assert function_identity(closure(object())) == function_identity(closure(object()))


def test_a_run_is_not_reused_for_a_function_with_another_value(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    out = stages.train(folder, "ppo", tmp_path / "run", reward=closure(0.1))
    again = stages.config_of(folder, "ppo", out, reward=closure(-0.1))
    assert "resume with the same settings" in refusal(ppo.train, again)


def test_sft_is_not_reused_for_another_selection_by_a_named_function(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (folder / "selection.py").write_text("def choose(prompts, responses): return [1.0] * len(responses)\n")
    settings = {"reward": "selection:choose", "validation": "sft.jsonl", "selection_tokens": 4}
    out = stages.train(folder, "sft", tmp_path / "run", **settings)
    assert stages.recipe_of(out)["models"]["reward_function"]["name"] == "selection.choose"
    import selection

    monkeypatch.setattr(selection, "choose", lambda prompts, responses: [2.0] * len(responses))
    assert "reward_function" in refusal(sft.train, stages.config_of(folder, "sft", out, **settings))


def test_a_run_with_a_metric_that_is_not_a_number_resumes(folder, tmp_path):
    """The interval of one prompt is undefined."""
    settings = {"validation_share": 0.01, "epochs": 3, "save_every": 1}
    whole = stages.train(folder, "reward", tmp_path / "whole", **settings)
    lines = (whole / "metrics.jsonl").read_text()
    assert '"nan"' in lines
    part = tmp_path / "part"
    calls = iter(range(100))

    def interrupt(metrics):
        if next(calls) > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reward.train(stages.config_of(folder, "reward", part, **settings), callback=interrupt)
    reward.train(stages.config_of(folder, "reward", part, **settings))
    assert (part / "metrics.jsonl").read_text() == lines
    assert stages.same_weights(part / "final", whole / "final")


def test_a_state_without_its_description_is_ignored(folder, tmp_path):
    out = stages.train(folder, "sft", tmp_path / "run")
    for file in (out / "state").glob("*/state.json"):
        file.unlink()
    (out / "final/recipe.json").unlink()
    sft.train(stages.config_of(folder, "sft", out))
    assert stages.recipe_of(out)["stage"] == "sft"


def test_a_stopped_run_with_checkpoints_can_be_extended(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    settings = {"episodes": 64, "save_every": 2, "checkpoint_every": 2, "lr": 1e-2}
    whole = stages.train(folder, "ppo", tmp_path / "whole", **settings)
    kl = [line["kl"] for line in read_lines(whole / "metrics.jsonl")]
    at = next(i for i in range(4, len(kl)) if kl[i] > max(kl[:i]))  # the run stops there and returns to a checkpoint
    out = stages.train(folder, "ppo", tmp_path / "run", stop_when=f"kl > {max(kl[:at])}", **settings)
    assert stages.recipe_of(out)["metrics"]["iterations"] == (at - 1) // 2 * 2
    ppo.train(stages.config_of(folder, "ppo", out, **settings))
    assert stages.same_weights(out / "final", whole / "final")


def test_a_constant_reward_is_reported_whatever_its_value_and_the_score_without_an_end(folder, optimise):
    kinds = {line.get("kind") for line in read_lines(optimise(reward=tenth, no_end_score=-1.0) / "log.jsonl")}
    assert "scores" in kinds


def tenth(prompts, responses):
    return [0.1] * len(responses)


def test_a_prompt_that_is_held_out_is_not_trained_on(folder, tmp_path):
    rows = [{"prompt": f"Question {i % 40}: Answer:"} for i in range(400)]
    prompts = stages.write_rows(tmp_path / "prompts.jsonl", rows)
    settings = {"prompts": prompts, "validation_share": 0.25}
    s = ppo.setup(stages.config_of(folder, "ppo", tmp_path / "run", reward=tenth, **settings))
    held_out, trained = ({prompt.text for prompt in part} for part in (s.held_out, s.prompts))
    assert (len(held_out), len(s.held_out), len(trained), len(s.prompts)) == (10, 10, 30, 300)
    assert not held_out & trained


def test_values_given_in_python_are_converted_as_on_the_command_line(folder, tmp_path):
    config = stages.config_of(folder, "ppo", tmp_path / "run", reward=tenth, lr="1e-5", stop="END", minibatch=64)
    s = ppo.setup(config)
    assert (s.config.lr, s.config.stop, s.config.minibatch) == (1e-5, ("END",), 8)
    assert isinstance(s.config, RolloutConfig)


def test_a_window_without_room_for_a_prompt_names_max_tokens(folder, tmp_path):
    config = stages.config_of(folder, "ppo", tmp_path / "run", reward=tenth, max_tokens=100_000)
    assert refusal(ppo.setup, config).startswith("max_tokens: it fills the window")


def test_another_form_of_prompts_than_that_of_the_parent_is_a_warning(folder, tmp_path):
    parent = stages.train(folder, "sft", tmp_path / "parent", template=True, chat_template="chatml") / "final"
    said = list[str]()

    class Heard(Progress):
        def say(self, text):
            said.append(text)

    for template in (False, True):
        config = stages.config_of(folder, "ppo", tmp_path / "run", reward=tenth, model=str(parent), template=template)
        ppo.setup(config, Heard())
    (warning,) = (text for text in said if "trained" in text)
    assert warning.endswith("was trained in a chat template; set template=true for the same form")


def test_pretraining_text_has_temperature_one(folder, optimise):
    losses = [
        read_lines(optimise(lr=0.0, ptx=1.0, ptx_tokens=16, pretraining="text.txt", temperature=t) / "metrics.jsonl")[0]
        for t in (1.0, 2.0)
    ]
    assert np.isclose(losses[0]["ptx_loss"], losses[1]["ptx_loss"], rtol=1e-5)
