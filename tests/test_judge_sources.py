"""`alignbench judges validate`: where labels and verdicts are from: studies, runs, judges that sample or do not."""

import json

from cases import write_lines
from commands import assert_one_line_error
from study_helpers import opened, submission
from test_judge_validation import PROMPT, ROWS, findings, labels, run  # noqa: F401

from alignbench.evaluation import judges
from alignbench.evaluation.judges import validate_judges
from alignbench.evaluation.score_file import judge_files
from alignbench.labels.study.answers import Submission, parse
from alignbench.types.scorer import Explained


def test_labels_of_a_study(tmp_path):
    study, links = opened(tmp_path / "study.db", prompts=2)
    for name in links:
        while study.state(name)["item"]:
            study.submit(name, parse(Submission, json.dumps(submission(study.state(name))).encode()))
    study.close()
    found, _ = findings("--labels", tmp_path / "study.db", "--judge", "longer", cwd=tmp_path)
    assert found["longer", "agreement_among_people", "people"] == 1


def judged_run(tmp_path, prompts=("one", "one", "two")):
    own, other = (
        write_lines(tmp_path / f"{name}.jsonl", [{"id": str(n), "output": text} for n in range(len(prompts))])
        for name, text in (("own", "moo moo"), ("other", "baa"))
    )
    asked = write_lines(tmp_path / "prompts.jsonl", [{"id": str(n), "prompt": p} for n, p in enumerate(prompts)])
    judged = judge_files(own, other, tmp_path / "runs", scorers=["preference=longer"], prompts=asked)
    return f"run:{judged.folder}/{judged.folders[0]}"


def test_labels_that_are_not_in_a_run_are_counted_and_each_is_of_one_record(tmp_path):
    spec = judged_run(tmp_path)
    pair = {"output_1": "baa", "output_2": "moo moo", "preference": 1}
    rows = [pair | {"prompt": name} for name in ("one", "three", "four")]
    file = write_lines(tmp_path / "labels.jsonl", rows)
    (found, notes) = validate_judges([str(file)], [spec], resamples=100)
    estimates = {own.statistic: own.estimate for own in found if own.who in ("labeler unnamed", "people")}
    assert (estimates["agreement"].n, estimates["agreement"].value) == (1, 1)
    assert any("2 labelled pairs are not in the run; they are left out" in note for note in notes)
    file = write_lines(tmp_path / "none.jsonl", [pair | {"prompt": "three"}])
    done = run("judges", "validate", "--labels", file, "--judge", spec, cwd=tmp_path)
    assert_one_line_error(
        done, "none of the 1 labelled pairs is in the run; the prompt and both answers must be the same"
    )
    file = write_lines(tmp_path / "ids.jsonl", [pair | {"prompt_id": "0"}])
    done = run("judges", "validate", "--labels", file, "--judge", spec, cwd=tmp_path)
    assert_one_line_error(done, "the labels have no text of a prompt")


class Sampler:
    """A judge whose samples fail on every second pair."""

    kind, name, revision = "preference", "sampler", "1"

    def again(self, seed, temperature):
        other = Sampler()
        other.revision = f"1+seed {seed}"
        return other

    def score(self, items):
        repeated = self.revision != "1"
        return ["failed" if repeated and at % 2 else Explained({"win": 1.0}, {}) for at, _ in enumerate(items)]


def test_repetitions_that_failed_are_counted_and_a_panel_in_which_nobody_samples_has_no_repeatability(
    tmp_path, monkeypatch
):
    file = str(write_lines(tmp_path / "labels.jsonl", ROWS))
    found, notes = validate_judges([file], ["panel:longer,labels:" + file], tmp_path / "runs", seeds=2, resamples=100)
    assert "repeatability" not in {own.statistic for own in found}
    assert any("it does not sample" in note for note in notes)
    monkeypatch.setattr(judges, "find_scorer", lambda *_, **__: Sampler())
    found, notes = validate_judges([file], ["sampler"], tmp_path / "runs", seeds=2, resamples=100)
    assert {own.statistic: own.estimate.n for own in found}["repeatability"] == 4
    assert "sampler@1: no verdict in 8 of 16 repetitions" in notes
