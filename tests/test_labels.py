"""The label table: every form of file becomes the same labels, and what cannot be is named by file and line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.errors import AlignbenchError
from alignbench.labels.summary import Battle, Verdicts, battles, preference
from alignbench.labels.table import FLAGS, Label, counts, export, read_labels, write_labels, write_lines
from trainers.data import read_rankings

ADA = {"prompt_id": "p1", "prompt": "Do hens fly?", "output": "A little.", "labeler": "ada"}


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def ranked(prompt: str, labeler: str, **ranks: float) -> list[Label]:
    """A labeler's ranking of the outputs of models named by keyword."""
    return [Label(prompt, f"say {prompt}", f"{m} on {prompt}", labeler, m, rank=rank) for m, rank in ranks.items()]


class TestFiles:
    ROWS = (
        ADA | {"model": "hen", "group": "training", "rank": 1, "likert": 6, "sexual": 0, "hallucination": 1},
        ADA | {"model": "cow", "output": "", "group": "training", "rank": 2, "likert": 2, "sexual": 0},
        ADA | {"model": "hen", "labeler": "bob", "group": "held-out", "rank": 1.5, "sexual": 1},
    )
    LABELS = (
        Label("p1", "Do hens fly?", "", "ada", "cow", "training", 2.0, 2, {"sexual": False}),
        Label(
            "p1",
            "Do hens fly?",
            "A little.",
            "ada",
            "hen",
            "training",
            1.0,
            6,
            {"hallucination": True, "sexual": False},
        ),
        Label("p1", "Do hens fly?", "A little.", "bob", "hen", "held-out", 1.5, None, {"sexual": True}),
    )

    @pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv", "l.tsv", "l.parquet"])
    def test_every_kind_of_file_gives_the_same(self, tmp_path, name):
        path = tmp_path / name
        columns = list(self.ROWS[0])
        full = [{column: row.get(column, "") for column in columns} for row in self.ROWS]
        if name == "l.parquet":
            import pyarrow
            from pyarrow import parquet

            nulls = [{column: row.get(column) for column in columns} for row in self.ROWS]
            parquet.write_table(pyarrow.Table.from_pylist(nulls), path)
        elif name == "l.json":
            path.write_text(json.dumps(self.ROWS), encoding="utf-8")
        elif name == "l.jsonl":
            lines(path, *self.ROWS)
        else:
            table(path, full, "\t" if name == "l.tsv" else ",")
        assert read_labels(str(path)) == list(self.LABELS)

    def test_the_normal_form_is_read_back_the_same_and_does_not_depend_on_the_order_of_rows(self, tmp_path):
        labels = [*self.LABELS, Label("p2", None, "lone half of a pair: \ud83d", "eve", flags={"our_own": True})]
        one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
        write_labels(labels, one)
        assert read_labels(str(one)) == labels
        lines(other, *map(json.loads, reversed(one.read_text(encoding="utf-8").splitlines())))
        write_labels(read_labels(str(other)), other)
        assert other.read_bytes() == one.read_bytes()

    def test_a_ranking_as_the_trainers_take_it_is_a_label_for_each_response(self, tmp_path):
        row = {"prompt": "Moo?", "responses": ["b", "a"], "ranks": [1, 2], "labeler": "ada", "models": ["cow", "hen"]}
        labels = read_labels(lines(tmp_path / "r.jsonl", row))
        assert [(label.model, label.output, label.rank) for label in labels] == [("cow", "b", 1), ("hen", "a", 2)]
        assert len({label.prompt_id for label in labels}) == 1
        cells = row | {"responses": json.dumps(row["responses"]), "ranks": "[1, 2]", "models": ""}
        nameless = read_labels(table(tmp_path / "r.csv", [cells]))
        assert {(label.model, label.output, label.rank) for label in nameless} == {(None, "b", 1), (None, "a", 2)}

    def test_columns_of_other_names_are_mapped_flagged_or_ignored(self, tmp_path):
        row = {"doc": 7, "sys": "hen", "text": "Cluck.", "who": "w1", "is_true": "yes", "seconds": 12}
        file = table(tmp_path / "theirs.csv", [row])
        (label,) = read_labels(
            file,
            columns={"doc": "prompt_id", "sys": "model", "text": "output", "who": "labeler"},
            flags=["is_true"],
            ignored=["seconds"],
        )
        assert label == Label("7", None, "Cluck.", "w1", "hen", flags={"is_true": True})

    def test_a_prompts_file_gives_labels_their_text_or_their_id(self, tmp_path):
        prompts = lines(tmp_path / "prompts.jsonl", {"id": 7, "prompt": "Moo?"}, {"id": 8, "prompt": "Oink?"})
        file = lines(
            tmp_path / "l.jsonl",
            {"prompt_id": 7, "output": "a", "labeler": "ada"},
            {"prompt": "Oink?", "output": "b", "labeler": "ada"},
        )
        assert [(label.prompt_id, label.prompt) for label in read_labels(file, prompts=prompts)] == [
            ("7", "Moo?"),
            ("8", "Oink?"),
        ]

    def test_equal_outputs_of_two_models_are_two_labels(self, tmp_path):
        rows = [ADA | {"model": "hen"}, ADA | {"model": "cow"}]
        assert len(read_labels(lines(tmp_path / "l.jsonl", *rows))) == 2

    @pytest.mark.parametrize(
        ("said", "meant"),
        [
            ("1", True),
            ("no", False),
            ("TRUE", True),
            (0, False),
            (False, False),
            (1.0, True),
            ("", None),
            ("NULL", None),
        ],
    )
    def test_flags_may_be_said_in_many_ways(self, tmp_path, said, meant):
        (label,) = read_labels(lines(tmp_path / "l.jsonl", ADA | {"violent": said}))
        assert label.flags.get("violent") is meant

    def test_what_is_there_is_counted(self):
        found = counts(self.LABELS)
        assert (found["rows"], found["prompts"], found["outputs"], found["labelers"], found["models"]) == (
            3,
            1,
            2,
            2,
            2,
        )
        assert (found["rows with a Likert mark"], found["rows with hallucination"]) == (2, 1)

    def test_the_flags_are_the_papers_eleven(self):
        assert len(FLAGS) == 11


def nothing(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


class TestMistakes:
    """One line that says where and what; :2 is the second line of the file."""

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (ADA, "l.jsonl:2: ada labels this output to prompt 'p1' a second time .first: .*l.jsonl:1"),
            (
                ADA | {"labeler": "b", "prompt": "?"},
                "l.jsonl:2: prompt_id 'p1' has another text in an earlier row: 'Do hens",
            ),
            (ADA | {"labeler": "b", "rank": 0}, "l.jsonl:2: rank 0 is not a positive number"),
            (ADA | {"labeler": "b", "rank": "best"}, 'l.jsonl:2: rank "best" is not a positive number'),
            (ADA | {"labeler": "b", "rank": True}, "l.jsonl:2: rank true is not a positive number"),
            (ADA | {"labeler": "b", "likert": 8}, "l.jsonl:2: likert 8 is not a whole number from 1 to 7"),
            (ADA | {"labeler": "b", "likert": 2.5}, "l.jsonl:2: likert 2.5 is not a whole number from 1 to 7"),
            (ADA | {"labeler": "b", "sexual": "maybe"}, 'l.jsonl:2: sexual is "maybe", which is neither 0/1'),
            (ADA | {"labeler": "b", "sexual": 2}, "l.jsonl:2: sexual is 2, which is neither 0/1"),
            (ADA | {"labeler": "b", "flags": [1]}, "l.jsonl:2: flags is not an object"),
            (
                ADA | {"labeler": "b", "modle": "x"},
                r"l.jsonl:2: unknown column 'modle' \(did you mean model\?\): name it",
            ),
            (ADA | {"labeler": "b", "x y": 1, "zz": 2}, "l.jsonl:2: unknown column 'x y', also 'zz'"),
            (ADA | {"labeler": ""}, "l.jsonl:2: no labeler"),
            (ADA | {"labeler": ["b"]}, "l.jsonl:2: labeler is list, not a name or a number"),
            (nothing(ADA, "output"), "l.jsonl:2: no output"),
            (ADA | {"labeler": "b", "output": 3}, "l.jsonl:2: output is int, not text"),
            (nothing(ADA, "prompt", "prompt_id"), "l.jsonl:2: neither prompt_id nor prompt"),
            (ADA | {"output": "x", "group": "g"}, "l.jsonl:2: ada is in group g, but in None in an earlier row"),
        ],
    )
    def test_is_named_with_file_and_line(self, tmp_path, second, message):
        with pytest.raises(AlignbenchError, match=message) as raised:
            read_labels(lines(tmp_path / "l.jsonl", ADA, second))
        assert "\n" not in str(raised.value)

    def test_a_label_of_an_unknown_prompt(self, tmp_path):
        prompts = lines(tmp_path / "prompts.jsonl", {"prompt_id": "p2", "prompt": "Oink?"})
        with pytest.raises(AlignbenchError, match=r"l.jsonl:1: prompt_id 'p1' is not in .*prompts.jsonl"):
            read_labels(lines(tmp_path / "l.jsonl", ADA), prompts=prompts)
        with pytest.raises(AlignbenchError, match=r"l.jsonl:1: the prompt 'Do hens fly\?' is not in .*prompts.jsonl"):
            read_labels(lines(tmp_path / "l.jsonl", nothing(ADA, "prompt_id")), prompts=prompts)
        with pytest.raises(AlignbenchError, match=r"l.jsonl:1: prompt_id 'p2' has another text in .*prompts.jsonl"):
            read_labels(lines(tmp_path / "l.jsonl", ADA | {"prompt_id": "p2"}), prompts=prompts)

    def test_two_rankings_of_a_prompt_by_one_labeler(self, tmp_path):
        row = {"prompt": "Moo?", "responses": ["a", "b"], "ranks": [1, 2], "labeler": "ada"}
        with pytest.raises(AlignbenchError, match=r"r.jsonl:2: ada ranks prompt .* a second time \(first: .*:1\)"):
            read_labels(lines(tmp_path / "r.jsonl", row, row | {"responses": ["c", "d"]}))
        with pytest.raises(AlignbenchError, match=r"r.jsonl:1: ada labels this output to prompt .* a second time"):
            read_labels(lines(tmp_path / "r.jsonl", row | {"responses": ["a", "a"]}))
        with pytest.raises(AlignbenchError, match=r"r.jsonl:1: 2 responses, 3 ranks and 2 models"):
            read_labels(lines(tmp_path / "r.jsonl", row | {"ranks": [1, 2, 3]}))

    def test_columns_named_on_the_command_line_must_be_there_and_once(self, tmp_path):
        file = lines(tmp_path / "l.jsonl", ADA)
        for wrong in ({"columns": {"who": "labeler"}}, {"flags": ["who"]}, {"ignored": ["who"]}):
            with pytest.raises(AlignbenchError, match=r"l.jsonl: no column 'who' .found: prompt_id, prompt, output"):
                read_labels(file, **wrong)
        with pytest.raises(AlignbenchError, match="columns 'prompt_id' and 'prompt' are both prompt_id"):
            read_labels(file, columns={"prompt": "prompt_id"})

    def test_a_file_that_is_no_parquet(self, tmp_path):
        (tmp_path / "l.parquet").write_text("no")
        with pytest.raises(AlignbenchError, match=r"l.parquet: not a parquet file"):
            read_labels(str(tmp_path / "l.parquet"))


class TestExport:
    def test_the_trainer_reads_what_is_exported(self, tmp_path):
        labels = [
            *ranked("p1", "ada", hen=2, cow=1, pig=2),
            *ranked("p1", "bob", hen=1, cow=1),  # all tied
            *ranked("p2", "ada", hen=1),  # alone
            Label("p3", "say p3", "", "ada", "hen", rank=1),  # empty
            *ranked("p3", "ada", cow=2, pig=3),
        ]
        rankings, numbers = export(labels)
        assert list(numbers.values()) == [2, 3, 1, 1, 1]
        write_lines(rankings, tmp_path / "r.jsonl")
        first, second = read_rankings(str(tmp_path / "r.jsonl"))
        assert (first.prompt, first.labeler, first.ranks) == ("say p1", "ada", (1, 2, 2))
        assert first.responses == ("cow on p1", "hen on p1", "pig on p1")
        assert second.responses == ("cow on p3", "pig on p3")

    @given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=5))
    def test_a_ranking_survives_export_and_import(self, tmp_path_factory, rankings):
        labels = [
            label
            for number, ranks in enumerate(rankings)
            for label in ranked(f"p{number}", "ada", **{f"m{i}": rank for i, rank in enumerate(ranks)})
        ]
        there = {f"say p{n}": ranks for n, ranks in enumerate(rankings) if len(set(ranks)) > 1}
        if not there:
            with pytest.raises(AlignbenchError, match="no ranking to export"):
                export(labels)
            return
        file = tmp_path_factory.mktemp("export") / "r.jsonl"
        write_lines(export(labels)[0], file)
        back = read_labels(str(file))
        assert {prompt: sorted(label.rank for label in back if label.prompt == prompt) for prompt in there} == {
            prompt: sorted(ranks) for prompt, ranks in there.items()
        }

    def test_without_ranks_or_without_the_prompts_text_there_is_nothing_to_export(self):
        with pytest.raises(AlignbenchError, match="no label has a rank"):
            export([Label("p1", "x", "y", "ada")])
        with pytest.raises(AlignbenchError, match=r"prompt 'p1' has no text, .* --prompts FILE"):
            export([Label("p1", None, "y", "ada", rank=1)])


class TestWins:
    def test_a_verdict_is_the_mean_over_labelers_who_compared_both(self):
        labels = [
            *ranked("p1", "ada", hen=1, cow=2),
            *ranked("p1", "bob", hen=1, cow=1),
            *ranked("p1", "eve", hen=1),  # compares nothing
        ]
        verdicts = Verdicts(labels)
        assert verdicts.verdict("say p1", "hen on p1", "cow on p1") == 0.75
        assert verdicts.verdict(" say p1\n", "cow on p1 ", "hen on p1") == 0.25
        assert verdicts.verdict("say p1", "hen on p1", "hen on p1") == 0.5
        assert verdicts.verdict("say p1", "hen on p1", "pig on p1") is None
        assert verdicts.verdict("say p9", "hen on p1", "cow on p1") is None
        padded = [Label("p", " x\n", text, "ada", rank=rank) for text, rank in (("a\n", 1), ("b", 2))]
        assert Verdicts(padded).verdict("x", "a", "b") == 1

    def test_likert_marks_decide_where_ranks_are_missing(self):
        good, bad = Label("p", "x", "a", "ada", likert=6), Label("p", "x", "b", "ada", likert=2)
        assert preference(good, bad) == 1
        assert preference(replace(good, rank=2), replace(bad, rank=1)) == 0
        assert preference(good, replace(bad, likert=None)) is None

    def test_battles_are_one_for_each_prompt_and_pair_of_models(self):
        labels = [
            *ranked("p1", "ada", hen=1, cow=2, pig=2),
            *ranked("p1", "bob", hen=2, cow=1),
            *ranked("p2", "ada", hen=1, cow=3),
            Label("p2", None, "nameless", "ada", rank=2),
        ]
        assert battles(labels) == [
            Battle("p1", "cow", "hen", 0.5, 2),
            Battle("p1", "cow", "pig", 0.5, 1),
            Battle("p1", "hen", "pig", 1.0, 1),
            Battle("p2", "cow", "hen", 0.0, 1),
        ]
