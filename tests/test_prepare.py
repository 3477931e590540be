"""Prompts made ready for training: what is removed, who stands in which split, and that it is the same every time."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignbench.data.prepare import SPLITS, Item, Settings, prepare, split_of, without_duplicates
from alignbench.data.tables import SourceRow
from alignbench.errors import AlignbenchError
from trainers.data import read_demonstrations, read_prompts, read_rankings

PERSONAL = {
    "EMAIL_ADDRESS": "Write to hen.keeper@example.com about the eggs",
    "PHONE_NUMBER": "Call me on +1 212 555 0187 tonight",
    "CREDIT_CARD": "I paid with 4111 1111 1111 1111 yesterday",
    "IBAN_CODE": "Send it to DE89 3704 0044 0532 0130 00 please",
    "IP_ADDRESS": "The barn's camera is at 192.168.17.4 now",
    "MAC_ADDRESS": "The feeder is 00:1B:44:11:3A:B7 on the net",
    "US_SSN": "My social security number is 219-09-9999 as you know",
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(out: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def a_user_of(split: str, settings: Settings | None = None) -> str:
    return next(f"u{n}" for n in range(1000) if split_of(f"u{n}", settings or Settings()) == split)


def items_of(prompts: list[str]) -> list[Item]:
    return [Item(SourceRow("", n, {}), prompt, "", len(prompt)) for n, prompt in enumerate(prompts)]


def farm(users: int = 60, each: int = 3) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {n} of keeper {user}: how many hens fit into barn {n}?", "user": f"keeper {user}"}
        for user in range(users)
        for n in range(each)
    ]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alignbench", "data", "prepare", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


class TestDuplicates:
    def test_of_prompts_with_a_long_common_prefix_the_first_in_the_input_stays(self):
        prompts = ["x" * 10 + "b", "y", "x" * 10 + "a", "x" * 9 + "z", "y", "x" * 9]
        kept = [item.prompt for item in without_duplicates(items_of(prompts), 10)]
        assert kept == ["x" * 10 + "b", "y", "x" * 9 + "z", "x" * 9]

    @given(st.lists(st.text("ab", max_size=6), max_size=30), st.integers(1, 5))
    def test_it_is_what_comparing_all_pairs_gives(self, prompts, prefix):
        def same(a: str, b: str) -> bool:
            return a == b or len(os.path.commonprefix([a, b])) >= prefix  # noqa: RUF071

        kept = [prompt for n, prompt in enumerate(prompts) if not any(same(prompt, other) for other in prompts[:n])]
        assert [item.prompt for item in without_duplicates(items_of(prompts), prefix)] == kept

    @given(st.lists(st.text("ab", max_size=6), max_size=30), st.randoms())
    def test_the_order_of_the_input_decides_only_who_is_first(self, prompts, random):
        shuffled = random.sample(prompts, len(prompts))
        heads = [{item.prompt[:3] for item in without_duplicates(items_of(order), 3)} for order in (prompts, shuffled)]
        assert heads[0] == heads[1]


class TestSplits:
    def test_no_user_is_in_two_splits_and_no_prompt_is_lost(self, tmp_path):
        rows = farm()
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", Settings(pii=False))
        splits = {name: read(tmp_path / "out", name) for name in SPLITS}
        users = [{row["user"] for row in split} for split in splits.values()]
        assert all(users)
        assert sum(map(len, users)) == 60
        assert sorted(row["prompt"] for split in splits.values() for row in split) == sorted(r["prompt"] for r in rows)
        assert {name: (s.prompts, s.users) for name, s in done.splits.items()} == {
            name: (len(split), len({row["user"] for row in split})) for name, split in splits.items()
        }

    def test_shares_are_those_asked_for(self):
        settings = Settings(validation=0.2, test=0.1)
        found = [split_of(f"user {n}", settings) for n in range(10_000)]
        assert found.count("validation") / 10_000 == pytest.approx(0.2, abs=0.02)  # 5 standard errors
        assert found.count("test") / 10_000 == pytest.approx(0.1, abs=0.015)

    def test_the_seed_deals_anew_and_more_validation_takes_no_user_out_of_test(self):
        users = [f"user {n}" for n in range(500)]
        place = {seed: [split_of(user, Settings(seed=seed)) for user in users] for seed in (0, 1)}
        assert place[0] != place[1]
        wider = [split_of(user, Settings(validation=0.4)) for user in users]
        moved = {(a, b) for a, b in zip(place[0], wider, strict=True) if a != b}
        assert moved == {("train", "validation")}

    def test_a_number_and_its_text_are_one_user(self, tmp_path):
        rows = [{"prompt": f"question {n}", "user": user} for n, user in enumerate([7, "7"])]
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", Settings(pii=False))
        assert sum(split.users for split in done.splits.values()) == 1

    def test_without_users_each_prompt_is_dealt_by_itself_and_no_limit_applies(self, tmp_path):
        source = write(tmp_path / "p.jsonl", [{"prompt": f"question {n}"} for n in range(100)])
        done = prepare(source, tmp_path / "out", Settings(user_field=None, per_user=1, pii=False))
        assert sum(split.prompts for split in done.splits.values()) == 100
        assert all(split.prompts > 0 and split.users is None for split in done.splits.values())
        assert "over the user's limit" not in done.removed


class TestLimits:
    def test_of_a_user_the_first_prompts_stay(self, tmp_path):
        source = write(tmp_path / "p.jsonl", farm(users=2, each=5))
        done = prepare(source, tmp_path / "out", Settings(per_user=2, pii=False))
        kept = [row["prompt"] for name in SPLITS for row in read(tmp_path / "out", name)]
        assert sorted(kept) == sorted(row["prompt"] for row in farm(users=2, each=2))
        assert done.removed["over the user's limit"] == 6
        assert max(split.per_user_max for split in done.splits.values()) == 2

    def test_the_paper_s_limit_is_the_default(self):
        assert Settings().per_user == 200

    def test_a_prompt_too_long_is_gone_before_it_can_be_anybody_s_duplicate(self, tmp_path):
        user = a_user_of("train")
        rows = [{"prompt": "x" * 31, "user": user}, {"prompt": "x" * 30, "user": user}]
        settings = Settings(max_prompt_characters=30, prefix_characters=10, pii=False)
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", settings)
        assert [row["prompt"] for row in read(tmp_path / "out", "train")] == ["x" * 30]
        assert (done.removed["too long"], done.removed["duplicate prefix"]) == (1, 0)

    def test_with_a_tokenizer_lengths_are_tokens(self, tmp_path):
        inner = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?").save_pretrained(tmp_path / "tokenizer")
        user = a_user_of("train")
        source = write(tmp_path / "p.jsonl", [{"prompt": "hen " * n, "user": user} for n in (1, 2, 3, 4)])
        settings = Settings(tokenizer=str(tmp_path / "tokenizer"), max_prompt_tokens=3, pii=False)
        done = prepare(source, tmp_path / "out", settings)
        assert done.length_unit == "tokens"
        assert done.removed["too long"] == 1
        assert done.splits["train"].length == {
            "mean": 2.0, "std": 1.0, "min": 1.0, "25%": 1.5, "50%": 2.0, "75%": 2.5, "max": 3.0,
        }  # fmt: skip

    def test_lengths_are_described_as_pandas_does(self, tmp_path):
        rows = [{"prompt": "hen " * n, "user": "one"} for n in (1, 5, 6, 9, 30)]
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", Settings(pii=False))
        described = pd.Series([4 * n for n in (1, 5, 6, 9, 30)]).describe().drop("count")
        assert done.splits[split_of("one", Settings())].length == pytest.approx(described.to_dict())


class TestPersonalData:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("presidio_analyzer", reason="needs the extra pii")

    def test_each_kind_leaves_the_training_split_and_is_listed_without_its_text(self, tmp_path):
        user = a_user_of("train")
        prompts = ["How many hens were there in 2019-2020, 12345 or 3.14159?", *PERSONAL.values()]
        source = write(tmp_path / "p.jsonl", [{"prompt": prompt, "user": user} for prompt in prompts])
        done = prepare(source, tmp_path / "out")
        assert done.pii == {kind: [line] for line, kind in enumerate(PERSONAL, start=2)}
        assert list(done.pii) == sorted(PERSONAL)
        assert done.removed["personal data"] == len(PERSONAL)
        assert [row["prompt"] for row in read(tmp_path / "out", "train")] == prompts[:1]
        assert "example.com" not in (tmp_path / "out" / "prepared.json").read_text()

    def test_a_bare_number_is_personal_only_beside_a_word_that_says_so(self, tmp_path):
        user = a_user_of("train")
        prompts = ["The bolt is part 219099999", "My social security number is 219099999"]
        source = write(tmp_path / "p.jsonl", [{"prompt": prompt, "user": user} for prompt in prompts])
        assert prepare(source, tmp_path / "out").pii == {"US_SSN": [2]}

    def test_other_splits_keep_theirs(self, tmp_path):
        rows = [{"prompt": PERSONAL["EMAIL_ADDRESS"], "user": a_user_of(name)} for name in ("validation", "test")]
        rows[1]["prompt"] += "?"
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", Settings())
        assert [done.splits[name].prompts for name in SPLITS] == [0, 1, 1]
        assert done.pii == {}

    def test_what_the_trainers_read_beside_the_prompt_is_looked_at_too(self, tmp_path):
        user, secret = a_user_of("train"), PERSONAL["EMAIL_ADDRESS"]
        rows = [
            {"prompt": "a", "response": secret, "user": user},
            {"prompt": "b", "responses": ["x", secret], "ranks": [1, 2], "user": user},
            {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": secret}], "user": user},
            {"prompt": "d", "response": "x", "contact": secret, "user": user},
        ]
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out")
        assert done.pii == {"EMAIL_ADDRESS": [1, 2, 3]}

    def test_it_is_found_at_the_end_of_a_long_text(self, tmp_path):
        user = a_user_of("train")
        prompts = ["hay and corn " * n + PERSONAL["EMAIL_ADDRESS"] for n in (276, 305, 306, 307, 5000)]
        source = write(tmp_path / "p.jsonl", [{"prompt": f"{n} {p}", "user": user} for n, p in enumerate(prompts)])
        with pytest.raises(AlignbenchError, match=r"no prompt is left of 5 \(.*personal data: 5\)"):
            prepare(source, tmp_path / "out")

    def test_a_user_s_id_is_not_the_text_that_is_looked_at(self, tmp_path):
        user = next(
            f"keeper{n}@example.com" for n in range(99) if split_of(f"keeper{n}@example.com", Settings()) == "train"
        )
        done = prepare(write(tmp_path / "p.jsonl", [{"prompt": "a", "user": user}]), tmp_path / "out")
        assert done.splits["train"].prompts == 1

    def test_nothing_asks_the_network(self, tmp_path, monkeypatch):
        import socket

        def refuse(*arguments: object) -> None:
            raise AssertionError("the network was asked")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr("tldextract.extract", refuse)  # presidio's own way to a list of domains that is fetched
        rows = [{"prompt": PERSONAL["EMAIL_ADDRESS"], "user": a_user_of("train")}, {"prompt": "a", "user": "b"}]
        assert prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out").removed["personal data"] == 1


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(AlignbenchError, match=r"pip install 'alignbench\[pii\]', or pass --no-pii"):
        prepare(write(tmp_path / "p.jsonl", farm(2)), tmp_path / "out")


class TestRows:
    def test_other_fields_go_through_and_named_fields_get_the_trainers_names(self, tmp_path):
        row = {"id": 5, "question": "Do hens fly? é", "customer": "c1", "tags": ["x", None], "score": 0.5}
        source = write(tmp_path / "p.jsonl", [row])
        prepare(source, tmp_path / "out", Settings(prompt_field="question", user_field="customer", pii=False))
        (found,) = (row for name in SPLITS for row in read(tmp_path / "out", name))
        assert found == {"id": 5, "prompt": "Do hens fly? é", "user": "c1", "tags": ["x", None], "score": 0.5}

    def test_what_is_written_is_what_the_trainers_read(self, tmp_path):
        user = a_user_of("train")
        ranking = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2], "user": user}
        dialogue = "\n\nHuman: Do hens fly?\n\nAssistant:"
        pair = {"chosen": dialogue + " No.", "rejected": dialogue + " Yes.", "user": user}
        source = write(tmp_path / "r.jsonl", [ranking, pair, ranking])
        prepare(source, tmp_path / "r", Settings(pii=False))
        assert read_rankings(str(tmp_path / "r" / "train.jsonl")) == read_rankings(source)[:2]
        assert read_prompts(str(tmp_path / "r" / "train.jsonl")) == ["a", dialogue]
        source = write(tmp_path / "d.jsonl", [{"prompt": "a", "response": "x", "user": user}])
        prepare(source, tmp_path / "d", Settings(pii=False))
        assert read_demonstrations(str(tmp_path / "d" / "train.jsonl")) == read_demonstrations(source)

    def test_a_ranking_in_csv_stays_one(self, tmp_path):
        path = tmp_path / "r.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                [["prompt", "responses", "ranks", "user"], ["a", '["x", "y"]', "[1, 2]", a_user_of("train")]]
            )
        prepare(str(path), tmp_path / "out", Settings(pii=False))
        assert read_rankings(str(tmp_path / "out" / "train.jsonl")) == read_rankings(str(path))

    def test_of_messages_the_first_of_the_user_is_the_prompt(self, tmp_path):
        def chat(question: str) -> list[dict[str, str]]:
            return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": question}]

        rows = [{"messages": chat(question), "user": "u"} for question in ("hens", "ducks", "hens")]
        done = prepare(write(tmp_path / "p.jsonl", rows), tmp_path / "out", Settings(pii=False))
        assert done.removed["duplicate prefix"] == 1
        assert [row for name in SPLITS for row in read(tmp_path / "out", name)] == rows[:2]

    def test_half_a_character_survives(self, tmp_path):
        source = write(tmp_path / "p.jsonl", [{"prompt": "hen \ud83d", "user": "\ud83d"}])
        prepare(source, tmp_path / "out", Settings(pii=False))
        assert [row["prompt"] for name in SPLITS for row in read(tmp_path / "out", name)] == ["hen \ud83d"]

    @pytest.mark.parametrize(
        ("row", "settings", "reason"),
        [
            ({"user": "u"}, {}, "no field prompt or messages (found: user)"),
            ({"prompt": 5, "user": "u"}, {}, "the prompt is not text or a list of messages"),
            ({"messages": [{"role": "system", "content": "x"}], "user": "u"}, {}, "no message of a user"),
            ({"chosen": "x", "rejected": "y", "user": "u"}, {}, "share no turns"),
            ({"prompt": "a"}, {}, "no field user for the user (found: prompt); name it, or pass --no-users"),
            ({"prompt": "a", "user": ""}, {}, 'user is "", not the id of a user'),
            ({"prompt": "a", "user": None}, {}, "user is null, not the id of a user"),
            ({"prompt": "a", "user": 1.5}, {}, "user is 1.5, not the id of a user"),
            ({"prompt": "a", "q": "b", "user": "u"}, {"prompt_field": "q"}, "both q and prompt"),
            ({"prompt": "a", "c": "b", "user": "u"}, {"user_field": "c"}, "both c and user"),
        ],
    )
    def test_a_bad_row_is_named_by_file_and_line(self, tmp_path, row, settings, reason):
        good = {settings.get("prompt_field", "prompt"): "a", settings.get("user_field", "user"): "u"}
        source = write(tmp_path / "p.jsonl", [good, row])
        with pytest.raises(AlignbenchError) as error:
            prepare(source, tmp_path / "out", Settings(pii=False, **settings))
        assert str(error.value).startswith(f"{source}:2: ")
        assert reason in str(error.value)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"prefix_characters": 0}, "prefix-characters is 0"),
            ({"per_user": 0}, "per-user is 0"),
            ({"max_prompt_characters": -1}, "max-prompt-characters is -1"),
            ({"max_prompt_tokens": 10}, "max-prompt-tokens needs a tokenizer"),
            ({"validation": 0.5, "test": 0.5}, "together under 1"),
            ({"test": -0.1}, "at least 0"),
            ({"test": float("nan")}, "at least 0"),
        ],
    )
    def test_settings_without_sense_are_refused(self, settings, reason):
        with pytest.raises(AlignbenchError, match=reason):
            Settings(**settings)

    def test_a_tokenizer_that_is_not_there_is_one_line(self, tmp_path):
        source = write(tmp_path / "p.jsonl", farm(1))
        (tmp_path / "empty").mkdir()
        with pytest.raises(AlignbenchError, match=r"tokenizer .*empty: cannot be loaded") as error:
            prepare(source, tmp_path / "out", Settings(tokenizer=str(tmp_path / "empty"), pii=False))
        assert "\n" not in str(error.value)


class TestCommand:
    def test_it_prints_the_splits_and_every_removal_and_the_same_input_gives_the_same_bytes(self, tmp_path):
        pytest.importorskip("presidio_analyzer", reason="needs the extra pii")
        user = a_user_of("train")
        personal = [{"prompt": prompt, "user": user} for prompt in PERSONAL.values()]
        rows = [*farm(), *personal, {"prompt": "x" * 900, "user": user}, farm()[0]]
        source = write(tmp_path / "p.jsonl", rows)
        done = run(source, "--out", tmp_path / "one", "--max-prompt-characters", 800, env={"PYTHONHASHSEED": "1"})
        assert done.returncode == 0, done.stderr
        prepare(source, tmp_path / "two", Settings(max_prompt_characters=800))
        assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
        assert set(files_of(tmp_path / "one")) == {"prepared.json", *(f"{name}.jsonl" for name in SPLITS)}

        prepared = json.loads((tmp_path / "one" / "prepared.json").read_text())
        assert prepared["source"]["sha256"] == hashlib.sha256(Path(source).read_bytes()).hexdigest()
        assert prepared["settings"]["max_prompt_characters"] == 800
        removed = {"too long": 1, "duplicate prefix": 1, "over the user's limit": 0, "personal data": len(PERSONAL)}
        assert prepared["removed"] == removed
        table = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
        assert table["read"] == str(len(rows))
        assert {reason: int(table[f"removed: {reason}"]) for reason in removed} == removed
        assert {kind: int(table[f"personal data: {kind}"]) for kind in PERSONAL} == dict.fromkeys(PERSONAL, 1)
        for name in SPLITS:
            split = prepared["splits"][name]
            assert table[name].split("\t")[:2] == [str(split["prompts"]), str(split["users"])]
        assert sum(split["prompts"] for split in prepared["splits"].values()) == len(farm())
        assert "example.com" not in done.stdout + done.stderr

    def test_without_the_search_for_personal_data_the_summary_says_so(self, tmp_path):
        source = write(tmp_path / "p.jsonl", [{"prompt": PERSONAL["EMAIL_ADDRESS"]}])
        done = run(source, "--out", tmp_path / "out", "--no-pii", "--no-users")
        assert done.returncode == 0, done.stderr
        assert "personal data: not looked for (--no-pii)" in done.stdout
        assert json.loads((tmp_path / "out" / "prepared.json").read_text())["settings"]["pii"] is False

    def test_a_full_disk_leaves_what_was_there(self, tmp_path):
        source = write(tmp_path / "p.jsonl", farm(300))
        assert run(write(tmp_path / "small.jsonl", farm(20)), "--out", tmp_path / "out", "--no-pii").returncode == 0
        before = files_of(tmp_path / "out")

        def small_disk() -> None:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

        done = run(source, "--out", tmp_path / "out", "--no-pii", preexec_fn=small_disk)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [f"error: {tmp_path / 'out'}: cannot be written: File too large"]
        assert files_of(tmp_path / "out") == before

    def test_a_folder_that_cannot_be_made_and_a_source_that_is_not_there_are_one_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        done = run(write(tmp_path / "p.jsonl", farm(1)), "--out", tmp_path / "file", "--no-pii")
        assert done.returncode == 2
        assert done.stderr.splitlines() == [f"error: {tmp_path / 'file'}: cannot be written: File exists"]
        done = run(tmp_path / "nowhere.jsonl", "--out", tmp_path / "out")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "no such file" in done.stderr
