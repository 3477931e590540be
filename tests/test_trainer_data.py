"""Training data: all forms of rows give the same plain text, and a wrong row is named by file and line."""

import hashlib

import datasets
import pytest
import stages
from cases import cases
from commands import refusal
from hypothesis import given
from hypothesis import strategies as st
from stages import read_demonstrations, read_prompts, read_rankings, write_rows
from tiny import SENTENCES, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from alignbench.data import conversations, tokens
from alignbench.data.tables import fingerprint
from alignbench.models.template import find_template, render_pair, renderer
from trainers import data
from trainers.config import StageConfig
from trainers.data import Ranking
from trainers.models import Texts
from trainers.packing import Example

HENS = "\n\nHuman: Do hens fly?\n\nAssistant:"
CHATML = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write(path, *rows):
    return write_rows(path, rows)


def plain_chat(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
    return "".join(f"<{m['role']}>{m['content']}<end>" for m in messages) + "<assistant>" * add_generation_prompt


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def a_tokenizer(template: str | None = CHATML, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({"<s>": 0, "<end>": 1, "?": 2, "a": 3}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<end>", unk_token="?")
    tokenizer.chat_template = template
    return tokenizer


def test_a_demonstration_is_a_prompt_with_a_response_or_messages(tmp_path):
    source = write(tmp_path / "d.json", {"prompt": "a", "response": "b"}, {"prompt": "c", "completion": "d"})
    assert read_demonstrations(source) == [Ranking("a", ("b",)), Ranking("c", ("d",))]
    turns = [user("one"), assistant("1"), user("two"), assistant("2")]
    # with a template, a plain prompt is a user's message
    long, *short = read_demonstrations(
        write(tmp_path / "m.jsonl", *({"messages": t} for t in (turns, turns[:2]))), plain_chat
    )
    short += read_demonstrations(write(tmp_path / "p.jsonl", {"prompt": "one", "response": "1"}), plain_chat)
    assert long == Ranking("<user>one<end><assistant>1<end><user>two<end><assistant>", ("2<end>",))
    assert short == [Ranking("<user>one<end><assistant>", ("1<end>",))] * 2


def test_rankings_keep_ties_and_labelers_and_pairs_as_text_or_messages_are_the_same(tmp_path):
    three = {"prompt": "a", "responses": ["x", "y", "z"], "ranks": [2, 1, 2], "labeler": "ann"}
    two = {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]}
    rows = (three, two | {"labeler": 7}, two, two | {"labeler": ""})
    found = read_rankings(write(tmp_path / "r.jsonl", *rows))
    assert found[0] == Ranking("a", ("x", "y", "z"), (2.0, 1.0, 2.0), "ann")
    assert [ranking.labeler for ranking in found[1:]] == ["7", None, None]
    (tmp_path / "r.csv").write_text('prompt,responses,ranks,labeler\na,"[""x"", ""y, z""]","[2, 1.5]",\n')
    assert read_rankings(str(tmp_path / "r.csv")) == [Ranking("a", ("x", "y, z"), (2.0, 1.5), None)]
    text = {"prompt": "a", "chosen": "good", "rejected": "bad"}
    assert read_rankings(write(tmp_path / "t.jsonl", text)) == [Ranking("a", ("good", "bad"), (1.0, 2.0), None)]
    short = {"prompt": "a", "chosen": [assistant("good")], "rejected": [assistant("bad")]}
    whole = {"prompt": "a", "chosen": [user("a"), assistant("good")], "rejected": [user("a"), assistant("bad")]}
    alone = {"chosen": whole["chosen"], "rejected": whole["rejected"]}
    found = read_rankings(write(tmp_path / "m.jsonl", short, whole, text), plain_chat)
    found += read_rankings(write(tmp_path / "a.jsonl", alone), plain_chat)
    assert found == [Ranking("<user>a<end><assistant>", ("good<end>", "bad<end>"), (1.0, 2.0), None)] * 4


GREETING = "\n\nHuman: hi\n\nAssistant: Hello."
FLY = "<user>Do hens fly?<end><assistant>"
FAR, HIGH = " Yes.\n\nHuman: Far?\n\nAssistant: No.", " Yes.\n\nHuman: High?\n\nAssistant: Yes."
CHATS = ("Yes.<end><user>Far?<end><assistant>No.<end>", "Yes.<end><user>High?<end><assistant>Yes.<end>")


@pytest.mark.parametrize(
    ("prompt", "responses", "chat_prompt", "chat_responses"),
    [
        # cut at the last assistant turn that both share
        (GREETING + HENS, (" A bit.", " A lot."), f"<user>hi<end><assistant>Hello.<end>{FLY}", ("A bit.", "A lot.")),
        (HENS, (FAR, HIGH), FLY, CHATS),  # different human turns: cut before the answer they share
        (HENS, (" ", " No."), FLY, (" ", "No.")),  # a blank turn is an answer
    ],
)
def test_a_pair_of_dialogues_is_cut_where_they_differ(tmp_path, prompt, responses, chat_prompt, chat_responses):
    source = write(tmp_path / "r.jsonl", {"chosen": prompt + responses[0], "rejected": prompt + responses[1]})
    assert read_rankings(source) == [Ranking(prompt, responses, (1.0, 2.0), None)]
    chats = tuple(text.removesuffix("<end>") + "<end>" for text in chat_responses)
    assert read_rankings(source, plain_chat) == [Ranking(chat_prompt, chats, (1.0, 2.0), None)]


def test_the_prompt_of_any_row_is_the_one_that_its_responses_follow(tmp_path):
    for number, row in enumerate(
        [
            {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]},
            {"prompt": "a", "chosen": "x", "rejected": "y"},
            {"chosen": HENS + " x", "rejected": HENS + " y"},
            {"chosen": [user("a"), assistant("x")], "rejected": [user("a"), assistant("y")]},
        ]
    ):
        source = write(tmp_path / f"{number}.jsonl", row)
        (ranking,) = read_rankings(source, plain_chat)
        assert read_prompts(source, plain_chat) == [Ranking(ranking.prompt)]
    chat = write(tmp_path / "c.jsonl", {"messages": [user("a"), assistant("x")]}, {"messages": [user("a")]})
    assert read_prompts(chat, plain_chat) == [Ranking("<user>a<end><assistant>")] * 2
    (row,) = read_prompts(write(tmp_path / "p.jsonl", {"chosen": HENS + " x", "rejected": HENS + " y"}))
    assert (row.prompt, row.asked) == (HENS, HENS)


def test_documents_of_a_text_file_are_separated_by_blank_lines(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\n\none\r\nstill one\r\n\r\n \ntwo\n\n\n\nthree")
    assert tokens.read_texts(str(path)) == ["one\nstill one", "two", "three"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()  # a file is named without its folder
    assert fingerprint(str(path)) == {"source": "t.txt", "sha256": sha256, "rows": 3}
    path.write_text("corn and hay\n" * 80_000)  # a megabyte without a blank line is one document
    assert [text.count("\n") for text in tokens.read_texts(str(path))] == [79_999]
    assert tokens.read_texts(write(tmp_path / "t.jsonl", {"text": "a"}, {"text": " "})) == ["a"]
    blank = write(tmp_path / "blank.jsonl", {"text": " "})
    assert "every text is blank" in refusal(tokens.read_texts, blank)


GOOD = {
    "demonstrations": {"prompt": "a", "response": "b"},
    "rankings": {"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2]},
    "texts": {"text": "a"},
}


@pytest.mark.parametrize(("reader", "row", "words"), cases("training_rows"))
def test_a_wrong_row_is_named(tmp_path, reader, row, words):
    row = {key: value.replace("{HENS}", HENS) if isinstance(value, str) else value for key, value in row.items()}
    good = {"messages": [user("a"), assistant("b")]} if "messages" in row else GOOD[reader]
    source = write(tmp_path / "d.jsonl", good, row)
    arguments = (plain_chat,) if reader == "demonstrations" else ()
    read = tokens.read_texts if reader == "texts" else getattr(stages, f"read_{reader}")
    line = refusal(lambda: read(source, *arguments))
    assert line.startswith(f"{source}:2: ")
    assert words in line


@pytest.mark.parametrize(("name", "content", "words"), cases("training")["unreadable"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert words in refusal(lambda: read_prompts(str(tmp_path / name)))


def test_a_hub_data_set_is_read_at_its_revision_or_named(monkeypatch):
    asked = []

    def load_dataset(name, config, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": None}])

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for source, words in (
        ("nowhere", "nor a hub data set"),
        ("a/b/c", "nor a hub data set"),
        ("owner/name", "HF_HUB_OFFLINE is set"),
        ("owner/name:test@0123abc", "hub owner/name could not be loaded"),
    ):
        assert words in refusal(lambda source=source: read_prompts(source))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    line = refusal(lambda: read_prompts("owner/name:test@0123abc"))
    assert line.startswith("hub owner/name test row 1: prompt is null, not text")
    pins = fingerprint("owner/name")
    assert (pins["source"], pins["revision"], pins["rows"]) == ("owner/name", None, 2)
    assert asked == [("owner/name", None, "test", "0123abc"), *[("owner/name", None, "train", "main")] * 2]


def test_a_template_removes_the_tokens_that_no_rollout_has_and_one_that_cannot_be_used_is_named_with_the_row(tmp_path):
    assert renderer(a_tokenizer(adds_bos=False))([user("a")], True) == "<s><user>a<end>\n<assistant>"
    source = write(tmp_path / "plain.jsonl", {"prompt": "a", "response": "b "})
    expected = [Ranking("<user>a<end>\n<assistant>", ("b<end>",))]
    assert read_demonstrations(source, renderer(a_tokenizer())) == expected
    source = write(tmp_path / "d.jsonl", {"messages": [user("a"), assistant("b")]})
    for render, words in (
        (None, "chat messages need template=true"),
        (lambda messages, open_turn: f"{len(messages)}", "the chat template renders the prompt differently"),
        (renderer(a_tokenizer("{{ raise_exception('No.') }}")), "does not accept these messages (No.)"),
    ):
        line = refusal(read_demonstrations, source, render)
        assert (line.startswith(f"{source}:1: "), words in line) == (True, True)
    assert "no chat template" in refusal(renderer, a_tokenizer(None))


@pytest.mark.parametrize("case", cases("formats")["formats"], ids=lambda case: case["format"])
def test_a_format_is_recognised_and_read(tmp_path, case):
    said, source = list[str](), write(tmp_path / "rows.jsonl", *case["rows"])
    asked = conversations.read_conversations(source, "prompts", said.append)
    assert said[0].startswith(f"rows.jsonl: {len(case['rows'])} rows, {case['format']}")
    assert [renderless(row.before) for row in asked] == case["prompts"]
    for use in ("rankings", "demonstrations"):
        if use not in case:
            assert f"not {use}" in refusal(conversations.read_conversations, source, use)
            continue
        found = conversations.read_conversations(source, use, said.append)
        shown = [[renderless(row.before), *map(renderless, row.responses)] for row in found]
        ranks = [[*row.ranks] for row in found] if use == "rankings" else [[] for _ in found]
        assert list(zip(shown, ranks, strict=True)) == [(row[0], row[1]) for row in case[use]]
    assert all(words in said[-1] for words in case.get("said", []))


def renderless(text):
    """Text, or messages as `user: a | assistant: b`."""
    return text if isinstance(text, str) else " | ".join(f"{m['role']}: {m['content']}" for m in text)


@pytest.mark.parametrize(("use", "rows", "words"), cases("formats")["wrong"])
def test_a_row_of_no_format_or_of_another_one_is_named(tmp_path, use, rows, words):
    source = write(tmp_path / "rows.jsonl", *rows)
    line = refusal(conversations.read_conversations, source, use)
    assert words.replace("{file}", source) in line


@given(st.text("ab ", min_size=1, max_size=40), st.integers(0, 50))
def test_a_prompt_loses_text_at_its_start_until_it_fits(text, room):
    short = data.shortened(text, room, len)
    assert (short is None) == (room == 0)
    assert short is None or (text.endswith(short) and len(short) <= room)
    chat = [user(text), assistant("b"), user("a" * 9)]
    short = data.shortened(chat, room, lambda turns: sum(len(m["content"]) for m in turns))
    assert (short is None) == (room == 0)
    assert short is None or (short[0]["role"] == "user" and short[-1]["content"] in "a" * 9)


def test_long_rows_are_dropped_or_truncated_with_counts():
    said = list[str]()
    rows = [
        (Ranking("1", where="d.jsonl:1"), Example([1, 2], [[3, 4, 9]])),
        (Ranking("2", where="d.jsonl:5"), Example([1], [[5, 6, 7, 8, 9], [4, 9]])),
        (Ranking("3", where="d.jsonl:7"), Example([1] * 4, [[9]])),
    ]

    def cut(long, **options):
        found = data.within_window(long, rows, 4, "row", "d.jsonl", said.append, **options)
        return [(row.prompt, example.responses) for row, example in found]

    assert cut("truncate") == [("1", [[3, 4]]), ("2", [[5, 6, 7], [4, 9]])]
    assert cut("truncate", keep_end=True) == [("1", [[3, 9]]), ("2", [[5, 6, 9], [4, 9]])]
    assert said == ["d.jsonl: of 3 rows 2 truncated to 4 tokens, 1 dropped (row)"] * 2
    assert "every row has more than 4 tokens" in refusal(cut, "drop")
    line = "d.jsonl:1: the row has 5 tokens, the model's window 4; set long=drop or long=truncate"
    assert refusal(cut, "error") == line
    assert data.within_window("error", rows, None, "row", "d.jsonl", said.append) == rows


@pytest.mark.parametrize(("name", "shown"), [("chatml", "<|im_start|>user\na"), ("plain", "\n\nHuman: a")])
def test_a_named_template_ends_turns_at_the_end_of_the_sequence(name, shown):
    tokenizer = tiny_tokenizer()
    config = StageConfig(out="o", template=True, chat_template=name)
    render = data.find_render(config, tokenizer)
    prompt, response = render_pair([user("a")], [assistant("b")], render)
    assert (prompt.startswith(shown), response.strip()) == (True, "b</s>")
    assert tokenizer.chat_template == find_template(name).replace("<|im_end|>", "{{ eos_token }}")
    assert "set also template=true" in refusal(data.find_render, StageConfig(out="o", chat_template=name), tokenizer)


def test_pretraining_text_is_a_file_that_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "t.txt").write_text("\n\n".join(SENTENCES))
    texts = Texts(tiny_tokenizer())
    documents = texts.prompts(tokens.read_texts(str(tmp_path / "t.txt")))
    pieces = [ids[at : at + 7] for ids in documents for at in range(0, len(ids), 7)]
    expected = [Example(piece[:1], [piece[1:]]) for piece in pieces if len(piece) > 1]
    for _ in range(2):
        found = data.pretraining_examples(str(tmp_path / "t.txt"), texts, 7)
        assert (len(found), list(found)) == (len(expected), expected)
        monkeypatch.setattr(tokens, "_write", None)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    texts.embeddings = 3
    assert "the model has embeddings for 3" in refusal(data.pretraining_examples, str(tmp_path / "t.txt"), texts, 7)
    assert not list((tmp_path / "cache" / "alignbench").glob("*.part"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    line = refusal(data.pretraining_examples, str(tmp_path / "t.txt"), texts, 7)
    assert "set HF_DATASETS_CACHE to another folder" in line


@pytest.mark.needs_data
@pytest.mark.parametrize(("file", "counts"), cases("formats")["real"].items())
def test_every_file_of_real_data_is_read(data_dir, file, counts):
    for use, count in zip(("demonstrations", "rankings", "prompts"), counts, strict=True):
        read = getattr(stages, f"read_{use}")
        if count:
            assert len(read(str(data_dir / file), plain_chat)) == count
        else:
            refusal(read, str(data_dir / file), plain_chat)


@pytest.mark.needs_data
def test_the_prompts_of_real_preference_data_are_dialogues(data_dir):
    rankings = read_rankings(str(data_dir / "hh-rlhf-harmless" / "test.jsonl.gz"))
    assert all(r.prompt.startswith("\n\nHuman:") and r.prompt.endswith("\n\nAssistant:") for r in rankings)
