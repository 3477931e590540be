"""A labeling study: assignment, the file, the qualification and its pass mark, the admin view, and the command."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from itertools import combinations

import httpx
import pytest
from audit_runs import write_run
from commands import assert_refused, run
from processes import start

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from study_helpers import GOLD, SYSTEMS, a_study, answer, items, opened, submission, submit

from alignbench.labels.study import store
from alignbench.labels.study.answers import REASONS, Submission, parse
from alignbench.labels.study.assign import choose, shown_order
from alignbench.labels.study.results import Rule, overview, stopped
from alignbench.labels.study.server import make_app
from alignbench.labels.study.store import ConflictError, Settings, open_study
from alignbench.labels.table import FLAGS, read_labels, read_qualification

study = pytest.fixture(a_study)


def finish(study, labeler):
    while study.state(labeler)["item"]:
        submit(study, labeler)


class TestAssignment:
    @given(st.text(max_size=5), st.text(max_size=5), st.integers(1, 9), st.integers(2, 9))
    def test_the_order_of_outputs_is_a_permutation_that_only_depends_on_key_labeler_and_item(self, key, name, item, k):
        order = shown_order(key, name, item, k)
        assert sorted(order) == [*range(k)]
        assert order == shown_order(key, name, item, k)

    def test_all_orders_are_about_as_frequent(self):
        seen = Counter(tuple(shown_order("key", "ada", item, 3)) for item in range(6000))
        assert len(seen) == 6
        assert max(seen.values()) - min(seen.values()) < 200  # 1,000 each, with a standard deviation of 29

    def test_an_item_is_chosen_among_the_first_ones(self):
        chosen = {choose([*range(100)], str(name), 2, 0) for name in range(50)}
        assert chosen == set(range(6))
        assert choose([], "ada", 2, 0) is None

    def test_each_prompt_has_the_chosen_overlap_and_labelers_share_items_with_everyone(self, tmp_path):
        names = ["ada", "bob", "cy", "dan", "eve", "fay"]
        study, _ = opened(tmp_path / "s.db", 30, names, 3)
        while turn := [name for name in names if study.state(name)["item"]]:
            for name in turn:
                submit(study, name)
        labels = read_labels(str(tmp_path / "s.db"))
        who = {label.prompt_id: set() for label in labels}
        for label in labels:
            who[label.prompt_id].add(label.labeler)
        assert [len(own) for own in who.values()] == [3] * 30
        pairs = Counter(pair for own in who.values() for pair in combinations(sorted(own), 2))
        assert len(pairs) == 15
        done = Counter(label.labeler for label in labels)
        assert max(done.values()) - min(done.values()) <= 3 * len(SYSTEMS)

    def test_an_item_that_was_left_is_given_to_another_labeler(self, tmp_path, monkeypatch):
        study, _ = opened(tmp_path / "s.db", 1, ["ada", "bob"], 1)
        assert study.state("ada")["item"]
        assert study.state("bob")["item"] is None
        monkeypatch.setattr(store, "EXPIRES", 0.0)
        assert study.state("bob")["item"]


class TestFile:
    def test_answers_are_stored_for_the_outputs_that_were_shown(self, study, tmp_path):
        submit(study, "ada", note="a note")
        labels = read_labels(str(tmp_path / "s.db"))
        item = next(own for own in items(4) if own.prompt_id == labels[0].prompt_id)
        assert {label.model: label.output for label in labels} == dict(item.outputs)
        for label, own in zip(sorted(labels, key=lambda label: SYSTEMS.index(label.model)), item.outputs, strict=True):
            expected = answer([text for _, text in item.outputs])[SYSTEMS.index(own[0])]
            assert (label.rank, label.likert) == (expected["rank"], expected["likert"])
        assert (labels[0].labeler, labels[0].group, labels[0].prompt) == ("ada", "training", item.prompt)
        assert labels[0].flags == dict.fromkeys(FLAGS, False)

    def test_a_submission_that_is_sent_again_is_stored_once(self, study):
        content = parse(Submission, json.dumps(submission(study.state("ada"))).encode())
        for _ in range(3):
            study.submit("ada", content)
        assert study.state("ada")["done"] == 1
        with pytest.raises(ConflictError, match="another submission"):
            study.submit("bob", content)

    def test_a_second_tab_cannot_overwrite_an_answer(self, study):
        one, other = (submission(study.state("ada")) for _ in range(2))
        assert one["item"] == other["item"]
        study.submit("ada", parse(Submission, json.dumps(one).encode()))
        with pytest.raises(ConflictError, match="another tab"):
            study.submit("ada", parse(Submission, json.dumps(other).encode()))

    def test_undo_gives_the_item_back_with_its_answer_and_keeps_what_was_withdrawn(self, study, tmp_path):
        first, second = submit(study, "ada"), submit(study, "ada", note="mistake")
        for _ in range(2):
            study.undo("ada", second["submission"])
        state = study.state("ada")
        assert (state["item"]["id"], state["done"], state["last"]) == (second["item"], 1, first["submission"])
        assert state["item"]["draft"]["note"] == "mistake"
        shown = [own["rank"] for own in state["item"]["draft"]["answer"]]
        assert shown == [own["rank"] for own in second["answer"]]
        submit(study, "ada")
        assert study.table("select count(*), count(withdrawn) from submissions") == [(3, 1)]
        assert len(read_labels(str(tmp_path / "s.db"))) == 2 * len(SYSTEMS)
        with pytest.raises(ConflictError):
            study.undo("bob", first["submission"])

    def test_a_skipped_item_goes_to_somebody_else(self, tmp_path):
        study, _ = opened(tmp_path / "s.db", 1, ["ada", "bob", "cy"], 2)
        submit(study, "ada", answer=None, reason=REASONS[0])
        assert study.state("ada")["item"] is None
        finish(study, "bob")
        finish(study, "cy")
        assert {label.labeler for label in read_labels(str(tmp_path / "s.db"))} == {"bob", "cy"}

    def test_the_same_study_continues_and_another_is_refused(self, tmp_path):
        path = tmp_path / "s.db"
        study, secrets = opened(path)
        submit(study, "ada")
        study.close()
        again, more = opened(path, labelers=["ada", "eve"])
        assert set(secrets) == {"", "ada", "bob"}
        assert set(more) == {"eve"}
        assert again.state("ada")["done"] == 1
        assert [again.labeler_of(secrets[name]) for name in ("ada", "bob", "")] == ["ada", None, ""]  # bob is inactive
        assert again.labeler_of("guess") is None
        content = path.read_bytes() + (tmp_path / "s.db-wal").read_bytes()
        assert not any(secret.encode() in content for secret in secrets.values())
        again.close()
        _, third = opened(path, labelers=["ada"], new_links=True)
        assert set(third) == {"", "ada"}
        assert third["ada"] != secrets["ada"]
        assert_refused("different prompts, outputs or systems;", opened, path, 5)
        assert_refused("different overlap;", opened, path, overlap=1)

    def test_other_files_are_refused(self, tmp_path):
        text, database = tmp_path / "text.db", tmp_path / "other.db"
        text.write_text("not a database")
        connection = sqlite3.connect(database)
        connection.execute("create table t (x)")
        connection.close()
        for path in (text, database):
            assert_refused("not a study", opened, path)
        assert_refused("not a study", read_labels, str(database))

    def test_every_label_command_reads_a_study(self, study, tmp_path):
        finish(study, "ada")
        finish(study, "bob")
        path = tmp_path / "s.db"
        for command in ("agreement", "summary", "screen"):
            done = run("labels", command, path)
            assert done.returncode == 0, done.stderr
        assert run("labels", "import", path, "--out", tmp_path / "l.jsonl").returncode == 0
        assert read_labels(str(tmp_path / "l.jsonl")) == read_labels(str(path))
        assert (
            "pairs in them"
            in run("labels", "export", path, "--out", tmp_path / "r.jsonl", "--group", "training").stdout
        )
        done = run("labels", "summary", path, "--group", "held-out")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no labeler is in group 'held-out' (groups: training)" in done.stderr


class TestQualification:
    def test_gold_items_come_first_and_are_no_labels_of_the_study(self, tmp_path):
        study, _ = opened(tmp_path / "s.db", gold=True)
        assert study.state("ada")["item"]["prompt"] == GOLD.prompt
        submit(study, "ada")
        assert read_labels(str(tmp_path / "s.db")) == []
        labels, reference = read_qualification(str(tmp_path / "s.db"))
        assert (reference, {label.labeler for label in labels}) == ("ref", {"ref", "ada"})
        done = run("labels", "screen", tmp_path / "s.db")
        assert "ada\trankings\t1.000" in done.stdout

    def test_who_is_below_the_pass_mark_gets_no_further_items(self, tmp_path):
        study, secrets = opened(tmp_path / "s.db", gold=True, pass_mark=0.7)
        client = TestClient(make_app(study, Rule("hen", 0.1)))
        for name, reversed_ranks, follows in (("ada", False, True), ("bob", True, False)):
            header = {"Authorization": f"Bearer {secrets[name]}"}
            content = submission(client.get("/api/state", headers=header).json())
            if reversed_ranks:
                content["answer"] = [own | {"rank": 3 - own["rank"]} for own in content["answer"]]
            state = client.post("/api/submit", headers=header, json=content).json()
            assert bool(state["item"]) is follows
            assert (state["done"], state["target"] > 1) == (1, follows)
        marks = {own["labeler"]: own["screening"] for own in overview(study, Rule("hen", 0.1))["labelers"]}
        assert [one["value"] for one in marks["bob"] if one["criterion"] == "rankings"] == [0.0]


class TestAdmin:
    def test_progress_agreement_outliers_win_rates_and_the_stopping_rule(self, tmp_path):
        names = ["ada", "bob", "cy"]
        study, _ = opened(tmp_path / "s.db", 30, names, 3)
        for name in names:
            while state := study.state(name)["item"] and study.state(name):
                own = answer(state["item"]["outputs"])
                if name == "cy":
                    own = [marks | {"rank": 7 - marks["rank"]} for marks in own]
                submit(study, name, answer=own)
        found = overview(study, Rule("hen", 0.2))
        assert (found["done"], found["needed"]) == (90, 90)
        agreed = {(own["question"], own["statistic"]): own["value"] for own in found["agreement"]}
        assert agreed["ranking", "agreement"] == pytest.approx(1 / 3)
        assert agreed["likert", "agreement"] == 1
        assert [own["labeler"] for own in found["labelers"] if own["outlier"]] == ["cy"]
        rates = {own["model"]: own for own in found["rates"]}
        assert set(rates) == {"cow", "pig"}
        wins = sum(1 + (n + 2) % 6 > 1 + n % 6 for n in range(30)) / 30  # by the qualities of the texts
        assert rates["cow"]["value"] == pytest.approx((2 * wins + (1 - wins)) / 3)
        assert all(own["more"] > 0 and not own["enough"] for own in rates.values())
        assert not found["stop"]
        assert overview(study, Rule("hen", 1.0))["stop"]


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
    same = (tmp_path / "s.db", items(4), Settings(2, 0), {"ada": None, "bob": "training"})
    assert_refused("ada was in group training, and is now in no group", open_study, *same)


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
