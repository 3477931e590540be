"""`alignbench diversity`: equal numbers, equal lengths, paired differences, a gate, and clear words for bad input."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import typer
from alignbench.audit.equal import LEAST, cut_alike, equalise, gated
from alignbench.diversity.words import LENGTH, words
from typer.testing import CliRunner

from alignbench.audit.diversity import compare
from alignbench.audit.systems import Sample, System, read_system
from alignbench.cli.diversity import diversity, write_csv
from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.scorers import find_scorer

WORDS = [f"w{n}" for n in range(40)]


@pytest.fixture(scope="module")
def embedder():
    return find_scorer("embedding=hashed")


def system(name, documents, scores=None):
    return System(
        name,
        {
            i: tuple(Sample(t, {"reward.reward": scores[i][n]} if scores else {}) for n, t in enumerate(texts))
            for i, texts in documents.items()
        },
    )


def made_up(name, vocabulary, seed, documents=30, samples=4, length=12):
    draw = np.random.default_rng(seed)
    return system(
        name,
        {str(d): [" ".join(draw.choice(WORDS[:vocabulary], length)) for _ in range(samples)] for d in range(documents)},
    )


def table(found):
    return {(r.scope, r.outputs, r.lengths, r.metric, r.model): r for r in found.rows}


# Equal numbers and lengths


def text(prefix, n):
    return " ".join(f"{prefix}{i}" for i in range(n))


def test_both_have_the_same_documents_as_many_outputs_and_as_many_words():
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
    assert len(equal.notes) == 2
    assert "1 of 3 documents left out" in equal.notes[0]
    assert "2 outputs left out" in equal.notes[1]


@pytest.mark.parametrize(
    ("one", "two", "kept"),
    [
        (80, 90, (LENGTH, LENGTH)),
        (LEAST, 90, (LEAST, LEAST)),
        (LEAST - 1, 90, None),
        (0, 90, (0, LENGTH)),  # a silent output has no length to cut to, and silence counts
        (3, 0, (3, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_a_pair_is_cut_to_fifty_words_or_to_the_shorter_but_never_to_a_few(one, two, kept):
    found = cut_alike(text("a", one), text("b", two))
    assert (found and tuple(len(words(own)) for own in found)) == kept


def test_what_would_keep_too_few_words_is_left_out_counted_and_told():
    one = system("one", {"a": [text("a", 30), "short"], "b": ["two words"], "c": [text("c", 20)]})
    two = system("two", {"a": [text("d", 30), text("e", 30)], "b": [text("f", 30)], "c": [text("g", 30)]})
    equal = equalise(one, two)
    assert [len(own) for own in equal.short[0]] == [1, 1]
    assert any(
        "2 of 4 pairs of outputs left out at equal lengths, and with them 1 of 3 documents" in n for n in equal.notes
    )
    assert len(equal.whole[0]) == 3


def test_a_model_that_falls_silent_is_not_the_more_diverse_one(embedder):
    talks = made_up("talks", 40, 1, 45)
    falls = replace(
        made_up("falls", 40, 2, 45),
        documents={i: (*own[:2], Sample(""), Sample(" ")) for i, own in made_up("falls", 40, 2, 45).documents.items()},
    )
    found = table(compare([talks, falls], embedder))
    assert found["as written", "all", "whole", "silent", "falls"].estimate.value == 0.5
    assert found["as written", "all", "whole", "silent", "falls"].of_reference.value == 0
    assert found["per input", "all", "equal", "vendi", "falls"].difference.high < 0


@pytest.mark.parametrize("seed", range(5))
def test_cut_outputs_of_one_rank_have_equal_lengths(seed):
    draw = np.random.default_rng(seed)
    one, two = (
        system(n, {str(d): [text(n, draw.integers(10, 80)) for _ in range(draw.integers(1, 5))] for d in range(9)})
        for n in "xy"
    )
    for documents in zip(*equalise(one, two).short, strict=True):
        for rank in zip(*documents, strict=True):
            assert len({len(words(own)) for own in rank}) == 1


def test_bad_input_is_one_clear_line(embedder):
    one, other = system("one", {"a": ["x"]}), system("other", {"b": ["x"]})
    with pytest.raises(AlignbenchError, match=r"^one model only"):
        compare([one], embedder)
    with pytest.raises(AlignbenchError, match=r"^one and other have no documents in common: their ids differ$"):
        equalise(one, other)
    with pytest.raises(AlignbenchError, match=r"^other: all of its 2 outputs are empty$"):
        equalise(system("one", {"a": ["x", "y"]}), system("other", {"a": ["", " "]}))
    with pytest.raises(AlignbenchError, match=r"^no document has outputs of both one and other$"):
        equalise(one, system("other", {"a": []}))
    with pytest.raises(AlignbenchError, match=r"no two outputs keep 10 words at equal lengths; --lengths whole"):
        compare([one, system("other", {"a": ["y"]})], embedder)
    shown = compare([one, system("other", {"a": ["y"]})], embedder, whole=True)
    assert {row.lengths for row in shown.rows} == {"whole"}


# The comparison


def test_the_model_with_the_larger_vocabulary_is_the_more_diverse_one(embedder):
    found = table(compare([made_up("few", 8, 1, 45), made_up("many", 40, 2, 45)], embedder))
    for scope in ("per input", "across inputs"):
        row = found[scope, "all", "equal", "distinct_1", "many"]
        assert row.difference.low > 0
        assert row.difference.value == pytest.approx(row.estimate.value - row.of_reference.value)
        assert found[scope, "all", "equal", "self_bleu", "many"].difference.high < 0
        assert found[scope, "all", "equal", "words", "many"].difference.value == 0
    within = found["within a model", "all", "equal", "cosine_similarity", "many"]
    between = found["between models", "all", "equal", "cosine_similarity", "many"]
    assert within.of_reference.low > between.estimate.high


def test_a_third_model_changes_nothing_that_is_said_of_two(embedder):
    one, two = made_up("one", 12, 1, 45, length=40), made_up("two", 40, 2, 45, length=45)
    third = made_up("third", 9, 3, 20, samples=1, length=12)  # fewer documents, fewer samples, shorter
    alone, beside = compare([one, two], embedder), compare([one, two, third], embedder)
    assert [row for row in beside.rows if {row.reference, row.model} == {"one", "two"}] == list(alone.rows)
    assert any(note.startswith("across inputs, all outputs") and "20 with third" in note for note in beside.notes)
    assert ("two", "third") in {(row.reference, row.model) for row in beside.rows}


def test_two_that_cannot_be_compared_with_each_other_do_not_stop_the_rest(embedder):
    first = system("first", {i: [text(i, 20)] for i in "abcd"})
    one, two = system("one", {i: [text("x", 20)] for i in "ab"}), system("two", {i: [text("y", 20)] for i in "cd"})
    found = compare([first, one, two], embedder)
    assert any("one and two have no documents in common" in note for note in found.notes)
    assert {(row.reference, row.model) for row in found.rows} == {("first", "one"), ("first", "two")}


def test_a_model_against_itself_differs_in_nothing(embedder):
    one = made_up("one", 20, 1, documents=45, samples=2)
    found = compare([one, one], embedder, whole=True)
    assert found.models == ("one #1", "one #2")
    differences = [row.difference for row in found.rows if row.difference is not None]
    assert differences
    assert all(d.value == 0 and d.low in (0, None) and d.high in (0, None) for d in differences)


def test_differences_are_paired_over_documents(embedder):
    # documents differ much more than models do
    draw = np.random.default_rng(0)
    base, shifted = {}, {}
    for d in range(40):
        texts = [" ".join(draw.choice(WORDS[: 2 + d], 30)) for _ in range(3)]
        base[str(d)], shifted[str(d)] = texts, [f"{text} new{n}" for n, text in enumerate(texts)]
    row = table(compare([system("a", base), system("b", shifted)], embedder, whole=True))[
        "per input", "all", "whole", "distinct_1", "b"
    ]
    assert row.difference.low > 0
    assert row.difference.high - row.difference.low < (row.estimate.high - row.estimate.low) / 5


def test_length_alone_makes_no_difference_at_equal_lengths(embedder):
    short = made_up("short", 20, 1, samples=3)
    long = System(
        "long", {i: tuple(Sample(f"{s.text} " + "and so on " * 30) for s in own) for i, own in short.documents.items()}
    )
    found = table(compare([short, long], embedder, whole=True))
    equal, whole = (
        found["per input", "all", lengths, "distinct_1", "long"].difference for lengths in ("equal", "whole")
    )
    assert equal.value == 0
    assert whole.high < -0.1


def test_one_output_a_document_has_no_per_input_numbers(embedder):
    scopes = {
        row.scope for row in compare([made_up("a", 9, 1, samples=1), made_up("b", 9, 2, samples=1)], embedder).rows
    }
    assert scopes == {"as written", "across inputs", "between models"}


def test_very_long_outputs_take_seconds(embedder):
    draw = np.random.default_rng(0)
    one, two = (system(n, {str(d): [" ".join(draw.choice(WORDS, 20_000))] for d in range(90)}) for n in ("one", "two"))
    start = time.process_time()
    compare([one, two], embedder)
    assert time.process_time() - start < 15


# The gate


def test_the_gate_keeps_outputs_that_pass_and_cuts_again_to_equal_counts(embedder):
    one = system(
        "one", {"a": [text(c, 12) for c in "pqr"], "b": [text(c, 12) for c in "st"]}, {"a": [1, -1, 1], "b": [-1, -1]}
    )
    two = system(
        "two", {"a": [text(c, 12) for c in "klm"], "b": [text(c, 12) for c in "no"]}, {"a": [1, 1, 1], "b": [1, 1]}
    )
    found = compare([one, two], embedder, gate="reward.reward>=0")
    rows = table(found)
    assert rows["per input", "all", "equal", "distinct_1", "two"].estimate.n == 2
    assert rows["per input", "reward.reward>=0", "equal", "distinct_1", "two"].estimate.n == 1
    assert any("2 of 5 outputs of one pass" in note for note in found.notes)
    assert any("1 outputs left out" in note for note in found.notes)


def test_on_gated_outputs_the_order_can_reverse(embedder):
    # arXiv 2504.12522: what is diverse and bad does not count
    noise, scores = {}, {}
    draw = np.random.default_rng(0)
    for d in range(12):
        noise[str(d)] = [" ".join(draw.choice(WORDS, 12)), " ".join(draw.choice(WORDS, 12)), "w1 " * 12, "w1 " * 12]
        scores[str(d)] = [-1, -1, 1, 1]
    aligned = {str(d): [text(c, 12) for c in "abab"] for d in range(12)}
    base = system("base", noise, scores)
    tuned = system("tuned", aligned, {i: [1, 1, 1, 1] for i in aligned})
    rows = table(compare([base, tuned], embedder, gate="reward.reward > 0"))
    raw, good = (rows["per input", o, "equal", "vendi", "tuned"].difference for o in ("all", "reward.reward > 0"))
    assert raw.value < 0 < good.value


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("reward", r"^gate 'reward': write KIND.NUMBER>=X"),
        ("reward.reward>=x", "write KIND.NUMBER>=X"),
        ("toxicity.toxicity<=1", r"one has no scores toxicity.toxicity \(it has reward.reward\); `alignbench rescore`"),
        (
            "reward.reward>=2",
            r"^no document has an output of both one and two that passes \(.*0 of 1 outputs of one pass",
        ),
    ],
)
def test_a_gate_that_cannot_be_used_says_why(gate, message):
    with pytest.raises(AlignbenchError, match=message):
        gated([system(n, {"a": ["x"]}, {"a": [1]}) for n in ("one", "two")], gate)


def test_a_gate_of_two_scorers_is_none():
    one, two = (
        replace(
            system(n, {"a": ["x"]}, {"a": [1]}), identity={"scorers": [{"kind": "reward", "name": n, "revision": "1"}]}
        )
        for n in ("one", "two")
    )
    with pytest.raises(AlignbenchError, match=r"scored by different scorers \(one with one@1, two with two@1\)"):
        gated([one, two], "reward.reward>=0")


# Like with like


@pytest.mark.parametrize("numbered", [False, True])
def test_prompts_that_differ_are_refused(numbered):
    one, two = (
        System(n, {i: (Sample("x y"),) for i in "abc"}, {"a": "A.", "b": prompt}, numbered)
        for n, prompt in (("one", "B. "), ("two", "Else."))
    )
    with pytest.raises(AlignbenchError, match=r"^one and two: their prompts differ, first that of b$"):
        equalise(one, two)
    assert equalise(one, replace(two, prompts={"a": " A.", "c": "C."})).notes == equalise(one, one).notes


def test_rows_that_only_their_numbers_match_are_told_of():
    one = replace(system("one", {"row 1": ["x"]}), numbered=True)
    assert any("matched by their numbers" in note for note in equalise(one, one).notes)


FOLDER = {
    "task": "diversity", "version": 2, "shots": 0, "limit": None, "seed": 0, "data": [], "prefix": "",
    "template": "none", "sampling": {"temperature": 1.0}, "documents_sha256": "abc",
    "scorers": [{"kind": "embedding", "name": "hashed", "revision": "1"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("sampling", {"temperature": 0.7}, "sampling: temperature=1.0 / temperature=0.7"),
        ("seed", 1, "seed: 0 / 1"),
        ("limit", 9, "limit: all / 9"),
        ("task", "diversity_across", "task: diversity / diversity_across"),
    ],
)
def test_folders_made_in_different_ways_are_refused(field, value, shown):
    one, two = (
        replace(system(n, {"a": ["x"]}), identity=identity)
        for n, identity in (("one", FOLDER), ("two", FOLDER | {field: value}))
    )
    with pytest.raises(AlignbenchError, match=f"^one and two cannot be compared: {shown}$"):
        equalise(one, two)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"template": "chat"}, ["asked in different ways: template: none / chat"]),
        ({"scorers": []}, []),
        ({"template": None, "sampling": None}, ["template: none / unknown", "sampling: temperature=1.0 / unknown"]),
    ],
)
def test_another_template_and_what_nobody_knows_are_told(changed, told):
    one, two = (
        replace(system(n, {"a": ["x"]}), identity=identity)
        for n, identity in (("one", FOLDER), ("two", FOLDER | changed))
    )
    notes = [note for note in equalise(one, two).notes if "asked in" in note]
    assert len(notes) == len(told)
    assert all(part in note for part, note in zip(told, notes, strict=True))


# Files and folders


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_files_are_read_by_id_or_in_order(tmp_path):
    by_id = write(
        tmp_path / "one.jsonl", {"id": 1, "output": "a"}, {"id": 2, "outputs": ["b", "c"]}, {"id": 1, "output": "d"}
    )
    found = read_system(by_id)
    assert (found.name, found.numbered) == ("one", False)
    assert {i: [s.text for s in own] for i, own in found.documents.items()} == {"1": ["a", "d"], "2": ["b", "c"]}
    rows = [{"response": "a", "prompt": "p", "scores": {"reward": {"reward": 1}}}, {"response": "b", "prompt": "q"}]
    found = read_system(write(tmp_path / "two.jsonl", *rows), columns={"response": "output"})
    assert list(found.documents) == ["row 1", "row 2"]
    assert found.documents["row 1"][0] == Sample("a", {"reward.reward": 1.0})


def test_a_map_names_columns_of_each_file(tmp_path):
    both = write(tmp_path / "both.jsonl", {"output": "theirs", "response": "ours"})
    ours = write(tmp_path / "ours.jsonl", {"output": "ours"})
    for file in (both, ours):
        assert read_system(file, columns={"response": "output"}).documents["row 1"][0].text == "ours"
    with pytest.raises(AlignbenchError, match=rf"^{both}:1: no column 'answer'; there are output, response$"):
        read_system(both, columns={"answer": "outputs"})
    with pytest.raises(AlignbenchError, match="--map names several of its columns"):
        read_system(both, columns={"output": "outputs", "response": "outputs"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a"}, r"no field output \(found: id\)"),
        ({"id": "a", "output": 3}, "an output is int, not text"),
        ({"id": "a", "outputs": "x"}, "outputs is text, not a JSON list"),
        ({"output": "a"}, "no field id"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    file = write(tmp_path / "one.jsonl", {"id": "z", "output": "a"}, row)
    with pytest.raises(AlignbenchError, match=rf"^{file}:2: {message}"):
        read_system(file)


def run(*arguments):
    app = typer.Typer()
    app.command()(diversity)
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_the_command_on_files(tmp_path):
    files = [
        write(tmp_path / f"{name}.jsonl", *({"id": i, "response": f"{name} {i} " + "so " * 9} for i in range(4)))
        for name in ("one", "t\x1b[2Jwo")
    ]
    shown = run(*files, "--map", "response=output", "--csv", tmp_path / "t.csv").stdout
    lines = [line.split("\t") for line in shown.splitlines()]
    assert lines[0][:6] == ["scope", "outputs", "metric", "n", "model", "value"]
    assert ["across inputs", "all", "words kept", "4"] in [line[:4] for line in lines]
    assert "whole" not in shown
    longer = run(*files, "--map", "response=output", "--lengths", "whole").stdout
    assert "across inputs\tall\twhole\tdistinct_1\t4\t" in longer
    assert "one × t\N{REPLACEMENT CHARACTER}[2Jwo" in shown
    assert "\x1b" not in shown
    numbers = json.loads(run(*files, "--map", "response=output", "--json").stdout)
    assert numbers["models"] == ["one", "t\x1b[2Jwo"]
    with (tmp_path / "t.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(numbers["rows"])
    assert [float(line["value"]) for line in lines] == [row["estimate"]["value"] for row in numbers["rows"]]
    with pytest.raises(AlignbenchError, match=r"^one model only"):
        run(files[0])
    with pytest.raises(AlignbenchError, match=r"^device xyz: not on this machine") as error:
        run(*files, "--map", "response=output", "--device", "xyz")
    assert "\n" not in str(error.value)


def test_a_name_like_a_formula_is_text_in_the_csv(tmp_path, embedder):
    found = compare([made_up("b", 9, 2, 3), made_up("=1+1", 9, 1, 3)], embedder)
    write_csv(tmp_path / "t.csv", found.rows)
    with (tmp_path / "t.csv").open() as stream:
        assert {line["model"] for line in csv.DictReader(stream)} == {"'=1+1"}
    assert asdict(found)["models"] == ("b", "=1+1")


def test_a_run_folder_and_its_task(tmp_path, farm_model, world):
    (done,) = evaluate([str(farm_model)], ["diversity"], tmp_path, data_dir=world, template="none")
    folder = next(done.folder.glob("diversity-*"))
    by_run, by_task = read_system(done.folder), read_system(folder)
    assert by_run == by_task
    assert by_run.name.endswith("(none)")
    assert [len(own) for own in by_run.documents.values()] == [10, 10]
    assert by_run.documents["user_oriented_task_0"][0].scores.keys() >= {"embedding.vendi", "equivalence.class"}
    assert len({sample.text for sample in by_run.documents["user_oriented_task_0"]}) > 1
    with pytest.raises(AlignbenchError, match="diversity_across: no such task"):
        read_system(done.folder, "diversity_across")
    with pytest.raises(AlignbenchError, match="neither a run folder"):
        read_system(tmp_path)
    (folder / "result.json").unlink()
    with pytest.raises(AlignbenchError, match="not finished"):
        read_system(done.folder)


def test_two_sets_of_outputs_in_one_run_have_to_be_told_apart(tmp_path, farm_model, world):
    for seed in (0, 1):
        (done,) = evaluate(
            [str(farm_model)], ["diversity_across"], tmp_path, data_dir=world, template="none", seed=seed
        )
    with pytest.raises(
        AlignbenchError,
        match=r"several sets of outputs for diversity_across; give the folder of one: \S+ \(template none\) or",
    ):
        read_system(done.folder)
