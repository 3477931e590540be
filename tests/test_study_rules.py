"""A labeling study: the pass mark, undo, who waits, what the admin view says of stopped labelers, and the file."""

import contextlib
import json
import os
import re
import shutil
import signal
import time

import httpx
import pytest
from audit_runs import write_run
from commands import assert_refused, run
from processes import start

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
from study_helpers import GOLD, SYSTEMS, items, opened, submission

from alignbench.labels.study.answers import REASONS, Submission, parse
from alignbench.labels.study.results import Rule, overview, stopped
from alignbench.labels.study.store import ConflictError, Settings, open_study
from alignbench.labels.table import read_labels


def submit(study, labeler, **changes):
    content = submission(study.state(labeler, stopped(study)), **changes)
    study.submit(labeler, parse(Submission, json.dumps(content).encode()))
    return content


class TestPassMark:
    @pytest.fixture
    def study(self, tmp_path):
        made, _ = opened(tmp_path / "s.db", gold=True, pass_mark=0.7)
        yield made
        made.close()

    @pytest.mark.parametrize("changes", [{"answer": None, "reason": REASONS[0]}, {"tied": True}])
    def test_skips_and_ties_do_not_pass(self, study, changes):
        if changes.pop("tied", False):
            changes["answer"] = [{"rank": 1, "likert": 4, "flags": []}] * 2
        first = submit(study, "ada", **changes)
        submit(study, "bob")
        assert stopped(study) == {"ada"}
        state = study.state("ada", {"ada"})
        assert (state["item"], state["last"], state["waiting"], state["complete"]) == (None, None, False, False)
        for _ in range(2):
            with pytest.raises(ConflictError, match="its answers are final"):
                study.undo("ada", first["submission"])
        assert study.state("bob", {"ada"})["item"]
        labelers = overview(study, Rule("hen", 0.1))["labelers"]
        assert {own["labeler"]: own["qualified"] for own in labelers} == {"ada": False, "bob": True}

    def test_a_tie_of_the_reference_is_not_counted(self, tmp_path):
        marks = [dict(GOLD.gold[0]), dict(GOLD.gold[1]), dict(GOLD.gold[1])]
        gold = type(GOLD)("gold", "Say.", tuple((f"m{n}", f"quality {n}") for n in (3, 2, 1)), tuple(marks))
        study, _ = open_study(tmp_path / "t.db", [gold, *items(2)], Settings(1, 0, "ref", 1.0), {"ada": None})
        submit(study, "ada")
        assert stopped(study) == set()

    def test_a_qualification_that_is_not_finished_can_be_undone_and_says_nothing(self, tmp_path):
        gold = [type(GOLD)(name, f"Say {name}.", GOLD.outputs, GOLD.gold) for name in "xy"]
        study, _ = open_study(tmp_path / "t.db", [*gold, *items(2)], Settings(1, 0, "ref", 0.7), {"ada": None})
        content = submit(study, "ada", answer=[{"rank": 1, "likert": 4, "flags": []}] * 2)
        assert stopped(study) == set()
        assert study.state("ada")["last"] == content["submission"]
        study.undo("ada", content["submission"])
        submit(study, "ada")
        submit(study, "ada")
        assert stopped(study) == set()
        last = submit(study, "ada")["submission"]
        study.undo("ada", last)  # an item of the study
        assert study.state("ada")["last"] is None

    def test_a_labeler_who_is_stopped_has_no_share_of_the_study(self, tmp_path):
        study, _ = opened(tmp_path / "t.db", 12, ["ada", "bob"], 1, gold=True, pass_mark=0.7)
        submit(study, "bob")
        targets = [study.state("bob", own)["target"] for own in ((), ("ada",))]
        assert targets == [1 + 6, 1 + 12]


def test_a_labeler_waits_while_others_hold_the_last_items(tmp_path):
    study, _ = opened(tmp_path / "s.db", 1, ["ada", "bob"], 1)
    study.state("ada")
    state = study.state("bob")
    assert (state["item"], state["waiting"], state["complete"]) == (None, True, False)
    submit(study, "ada")
    state = study.state("bob")
    assert (state["item"], state["waiting"], state["complete"]) == (None, False, True)


def test_the_order_cannot_be_computed_from_the_seed(tmp_path):
    orders, ids = set(), set()
    for n in range(8):
        study, _ = opened(tmp_path / f"{n}.db", 1, ["ada"], 1)
        state = study.state("ada")
        orders.add(tuple(state["item"]["outputs"]))
        ids.add(state["study"])
        study.close()
        again, _ = opened(tmp_path / f"{n}.db", 1, ["ada"], 1)
        assert (again.state("ada")["item"], again.id) == (state["item"], study.id)
        again.close()
    assert len(orders) > 1
    assert len(ids) == 8


def test_the_file_alone_has_what_was_acknowledged(tmp_path):
    study, _ = opened(tmp_path / "s.db")
    for undone in (False, True):
        content = submit(study, "ada")
        if undone:
            study.undo("ada", content["submission"])
        shutil.copy(tmp_path / "s.db", tmp_path / "copy.db")  # without the log
        assert len(read_labels(str(tmp_path / "copy.db"))) == len(SYSTEMS)


def test_what_is_wrong_is_named(tmp_path):
    assert_refused(f"there is no folder {tmp_path / 'none'}", opened, tmp_path / "none" / "s.db")
    opened(tmp_path / "s.db")[0].close()
    groups = {"ada": None, "bob": "training"}
    assert_refused(
        "ada was in group training, and is now in no group",
        open_study,
        tmp_path / "s.db",
        items(4),
        Settings(2, 0),
        groups,
    )


class TestCommand:
    @pytest.fixture
    def command(self, tmp_path):
        columns = [{"prompt": f"say {n}", "outputs": [{"text": f"{n}"}]} for n in range(2)]
        values = {"answer_rate": [1.0] * 2, "words": [2.0] * 2}
        runs = [write_run(tmp_path / "runs", own, ("answers", values, {"columns": columns})) for own in ("a", "b")]
        (tmp_path / "labelers.csv").write_text("labeler\nada\nbob\n")
        named = ["--labelers", tmp_path / "labelers.csv", "--out", tmp_path / "s.db", "--port", 0]
        return ["labels", "serve", *runs, *named]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_file_is_closed_when_the_server_is_stopped(self, command, tmp_path, number):
        (said := tmp_path / "said").touch()
        process = start(*command, "--host", "0.0.0.0", out=said, err=said)
        try:
            while not (found := re.search(r"page: (.*):(\d+)\n", said.read_text())):
                assert process.is_alive()
                time.sleep(0.01)
            where, port = found.groups()
            assert "0.0.0.0" not in where
            for _ in range(100):  # until it answers
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"http://127.0.0.1:{port}/")
                    break
                time.sleep(0.1)
            os.kill(process.pid, number)
            process.join(30)
            assert "Traceback" not in said.read_text()
            assert process.exitcode
        finally:
            process.kill()
        assert not (tmp_path / "s.db-wal").exists()

    @pytest.mark.parametrize("url", ["labels.example", "ftp://labels.example", "https://", "https://a b"])
    def test_an_address_without_http_is_refused(self, command, url):
        done = run(*command, "--url", url)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "begins with http:// or https://" in done.stderr
