"""Figures of the distance from a base model: its profile, and gains and costs against it for any checkpoints."""

import numpy as np
import pytest
from audit_runs import N, around
from figure_checks import assert_nothing_overlaps
from report_runs import contest, evidence_of, model, on_policy, tax_tasks

import reports.evidence
from reports.evidence import gather
from reports.figures import diversity, kl
from reports.style import styled

POSITIONS, KINDS = 8, ("code", "chat", "mathematics")


def distance(nats, baseline="base", template="none"):
    """Two samples a document, with `nats` (first position) and a tenth of it (others), more on the prompts of code."""
    columns, values = [], {"kl": [], "kl_per_token": []}
    for row in range(N):
        scale = (2 if row % 3 == 0 else 1) * (1 + 0.1 * np.sin(row))
        own = [nats * scale, *[nats * scale / 10] * (POSITIONS - 1)]
        outputs = [{"text": "text", "divergences": own, "log_ratios": own}] * 2
        columns.append({"category": KINDS[row % 3], "outputs": outputs})
        values["kl"].append(sum(own))
        values["kl_per_token"].append(sum(own) / POSITIONS)
    return "kl", values, {"columns": columns, "baseline": {"name": baseline}, "template": template}


def drawn(figure, evidence):
    with styled():
        return {drawing.name: drawing for drawing in figure(evidence)}


class TestProfile:
    @pytest.fixture
    def drawings(self, tmp_path):
        near, far = (model(tmp_path, name, distance(nats)) for name, nats in (("near", 0.5), ("far", 2.0)))
        itself, other = model(tmp_path, "base", distance(0.0)), model(tmp_path, "else", distance(3.0, "another"))
        return drawn(kl.profile, evidence_of(itself, near, far, other))

    def test_a_line_over_positions_for_each_model_that_was_compared_with_the_same_base(self, drawings):
        table = drawings["kl_by_position"].table
        assert list(dict.fromkeys(table.system)) == ["near", "far"]  # neither the base itself, nor one of another base
        far = table[table.system == "far"]
        mean = np.mean([(2 if row % 3 == 0 else 1) * (1 + 0.1 * np.sin(row)) for row in range(N)])
        assert far.kl.tolist() == pytest.approx([2 * mean, *[0.2 * mean] * (POSITIONS - 1)])
        assert (far.low < far.kl).all()
        assert set(far.texts) == {2 * N}
        assert set(far.clusters) == {N}  # the samples of a prompt are not independent
        assert "KL from base, nats" in {axes.get_ylabel() for axes in drawings["kl_by_position"].figure.axes}
        assert_nothing_overlaps(drawings["kl_by_position"].figure)

    def test_a_bar_per_category_within_the_panel(self, drawings):
        drawing = drawings["kl_by_category"]
        values = drawing.table.set_index(["system", "category"]).value
        assert values["far", "code"] == pytest.approx(2 * values["far", "chat"], rel=0.05)
        assert values["far", "code"] == pytest.approx(4 * values["near", "code"])
        first, second = drawing.figure.axes
        assert [axes.get_title(loc="left") or axes.get_title() for axes in (first, second)] == ["near", "far"]
        assert min(axes.get_xlim()[1] for axes in (first, second)) > drawing.table.high.max()
        assert first.get_yticklabels()[0].get_text() == "code"
        assert "far, code 0.8" in drawing.alt
        assert_nothing_overlaps(drawing.figure)

    def test_nothing_without_distances(self, tmp_path):
        assert drawn(kl.profile, evidence_of(model(tmp_path, "m", contest(0.5)))) == {}


def test_the_branching_factor_is_the_right_axis_of_the_entropy(tmp_path):
    drawing = drawn(diversity.entropy_curve, evidence_of(model(tmp_path, "m", on_policy(1))))["token_entropy_curve"]
    assert drawing.table.branching_factor.tolist() == pytest.approx((2**drawing.table.entropy_bits).tolist())
    (axes,) = drawing.figure.axes
    (beside,) = axes.child_axes
    assert beside.get_ylabel() == "branching factor"
    assert_nothing_overlaps(drawing.figure)  # draws it
    assert np.log2(beside.get_ylim()) == pytest.approx(axes.get_ylim(), abs=1e-6)
    assert [int(label.get_text()) for label in beside.get_yticklabels()][:3] == [1, 2, 4]


class TestAnyCheckpoint:
    def test_reward_sentiment_and_tax_of_checkpoints_without_a_recipe(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reports.evidence, "MOST_REFERENCES", 0)
        reward = {"kind": "reward", "name": "model:r", "revision": "1"}
        for name, nats, skill in (("base", None, 0.0), ("one", 1.0, -0.05), ("two", 3.0, -0.1)):
            own = [distance(nats)] if nats else []
            answers = ("answers", {"reward.reward": around(1 + (nats or 0)), "words": [5.0] * N}, {"scorers": [reward]})
            model(tmp_path, name, *own, answers, *tax_tasks(skill), stage=None)
        drawings = drawn(kl.against_kl, gather([tmp_path]))
        assert set(drawings) == {"kl_reward", "kl_tax"}
        table = drawings["kl_reward"].table.set_index("system")
        assert table.kl.to_dict() == pytest.approx({"base": 0, "one": 2.27, "two": 6.8}, abs=0.05)
        assert table.value.to_dict() == pytest.approx({"base": 1, "one": 2, "two": 4})
        tax = drawings["kl_tax"].table.set_index("system").value
        assert tax["base"] == 0 < tax["one"] < tax["two"]

    def test_the_distance_with_the_chat_template_is_that_of_tasks_of_given_choices_only(self, tmp_path):
        plain = [("recitations", {"answer_rate": [1.0] * N}, {"template": "none"}), contest(0.5)]
        base = model(tmp_path, "base", *plain, *tax_tasks(0.0), stage=None)
        tuned = model(tmp_path, "tuned", distance(1.0, template="chat"), *plain, *tax_tasks(-0.1), stage=None)
        evidence = gather([base, tuned])
        assert {system.name for system in evidence.systems} == {"base", "tuned", "tuned (chat)"}
        drawings = drawn(kl.against_kl, evidence)
        assert set(drawings) == {"kl_tax"}  # the win rate is that of plain prompts
        assert drawings["kl_tax"].table.set_index("system").kl.to_dict() == pytest.approx(
            {"tuned": 2.27, "base": 0}, abs=0.05
        )

    def test_checkpoints_saved_during_a_training_are_joined_in_the_order_of_their_steps(self, tmp_path):
        def checkpoint(step, nats, skill):
            training = {"run": "ppo", "run_id": "1", "step": step, "start": "s", "rewards": [], "episodes": step}
            tasks = [distance(nats), contest(0.5 + skill, "base"), *tax_tasks(-skill / 10)]
            return model(tmp_path, f"ppo-step-{step}", *tasks, stage=None, training=training)

        base = model(tmp_path, "base", contest(0.5, "base"), *tax_tasks(0.0), stage=None)
        steps = [checkpoint(step, nats, skill) for step, nats, skill in ((1, 2.0, 0.1), (2, 1.0, 0.2), (3, 4.0, 0.3))]
        evidence = gather([base, *steps])
        assert [own.name for own in evidence.intermediate] == ["ppo-step-1", "ppo-step-2"]
        drawings = drawn(kl.against_kl, evidence)
        for name in ("kl_win_rate", "kl_tax"):
            assert set(drawings[name].table.system) == {"base", "ppo-step-1", "ppo-step-2", "ppo-step-3"}
            assert "Lines join the checkpoints of one training." in drawings[name].caption
        places = drawings["kl_win_rate"].table.set_index("system").kl
        (axes,) = drawings["kl_win_rate"].figure.axes
        (line,) = [own for own in axes.lines if len(own.get_xdata()) == 3]
        assert list(line.get_xdata()) == [places[f"ppo-step-{step}"] for step in (1, 2, 3)]
