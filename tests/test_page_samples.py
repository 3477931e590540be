"""Samples of a task, and the provenance of its values, as the page contains them."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise

import pytest
import typer
from audit_runs import write_run
from report_runs import MARKUP, N, contest, evidence_of, rte, squad, write_nasty_texts, wrote

from alignbench.cli.app import app
from reports.evidence import Evidence
from reports.page import samples
from reports.page.command import command
from reports.page.page import write_page
from reports.page.sets import sets_of


@pytest.fixture(scope="module")
def nasty_texts(tmp_path_factory) -> Evidence:
    return evidence_of(*write_nasty_texts(tmp_path_factory.mktemp("runs")))


def block_of(out, *tasks):
    """The block of a task, with a system for each of `tasks`."""
    found = evidence_of(*(write_run(out, f"m{n}", task) for n, task in enumerate(tasks)))
    return samples.block_of(sets_of(found, tasks[0][0])[0])


class TestSamples:
    def test_documents_are_the_same_if_id_and_prompt_are(self, tmp_path):
        def run(*prompts: str):
            name, _, more = rte(1.0, len(prompts))
            columns = [{**own, "prompt": prompt} for own, prompt in zip(more["columns"], prompts, strict=True)]
            return name, {"acc": [1.0] * len(prompts)}, {"columns": columns}

        found = block_of(tmp_path, run("a", "b"), run("a", "other", "c"))
        assert [document["prompt"] for document in found["documents"]] == ["a", "b", "other", "c"]
        there = [[answer is not None for answer in own] for own in found["answers"]]
        assert there == [[True, True, False, False], [True, False, True, True]]

    def test_a_sample_has_texts_values_and_the_correct_choice(self, nasty_texts):
        found = samples.block_of(sets_of(nasty_texts, "squad2")[0])
        assert [metric["name"] for metric in found["metrics"]] == ["f1", "words"]
        output, *others = found["answers"][found["systems"].index("ppo")][0]["outputs"]
        assert [own["text"] for own in (output, *others)] == [MARKUP, "second 0", "third 0"]
        assert set(output) == {"text"}  # numbers per token stay in the run folder
        found = samples.block_of(sets_of(nasty_texts, "rte")[0])
        assert found["documents"][0]["right"] == [0]
        assert sorted(found["answers"][0][0]["logprobs"]) == [-2.5, -1.5]

    def test_a_missing_value_is_none_and_never_zero(self, tmp_path):
        columns = [{"prompt": "p", **wrote(text, scores={"toxicity": {"toxicity": 0.123}})} for text in "xy"]
        folder = write_run(tmp_path, "m", ("squad2", {"f1": [None, 0.0]}, {"columns": columns}))
        (file,) = folder.glob("*/documents.jsonl")
        file.write_text(file.read_text().replace("0.123", "NaN"))  # as other programs write it
        found = samples.block_of(sets_of(evidence_of(folder), "squad2")[0])
        assert [answer["values"] for answer in found["answers"][0]] == [[None], [0]]
        assert found["answers"][0][0]["unscored"] == "synthetic"
        assert "scores" not in found["answers"][0][1]["outputs"][0]

    def test_of_too_many_documents_the_worst_regressions_are_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_DOCUMENTS", 40)
        before, after = [1.0] * N, [0.0 if row >= 110 else 1.0 for row in range(N)]
        found = block_of(tmp_path, ("rte", {"acc": before}), ("rte", {"acc": after}))
        kept = [int(document["id"].split()[1]) for document in found["documents"]]
        assert (found["total"], len(kept)) == (N, 40)
        assert set(range(110, 120)) <= set(kept)
        assert max(later - earlier for earlier, later in pairwise(kept)) <= 6

    @pytest.mark.parametrize(("most", "documents"), [(60_000, 57), (10, 1)])
    def test_long_samples_count_by_their_characters(self, most, documents, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_CHARACTERS", most)
        found = block_of(tmp_path, squad(0.5, ["x" * 1000]))
        assert (len(found["documents"]), found["total"]) == (documents, N)

    def test_a_text_beyond_the_limit_is_cut_and_has_its_length(self, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_TEXT", 200)
        monkeypatch.setattr(samples, "MOST_CHARACTERS", 1000)
        texts = {"prompt": "p" * 4500, **wrote("o" * 4501), "source": "s" * 4502, "references": ["r", "r" * 4503]}
        found = block_of(tmp_path, ("squad2", {"f1": [0.5]}, {"columns": [texts]}))
        (document,) = found["documents"]
        assert document["cut"] == {"prompt": 4500, "reference 2": 4503, "source text": 4502}
        lengths = [len(document["prompt"]), len(document["source"]), *map(len, document["references"])]
        assert lengths == [200, 200, 1, 200]
        (output,) = found["answers"][0][0]["outputs"]
        assert (len(output["text"]), output["length"]) == (200, 4501)


class TestProvenance:
    @staticmethod
    def parsed(system, task, files=None):
        """What the command line understands, without running it."""
        program, name, *words = shlex.split(command(system.run, task, files or {}))
        assert program == "alignbench"
        return typer.main.get_command(app).commands[name].make_context(name, words).params  # type: ignore[attr-defined]

    def test_a_command_has_the_settings_of_its_folder_and_is_quoted(self, nasty_texts, tmp_path):
        for system in nasty_texts.systems:
            for own in system.tasks:
                words = self.parsed(system, own)
                assert (words["tasks"], words["seed"]) == (own.task, 0)
        data = {"card": "", "split": "", "source": "my prompts.jsonl", "revision": "r", "rows": N, "pinned": False}
        changes = {
            "limit": 50, "shots": 3, "template": "none", "baseline": {"name": "$(reboot)"}, "data": [data],
            "scorers": [{"kind": "toxicity", "name": "detoxify; rm -rf", "revision": "r" * 40}],
        }  # fmt: skip
        folder = write_run(tmp_path, "it's `me`", ("answers", {"answer_rate": [1.0] * N}, changes))
        (system,) = evidence_of(folder).systems
        found = self.parsed(system, system.tasks[0])
        assert (found["checkpoints"], found["scorer"]) == (["it's `me`"], ["toxicity=detoxify; rm -rf"])
        assert (found["baseline"], found["limit"], found["template"]) == ("$(reboot)", 50, "none")
        assert str(found["prompts"]) == "my prompts.jsonl"

    def test_outputs_of_a_file_have_the_command_that_scores_the_file(self, tmp_path):
        folder = write_run(tmp_path, "one", contest(0.5, "the other"))
        described = json.loads((folder / "run.json").read_text())
        described |= {"model": {"name": "one", "outputs": "one.jsonl"}, "read": {"columns": {"response": "output"}}}
        (folder / "run.json").write_text(json.dumps(described))
        (system,) = evidence_of(folder).systems
        found = self.parsed(system, system.tasks[0], {"the other": "the other.jsonl"})
        assert (str(found["file"]), found["name"], found["task"]) == ("one.jsonl", "one", "win_rate")
        assert (str(found["baseline"]), found["columns"]) == ("the other.jsonl", ["response=output"])

    def test_weights_lineage_data_and_software_are_shown(self, nasty_texts, tmp_path):
        page = write_page(nasty_texts, [], {}, tmp_path, "t").read_text(encoding="utf-8")
        text = re.sub(r"<[^>]+>", "", page.partition('<section id="provenance"')[2])
        for system in nasty_texts.systems:
            assert f"weights sha256{system.run.weights[:12]}" in text
        assert "base: base → sft: sft → ppo: ppo" in text
        assert "revision rrrrrrrrrrrr" in text
