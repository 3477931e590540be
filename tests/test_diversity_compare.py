"""`alignbench diversity`: equal numbers, equal lengths, paired differences, a gate, and messages for bad input."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from cases import cases, write_lines
from commands import assert_one_line_error, assert_refused
from commands import run as command

from alignbench.audit.diversity import compare
from alignbench.audit.systems import System, cut_alike, equalise, gated, read_system
from alignbench.diversity.lexical import words
from alignbench.evaluation.evaluate import evaluate
from alignbench.scorers.embeddings import HashedEmbedder
from alignbench.scorers.equivalence import load_embedding
from alignbench.types.record import Output

CASES = cases("diversity")
WORDS = [f"w{n}" for n in range(40)]
EMBEDDER, EQUIVALENCE = HashedEmbedder(), load_embedding()


def system(name, documents, scores=None, **fields):
    outputs = {
        i: tuple(Output(t, scores={"reward": {"reward": scores[i][n]}} if scores else {}) for n, t in enumerate(texts))
        for i, texts in documents.items()
    }
    return System(name, outputs, **fields)


def drawn(name, vocabulary, seed, documents=45, samples=4, length=12):
    draw, own = np.random.default_rng(seed), WORDS[:vocabulary]
    texts = {str(d): [" ".join(draw.choice(own, length)) for _ in range(samples)] for d in range(documents)}
    return system(name, texts)


def text(prefix, n):
    return " ".join(f"{prefix}{i}" for i in range(n))


def table(*systems, **settings):
    rows = compare(systems, EMBEDDER, EQUIVALENCE, **settings).rows
    return {(r.scope, r.outputs, r.lengths, r.metric, r.model): r for r in rows}


def test_both_systems_get_the_same_documents_numbers_of_outputs_and_words():
    one = system("one", {"a": [text("a", 30), text("b", 12), "g"], "b": [text("h", 11)], "only one": ["j"]})
    two = system("two", {"b": [text("k", 20), "n"], "a": [text("o", 15), text("q", 40)]})
    equal = equalise(one, two)
    numbers = {"whole": ((30, 12, 11), (15, 40, 20)), "short": ((15, 12, 11), (15, 12, 11))}
    for lengths, (ours, theirs) in numbers.items():
        (a, b, h), (o, q, k) = (map(text, letters, own) for letters, own in (("abh", ours), ("oqk", theirs)))
        assert getattr(equal, lengths) == (((a, b), (h,)), ((o, q), (k,)))
    assert [note.split(":")[0] for note in equal.notes] == ["1 of 3 documents left out", "2 outputs left out"]
    # pairs that would keep too few words
    one = system("one", {"a": [text("a", 30), "short"], "b": ["two words"], "c": [text("c", 20)]})
    two = system("two", {"a": [text("d", 30), text("e", 30)], "b": [text("f", 30)], "c": [text("g", 30)]})
    equal = equalise(one, two)
    assert ([len(own) for own in equal.short[0]], len(equal.whole[0])) == ([1, 1], 3)
    assert any("2 of 4 pairs of outputs, and with them 1 of 3 documents, left out" in note for note in equal.notes)


@pytest.mark.parametrize(("one", "two", "kept"), CASES["cut"])
def test_a_pair_is_cut_to_fifty_words_or_to_the_shorter_but_not_below_ten(one, two, kept):
    found = cut_alike(text("a", one), text("b", two))
    assert (found and [len(words(own)) for own in found]) == kept


@pytest.mark.parametrize(("one", "other", "message"), CASES["systems"])
def test_systems_that_cannot_be_made_equal_are_refused(one, other, message):
    assert_refused(message, compare, [system("one", one), system("other", other)], EMBEDDER, EQUIVALENCE)
    assert_refused(r"^one model only", compare, [system("one", one)], EMBEDDER, EQUIVALENCE)
    if "keep 10 words" in message:
        found = compare([system("one", one), system("other", other)], EMBEDDER, EQUIVALENCE, whole=True)
        assert {row.lengths for row in found.rows} == {"whole"}


def test_a_larger_vocabulary_is_more_diverse():
    found = table(drawn("few", 8, 1), drawn("many", 40, 2))
    for scope in ("per input", "across inputs"):
        row = found[scope, "all", "equal", "distinct_1", "many"]
        assert row.difference.low > 0
        assert row.difference.value == pytest.approx(row.estimate.value - row.of_reference.value)
        assert found[scope, "all", "equal", "self_bleu", "many"].difference.high < 0
        assert found[scope, "all", "equal", "words", "many"].difference.value == 0
    within, between = (
        found[scope, "all", "equal", "cosine_similarity", "many"] for scope in ("within a model", "between models")
    )
    assert within.of_reference.low > between.estimate.high


def test_a_model_that_stops_writing_is_not_more_diverse():
    falls = drawn("falls", 40, 2)
    falls = replace(falls, documents={i: (*own[:2], Output(""), Output(" ")) for i, own in falls.documents.items()})
    found = table(drawn("talks", 40, 1), falls)
    silent = found["as written", "all", "whole", "silent", "falls"]
    assert (silent.estimate.value, silent.of_reference.value) == (0.5, 0)
    assert found["per input", "all", "equal", "vendi", "falls"].difference.high < 0


def test_a_third_model_changes_no_row_of_two_others():
    one, two = drawn("one", 12, 1, 25, length=40), drawn("two", 40, 2, 25, length=45)
    third = drawn("third", 9, 3, 20, samples=1)  # fewer documents, fewer samples, shorter
    alone, beside = compare([one, two], EMBEDDER, EQUIVALENCE), compare([one, two, third], EMBEDDER, EQUIVALENCE)
    assert [row for row in beside.rows if {row.reference, row.model} == {"one", "two"}] == list(alone.rows)
    assert any(note.startswith("across inputs, all outputs") and "20 with third" in note for note in beside.notes)
    assert ("two", "third") in {(row.reference, row.model) for row in beside.rows}


def test_two_models_that_are_not_comparable_do_not_stop_the_other_comparisons():
    parts = {"first": ("abcd", ""), "one": ("ab", "x"), "two": ("cd", "y")}
    systems = [system(name, {i: [text(own or i, 20)] for i in ids}) for name, (ids, own) in parts.items()]
    found = compare(systems, EMBEDDER, EQUIVALENCE)
    assert any("one and two have no documents in common" in note for note in found.notes)
    assert {(row.reference, row.model) for row in found.rows} == {("first", "one"), ("first", "two")}
    assert {row.scope for row in found.rows} == {"as written", "across inputs", "between models"}  # one output each


def test_length_alone_and_a_model_itself_make_no_difference_at_equal_lengths():
    short = drawn("short", 20, 1, 30, samples=3)
    texts = {i: [f"{own.text} " + "and so on " * 30 for own in outputs] for i, outputs in short.documents.items()}
    found = table(short, system("long", texts), whole=True)
    assert found["per input", "all", "equal", "distinct_1", "long"].difference.value == 0
    assert found["per input", "all", "whole", "distinct_1", "long"].difference.high < -0.1
    found = compare([drawn("one", 20, 1, samples=2)] * 2, EMBEDDER, EQUIVALENCE, whole=True)
    assert found.models == ("one #1", "one #2")
    differences = [row.difference for row in found.rows if row.difference is not None]
    assert {(d.value, end) for d in differences for end in (d.low, d.high)} == {(0, 0), (0, None)}


def test_the_gate_keeps_outputs_that_pass_and_can_reverse_the_order_of_two_models():
    texts = {"a": [text(c, 12) for c in "pqr"], "b": [text(c, 12) for c in "st"]}
    one = system("one", texts, {"a": [1, -1, 1], "b": [-1, -1]})
    two = system("two", texts, {"a": [1, 1, 1], "b": [1, 1]})
    found = compare([one, two], EMBEDDER, EQUIVALENCE, gate="reward.reward>=0")
    counts = {r.outputs: r.estimate.n for r in found.rows if (r.scope, r.metric) == ("per input", "distinct_1")}
    assert counts == {"all": 2, "reward.reward>=0": 1}
    for part in ("2 of 5 outputs of one pass", "1 outputs left out"):
        assert any(part in note for note in found.notes)
    # diverse outputs of low quality do not count (arXiv 2504.12522)
    draw, gate = np.random.default_rng(0), "reward.reward > 0"
    noise = {str(d): [*(" ".join(draw.choice(WORDS, 12)) for _ in "ab"), *["w1 " * 12] * 2] for d in range(12)}
    base = system("base", noise, {i: [-1, -1, 1, 1] for i in noise})
    tuned = system("tuned", {i: [text(c, 12) for c in "abab"] for i in noise}, {i: [1] * 4 for i in noise})
    rows = table(base, tuned, gate=gate)
    raw, good = (rows["per input", outputs, "equal", "vendi", "tuned"].difference for outputs in ("all", gate))
    assert raw.value < 0 < good.value


@pytest.mark.parametrize(("gate", "message"), CASES["gates"])
def test_a_gate_that_cannot_be_applied_is_refused(gate, message):
    systems = [
        system(name, {"a": ["x"]}, {"a": [1]}, identity={"scorers": [scorer] if ">=0" in gate else []})
        for name, scorer in ((name, {"kind": "reward", "name": name, "revision": "1"}) for name in ("one", "two"))
    ]
    assert_refused(message, gated, systems, gate)


@pytest.mark.parametrize("numbered", [False, True])
def test_different_prompts_are_refused(numbered):
    one, two = (
        system(name, {i: ["x y"] for i in "abc"}, prompts={"a": "A.", "b": prompt}, numbered=numbered)
        for name, prompt in (("one", "B. "), ("two", "Else."))
    )
    assert_refused(r"^one and two: their prompts differ, first that of b$", equalise, one, two)
    notes = equalise(one, one).notes
    assert equalise(one, replace(two, prompts={"a": " A.", "c": "C."})).notes == notes
    rows = system("one", {"row 1": ["x"]}, numbered=True)
    assert any("matched by their numbers" in note for note in equalise(rows, rows).notes)


@pytest.mark.parametrize(("changed", "refused", "notes"), CASES["settings"]["changed"])
def test_folders_with_different_settings_are_refused_except_for_template_and_scorers(changed, refused, notes):
    base = CASES["settings"]["base"]
    one, two = (system(n, {"a": ["x"]}, identity=own) for n, own in (("one", base), ("two", base | changed)))
    if refused:
        assert_refused(f"^one and two cannot be compared: {refused}$", equalise, one, two)
        return
    found = [note for note in equalise(one, two).notes if note.startswith("different prompting: ")]
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))


def test_files_are_read_by_id_or_by_row_and_a_map_names_their_columns(tmp_path):
    rows = {"id": 1, "output": "a"}, {"id": 2, "outputs": ["b", "c"]}, {"id": 1, "output": "d"}
    found = read_system(write_lines(tmp_path / "one.jsonl", rows))
    texts = {i: [own.text for own in outputs] for i, outputs in found.documents.items()}
    assert (found.name, found.numbered, texts) == ("one", False, {"1": ["a", "d"], "2": ["b", "c"]})
    rows = {"response": "a", "prompt": "p", "scores": {"reward": {"reward": 1}}}, {"response": "b", "prompt": "q"}
    found = read_system(write_lines(tmp_path / "two.jsonl", rows), columns={"response": "output"})
    assert found.documents == {"row 1": (Output("a", scores={"reward": {"reward": 1.0}}),), "row 2": (Output("b"),)}
    both = write_lines(tmp_path / "both.jsonl", [{"output": "theirs", "response": "ours"}])
    ours = write_lines(tmp_path / "ours.jsonl", [{"output": "ours"}])  # of several files, some need no map
    for file, more in ((both, {"output": "theirs"}), (ours, {})):
        found = read_system(file, columns={"response": "output"} | more)
        assert found.documents["row 1"][0].text == "ours"
    for columns, message in (
        ({"response": "output"}, rf"^{both}:1: two columns would be named 'output'"),
        ({"answer": "outputs"}, rf"^{both}:1: no column 'answer'; there are output, response$"),
        ({"output": "outputs", "response": "outputs"}, "two columns would be named 'outputs'"),
    ):
        assert_refused(message, read_system, both, columns=columns)


@pytest.mark.parametrize(("row", "message"), CASES["outputs"])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    file = write_lines(tmp_path / "one.jsonl", [{"id": "z", "output": "a"}, row])
    assert_refused(rf"^{file}:2: {message}", read_system, file)


def test_the_command_prints_tables_json_and_csv(tmp_path):
    files = [
        write_lines(tmp_path / f"{name}.jsonl", [{"id": i, "response": f"{name} {i} " + "so " * 9} for i in range(4)])
        for name in ("one", "t\x1b[2Jwo", "=1+1")
    ]
    run = ("diversity", *files, "--map", "response=output")
    shown = command(*run, "--csv", tmp_path / "t.csv").stdout
    lines = [line.split("\t") for line in shown.splitlines()]
    assert lines[0][:6] == ["scope", "outputs", "metric", "n", "model", "value"]
    assert ["across inputs", "all", "words kept", "4"] in [line[:4] for line in lines]
    assert "one × t\N{REPLACEMENT CHARACTER}[2Jwo" in shown
    assert not {"whole", "\x1b"} & {*shown, *shown.split()}
    assert "across inputs\tall\twhole\tdistinct_1\t4\t" in command(*run, "--lengths", "whole").stdout
    numbers = json.loads(command(*run, "--json").stdout)
    assert numbers["models"] == ["one", "t\x1b[2Jwo", "=1+1"]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [float(row["value"]) for row in rows] == [row["estimate"]["value"] for row in numbers["rows"]]
    assert {row["model"] for row in rows} == {"t\N{REPLACEMENT CHARACTER}[2Jwo", "'=1+1"}  # no formula
    assert_one_line_error(command("diversity", files[0]), "one model only")
    assert_one_line_error(command(*run, "--device", "xyz"), "device xyz: not on this machine")


def test_a_run_folder_and_its_task_folder_give_the_same_outputs(tmp_path, farm_model, world):
    settings = {"data_dir": world, "template": "none"}
    (done,) = evaluate([str(farm_model)], ["diversity", "diversity_across"], tmp_path, **settings)
    evaluate([str(farm_model)], ["diversity_across"], tmp_path, seed=1, **settings)
    (folder,) = done.folder.glob("diversity-*")
    by_run = read_system(done.folder, "diversity")
    assert by_run == read_system(folder)
    assert by_run.name.endswith("(none)")
    assert [len(own) for own in by_run.documents.values()] == [10, 10]
    first = by_run.documents["user_oriented_task_0"]
    assert first[0].scores.keys() >= {"embedding", "equivalence"}
    assert len({output.text for output in first}) > 1
    several = r"several sets of outputs for diversity_across; name one folder: \S+ \(template none\) or"
    assert_refused(several, read_system, done.folder, "diversity_across")
    assert_refused("personas: no such task", read_system, done.folder, "personas")
    assert_refused("neither a run folder", read_system, tmp_path)
    (folder / "result.json").unlink()
    for path in (done.folder, folder):
        assert_refused("not finished", read_system, path, "diversity")
