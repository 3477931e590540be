"""The label table: every form of file gives the same labels, and an invalid row is named by file and line."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from cases import cases, read_lines
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from stages import read_rankings

from alignbench.labels.summary import Verdicts, battles, preference
from alignbench.labels.table import Label, counts, export, read_labels, write_labels, write_lines

ADA = {"prompt_id": "p1", "prompt": "Do hens fly?", "output": "A little.", "labeler": "ada"}
BOB = ADA | {"labeler": "bob"}
PAIR = {"prompt": "Moo?", "output_1": "a", "output_2": "b", "preference": 0.25}
RANKING = {"prompt": "Moo?", "responses": ["b", "a"], "ranks": [1, 2], "labeler": "ada"}
INVALID = cases("labels")
ROWS = (
    ADA | {"model": "hen", "group": "training", "rank": 1, "likert": 6, "sexual": 0, "hallucination": 1},
    ADA | {"model": "cow", "output": "", "group": "training", "rank": 2, "likert": 2, "sexual": 0},
    BOB | {"model": "hen", "group": "held-out", "rank": 1.5, "sexual": 1},
)
PLAIN = Label("p1", "Do hens fly?", "A little.", "ada", "hen", "training", 1.0, 6)
LABELS = [
    replace(PLAIN, output="", model="cow", rank=2.0, likert=2, flags={"sexual": False}),
    replace(PLAIN, flags={"hallucination": True, "sexual": False}),
    replace(PLAIN, labeler="bob", group="held-out", rank=1.5, likert=None, flags={"sexual": True}),
]


def write(path, *rows):
    """A file of the rows, in the format that its name says."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
    return str(path)


def ranked(prompt, labeler, **ranks):
    """A labeler's ranking of the outputs of models named by keyword."""
    return [Label(prompt, f"say {prompt}", f"{m} on {prompt}", labeler, m, rank=rank) for m, rank in ranks.items()]


@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv", "l.tsv", "l.parquet"])
def test_every_format_gives_the_same_labels(tmp_path, name):
    assert read_labels(write(tmp_path / name, *ROWS)) == LABELS


def test_the_normal_form_is_read_back_and_does_not_depend_on_the_order_of_rows(tmp_path):
    labels = [*LABELS, Label("p2", None, "a lone surrogate: \ud83d, é", "eve", flags={"our_own": True})]
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.symlink_to(tmp_path / "file.jsonl")
    write_labels(labels, one)
    assert one.is_symlink()  # what is there is written to, not replaced: it may be a device
    whole = [*LABELS, replace(labels[-1], output="a lone surrogate: \ufffd, é")]
    assert read_labels(str(one)) == whole
    write_labels(whole, one)
    write(other, *reversed(read_lines(one)))
    write_labels(read_labels(str(other)), other)
    assert other.read_bytes() == one.read_bytes()
    names = ("rows", "prompts", "outputs", "labelers", "models", "rows with a Likert mark", "rows with hallucination")
    assert [counts(LABELS)[name] for name in names] == [3, 1, 2, 2, 2, 2, 1]


def test_columns_of_other_names_are_mapped_a_file_of_prompts_gives_texts_or_ids_and_flags_have_several_forms(tmp_path):
    row = {"doc": 7, "sys": "hen", "text": "Cluck.", "who": "w1", "is_true": "yes", "seconds": 12}
    columns = {"doc": "prompt_id", "sys": "model", "text": "output", "who": "labeler"}
    file = write(tmp_path / "theirs.csv", row)
    (label,) = read_labels(file, columns=columns, flags=["is_true"], ignored=["seconds"])
    assert label == Label("7", None, "Cluck.", "w1", "hen", flags={"is_true": True})
    prompts = write(tmp_path / "prompts.jsonl", {"id": 7, "prompt": "Moo?"}, {"id": 8, "prompt": "Oink?"})
    rows = [{"prompt_id": 7, "output": "a", "labeler": "ada"}, {"prompt": "Oink?", "output": "b", "labeler": "ada"}]
    labels = read_labels(write(tmp_path / "l.jsonl", *rows), prompts=prompts)
    assert [(label.prompt_id, label.prompt) for label in labels] == [("7", "Moo?"), ("8", "Oink?")]
    values = {"1": True, "no": False, "TRUE": True, 0: False, 1.0: True, "": None, "NULL": None}
    rows = [ADA | {"model": str(n), "violent": value} for n, value in enumerate(values)]  # equal outputs of models
    found = [label.flags.get("violent") for label in read_labels(write(tmp_path / "l.jsonl", *rows))]
    assert found == list(values.values())


def test_a_ranking_is_a_label_of_each_response(tmp_path):
    row = RANKING | {"models": ["cow", "hen"]}
    labels = read_labels(write(tmp_path / "r.jsonl", row))
    assert [(label.model, label.output, label.rank) for label in labels] == [("cow", "b", 1), ("hen", "a", 2)]
    assert len({label.prompt_id for label in labels}) == 1
    cells = row | {"responses": json.dumps(row["responses"]), "ranks": "[1, 2]", "models": ""}
    unnamed = read_labels(write(tmp_path / "r.csv", cells))
    assert {(label.model, label.output, label.rank) for label in unnamed} == {(None, "b", 1), (None, "a", 2)}


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
def test_a_pair_is_two_labels_with_a_graded_preference(tmp_path, name):
    rows = [PAIR, PAIR | {"output_2": "c", "preference": 1}, PAIR | {"prompt": "Oink?", "preference": ""}]
    labels = read_labels(write(tmp_path / name, *rows))
    assert {label.labeler for label in labels} == {"unnamed"}
    verdict = Verdicts(labels).verdict
    assert [verdict("Moo?", *pair) for pair in ("ab", "ba", "ac", "bc", "aa")] == [0.75, 0.25, 0, None, 0.5]
    assert verdict("Oink?", "a", "b") is None
    assert battles(labels) == {("output_1", "output_2"): [(0.75 + 0) / 2]}
    assert [(row["responses"], row["ranks"]) for row in export(labels)[0]] == [
        (["a", "b"], [1, 2]),
        (["c", "a"], [1, 2]),
    ]
    write_labels(labels, tmp_path / "normal.jsonl")
    assert read_labels(str(tmp_path / "normal.jsonl")) == labels


def test_annotations_of_alpaca_eval_are_pairs_of_named_models(tmp_path):
    row = {"instruction": "Moo?", "output_1": "a", "generator_1": "cow", "output_2": "b", "generator_2": "hen"}
    row |= {"annotator": "gpt", "dataset": "farm", "raw_completion": {"x": [1]}}
    found = {}
    for graded in (1, 2, 1.5, 0, 1.75, None):
        labels = read_labels(write(tmp_path / "a.json", row | {"preference": graded}))
        assert {(own.prompt, own.model, own.output) for own in labels} == {("Moo?", "cow", "a"), ("Moo?", "hen", "b")}
        found[graded] = battles(labels).get(("cow", "hen"))
    assert ({own.labeler for own in labels}, found) == (
        {"gpt"},
        {1: [1], 2: [0], 1.5: [0.5], 0: [0.5], 1.75: [0.25], None: None},
    )
    file = write(tmp_path / "a.json", row | {"preference": 0.25})
    assert_refused(r"a.json:1: preference 0.25 is not a number from 1 \(output_1\) to 2", read_labels, file)


VALID = {"labels": (ADA, BOB), "rankings": (RANKING, RANKING), "prompts": (ADA,), "pairs": (PAIR, PAIR)}


@pytest.mark.parametrize(("kind", "fields", "message"), [(kind, *case) for kind in VALID for case in INVALID[kind]])
def test_an_invalid_row_is_one_line(tmp_path, kind, fields, message):
    *rows, last = VALID[kind]
    rows.append({name: value for name, value in (last | fields).items() if value is not None or kind == "rankings"})
    prompts = write(tmp_path / "prompts.jsonl", {"prompt_id": "p2", "prompt": "Oink?"}) if kind == "prompts" else None
    file = write(tmp_path / "l.jsonl", *rows)
    assert_refused(f"l.jsonl:{len(rows)}: .*{message}", read_labels, file, prompts=prompts)


@pytest.mark.parametrize(("options", "message"), INVALID["options"])
def test_invalid_columns_on_the_command_line(tmp_path, options, message):
    assert_refused(message, read_labels, write(tmp_path / "l.jsonl", ADA), **options)


def test_the_trainer_reads_what_is_exported(tmp_path):
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
    assert_refused("no label has a rank", export, [Label("p1", "x", "y", "ada")])
    assert_refused(r"prompt 'p1' has no text, .* --prompts FILE", export, [Label("p1", None, "y", "ada", rank=1)])


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_ranking_survives_export_and_import(tmp_path_factory, rankings):
    labels = []
    for number, ranks in enumerate(rankings):
        labels += ranked(f"p{number}", "ada", **{f"m{i}": rank for i, rank in enumerate(ranks)})
    kept = {f"say p{n}": sorted(ranks) for n, ranks in enumerate(rankings) if len(set(ranks)) > 1}
    if not kept:
        assert_refused("no ranking to export", export, labels)
        return
    file = tmp_path_factory.mktemp("export") / "r.jsonl"
    write_lines(export(labels)[0], file)
    back = read_labels(str(file))
    assert {p: sorted(label.rank for label in back if label.prompt == p) for p in kept} == kept


def test_preferences_are_means_over_labelers_who_compared_both_by_ranks_or_else_by_likert_marks():
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
    good, bad = Label("p", "x", "a", "ada", likert=6), Label("p", "x", "b", "ada", likert=2)  # without ranks
    pairs = [(good, bad), (replace(good, rank=2), replace(bad, rank=1)), (good, replace(bad, likert=None))]
    assert [preference(*pair) for pair in pairs] == [1, 0, None]
    labels = [
        *ranked("p1", "ada", hen=1, cow=2, pig=2),
        *ranked("p1", "bob", hen=2, cow=1),
        *ranked("p2", "ada", hen=1, cow=3),
        Label("p2", None, "unnamed", "ada", rank=2),
    ]
    assert battles(labels) == {("cow", "hen"): [0.5, 0.0], ("cow", "pig"): [0.5], ("hen", "pig"): [1.0]}
