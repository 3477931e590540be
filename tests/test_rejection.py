"""Rejection sampling: the best response of each prompt becomes a demonstration, and both halves resume."""

import json

import pytest
import stages
from cases import read_lines
from commands import assert_one_line_error, refusal, run
from tiny import tiny_tokenizer

from trainers import rejection, sft
from trainers.rejection import best_of

folder = pytest.fixture(scope="module")(stages.prepare)
fit = stages.runner("rejection")


def test_the_first_response_with_the_highest_reward_that_is_not_empty_is_learned():
    rows = [(1, "b", 0.5), (0, "", 9.0), (0, "x", 1.0), (0, "y", 2.0), (0, "z", 2.0), (1, " ", 7.0), (2, "", 1.0)]
    rows = [(*row, True) for row in rows]
    rows += [(0, "no end", 8.0, False), (2, "no end", 8.0, False)]  # not learned, since others ended
    rows += [(3, "c", 1.0, False), (3, "d", 2.0, False)]  # none ended
    found = best_of([{"row": i, "prompt": f"p{i}", "response": r, "reward": s, "ended": e} for i, r, s, e in rows])
    assert found == [{"prompt": f"p{i}", "response": r} for i, r in ((0, "y"), (1, "b"), (3, "d"))]
    asked = [[{"role": "user", "content": "q"}]]
    (row,) = best_of([{"row": 0, "prompt": "<q>", "response": "r", "reward": 1.0, "ended": True}], asked)
    assert row == {"messages": [*asked[0], {"role": "assistant", "content": "r"}]}
    empty = {"row": 0, "prompt": "p", "response": "", "reward": 1.0, "ended": True}
    assert "every response is empty" in refusal(best_of, [empty])


def test_the_result_is_that_of_sft_on_the_best_responses_and_its_recipe_names_the_reward(folder, fit, tmp_path):
    out = fit(reward="judge", epochs=2)
    rows, samples = read_lines(out / "demonstrations.jsonl"), read_lines(out / "sampling" / "samples.jsonl")
    assert len(samples) == 3 * len(stages.QUESTIONS)
    assert len({(s["row"], s["response"]) for s in samples}) > 2 * len(stages.QUESTIONS)
    for number, row in enumerate(rows):
        own = [s for s in samples if s["row"] == number]
        own = [s for s in own if s["ended"]] or own
        assert row == {"prompt": own[0]["prompt"], "response": max(own, key=lambda s: s["reward"])["response"]}
    settings = stages.config_of(folder, "sft", tmp_path / "sft", data=str(out / "demonstrations.jsonl"), epochs=2)
    sft.train(settings)
    assert stages.same_weights(out / "final", tmp_path / "sft" / "final")
    recipe = stages.recipe_of(out)
    assert (recipe["stage"], recipe["config"]["n"]) == ("rejection", 3)
    assert recipe["models"]["reward"]["name"] == "judge"
    assert [own["stage"] for own in recipe["lineage"]] == ["base"]


def test_sampling_that_was_interrupted_continues_with_the_next_prompts(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rejection, "PROMPTS", 4)
    whole = stages.train(folder, "rejection", tmp_path / "whole", reward="judge")
    calls, score_all = [], rejection.score_all

    def dying(*arguments):
        calls.append(len(arguments[-1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_all(*arguments)

    monkeypatch.setattr(rejection, "score_all", dying)
    with pytest.raises(KeyboardInterrupt):
        stages.train(folder, "rejection", tmp_path / "part", reward="judge")
    again = stages.train(folder, "rejection", tmp_path / "part", reward="judge")
    assert calls == [12, 12, 12, 6]  # ten prompts, three responses each; the second batch twice
    for name in ("demonstrations.jsonl", "sampling/samples.jsonl", "metrics.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert stages.same_weights(again / "final", whole / "final")


def test_a_policy_with_a_template_learns_messages(folder, fit, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    model = stages.checkpoint(tmp_path / "chat", tokenizer=tokenizer)
    out = fit(model=model, template=True)
    first = json.loads((out / "demonstrations.jsonl").read_text().splitlines()[0])
    assert [m["role"] for m in first["messages"]] == ["user", "assistant"]
    assert first["messages"][0]["content"] == stages.QUESTIONS[0]


def test_bad_input_is_one_line(folder, tmp_path):
    command = [
        "train",
        "rejection",
        f"model={folder / 'model'}",
        f"out={tmp_path / 'out'}",
        f"prompts={folder / 'sft.jsonl'}",
    ]
    assert_one_line_error(run(*command), "reward must be given")
    assert_one_line_error(run(*command, f"reward={folder / 'judge'}", "n=1"), "n: 1 is not finite and at least 2")
    assert_one_line_error(run(*command, f"reward={folder / 'judge'}", "max_tokens=5000"), "window")
