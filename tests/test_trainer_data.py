"""What the trainers read: every form of row becomes the same plain text, and a bad row is named by file and line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from alignbench.data.sources import dialogue_messages, fingerprint, shared_prompt
from alignbench.errors import AlignbenchError
from trainers.data import (
    Demonstration,
    Ranking,
    chat_template,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
)

HENS = "\n\nHuman: Do hens fly?\n\nAssistant:"
CHATML = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def plain_chat(messages: list[dict[str, str]], open_turn: bool) -> str:
    return "".join(f"<{m['role']}>{m['content']}<end>" for m in messages) + "<assistant>" * open_turn


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def a_tokenizer(template: str | None = CHATML, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"<s>": 0, "<end>": 1, "?": 2, "a": 3}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<end>", unk_token="?")
    tokenizer.chat_template = template
    return tokenizer


class TestDemonstrations:
    def test_prompt_with_response_or_completion(self, tmp_path):
        source = write(tmp_path / "d.jsonl", {"prompt": "a", "response": "b"}, {"prompt": "c", "completion": "d"})
        assert read_demonstrations(source) == [Demonstration("a", "b"), Demonstration("c", "d")]

    @pytest.mark.parametrize(
        "name", ["d.jsonl", "d.jsonl.gz", "d.json", "lines.json", "d.json.gz", "d.csv", "d.csv.gz"]
    )
    def test_every_kind_of_file_gives_the_same(self, tmp_path, name):
        rows = [{"prompt": "a, b", "response": 'say "c"\nd'}, {"prompt": "é", "response": "f"}]
        path = tmp_path / name
        if ".csv" in name:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["prompt", "response"])
                writer.writeheader()
                writer.writerows(rows)
        elif name.startswith("d.json") and ".jsonl" not in name:
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        else:
            write(path, *rows)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
        assert read_demonstrations(str(path)) == [Demonstration(**row) for row in rows]

    def test_of_messages_the_response_is_what_the_last_one_adds(self, tmp_path):
        source = write(tmp_path / "d.jsonl", {"messages": [user("one"), assistant("1"), user("two"), assistant("2")]})
        (demonstration,) = read_demonstrations(source, plain_chat)
        assert demonstration == Demonstration("<user>one<end><assistant>1<end><user>two<end><assistant>", "2<end>")

    def test_with_a_template_a_plain_prompt_is_a_user_s_message(self, tmp_path):
        plain = write(tmp_path / "p.jsonl", {"prompt": "one", "response": "1"})
        chat = write(tmp_path / "c.jsonl", {"messages": [user("one"), assistant("1")]})
        assert read_demonstrations(plain, plain_chat) == read_demonstrations(chat, plain_chat)
        assert read_demonstrations(plain) == [Demonstration("one", "1")]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"prompt": "a"}, "no field response or completion (found: prompt)"),
            ({"response": "a"}, "no field prompt"),
            ({"prompt": "a", "response": ""}, "empty"),
            ({"prompt": 5, "response": "b"}, "prompt is not text or a list of messages"),
            ({"prompt": "a", "response": None}, "response is not text"),
            ({"messages": []}, "messages is not a list of messages"),
            ({"messages": "hello"}, "messages is not a list of messages"),
            ({"messages": [{"role": "user"}, assistant("b")]}, "a content in messages is null"),
            ({"messages": [user("a"), {"role": "assistant", "content": ["b"]}]}, "is list, not text"),
            ({"messages": [user("a"), assistant("b"), user("c")]}, "not the assistant's response"),
            ({"messages": [user("a"), assistant("")]}, "empty"),
            ({"messages": [assistant("b")]}, "prompt is not"),
        ],
    )
    def test_a_bad_row_is_named(self, tmp_path, row, reason):
        source = write(tmp_path / "d.jsonl", {"prompt": "a", "response": "b"}, row)
        with pytest.raises(AlignbenchError) as error:
            read_demonstrations(source, plain_chat)
        assert str(error.value).startswith(f"{source}:2: ")
        assert reason in str(error.value)
        assert "\n" not in str(error.value)

    def test_messages_without_a_template_are_refused(self, tmp_path):
        source = write(tmp_path / "d.jsonl", {"messages": [user("a"), assistant("b")]})
        with pytest.raises(AlignbenchError, match=r"d.jsonl:1: chat messages need a tokenizer with a chat template"):
            read_demonstrations(source)

    def test_a_template_that_renders_the_prompt_otherwise_is_named(self, tmp_path):
        source = write(tmp_path / "d.jsonl", {"messages": [user("a"), assistant("b")]})
        with pytest.raises(AlignbenchError, match=r"d.jsonl:1: the chat template renders the prompt otherwise"):
            read_demonstrations(source, lambda messages, open_turn: f"{len(messages)}")


class TestRankings:
    def test_ranks_keep_their_ties_and_the_labeler(self, tmp_path):
        row = {"prompt": "a", "responses": ["x", "y", "z"], "ranks": [2, 1, 2], "labeler": "ann"}
        (ranking,) = read_rankings(write(tmp_path / "r.jsonl", row))
        assert ranking == Ranking("a", ("x", "y", "z"), (2.0, 1.0, 2.0), "ann")

    def test_a_number_is_a_labeler_too_and_none_is_none(self, tmp_path):
        row = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]}
        source = write(tmp_path / "r.jsonl", row | {"labeler": 7}, row, row | {"labeler": ""})
        assert [ranking.labeler for ranking in read_rankings(source)] == ["7", None, None]

    def test_a_pair_is_a_ranking_of_two(self, tmp_path):
        source = write(tmp_path / "r.jsonl", {"prompt": "a", "chosen": "good", "rejected": "bad"})
        assert read_rankings(source) == [Ranking("a", ("good", "bad"), (1.0, 2.0), None)]

    def test_cells_of_csv_are_json_lists(self, tmp_path):
        path = tmp_path / "r.csv"
        path.write_text('prompt,responses,ranks,labeler\na,"[""x"", ""y, z""]","[2, 1.5]",\n')
        assert read_rankings(str(path)) == [Ranking("a", ("x", "y, z"), (2.0, 1.5), None)]

    def test_messages_of_a_pair_are_the_same_with_and_without_the_prompt_repeated(self, tmp_path):
        short = {"prompt": "a", "chosen": [assistant("good")], "rejected": [assistant("bad")]}
        whole = {"prompt": "a", "chosen": [user("a"), assistant("good")], "rejected": [user("a"), assistant("bad")]}
        alone = {"chosen": whole["chosen"], "rejected": whole["rejected"]}
        text = {"prompt": "a", "chosen": "good", "rejected": "bad"}
        found = read_rankings(write(tmp_path / "r.jsonl", short, whole, alone, text), plain_chat)
        assert found == [Ranking("<user>a<end><assistant>", ("good<end>", "bad<end>"), (1.0, 2.0), None)] * 4

    def test_a_dialogue_pair_is_cut_at_the_last_assistant_that_both_share(self, tmp_path):
        start = "\n\nHuman: hi\n\nAssistant: Hello.\n\nHuman: Do hens fly?\n\nAssistant:"
        source = write(tmp_path / "r.jsonl", {"chosen": start + " A bit.", "rejected": start + " A lot."})
        assert read_rankings(source) == [Ranking(start, (" A bit.", " A lot."), (1.0, 2.0), None)]
        (chat,) = read_rankings(source, plain_chat)
        assert chat.prompt == "<user>hi<end><assistant>Hello.<end><user>Do hens fly?<end><assistant>"
        assert chat.responses == ("A bit.<end>", "A lot.<end>")

    def test_dialogues_that_part_at_a_human_turn_are_cut_before_the_answer_they_share(self, tmp_path):
        start = HENS + " Yes.\n\nHuman:"
        source = write(
            tmp_path / "r.jsonl",
            {"chosen": start + " Far?\n\nAssistant: No.", "rejected": start + " High?\n\nAssistant: Yes."},
        )
        (plain,) = read_rankings(source)
        assert plain.prompt == HENS
        assert plain.responses[0] == " Yes.\n\nHuman: Far?\n\nAssistant: No."
        (chat,) = read_rankings(source, plain_chat)
        assert chat.prompt == "<user>Do hens fly?<end><assistant>"
        assert chat.responses[1] == "Yes.<end><user>High?<end><assistant>Yes.<end>"

    def test_a_blank_turn_of_a_dialogue_is_an_answer(self, tmp_path):
        source = write(tmp_path / "r.jsonl", {"chosen": HENS + " ", "rejected": HENS + " No."})
        assert read_rankings(source)[0].responses == (" ", " No.")
        assert read_rankings(source, plain_chat)[0].responses == (" <end>", "No.<end>")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"responses": ["x"], "ranks": [1]}, "at least two responses, not 1"),
            ({"ranks": [1, 1]}, "all responses are tied"),
            ({"ranks": [1]}, "1 ranks for 2 responses"),
            ({"ranks": [1, math.nan]}, "NaN, which is not a finite number"),
            ({"ranks": [1, math.inf]}, "Infinity, which is not a finite number"),
            ({"ranks": [1, 10**400]}, "too large"),
            ({"ranks": [1, True]}, "true, which is not a finite number"),
            ({"ranks": [1, "2"]}, '"2", which is not a finite number'),
            ({"ranks": "best first"}, "ranks is text, not a JSON list"),
            ({"ranks": {"x": 1}}, "ranks is dict, not a list"),
            ({"responses": ["x", ""]}, "empty"),
            ({"responses": ["x", 5]}, "response is not text"),
            ({"labeler": {"name": "ann"}}, "labeler is dict"),
        ],
    )
    def test_a_ranking_that_teaches_nothing_is_named(self, tmp_path, changes, reason):
        row = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]}
        source = write(tmp_path / "r.jsonl", row, row | changes)
        with pytest.raises(AlignbenchError) as error:
            read_rankings(source)
        assert str(error.value).startswith(f"{source}:2: ")
        assert reason in str(error.value)

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"chosen": "a", "rejected": "b"}, "no field prompt, and chosen and rejected share no turns"),
            ({"chosen": HENS + " a"}, "no field rejected"),
            ({"prompt": "a", "ranks": [1, 2]}, "no field responses"),
            ({"prompt": "a", "responses": ["x", "y"]}, "no field ranks"),
            ({"chosen": HENS, "rejected": HENS + " a"}, "empty"),
        ],
    )
    def test_a_row_that_is_no_ranking_is_named(self, tmp_path, row, reason):
        with pytest.raises(AlignbenchError, match=reason) as error:
            read_rankings(write(tmp_path / "r.jsonl", row))
        assert "r.jsonl:1: " in str(error.value)

    @given(st.text("ab \n:", max_size=12), st.text("ab \n:", max_size=12), st.text("ab", max_size=5))
    def test_prompt_and_responses_of_a_dialogue_pair_are_the_dialogues_again(self, chosen, rejected, question):
        start = f"\n\nHuman: {question}\n\nAssistant:"
        pair = [start + chosen, start + rejected]
        prompt = shared_prompt(pair)
        assert all(dialogue.startswith(prompt) for dialogue in pair)
        assert prompt.endswith("\n\nAssistant:")
        assert [message["role"] for message in dialogue_messages(prompt)] == ["user", "assistant"]


class TestPrompts:
    def test_of_any_row_the_prompt_is_the_one_that_its_answers_follow(self, tmp_path):
        rows = [
            {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]},
            {"prompt": "a", "chosen": "x", "rejected": "y"},
            {"chosen": HENS + " x", "rejected": HENS + " y"},
            {"chosen": [user("a"), assistant("x")], "rejected": [user("a"), assistant("y")]},
        ]
        source = write(tmp_path / "r.jsonl", *rows)
        answered = read_rankings(source, plain_chat)
        assert read_prompts(source, plain_chat) == [ranking.prompt for ranking in answered]
        chat = write(tmp_path / "c.jsonl", {"messages": [user("a"), assistant("x")]}, {"messages": [user("a")]})
        assert read_prompts(chat, plain_chat) == ["<user>a<end><assistant>"] * 2

    def test_without_a_template_a_prompt_is_itself(self, tmp_path):
        source = write(tmp_path / "p.jsonl", {"prompt": "a\n"}, {"chosen": HENS + " x", "rejected": HENS + " y"})
        assert read_prompts(source) == ["a\n", HENS]


class TestTexts:
    def test_documents_of_a_text_file_stand_between_blank_lines(self, tmp_path):
        path = tmp_path / "t.txt"
        path.write_bytes(b"\n\none\r\nstill one\r\n\r\n \ntwo\n\n\n\nthree")
        assert read_texts(str(path)) == ["one\nstill one", "two", "three"]
        assert fingerprint(str(path))["rows"] == 3

    def test_a_megabyte_without_blank_lines_is_one_document(self, tmp_path):
        path = tmp_path / "t.txt"
        path.write_text("corn and hay\n" * 80_000)
        (text,) = read_texts(str(path))
        assert text.count("\n") == 79_999

    def test_blank_rows_are_left_out_and_a_file_of_them_is_named(self, tmp_path):
        assert read_texts(write(tmp_path / "t.jsonl", {"text": "a"}, {"text": " "})) == ["a"]
        with pytest.raises(AlignbenchError, match="every text is blank"):
            read_texts(write(tmp_path / "t.jsonl", {"text": " "}))
        with pytest.raises(AlignbenchError, match=r"t.jsonl:1: text is null, not text"):
            read_texts(write(tmp_path / "t.jsonl", {"text": None}))


class TestSources:
    def test_a_file_is_pinned_by_its_bytes_and_named_without_its_folder(self, tmp_path):
        source = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
        sha256 = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        assert fingerprint(source) == {"source": "p.jsonl", "sha256": sha256, "rows": 2}

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("nowhere.jsonl", "no such file"),
            ("data/nowhere.csv.gz", "no such file"),
            ("nowhere", "nor a hub data set"),
            ("a/b/c", "nor a hub data set"),
            ("owner/name", "HF_HUB_OFFLINE is set, and it is not in the hub's cache"),
            ("owner/name:test@0123abc", "hub owner/name could not be loaded"),
        ],
    )
    def test_what_is_not_there_is_one_line(self, source, reason, monkeypatch):
        import datasets

        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(AlignbenchError, match=reason) as error:
            read_prompts(source)
        assert "\n" not in str(error.value)

    def test_split_and_revision_reach_the_hub(self, monkeypatch):
        asked = []

        def load_dataset(name, config, split, revision):
            import datasets

            asked.append((name, config, split, revision))
            return datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": None}])

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        with pytest.raises(AlignbenchError, match=r"^hub owner/name test row 1: prompt is not text"):
            read_prompts("owner/name:test@0123abc")
        pins = fingerprint("owner/name")
        assert (pins["source"], pins["revision"], pins["rows"]) == ("owner/name", None, 2)
        assert asked == [("owner/name", None, "test", "0123abc"), *[("owner/name", None, "train", "main")] * 2]

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("d.jsonl", '{"prompt": "a"}\n{"prompt": ', r"d.jsonl:2: not valid JSON"),
            ("d.json", '[{"prompt": "a"},\n nonsense]', r"d.json:2: not valid JSON"),
            ("d.jsonl", '{"prompt": "a"}\n["b"]\n', r"d.jsonl:2: expected a JSON object, found a list"),
            ("d.csv", "prompt\na\nb,c\n", r"d.csv:3: 2 fields, but the header has 1"),
            ("d.jsonl", "\n \n", r"d.jsonl: no rows"),
            ("d.json", "[]", r"d.json: no rows"),
            ("d.csv", "prompt\n", r"d.csv: no rows"),
            ("d.txt", "\n\n", r"d.txt: no rows"),
            ("d.jsonl.gz", "not gzip", r"not a whole gzip file"),
            ("d.xlsx", "PK", r"not a kind of file that is read: .jsonl, .json, .csv, .tsv, .parquet, .txt"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, name, content, reason):
        (tmp_path / name).write_text(content)
        with pytest.raises(AlignbenchError, match=reason) as error:
            read_prompts(str(tmp_path / name))
        assert "\n" not in str(error.value)

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(AlignbenchError, match="a folder; name a file in it"):
            read_prompts(str(tmp_path))


class TestChatTemplate:
    def test_the_start_token_is_left_to_the_tokenizer_that_adds_one(self):
        assert chat_template(a_tokenizer(adds_bos=True))([user("a")], True) == "<user>a<end>\n<assistant>"
        assert chat_template(a_tokenizer(adds_bos=False))([user("a")], True) == "<s><user>a<end>\n<assistant>"

    def test_nothing_follows_the_end_token_of_a_response(self, tmp_path):
        source = write(tmp_path / "d.jsonl", {"prompt": "a", "response": "b "})
        assert read_demonstrations(source, chat_template(a_tokenizer())) == [
            Demonstration("<user>a<end>\n<assistant>", "b <end>")
        ]

    def test_a_template_that_refuses_is_named_with_the_row(self, tmp_path):
        render = chat_template(a_tokenizer("{{ raise_exception('Roles must alternate') }}"))
        with pytest.raises(AlignbenchError, match=r"p.jsonl:1: the chat template does not take .*Roles must alternate"):
            read_prompts(write(tmp_path / "p.jsonl", {"prompt": "a"}), render)

    def test_a_tokenizer_without_a_template_is_refused(self):
        with pytest.raises(AlignbenchError, match="no chat template"):
            chat_template(a_tokenizer(None))


@pytest.mark.needs_data
def test_every_row_of_real_preference_data_is_read(data_dir):
    rankings = read_rankings(str(data_dir / "hh-rlhf-harmless" / "test.jsonl.gz"))
    assert len(rankings) == 2312
    assert all(ranking.prompt.startswith("\n\nHuman:") for ranking in rankings)
    assert all(ranking.prompt.endswith("\n\nAssistant:") for ranking in rankings)
