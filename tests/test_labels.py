"""The label table: every form of file gives the same labels, and an invalid row is named by file and line."""

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
BOB = ADA | {"labeler": "bob"}
RANKING = {"prompt": "Moo?", "responses": ["b", "a"], "ranks": [1, 2], "labeler": "ada"}


def write(path: Path, *rows: Any) -> str:
    """A file of the rows, in the format that its name says."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    return str(path)


def ranked(prompt: str, labeler: str, **ranks: float) -> list[Label]:
    """A labeler's ranking of the outputs of models named by keyword."""
    return [Label(prompt, f"say {prompt}", f"{m} on {prompt}", labeler, m, rank=rank) for m, rank in ranks.items()]


class TestFiles:
    ROWS = (
        ADA | {"model": "hen", "group": "training", "rank": 1, "likert": 6, "sexual": 0, "hallucination": 1},
        ADA | {"model": "cow", "output": "", "group": "training", "rank": 2, "likert": 2, "sexual": 0},
        BOB | {"model": "hen", "group": "held-out", "rank": 1.5, "sexual": 1},
    )
    FIRST = Label("p1", "Do hens fly?", "A little.", "ada", "hen", "training", 1.0, 6)
    LABELS = (
        Label("p1", "Do hens fly?", "", "ada", "cow", "training", 2.0, 2, {"sexual": False}),
        replace(FIRST, flags={"hallucination": True, "sexual": False}),
        Label("p1", "Do hens fly?", "A little.", "bob", "hen", "held-out", 1.5, None, {"sexual": True}),
    )

    @pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv", "l.tsv", "l.parquet"])
    def test_every_format_gives_the_same_labels(self, tmp_path, name):
        missing = None if name == "l.parquet" else ""
        rows = [{column: row.get(column, missing) for column in self.ROWS[0]} for row in self.ROWS]
        assert read_labels(write(tmp_path / name, *(self.ROWS if "json" in name else rows))) == list(self.LABELS)

    def test_the_normal_form_is_read_back_and_does_not_depend_on_the_order_of_rows(self, tmp_path):
        labels = [*self.LABELS, Label("p2", None, "a lone surrogate: \ud83d, é", "eve", flags={"our_own": True})]
        one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
        write_labels(labels, one)
        assert read_labels(str(one)) == labels
        write(other, *map(json.loads, reversed(one.read_text(encoding="utf-8").splitlines())))
        write_labels(read_labels(str(other)), other)
        assert other.read_bytes() == one.read_bytes()

    def test_a_ranking_is_a_label_of_each_response(self, tmp_path):
        row = RANKING | {"models": ["cow", "hen"]}
        labels = read_labels(write(tmp_path / "r.jsonl", row))
        assert [(label.model, label.output, label.rank) for label in labels] == [("cow", "b", 1), ("hen", "a", 2)]
        assert len({label.prompt_id for label in labels}) == 1
        cells = row | {"responses": json.dumps(row["responses"]), "ranks": "[1, 2]", "models": ""}
        unnamed = read_labels(write(tmp_path / "r.csv", cells))
        assert {(label.model, label.output, label.rank) for label in unnamed} == {(None, "b", 1), (None, "a", 2)}

    def test_columns_of_other_names_are_mapped_flagged_or_ignored(self, tmp_path):
        row = {"doc": 7, "sys": "hen", "text": "Cluck.", "who": "w1", "is_true": "yes", "seconds": 12}
        columns = {"doc": "prompt_id", "sys": "model", "text": "output", "who": "labeler"}
        file = write(tmp_path / "theirs.csv", row)
        (label,) = read_labels(file, columns=columns, flags=["is_true"], ignored=["seconds"])
        assert label == Label("7", None, "Cluck.", "w1", "hen", flags={"is_true": True})

    def test_a_prompts_file_gives_labels_their_text_or_their_id(self, tmp_path):
        prompts = write(tmp_path / "prompts.jsonl", {"id": 7, "prompt": "Moo?"}, {"id": 8, "prompt": "Oink?"})
        rows = [{"prompt_id": 7, "output": "a", "labeler": "ada"}, {"prompt": "Oink?", "output": "b", "labeler": "ada"}]
        labels = read_labels(write(tmp_path / "l.jsonl", *rows), prompts=prompts)
        assert [(label.prompt_id, label.prompt) for label in labels] == [("7", "Moo?"), ("8", "Oink?")]

    def test_equal_outputs_of_two_models_are_two_labels(self, tmp_path):
        assert len(read_labels(write(tmp_path / "l.jsonl", ADA | {"model": "hen"}, ADA | {"model": "cow"}))) == 2

    def test_flags_are_written_in_several_ways(self, tmp_path):
        values = {"1": True, "no": False, "TRUE": True, 0: False, 1.0: True, "": None, "NULL": None}
        rows = [ADA | {"output": str(n), "violent": value} for n, value in enumerate([*values, False])]
        found = [label.flags.get("violent") for label in read_labels(write(tmp_path / "l.jsonl", *rows))]
        assert found == [*values.values(), False]
        assert len(FLAGS) == 11

    def test_rows_and_labels_are_counted(self):
        found = counts(self.LABELS)
        names = (
            "rows",
            "prompts",
            "outputs",
            "labelers",
            "models",
            "rows with a Likert mark",
            "rows with hallucination",
        )
        assert [found[name] for name in names] == [3, 1, 2, 2, 2, 2, 1]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


class TestInvalidRows:
    """One line with file and line: :2 is the second line of the file."""

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (ADA, "l.jsonl:2: ada labels this output to prompt 'p1' a second time .first: .*l.jsonl:1"),
            (BOB | {"prompt": "?"}, "l.jsonl:2: prompt_id 'p1' has another text in an earlier row: 'Do hens"),
            (BOB | {"rank": 0}, "l.jsonl:2: rank 0 is not a positive number"),
            (BOB | {"rank": "best"}, 'l.jsonl:2: rank "best" is not a positive number'),
            (BOB | {"rank": True}, "l.jsonl:2: rank true is not a positive number"),
            (BOB | {"rank": [1]}, r"l.jsonl:2: rank \[1\] is not a positive number"),
            (BOB | {"likert": 8}, "l.jsonl:2: likert 8 is not a whole number from 1 to 7"),
            (BOB | {"likert": 2.5}, "l.jsonl:2: likert 2.5 is not a whole number from 1 to 7"),
            (BOB | {"sexual": "maybe"}, 'l.jsonl:2: sexual is "maybe", which is neither 0/1'),
            (BOB | {"sexual": 2}, "l.jsonl:2: sexual is 2, which is neither 0/1"),
            (BOB | {"flags": [1]}, "l.jsonl:2: flags is not an object"),
            (BOB | {"modle": "x"}, r"l.jsonl:2: unknown column 'modle' \(did you mean model\?\): name it"),
            (BOB | {"x y": 1, "zz": 2}, "l.jsonl:2: unknown column 'x y', also 'zz'"),
            (ADA | {"labeler": ""}, "l.jsonl:2: no labeler"),
            (ADA | {"labeler": ["b"]}, "l.jsonl:2: labeler is list, not a name or a number"),
            (without(ADA, "output"), "l.jsonl:2: no output"),
            (BOB | {"output": 3}, "l.jsonl:2: output is int, not text"),
            (without(ADA, "prompt", "prompt_id"), "l.jsonl:2: neither prompt_id nor prompt"),
            (ADA | {"output": "x", "group": "g"}, "l.jsonl:2: ada is in group g, but in None in an earlier row"),
        ],
    )
    def test_of_labels(self, tmp_path, second, message):
        with pytest.raises(AlignbenchError, match=message) as raised:
            read_labels(write(tmp_path / "l.jsonl", ADA, second))
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([RANKING, RANKING | {"responses": ["c", "d"]}], r"r.jsonl:2: ada ranks prompt .* a second time .*:1\)"),
            ([RANKING | {"responses": ["a", "a"]}], r"r.jsonl:1: ada labels this output to prompt .* a second time"),
            ([RANKING | {"ranks": [1, 2, 3]}], r"r.jsonl:1: 2 responses, 3 ranks and 2 models"),
            ([RANKING | {"responses": ["a", None]}], r"r.jsonl:1: no output"),
        ],
    )
    def test_of_rankings(self, tmp_path, rows, message):
        with pytest.raises(AlignbenchError, match=message):
            read_labels(write(tmp_path / "r.jsonl", *rows))

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (ADA, r"l.jsonl:1: prompt_id 'p1' is not in .*prompts.jsonl"),
            (without(ADA, "prompt_id"), r"l.jsonl:1: the prompt 'Do hens fly\?' is not in .*prompts.jsonl"),
            (ADA | {"prompt_id": "p2"}, r"l.jsonl:1: prompt_id 'p2' has another text in .*prompts.jsonl"),
        ],
    )
    def test_of_unknown_prompts(self, tmp_path, row, message):
        prompts = write(tmp_path / "prompts.jsonl", {"prompt_id": "p2", "prompt": "Oink?"})
        with pytest.raises(AlignbenchError, match=message):
            read_labels(write(tmp_path / "l.jsonl", row), prompts=prompts)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            *(
                (options, r"l.jsonl: no column 'who' .found: prompt_id, prompt, output")
                for options in ({"columns": {"who": "labeler"}}, {"flags": ["who"]}, {"ignored": ["who"]})
            ),
            ({"columns": {"prompt": "prompt_id"}}, "columns 'prompt_id' and 'prompt' are both prompt_id"),
        ],
    )
    def test_of_columns_on_the_command_line(self, tmp_path, options, message):
        with pytest.raises(AlignbenchError, match=message):
            read_labels(write(tmp_path / "l.jsonl", ADA), **options)

    def test_of_a_file_that_is_not_parquet(self, tmp_path):
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
        labels = []
        for number, ranks in enumerate(rankings):
            labels += ranked(f"p{number}", "ada", **{f"m{i}": rank for i, rank in enumerate(ranks)})
        kept = {f"say p{n}": sorted(ranks) for n, ranks in enumerate(rankings) if len(set(ranks)) > 1}
        if not kept:
            with pytest.raises(AlignbenchError, match="no ranking to export"):
                export(labels)
            return
        file = tmp_path_factory.mktemp("export") / "r.jsonl"
        write_lines(export(labels)[0], file)
        back = read_labels(str(file))
        assert {p: sorted(label.rank for label in back if label.prompt == p) for p in kept} == kept

    def test_labels_without_ranks_or_without_the_prompts_text_are_refused(self):
        with pytest.raises(AlignbenchError, match="no label has a rank"):
            export([Label("p1", "x", "y", "ada")])
        with pytest.raises(AlignbenchError, match=r"prompt 'p1' has no text, .* --prompts FILE"):
            export([Label("p1", None, "y", "ada", rank=1)])


class TestPreferences:
    def test_a_verdict_is_the_mean_over_labelers_who_compared_both(self):
        labels = [
            *ranked("p1", "ada", hen=1, cow=2),
            *ranked("p1", "bob", hen=1, cow=1),
            *ranked("p1", "eve", hen=1),  # compares nothing
            *(Label("p", " x\n", text, "ada", rank=rank) for text, rank in (("a\n", 1), ("b", 2))),
        ]
        verdict = Verdicts(labels).verdict
        assert verdict("say p1", "hen on p1", "cow on p1") == 0.75
        assert verdict(" say p1\n", "cow on p1 ", "hen on p1") == 0.25
        assert verdict("say p1", "hen on p1", "hen on p1") == 0.5
        assert verdict("say p1", "hen on p1", "pig on p1") is verdict("say p9", "hen on p1", "cow on p1") is None
        assert verdict("x", "a", "b") == 1

    def test_likert_marks_decide_if_ranks_are_missing(self):
        good, bad = Label("p", "x", "a", "ada", likert=6), Label("p", "x", "b", "ada", likert=2)
        assert preference(good, bad) == 1
        assert preference(replace(good, rank=2), replace(bad, rank=1)) == 0
        assert preference(good, replace(bad, likert=None)) is None

    def test_there_is_one_battle_for_each_prompt_and_pair_of_models(self):
        labels = [
            *ranked("p1", "ada", hen=1, cow=2, pig=2),
            *ranked("p1", "bob", hen=2, cow=1),
            *ranked("p2", "ada", hen=1, cow=3),
            Label("p2", None, "unnamed", "ada", rank=2),
        ]
        assert battles(labels) == [
            Battle("p1", "cow", "hen", 0.5, 2),
            Battle("p1", "cow", "pig", 0.5, 1),
            Battle("p1", "hen", "pig", 1.0, 1),
            Battle("p2", "cow", "hen", 0.0, 1),
        ]
