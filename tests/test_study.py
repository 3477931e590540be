"""A labeling study: assignment, the file, the qualification, and the admin view."""

import json
import sqlite3
from collections import Counter
from itertools import combinations

import pytest
from commands import assert_refused, run

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from study_helpers import GOLD, SYSTEMS, answer, items, opened, submission

from alignbench.labels.study import store
from alignbench.labels.study.answers import REASONS, Submission, parse
from alignbench.labels.study.assign import choose, shown_order
from alignbench.labels.study.results import Rule, overview
from alignbench.labels.study.server import make_app
from alignbench.labels.study.store import ConflictError, Settings, open_study
from alignbench.labels.table import FLAGS, read_labels, read_qualification


def submit(study, labeler, **changes):
    content = submission(study.state(labeler), **changes)
    study.submit(labeler, parse(Submission, json.dumps(content).encode()))
    return content


def finish(study, labeler):
    while study.state(labeler)["item"]:
        submit(study, labeler)


@pytest.fixture
def study(tmp_path):
    made, _ = opened(tmp_path / "s.db")
    yield made
    made.close()


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
        groups = {"ada": "held-out"}
        assert_refused("was in group", open_study, path, items(4), Settings(2, 0), groups)

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
