"""Prompts prepared for training: what is removed, the splits, personal data, and the files."""

import csv
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cases import cases, read_lines, write_lines
from commands import assert_refused, files_of, refusal, run, run_process
from hypothesis import given
from hypothesis import strategies as st
from stages import read_demonstrations, read_prompts, read_rankings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignbench.data.fetch import sha256_of
from alignbench.data.prepare import SPLITS, Prepared, Settings, prepare, split_of
from alignbench.errors import AlignbenchError

CASES = cases("prepare")
PERSONAL = CASES["personal"]
FILE, OUT = Path("p.jsonl"), Path("out")
USER = "u0"  # of the training split
needs_pii = pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="needs the extra pii")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with p.jsonl (what is read) and out (what is written)."""
    monkeypatch.chdir(tmp_path)


def read(*splits: str) -> list[dict[str, Any]]:
    return [row for split in splits or SPLITS for row in read_lines(OUT / f"{split}.jsonl")]


def prepared(rows: list[dict[str, Any]], **settings: Any) -> Prepared:
    return prepare(str(write_lines(FILE, rows)), OUT, Settings(**{"pii": False, **settings}))


def of_user(*prompts: str) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "user": USER} for prompt in prompts]


def farm(users: int = 60, each: int = 3) -> list[dict[str, Any]]:
    keepers = [f"keeper {user}" for user in range(users) for _ in range(each)]
    return [{"prompt": f"{n % each}: how many hens has {keeper}?", "user": keeper} for n, keeper in enumerate(keepers)]


def prompts_of(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["prompt"] for row in rows)


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=30), st.integers(1, 5), st.randoms())
def test_of_prompts_with_a_long_common_prefix_the_first_is_kept(prompts, prefix, random):
    def same(a: str, b: str) -> bool:
        return a == b or len(os.path.commonprefix([a, b])) >= prefix  # noqa: RUF071

    def kept(prompts: list[str]) -> list[str]:
        settings = {"user_field": None, "validation": 0, "test": 0, "prefix_characters": prefix}
        prepared([{"prompt": prompt} for prompt in prompts], **settings)
        return [row["prompt"] for row in read("train")]

    expected = [prompt for n, prompt in enumerate(prompts) if not any(same(prompt, other) for other in prompts[:n])]
    assert kept(prompts) == expected
    shuffled = kept(random.sample(prompts, len(prompts)))
    assert {prompt[:prefix] for prompt in shuffled} == {prompt[:prefix] for prompt in expected}


def test_no_user_is_in_two_splits_and_no_prompt_is_lost():
    done = prepared(farm())
    users = {name: {row["user"] for row in read(name)} for name in SPLITS}
    assert all(users.values())
    assert sum(map(len, users.values())) == 60
    assert prompts_of(read()) == prompts_of(farm())
    for name in SPLITS:
        assert (done.splits[name]["prompts"], done.splits[name]["users"]) == (len(read(name)), len(users[name]))
    # a number and its text are one user
    same = prepared([{"prompt": f"question {n}", "user": user} for n, user in enumerate([7, "7"])])
    assert sum(split["users"] for split in same.splits.values()) == 1


def test_splits_have_their_proportions_and_a_larger_validation_split_takes_users_from_training_alone():
    def splits(n: int, **settings: Any) -> list[str]:
        return [split_of(f"user {number}", Settings(**settings)) for number in range(n)]

    found = splits(10_000, validation=0.2, test=0.1)
    assert found.count("validation") / 10_000 == pytest.approx(0.2, abs=0.02)  # 5 standard errors
    assert found.count("test") / 10_000 == pytest.approx(0.1, abs=0.015)
    assert splits(500) != splits(500, seed=1)
    changed = {pair for pair in zip(splits(500), splits(500, validation=0.4), strict=True) if pair[0] != pair[1]}
    assert changed == {("train", "validation")}


def test_of_a_user_the_first_prompts_are_kept_and_one_that_is_too_long_is_removed_before_the_duplicates():
    assert Settings().per_user == 200  # the paper's
    done = prepared(farm(users=2, each=5), per_user=2)
    assert prompts_of(read()) == prompts_of([row for row in farm(2, 5) if row["prompt"][0] in "01"])
    assert done.removed["over the user's limit"] == 6
    assert max(split["per_user_max"] for split in done.splits.values()) == 2
    # without users every prompt is assigned to a split by itself
    done = prepared([{"prompt": f"question {n}"} for n in range(100)], user_field=None, per_user=1)
    assert sum(split["prompts"] for split in done.splits.values()) == 100
    assert all(split["prompts"] > 0 and split["users"] is None for split in done.splits.values())
    assert "over the user's limit" not in done.removed
    done = prepared(of_user("x" * 31, "x" * 30), max_prompt_characters=30, prefix_characters=10)
    assert [row["prompt"] for row in read("train")] == ["x" * 30]
    assert (done.removed["too long"], done.removed["duplicate prefix"]) == (1, 0)


def test_lengths_are_in_tokens_with_a_tokenizer_and_described_as_by_pandas():
    inner = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?").save_pretrained("tokenizer")
    rows = of_user(*("hen " * n for n in (1, 5, 6, 9, 30)))
    done = prepared(rows, tokenizer="tokenizer", max_prompt_tokens=9)
    assert (done.length_unit, done.removed["too long"]) == ("tokens", 1)
    for found, lengths in ((done, [1, 5, 6, 9]), (prepared(rows), [4, 20, 24, 36, 120])):
        described = pd.Series(lengths).describe().drop("count").to_dict()
        assert found.splits["train"]["length"] == pytest.approx(described)


@needs_pii
def test_each_kind_is_removed_from_training_and_listed_without_its_text(monkeypatch):
    # no network is used; presidio's default, tldextract.extract, downloads a list of domains
    for name in ("socket.socket.connect", "socket.getaddrinfo", "tldextract.extract"):
        monkeypatch.setattr(name, None)
    prompts = ["How many hens were there in 2019-2020, 12345 or 3.14159?", *PERSONAL.values()]
    done = prepared(of_user(*prompts), pii=True)
    assert done.pii == {kind: [line] for line, kind in enumerate(PERSONAL, start=2)}
    assert list(done.pii) == sorted(PERSONAL)
    assert done.removed["personal data"] == len(PERSONAL)
    assert [row["prompt"] for row in read("train")] == prompts[:1]
    assert "example.com" not in Path("out/prepared.json").read_text()


LONG = [f"{n} {'hay and corn ' * n}a@example.com" for n in (276, 305, 306, 307, 5000)]  # read in overlapping pieces


@needs_pii
@pytest.mark.parametrize(
    "case", [*CASES["found"], {"rows": of_user("x", *LONG), "found": {"EMAIL_ADDRESS": [*range(2, 7)]}}]
)
def test_where_personal_data_is_found(case):
    assert [split_of(user, Settings()) for user in (USER, "u23", "u3")] == ["train", "validation", "test"]
    done = prepared([{"user": USER, **row} for row in case["rows"]], pii=True)
    assert done.pii == case["found"]
    assert sum(split["prompts"] for split in done.splits.values()) == len(case["rows"]) - done.removed["personal data"]
    assert done.removed["personal data"] == sum(map(len, case["found"].values()))


def test_other_fields_are_copied_named_fields_get_the_trainers_names_and_messages_their_first_prompt():
    row = {"id": 5, "question": "Do hens fly? é", "customer": "c1", "tags": ["x", None], "score": 0.5}
    prepared([row], prompt_field="question", user_field="customer")
    assert read() == [{"id": 5, "prompt": "Do hens fly? é", "user": "c1", "tags": ["x", None], "score": 0.5}]
    prepared([{"prompt": "hen \ud83d", "user": "\ud83d"}])  # a lone surrogate
    assert prompts_of(read()) == ["hen \ufffd"]
    system = {"role": "system", "content": "Be kind."}
    chats = [[system, {"role": "user", "content": question}] for question in ("hens", "ducks", "hens")]
    rows = [{"messages": chat, "user": "u"} for chat in chats]
    assert prepared(rows).removed["duplicate prefix"] == 1
    assert read() == rows[:2]


def test_the_trainers_read_what_is_written():
    ranking = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2], "user": USER}
    dialogue = "\n\nHuman: Do hens fly?\n\nAssistant:"
    pair = {"chosen": dialogue + " No.", "rejected": dialogue + " Yes.", "user": USER}
    prepared([ranking, ranking])
    assert read_rankings("out/train.jsonl") == read_rankings("p.jsonl")[:1]
    prepared([pair])
    assert read_rankings("out/train.jsonl") == read_rankings("p.jsonl")
    assert [row.prompt for row in read_prompts("out/train.jsonl")] == [dialogue]
    prepared([{"prompt": "a", "response": "x", "user": USER}])
    assert read_demonstrations("out/train.jsonl") == read_demonstrations("p.jsonl")
    with Path("r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(ranking), ["a", '["x", "y"]', "[1, 2]", USER]])
    prepare("r.csv", Path("out"), Settings(pii=False))
    assert read_rankings("out/train.jsonl") == read_rankings("r.csv")


@pytest.mark.parametrize("case", CASES["rows"])
def test_an_invalid_row_is_named_by_file_and_line(case):
    settings = case.get("settings", {})
    good = {settings.get("prompt_field", "prompt"): "a", settings.get("user_field", "user"): "u"}
    line = refusal(prepared, [good, case["row"]], **settings)
    assert (line.startswith("p.jsonl:2: "), case["message"] in line, OUT.exists()) == (True, True, False)


@pytest.mark.parametrize("case", CASES["settings"])
def test_invalid_settings_are_one_line(case):
    assert_refused(case["message"], prepared, farm(1), **case["settings"])


def test_without_the_extra_the_error_names_it_and_without_the_check_the_summary_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    line = r"pip install 'alignbench\[pii\]', or pass --no-pii"
    assert_refused(line, prepared, farm(2), pii=True)
    write_lines(FILE, [{"prompt": PERSONAL["EMAIL_ADDRESS"]}])
    said = run(*COMMAND, "--no-pii").stdout
    assert "personal data: not checked (--no-pii)" in said
    assert "users: the rows have no field user (--user-field NAME), so no limit per user" in said
    assert json.loads(files_of(OUT)["prepared.json"])["settings"]["pii"] is False


EVERYTHING = [*farm(), *of_user(*PERSONAL.values(), "x" * 900), farm()[0]]
COMMAND = ["data", "prepare", "p.jsonl", "--out", "out"]


@pytest.mark.slow
@needs_pii
def test_another_process_with_another_hash_seed_writes_the_same_bytes():
    prepared(EVERYTHING, pii=True)
    once = files_of(OUT)
    assert run_process(*COMMAND, env={"PYTHONHASHSEED": "1"}).returncode == 0
    assert files_of(OUT) == once


@needs_pii
def test_the_command_writes_the_splits_and_prints_all_removals():
    write_lines(FILE, EVERYTHING)
    done = run(*COMMAND, "--max-prompt-characters", "800")
    assert files_of(OUT).keys() == {"prepared.json", *(f"{name}.jsonl" for name in SPLITS)}
    found = json.loads(files_of(OUT)["prepared.json"])
    assert (found["source"]["sha256"], found["settings"]["max_prompt_characters"]) == (sha256_of(FILE), 800)
    removed = {"too long": 1, "duplicate prefix": 1, "over the user's limit": 0, "personal data": len(PERSONAL)}
    assert found["removed"] == removed
    table = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    shown = {"read": len(EVERYTHING)} | {f"removed: {reason}": n for reason, n in removed.items()}
    shown |= {f"personal data: {kind}": 1 for kind in PERSONAL}
    assert {name: int(table[name]) for name in shown} == shown
    for name, split in found["splits"].items():
        assert table[name].split("\t")[:2] == [str(split["prompts"]), str(split["users"])]
    assert sum(split["prompts"] for split in found["splits"].values()) == len(farm())
    assert "example.com" not in done.stdout + done.stderr


def test_a_failed_write_leaves_the_old_files(monkeypatch):
    prepared(farm(20))
    before, write_bytes = files_of(OUT), Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if "validation" in path.name:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    assert_refused(r"out: cannot be written: No space left on device$", prepared, farm(300))
    assert files_of(OUT) == before
    with pytest.raises(AlignbenchError, match=r"p.jsonl: cannot be written: File exists$"):
        prepare("p.jsonl", Path("p.jsonl"), Settings(pii=False))
    assert_refused(r"nowhere.jsonl: no such file", prepare, "nowhere.jsonl", Path("out"))
