"""The reward-tax front: which rewards, which checkpoints, and which area."""

import pytest
from audit_runs import add_metric, around, rte, shares, write_run
from commands import assert_refused

from alignbench.audit.compare import compare
from alignbench.audit.render import tables


def sst2(p, changes=None):
    return "sst2", {"acc": shares(p)}, changes or {}


def test_the_front_is_of_reward_and_tax_on_the_tasks_that_all_checkpoints_have(tmp_path):
    write_run(tmp_path, "base", rte(0.8), sst2(0.5), ("hellaswag", {"acc_norm": shares(0.5)}))
    for name, reward, kept in (("ppo", 0.9, 0.6), ("ptx", 0.8, 0.75), ("worse", 0.7, 0.6)):
        write_run(tmp_path, name, rte(kept), sst2(reward))
    audit = compare(["base", "ppo", "ptx", "worse"], runs=tmp_path, reward="sst2.acc")
    front = audit.front
    assert front.tasks == ("rte",)
    assert {point.name: (point.reward, point.tax, point.on_front) for point in front.points} == {
        "base": (pytest.approx(0.5), 0.0, True),
        "ptx": (pytest.approx(0.8), pytest.approx(5.0), True),
        "ppo": (pytest.approx(0.9), pytest.approx(20.0), True),
        "worse": (pytest.approx(0.7), pytest.approx(20.0), False),
    }
    assert front.reference_point == (0.0, 100.0)
    assert front.hypervolume == pytest.approx(0.5 * 100 + 0.3 * 95 + 0.1 * 80)
    assert any("sst2.acc" in note for note in audit.contrasts[0].notes)  # the reward is not part of the tax
    assert audit.contrasts[0].mean.tasks == ("rte",)
    near = compare(["base", "ppo", "ptx"], runs=tmp_path, reward="sst2.acc", reference_point=(0.6, 10.0)).front
    assert (near.hypervolume, near.why) == (pytest.approx(0.2 * 5), "as given")


def test_a_reward_with_different_settings_is_not_on_the_front_and_its_metric_may_contain_a_dot(tmp_path):
    write_run(tmp_path, "base", rte(0.8), sst2(0.5))
    write_run(tmp_path, "one", rte(0.7), sst2(0.6))
    write_run(tmp_path, "few-shot", rte(0.7), sst2(0.9, {"shots": 15}))
    write_run(tmp_path, "none", rte(0.7))
    audit = compare(["base", "one", "few-shot", "none"], runs=tmp_path, reward="sst2.acc")
    assert [point.name for point in audit.front.points] == ["base", "one"]
    assert "not on the front, sst2.acc with different settings: few-shot" in audit.notes
    assert "not on the front, no sst2.acc: none" in audit.notes
    line = r"^--reward sst2\.f1: none of the models has it; there are rte\.acc"
    assert_refused(line, compare, ["base", "one"], runs=tmp_path, reward="sst2.f1")
    assert compare(["base", "one"], runs=tmp_path).front is None  # there is no win rate here
    for name, reward in (("base", 0.2), ("one", 0.5)):
        (run,) = tmp_path.glob(f"{name}-*")
        add_metric(run, "sst2", metric="sentiment.sentiment", unit="number", better="–", value=reward)
    named = "sst2.sentiment.sentiment"
    audit = compare(["base", "one"], runs=tmp_path, reward=named, reference_point=(0.0, 100.0))
    assert {point.name: point.reward for point in audit.front.points} == {"base": 0.2, "one": 0.5}
    assert f"not in the mean tax because it is the reward: {named}" in audit.contrasts[0].notes


def test_the_baseline_of_a_win_rate_is_on_the_front_by_definition(tmp_path):
    answers = ("answers", {"answer_rate": shares(1.0)})
    base = write_run(tmp_path, "base", rte(0.8), answers)
    (folder,) = base.glob("answers-*")
    for name, wins, kept in (("ppo", 0.7, 0.6), ("worse", 0.4, 0.7)):
        win = {"win_rate": shares(wins), "length_difference": around(5)}
        against = {"baseline": {"name": "base", "folder": folder.name, "template": "none"}}
        write_run(tmp_path, name, rte(kept), answers, ("win_rate", win, against))
    audit = compare(["base", "ppo", "worse"], runs=tmp_path)
    found = {point.name: (point.reward, point.tax, point.on_front, point.by_definition) for point in audit.front.points}
    assert found == {
        "base": (0.5, 0.0, True, True),
        "ppo": (pytest.approx(0.7), pytest.approx(20.0), True, False),
        "worse": (pytest.approx(0.4), pytest.approx(10.0), False, False),
    }
    assert not any("not on the front" in note for note in audit.notes)
    assert ("base", "0.500", "by definition") in {row[:3] for row in tables(audit)[-1].rows}
    folder.rename(base / "answers-00000000")  # another model of that name did not write the answers that were judged
    audit = compare(["base", "ppo", "worse"], runs=tmp_path)
    assert {point.name for point in audit.front.points} == {"ppo", "worse"}
    assert "not on the front, no win_rate.win_rate: base" in audit.notes
