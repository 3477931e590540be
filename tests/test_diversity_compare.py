"""`alignbench diversity`: equal numbers, equal lengths, paired differences, a gate, and messages for bad input."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from commands import assert_one_line_error
from commands import run as command

from alignbench.audit.diversity import compare
from alignbench.audit.systems import LEAST, System, cut_alike, equalise, gated, read_system
from alignbench.diversity.lexical import LENGTH, words
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.types.record import Output

WORDS = [f"w{n}" for n in range(40)]
EMBEDDER = HashedEmbedder()


def system(name, documents, scores=None, **fields):
    outputs = {
        i: tuple(Output(t, {"reward": {"reward": scores[i][n]}} if scores else {}) for n, t in enumerate(texts))
        for i, texts in documents.items()
    }
    return System(name, outputs, **fields)


def drawn(name, vocabulary, seed, documents=45, samples=4, length=12):
    draw = np.random.default_rng(seed)
    texts = {
        str(d): [" ".join(draw.choice(WORDS[:vocabulary], length)) for _ in range(samples)] for d in range(documents)
    }
    return system(name, texts)


def text(prefix, n):
    return " ".join(f"{prefix}{i}" for i in range(n))


def table(*systems, **settings):
    rows = compare(systems, EMBEDDER, **settings).rows
    return {(r.scope, r.outputs, r.lengths, r.metric, r.model): r for r in rows}


# Equal numbers and lengths


def test_both_systems_get_the_same_documents_numbers_of_outputs_and_words():
    one = system("one", {"a": [text("a", 30), text("b", 12), "g"], "b": [text("h", 11)], "only one": ["j"]})
    two = system("two", {"b": [text("k", 20), "n"], "a": [text("o", 15), text("q", 40)]})
    equal = equalise(one, two)
    assert equal.whole == (
        ((text("a", 30), text("b", 12)), (text("h", 11),)),
        ((text("o", 15), text("q", 40)), (text("k", 20),)),
    )
    assert equal.short == (
        ((text("a", 15), text("b", 12)), (text("h", 11),)),
        ((text("o", 15), text("q", 12)), (text("k", 11),)),
    )
    assert [note.split(":")[0] for note in equal.notes] == ["1 of 3 documents left out", "2 outputs left out"]


@pytest.mark.parametrize(
    ("one", "two", "kept"),
    [
        (80, 90, (LENGTH, LENGTH)),
        (LEAST, 90, (LEAST, LEAST)),
        (LEAST - 1, 90, None),
        (0, 90, (0, LENGTH)),  # an empty output has no length to cut to, and counts
        (3, 0, (3, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_a_pair_is_cut_to_fifty_words_or_to_the_shorter_but_not_below_ten(one, two, kept):
    found = cut_alike(text("a", one), text("b", two))
    assert (found and tuple(len(words(own)) for own in found)) == kept


def test_pairs_that_would_keep_too_few_words_are_left_out_and_counted():
    one = system("one", {"a": [text("a", 30), "short"], "b": ["two words"], "c": [text("c", 20)]})
    two = system("two", {"a": [text("d", 30), text("e", 30)], "b": [text("f", 30)], "c": [text("g", 30)]})
    equal = equalise(one, two)
    assert ([len(own) for own in equal.short[0]], len(equal.whole[0])) == ([1, 1], 3)
    assert any("2 of 4 pairs of outputs, and with them 1 of 3 documents, left out" in note for note in equal.notes)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": ["x"]}, {"b": ["x"]}, "^one and other have no documents in common: their ids differ$"),
        ({"a": ["x", "y"]}, {"a": ["", " "]}, "^other: all of its 2 outputs are empty$"),
        ({"a": ["x"]}, {"a": []}, "^no document has outputs of both one and other$"),
        ({"a": ["x"]}, {"a": ["y"]}, "no two outputs keep 10 words at equal lengths; --lengths whole"),
    ],
)
def test_systems_that_cannot_be_made_equal_are_refused(one, other, message):
    with pytest.raises(AlignbenchError, match=message):
        compare([system("one", one), system("other", other)], EMBEDDER)


def test_uncut_outputs_are_compared_if_none_keep_enough_words():
    found = compare([system("one", {"a": ["x"]}), system("other", {"a": ["y"]})], EMBEDDER, whole=True)
    assert {row.lengths for row in found.rows} == {"whole"}
    with pytest.raises(AlignbenchError, match=r"^one model only"):
        compare([system("one", {"a": ["x"]})], EMBEDDER)


# The comparison


def test_a_larger_vocabulary_is_more_diverse():
    found = table(drawn("few", 8, 1), drawn("many", 40, 2))
    for scope in ("per input", "across inputs"):
        row = found[scope, "all", "equal", "distinct_1", "many"]
        assert row.difference.low > 0
        assert row.difference.value == pytest.approx(row.estimate.value - row.of_reference.value)
        assert found[scope, "all", "equal", "self_bleu", "many"].difference.high < 0
        assert found[scope, "all", "equal", "words", "many"].difference.value == 0
    within = found["within a model", "all", "equal", "cosine_similarity", "many"]
    between = found["between models", "all", "equal", "cosine_similarity", "many"]
    assert within.of_reference.low > between.estimate.high


def test_a_model_that_stops_writing_is_not_more_diverse():
    talks, falls = drawn("talks", 40, 1), drawn("falls", 40, 2)
    falls = replace(falls, documents={i: (*own[:2], Output(""), Output(" ")) for i, own in falls.documents.items()})
    found = table(talks, falls)
    silent = found["as written", "all", "whole", "silent", "falls"]
    assert (silent.estimate.value, silent.of_reference.value) == (0.5, 0)
    assert found["per input", "all", "equal", "vendi", "falls"].difference.high < 0


def test_a_third_model_changes_no_row_of_two_others():
    one, two = drawn("one", 12, 1, 25, length=40), drawn("two", 40, 2, 25, length=45)
    third = drawn("third", 9, 3, 20, samples=1)  # fewer documents, fewer samples, shorter
    alone, beside = compare([one, two], EMBEDDER), compare([one, two, third], EMBEDDER)
    assert [row for row in beside.rows if {row.reference, row.model} == {"one", "two"}] == list(alone.rows)
    assert any(note.startswith("across inputs, all outputs") and "20 with third" in note for note in beside.notes)
    assert ("two", "third") in {(row.reference, row.model) for row in beside.rows}


def test_two_models_that_are_not_comparable_do_not_stop_the_other_comparisons():
    first = system("first", {i: [text(i, 20)] for i in "abcd"})
    one, two = system("one", {i: [text("x", 20)] for i in "ab"}), system("two", {i: [text("y", 20)] for i in "cd"})
    found = compare([first, one, two], EMBEDDER)
    assert any("one and two have no documents in common" in note for note in found.notes)
    assert {(row.reference, row.model) for row in found.rows} == {("first", "one"), ("first", "two")}
    assert {row.scope for row in found.rows} == {"as written", "across inputs", "between models"}  # one output each


def test_a_model_does_not_differ_from_itself():
    one = drawn("one", 20, 1, samples=2)
    found = compare([one, one], EMBEDDER, whole=True)
    assert found.models == ("one #1", "one #2")
    differences = [row.difference for row in found.rows if row.difference is not None]
    assert differences
    assert all(d.value == 0 and d.low in (0, None) and d.high in (0, None) for d in differences)


def test_differences_are_paired_over_documents():
    draw, base = np.random.default_rng(0), {}  # documents differ much more than models
    for d in range(40):
        base[str(d)] = [" ".join(draw.choice(WORDS[: 2 + d], 30)) for _ in range(3)]
    shifted = {i: [f"{own} new{n}" for n, own in enumerate(texts)] for i, texts in base.items()}
    found = table(system("a", base), system("b", shifted), whole=True)
    row = found["per input", "all", "whole", "distinct_1", "b"]
    assert row.difference.low > 0
    assert row.difference.high - row.difference.low < (row.estimate.high - row.estimate.low) / 5


def test_length_alone_makes_no_difference_at_equal_lengths():
    short = drawn("short", 20, 1, 30, samples=3)
    texts = {i: [f"{own.text} " + "and so on " * 30 for own in outputs] for i, outputs in short.documents.items()}
    found = table(short, system("long", texts), whole=True)
    assert found["per input", "all", "equal", "distinct_1", "long"].difference.value == 0
    assert found["per input", "all", "whole", "distinct_1", "long"].difference.high < -0.1


def test_very_long_outputs_take_seconds():
    draw = np.random.default_rng(0)
    one, two = (system(n, {str(d): [" ".join(draw.choice(WORDS, 20_000))] for d in range(30)}) for n in ("one", "two"))
    start = time.process_time()
    compare([one, two], EMBEDDER)
    assert time.process_time() - start < 6


# The gate


def test_the_gate_keeps_outputs_that_pass_and_makes_them_equal_again():
    texts = {"a": [text(c, 12) for c in "pqr"], "b": [text(c, 12) for c in "st"]}
    one = system("one", texts, {"a": [1, -1, 1], "b": [-1, -1]})
    two = system("two", texts, {"a": [1, 1, 1], "b": [1, 1]})
    found = compare([one, two], EMBEDDER, gate="reward.reward>=0")
    counts = {r.outputs: r.estimate.n for r in found.rows if (r.scope, r.metric) == ("per input", "distinct_1")}
    assert counts == {"all": 2, "reward.reward>=0": 1}
    assert any("2 of 5 outputs of one pass" in note for note in found.notes)
    assert any("1 outputs left out" in note for note in found.notes)


def test_the_order_of_two_models_can_reverse_on_gated_outputs():
    # diverse outputs of low quality do not count (arXiv 2504.12522)
    draw, gate, noise = np.random.default_rng(0), "reward.reward > 0", {}
    for d in range(12):
        noise[str(d)] = [" ".join(draw.choice(WORDS, 12)), " ".join(draw.choice(WORDS, 12)), "w1 " * 12, "w1 " * 12]
    base = system("base", noise, {i: [-1, -1, 1, 1] for i in noise})
    tuned = system("tuned", {i: [text(c, 12) for c in "abab"] for i in noise}, {i: [1] * 4 for i in noise})
    rows = table(base, tuned, gate=gate)
    raw, good = (rows["per input", outputs, "equal", "vendi", "tuned"].difference for outputs in ("all", gate))
    assert raw.value < 0 < good.value


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("reward", r"^gate 'reward': write KIND.NUMBER>=X"),
        ("reward.reward>=x", "write KIND.NUMBER>=X"),
        ("toxicity.toxicity<=1", r"one has no scores toxicity.toxicity \(it has reward.reward\); `alignbench rescore`"),
        ("reward.reward>=2", r"^no document has an output of both one and two that passes \(.*0 of 1 outputs of one"),
        ("reward.reward>=0", r"scored by different scorers \(one with one@1, two with two@1\)"),
    ],
)
def test_a_gate_that_cannot_be_applied_is_refused(gate, message):
    scorers = [[{"kind": "reward", "name": name, "revision": "1"}] if ">=0" in gate else [] for name in ("one", "two")]
    systems = [
        system(name, {"a": ["x"]}, {"a": [1]}, identity={"scorers": own})
        for name, own in zip(("one", "two"), scorers, strict=True)
    ]
    with pytest.raises(AlignbenchError, match=message):
        gated(systems, gate)


# Which outputs are comparable


@pytest.mark.parametrize("numbered", [False, True])
def test_different_prompts_are_refused(numbered):
    one, two = (
        system(name, {i: ["x y"] for i in "abc"}, prompts={"a": "A.", "b": prompt}, numbered=numbered)
        for name, prompt in (("one", "B. "), ("two", "Else."))
    )
    with pytest.raises(AlignbenchError, match=r"^one and two: their prompts differ, first that of b$"):
        equalise(one, two)
    assert equalise(one, replace(two, prompts={"a": " A.", "c": "C."})).notes == equalise(one, one).notes
    rows = system("one", {"row 1": ["x"]}, numbered=True)
    assert any("matched by their numbers" in note for note in equalise(rows, rows).notes)


FOLDER = {
    "task": "diversity", "version": 2, "shots": 0, "limit": None, "seed": 0, "data": [], "prefix": "",
    "template": "none", "sampling": {"temperature": 1.0}, "documents_sha256": "abc",
    "scorers": [{"kind": "embedding", "name": "hashed", "revision": "1"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "refused", "notes"),
    [
        ({"sampling": {"temperature": 0.7}}, "sampling: temperature=1.0 / temperature=0.7", []),
        ({"seed": 1}, "seed: 0 / 1", []),
        ({"limit": 9}, "limit: all / 9", []),
        ({"task": "diversity_across"}, "task: diversity / diversity_across", []),
        ({"template": "chat"}, None, ["template: none / chat"]),
        ({"scorers": []}, None, []),
        ({"template": None, "sampling": None}, None, ["template: none / unknown", "temperature=1.0 / unknown"]),
    ],
)
def test_folders_with_different_settings_are_refused_except_for_template_and_scorers(changed, refused, notes):
    one, two = (system(n, {"a": ["x"]}, identity=own) for n, own in (("one", FOLDER), ("two", FOLDER | changed)))
    if refused:
        with pytest.raises(AlignbenchError, match=f"^one and two cannot be compared: {refused}$"):
            equalise(one, two)
        return
    found = [note for note in equalise(one, two).notes if note.startswith("different prompting: ")]
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))


# Files and folders


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_files_are_read_by_id_or_by_row(tmp_path):
    rows = {"id": 1, "output": "a"}, {"id": 2, "outputs": ["b", "c"]}, {"id": 1, "output": "d"}
    found = read_system(write(tmp_path / "one.jsonl", *rows))
    assert (found.name, found.numbered) == ("one", False)
    assert {i: [own.text for own in outputs] for i, outputs in found.documents.items()} == {
        "1": ["a", "d"],
        "2": ["b", "c"],
    }
    rows = {"response": "a", "prompt": "p", "scores": {"reward": {"reward": 1}}}, {"response": "b", "prompt": "q"}
    found = read_system(write(tmp_path / "two.jsonl", *rows), columns={"response": "output"})
    assert list(found.documents) == ["row 1", "row 2"]
    assert found.documents["row 1"] == (Output("a", {"reward": {"reward": 1.0}}),)


def test_a_map_names_the_columns_of_several_files(tmp_path):
    both = write(tmp_path / "both.jsonl", {"output": "theirs", "response": "ours"})
    ours = write(tmp_path / "ours.jsonl", {"output": "ours"})
    for file in (both, ours):
        assert read_system(file, columns={"response": "output"}).documents["row 1"][0].text == "ours"
    with pytest.raises(AlignbenchError, match=rf"^{both}:1: no column 'answer'; there are output, response$"):
        read_system(both, columns={"answer": "outputs"})
    with pytest.raises(AlignbenchError, match="--map renames several of its columns"):
        read_system(both, columns={"output": "outputs", "response": "outputs"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, r"no field output \(found: id\)"),
        ({"id": "a", "output": 3}, "an output is int, not text"),
        ({"id": "a", "outputs": "x"}, "outputs is text, not a JSON list"),
        ({"output": "a"}, "no field id"),
        ({"id": "a", "output": "b", "scores": 1}, "scores is not an object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    file = write(tmp_path / "one.jsonl", {"id": "z", "output": "a"}, row)
    with pytest.raises(AlignbenchError, match=rf"^{file}:2: {message}"):
        read_system(file)


def test_the_command_prints_tables_json_and_csv(tmp_path):
    files = [
        write(tmp_path / f"{name}.jsonl", *({"id": i, "response": f"{name} {i} " + "so " * 9} for i in range(4)))
        for name in ("one", "t\x1b[2Jwo", "=1+1")
    ]
    run = ("diversity", *files, "--map", "response=output")
    shown = command(*run, "--csv", tmp_path / "t.csv").stdout
    lines = [line.split("\t") for line in shown.splitlines()]
    assert lines[0][:6] == ["scope", "outputs", "metric", "n", "model", "value"]
    assert ["across inputs", "all", "words kept", "4"] in [line[:4] for line in lines]
    assert "whole" not in shown
    assert "across inputs\tall\twhole\tdistinct_1\t4\t" in command(*run, "--lengths", "whole").stdout
    assert "one × t\N{REPLACEMENT CHARACTER}[2Jwo" in shown
    assert "\x1b" not in shown
    numbers = json.loads(command(*run, "--json").stdout)
    assert numbers["models"] == ["one", "t\x1b[2Jwo", "=1+1"]
    with (tmp_path / "t.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["value"]) for row in rows] == [row["estimate"]["value"] for row in numbers["rows"]]
    assert {row["model"] for row in rows} == {"t\N{REPLACEMENT CHARACTER}[2Jwo", "'=1+1"}  # no formula
    assert_one_line_error(command("diversity", files[0]), "one model only")
    assert_one_line_error(command(*run, "--device", "xyz"), "device xyz: not on this machine")


def test_a_run_folder_and_its_task_folder_give_the_same_outputs(tmp_path, farm_model, world):
    (done,) = evaluate([str(farm_model)], ["diversity"], tmp_path, data_dir=world, template="none")
    folder = next(done.folder.glob("diversity-*"))
    by_run = read_system(done.folder)
    assert by_run == read_system(folder)
    assert by_run.name.endswith("(none)")
    assert [len(own) for own in by_run.documents.values()] == [10, 10]
    first = by_run.documents["user_oriented_task_0"]
    assert first[0].scores.keys() >= {"embedding", "equivalence"}
    assert len({output.text for output in first}) > 1
    with pytest.raises(AlignbenchError, match="diversity_across: no such task"):
        read_system(done.folder, "diversity_across")
    with pytest.raises(AlignbenchError, match="neither a run folder"):
        read_system(tmp_path)
    (folder / "result.json").unlink()
    for path in (done.folder, folder):
        with pytest.raises(AlignbenchError, match="not finished"):
            read_system(path)


def test_two_sets_of_outputs_in_one_run_have_to_be_named_by_folder(tmp_path, farm_model, world):
    for seed in (0, 1):
        settings = {"data_dir": world, "template": "none", "seed": seed}
        (done,) = evaluate([str(farm_model)], ["diversity_across"], tmp_path, **settings)
    message = r"several sets of outputs for diversity_across; name one folder: \S+ \(template none\) or"
    with pytest.raises(AlignbenchError, match=message):
        read_system(done.folder)
