"""Prompts prepared for training: what is removed, the splits, personal data, and the files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cases import cases
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from alignbench.cli.app import app
from alignbench.data.fetch import sha256_of
from alignbench.data.prepare import SPLITS, Prepared, Settings, are_first, prepare, split_of
from alignbench.errors import AlignbenchError
from trainers.data import read_demonstrations, read_prompts, read_rankings

CASES = cases("prepare")
PERSONAL = CASES["personal"]
SECRET = PERSONAL["EMAIL_ADDRESS"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(out: Path, *splits: str) -> list[dict[str, Any]]:
    files = [out / f"{split}.jsonl" for split in splits or SPLITS]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def prepared(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Prepared:
    return prepare(write(folder / "p.jsonl", rows), folder / "out", Settings(**{"pii": False, **settings}))


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def a_user_of(split: str, name: str = "u{}") -> str:
    return next(user for user in map(name.format, range(1000)) if split_of(user, Settings()) == split)


USER = a_user_of("train")


def farm(users: int = 60, each: int = 3) -> list[dict[str, Any]]:
    text = "Question {} of {}: how many hens?"
    keepers = [f"keeper {user}" for user in range(users)]
    return [{"prompt": text.format(n, keeper), "user": keeper} for keeper in keepers for n in range(each)]


# ---- duplicates, limits, splits ------------------------------------------------------------------------------------


@given(st.lists(st.text("ab", max_size=6), max_size=30), st.integers(1, 5), st.randoms())
def test_of_prompts_with_a_long_common_prefix_the_first_is_kept(prompts, prefix, random):
    def same(a: str, b: str) -> bool:
        return a == b or len(os.path.commonprefix([a, b])) >= prefix  # noqa: RUF071

    def kept(prompts: list[str]) -> list[str]:
        column = pd.Series(prompts, dtype=object)
        return column[are_first(column, prefix)].to_list()

    expected = [prompt for n, prompt in enumerate(prompts) if not any(same(prompt, other) for other in prompts[:n])]
    assert kept(prompts) == expected
    shuffled = kept(random.sample(prompts, len(prompts)))
    assert {prompt[:prefix] for prompt in shuffled} == {prompt[:prefix] for prompt in expected}


def test_no_user_is_in_two_splits_and_no_prompt_is_lost(tmp_path):
    done = prepared(tmp_path, farm())
    splits = {name: read(tmp_path / "out", name) for name in SPLITS}
    users = {name: {row["user"] for row in split} for name, split in splits.items()}
    assert sum(map(len, users.values())) == 60
    assert sorted(row["prompt"] for row in read(tmp_path / "out")) == sorted(row["prompt"] for row in farm())
    for name, split in splits.items():
        assert (done.splits[name].prompts, done.splits[name].users) == (len(split), len(users[name]) or 0) > (0, 0)
    # a number and its text are one user
    same = prepared(tmp_path, [{"prompt": f"question {n}", "user": user} for n, user in enumerate([7, "7"])])
    assert sum(split.users for split in same.splits.values()) == 1


def test_splits_have_their_proportions_and_a_larger_validation_split_takes_users_from_training_alone():
    settings = Settings(validation=0.2, test=0.1)
    found = [split_of(f"user {n}", settings) for n in range(10_000)]
    assert found.count("validation") / 10_000 == pytest.approx(0.2, abs=0.02)  # 5 standard errors
    assert found.count("test") / 10_000 == pytest.approx(0.1, abs=0.015)
    split = {seed: [split_of(f"user {n}", Settings(seed=seed)) for n in range(500)] for seed in (0, 1)}
    assert split[0] != split[1]
    wider = [split_of(f"user {n}", Settings(validation=0.4)) for n in range(500)]
    assert {(a, b) for a, b in zip(split[0], wider, strict=True) if a != b} == {("train", "validation")}


def test_of_a_user_the_first_prompts_are_kept(tmp_path):
    assert Settings().per_user == 200  # the paper's
    done = prepared(tmp_path, farm(users=2, each=5), per_user=2)
    assert sorted(row["prompt"] for row in read(tmp_path / "out")) == sorted(row["prompt"] for row in farm(2, 2))
    assert done.removed["over the user's limit"] == 6
    assert max(split.per_user_max for split in done.splits.values()) == 2
    # without users every prompt is assigned to a split by itself
    done = prepared(tmp_path, [{"prompt": f"question {n}"} for n in range(100)], user_field=None, per_user=1)
    assert sum(split.prompts for split in done.splits.values()) == 100
    assert all(split.prompts > 0 and split.users is None for split in done.splits.values())
    assert "over the user's limit" not in done.removed


def test_a_prompt_that_is_too_long_is_removed_before_the_duplicates(tmp_path):
    rows = [{"prompt": "x" * 31, "user": USER}, {"prompt": "x" * 30, "user": USER}]
    done = prepared(tmp_path, rows, max_prompt_characters=30, prefix_characters=10)
    assert [row["prompt"] for row in read(tmp_path / "out", "train")] == ["x" * 30]
    assert (done.removed["too long"], done.removed["duplicate prefix"]) == (1, 0)


def test_lengths_are_in_tokens_with_a_tokenizer_and_described_as_by_pandas(tmp_path):
    inner = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?").save_pretrained(tmp_path / "tokenizer")
    rows = [{"prompt": "hen " * n, "user": USER} for n in (1, 5, 6, 9, 30)]
    done = prepared(tmp_path, rows, tokenizer=str(tmp_path / "tokenizer"), max_prompt_tokens=9)
    assert (done.length_unit, done.removed["too long"]) == ("tokens", 1)
    for found, lengths in ((done, [1, 5, 6, 9]), (prepared(tmp_path, rows), [4, 20, 24, 36, 120])):
        described = pd.Series(lengths).describe().drop("count").to_dict()
        assert found.splits["train"].length == pytest.approx(described)


# ---- personal data -------------------------------------------------------------------------------------------------


def needs_pii(test: Any) -> Any:
    return pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="needs the extra pii")(test)


@needs_pii
def test_each_kind_is_removed_from_training_and_listed_without_its_text(tmp_path, monkeypatch):
    for name in ("socket.socket.connect", "socket.getaddrinfo", "tldextract.extract"):
        monkeypatch.setattr(
            name, None
        )  # no network; presidio's default, tldextract.extract, downloads a list of domains
    prompts = ["How many hens were there in 2019-2020, 12345 or 3.14159?", *PERSONAL.values()]
    done = prepared(tmp_path, [{"prompt": prompt, "user": USER} for prompt in prompts], pii=True)
    assert done.pii == {kind: [line] for line, kind in enumerate(PERSONAL, start=2)}
    assert list(done.pii) == sorted(PERSONAL)
    assert done.removed["personal data"] == len(PERSONAL)
    assert [row["prompt"] for row in read(tmp_path / "out", "train")] == prompts[:1]
    assert "example.com" not in (tmp_path / "out" / "prepared.json").read_text()


@needs_pii
@pytest.mark.parametrize(
    ("rows", "found"),
    [
        # a number alone is not personal, next to a word that says so it is
        ([{"prompt": "The bolt is part 219099999"}, {"prompt": "My social security number is 219099999"}],
         {"US_SSN": [2]}),
        # the fields that the trainers read are checked, others are not
        ([
            {"prompt": "a", "response": SECRET},
            {"prompt": "b", "responses": ["x", SECRET], "ranks": [1, 2]},
            {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": SECRET}]},
            {"prompt": "d", "response": "x", "contact": SECRET},
        ], {"EMAIL_ADDRESS": [1, 2, 3]}),
        # long texts are read in overlapping pieces
        ([{"prompt": "x"}, *({"prompt": f"{n} {'hay and corn ' * n}{SECRET}"} for n in (276, 305, 306, 307, 5000))],
         {"EMAIL_ADDRESS": [2, 3, 4, 5, 6]}),
        # other splits, and user ids
        ([{"prompt": SECRET, "user": a_user_of("validation")}, {"prompt": f"{SECRET}?", "user": a_user_of("test")}],
         {}),
        ([{"prompt": "a", "user": a_user_of("train", "keeper{}@example.com")}], {}),
    ],
)  # fmt: skip
def test_where_personal_data_is_found(tmp_path, rows, found):
    done = prepared(tmp_path, [{"user": USER, **row} for row in rows], pii=True)
    assert done.pii == found
    removed = {line for lines in found.values() for line in lines}
    assert sum(split.prompts for split in done.splits.values()) == len(rows) - len(removed)


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(AlignbenchError, match=r"pip install 'alignbench\[pii\]', or pass --no-pii"):
        prepared(tmp_path, farm(2), pii=True)


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_other_fields_are_copied_and_named_fields_get_the_trainers_names(tmp_path):
    row = {"id": 5, "question": "Do hens fly? é", "customer": "c1", "tags": ["x", None], "score": 0.5}
    prepared(tmp_path, [row], prompt_field="question", user_field="customer")
    expected = {"id": 5, "prompt": "Do hens fly? é", "user": "c1", "tags": ["x", None], "score": 0.5}
    assert read(tmp_path / "out") == [expected]
    prepared(tmp_path, [{"prompt": "hen \ud83d", "user": "\ud83d"}])  # a lone surrogate
    assert [row["prompt"] for row in read(tmp_path / "out")] == ["hen \ud83d"]


def test_the_trainers_read_what_is_written(tmp_path):
    ranking = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2], "user": USER}
    dialogue = "\n\nHuman: Do hens fly?\n\nAssistant:"
    pair = {"chosen": dialogue + " No.", "rejected": dialogue + " Yes.", "user": USER}
    train, source = str(tmp_path / "out" / "train.jsonl"), str(tmp_path / "p.jsonl")
    prepared(tmp_path, [ranking, pair, ranking])
    assert read_rankings(train) == read_rankings(source)[:2]
    assert read_prompts(train) == ["a", dialogue]
    prepared(tmp_path, [{"prompt": "a", "response": "x", "user": USER}])
    assert read_demonstrations(train) == read_demonstrations(source)
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "responses", "ranks", "user"], ["a", '["x", "y"]', "[1, 2]", USER]])
    prepare(str(tmp_path / "r.csv"), tmp_path / "out", Settings(pii=False))
    assert read_rankings(train) == read_rankings(str(tmp_path / "r.csv"))


def test_the_prompt_of_messages_is_the_first_of_the_user(tmp_path):
    def chat(question: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}]

    rows = [{"messages": chat(question), "user": "u"} for question in ("hens", "ducks", "hens")]
    assert prepared(tmp_path, rows).removed["duplicate prefix"] == 1
    assert read(tmp_path / "out") == rows[:2]


@pytest.mark.parametrize("case", CASES["rows"])
def test_an_invalid_row_is_named_by_file_and_line(tmp_path, case):
    settings = case.get("settings", {})
    good = {settings.get("prompt_field", "prompt"): "a", settings.get("user_field", "user"): "u"}
    with pytest.raises(AlignbenchError) as error:
        prepared(tmp_path, [good, case["row"]], **settings)
    assert str(error.value).startswith(f"{tmp_path / 'p.jsonl'}:2: ")
    assert case["message"] in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", CASES["settings"])
def test_invalid_settings_are_one_line(tmp_path, case):
    with pytest.raises(AlignbenchError, match=case["message"]):
        prepared(tmp_path, farm(1), **case["settings"])


# ---- the command ---------------------------------------------------------------------------------------------------


def run(folder: Path, rows: list[dict[str, Any]], *arguments: object) -> Any:
    command = ["data", "prepare", write(folder / "p.jsonl", rows), "--out", str(folder / "one"), *map(str, arguments)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return done, json.loads((folder / "one" / "prepared.json").read_text())


EVERYTHING = [
    *farm(), *({"prompt": prompt, "user": USER} for prompt in (*PERSONAL.values(), "x" * 900)), farm()[0]
]  # fmt: skip


@pytest.mark.slow
@needs_pii
def test_another_process_with_another_hash_seed_writes_the_same_bytes(tmp_path):
    prepared(tmp_path, EVERYTHING, pii=True)
    command = [sys.executable, "-m", "alignbench", "data", "prepare", tmp_path / "p.jsonl", "--out", tmp_path / "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    subprocess.run(command, env=environment, timeout=120, check=True)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "two")


@needs_pii
def test_the_command_writes_the_splits_and_prints_all_removals(tmp_path):
    done, found = run(tmp_path, EVERYTHING, "--max-prompt-characters", 800)
    assert set(files_of(tmp_path / "one")) == {"prepared.json", *(f"{name}.jsonl" for name in SPLITS)}
    assert found["source"]["sha256"] == sha256_of(tmp_path / "p.jsonl")
    assert found["settings"]["max_prompt_characters"] == 800
    removed = {"too long": 1, "duplicate prefix": 1, "over the user's limit": 0, "personal data": len(PERSONAL)}
    assert found["removed"] == removed
    table = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    assert table["read"] == str(len(EVERYTHING))
    assert {reason: int(table[f"removed: {reason}"]) for reason in removed} == removed
    assert {kind: int(table[f"personal data: {kind}"]) for kind in PERSONAL} == dict.fromkeys(PERSONAL, 1)
    for name in SPLITS:
        split = found["splits"][name]
        assert table[name].split("\t")[:2] == [str(split["prompts"]), str(split["users"])]
    assert sum(split["prompts"] for split in found["splits"].values()) == len(farm())
    assert "example.com" not in done.output


def test_without_the_check_for_personal_data_the_summary_says_so(tmp_path):
    done, found = run(tmp_path, [{"prompt": SECRET}], "--no-pii", "--no-users")
    assert "personal data: not checked (--no-pii)" in done.stdout
    assert found["settings"]["pii"] is False


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    prepared(tmp_path, farm(20))
    before = files_of(tmp_path / "out")
    write_bytes = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if "validation" in path.name:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(AlignbenchError, match=r"out: cannot be written: No space left on device$"):
        prepared(tmp_path, farm(300))
    assert files_of(tmp_path / "out") == before
    (tmp_path / "file").write_text("")
    with pytest.raises(AlignbenchError, match=r"file: cannot be written: File exists$"):
        prepare(str(tmp_path / "p.jsonl"), tmp_path / "file", Settings(pii=False))
    with pytest.raises(AlignbenchError, match=r"nowhere.jsonl: no such file"):
        prepare(str(tmp_path / "nowhere.jsonl"), tmp_path / "out")
