"""The gate of `compare --fail-if`: conditions, decisions on intervals, and the files that a CI shows."""

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from audit_runs import rte, shares, write_run
from commands import assert_one_line_error, assert_refused, run

from alignbench.audit.compare import compare
from alignbench.audit.gate import decide, parse_condition, to_junit, to_lines

ACTION = Path(__file__).parents[1] / "action.yml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """ALIGNED lost 20 points of rte, with an interval around it, and nothing of sst2."""
    out = tmp_path_factory.mktemp("runs")
    write_run(out, "base", rte(0.8), ("sst2", {"acc": shares(0.5)}, {}))
    write_run(out, "aligned", rte(0.6), ("sst2", {"acc": shares(0.5)}, {}))
    return out


def states(runs, condition, gate="lenient"):
    decisions = decide(compare(["base", "aligned"], runs=runs), [parse_condition(condition)], gate)
    return {own.name: own.state for own in decisions}


def test_a_lenient_gate_fails_if_the_loss_is_shown_and_a_strict_one_if_it_is_not_excluded(runs):
    (row,) = [row for row in compare(["base", "aligned"], runs=runs).contrasts[0].rows if row.task == "rte"]
    smallest, largest = -row.gain_high, -row.gain_low
    for subject in ("rte.acc", "rte"):
        for limit, lenient, strict in (
            (smallest - 1e-4, "failed", "failed"),
            ((smallest + largest) / 2, "passed", "failed"),
            (largest + 1e-4, "passed", "passed"),
        ):
            assert states(runs, f"{subject} loss > {limit:.6f}") == {"rte.acc": lenient}
            assert states(runs, f"{subject} loss > {100 * limit:.6f}%", "strict") == {"rte.acc": strict}


def test_a_demanded_gain_fails_unless_it_is_possible_or_shown(runs):
    assert states(runs, "rte.acc gain < 0.01") == {"rte.acc": "failed"}
    assert states(runs, "sst2.acc gain < 0") == {"sst2.acc": "passed"}
    assert states(runs, "sst2.acc gain < 0.01", "strict") == {"sst2.acc": "failed"}


def test_an_ability_is_decided_on_its_mean_tax_and_what_was_not_measured_fails(runs):
    (contrast,) = compare(["base", "aligned"], runs=runs).contrasts
    low = contrast.mean.low / 100
    assert states(runs, f"capability loss > {low - 1e-4:.6f}") == {"mean tax of capability": "failed"}
    assert states(runs, f"capability loss > {low + 1e-4:.6f}") == {"mean tax of capability": "passed"}
    group = "common sense and inference"
    assert states(runs, f"{group} loss > {low - 1e-4:.6f}") == {f"mean tax of {group}": "failed"}
    for subject in ("squad2.f1", "squad2", "toxicity", "translation"):
        assert states(runs, f"{subject} loss > 0.5") == {subject: "missing"}


@pytest.mark.parametrize(
    "text", ["loss > 0.02", "rte.acc", "rte.acc loss < 0.1", "rte.acc loss > -1", "", "rte loss > x"]
)
def test_a_condition_that_cannot_be_read_is_refused(text):
    assert_refused(r'--fail-if ".*": write SUBJECT loss > SIZE', parse_condition, text)


@pytest.mark.parametrize("subject", ["squad3.f1", "squad2.f3", "capabilities"])
def test_a_subject_that_no_task_has_is_refused(runs, subject):
    audit, condition = compare(["base", "aligned"], runs=runs), parse_condition(f"{subject} loss > 0.1")
    assert_refused(f"{subject} is no TASK.METRIC, task, ability or group", decide, audit, [condition], "strict")


def test_junit_has_a_case_for_each_decision_with_any_names(runs):
    conditions = list(map(parse_condition, ("rte.acc loss > 0.01", "sst2.acc loss > 0.5", "squad2.f1 loss > 0.1")))
    decisions = decide(compare(["base", "aligned"], runs=runs), conditions, "lenient")
    decisions = [type(own)(**vars(own) | {"aligned": "a<b>&\x00\x1b"}) for own in decisions]
    (suite,) = ElementTree.fromstring(to_junit(decisions))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    assert [failure.get("type") for failure in suite.iter("failure")] == ["failed", "missing"]
    assert [line.split(":")[0] for line in to_lines(decisions)] == ["gate failed", "gate missing", "gate passed"]


def test_the_command_exits_with_3_after_the_tables_and_with_2_for_a_mistake(runs, tmp_path):
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    files = "--junit", junit, "--markdown", summary
    done = run("compare", "base", "aligned", "--runs", runs, "--fail-if", "rte.acc loss > 0.02", *files)
    assert done.returncode == 3
    assert "rte" in done.stdout
    assert done.stderr.startswith('gate failed: "rte.acc loss > 0.02": aligned against base: rte.acc: loss: 95 % ')
    assert "Gate: 1 of 1 conditions failed" in summary.read_text()
    assert ElementTree.parse(junit).getroot().find(".//failure") is not None
    done = run("compare", "base", "aligned", "--runs", runs, "--fail-if", "sst2.acc loss > 50%", "--gate", "strict")
    assert (done.returncode, done.stderr.split(":")[0]) == (0, "gate passed")
    assert_one_line_error(run("compare", "base", "aligned", "--runs", runs, "--fail-if", "loss > 0.02"), "SUBJECT")
    assert_one_line_error(run("compare", "base", "aligned", "--runs", runs, "--junit", junit), "--fail-if")


def test_the_github_action_passes_each_line_as_one_argument(tmp_path):
    action = yaml.safe_load(ACTION.read_text())
    (script,) = [step["run"] for step in action["runs"]["steps"] if "compare" in step.get("run", "")]
    (tmp_path / "alignbench").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > arguments\necho table > "$SUMMARY"\nexit 3\n'
    )
    (tmp_path / "alignbench").chmod(0o755)
    inputs = {"MODELS": "base\nmy $(touch hacked) model\n", "FAIL_IF": "rte loss > 1%\nsst2 gain < 0\n", "RUNS": "runs"}
    inputs |= {"GATE": "strict", "JUNIT": "gate.xml", "SUMMARY": "s.md", "GITHUB_STEP_SUMMARY": "step.md"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=path | inputs, check=False)
    assert done.returncode == 3
    found = (tmp_path / "arguments").read_text().splitlines()
    assert found[:3] == ["compare", "base", "my $(touch hacked) model"]
    assert [found[i + 1] for i, own in enumerate(found) if own == "--fail-if"] == ["rte loss > 1%", "sst2 gain < 0"]
    assert (tmp_path / "step.md").read_text() == "table\n"
    assert not (tmp_path / "hacked").exists()
