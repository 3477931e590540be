"""Training data: what is learned of a conversation, what is counted and not refused, and where a row is."""

import math

import datasets
import pytest
from cases import cases
from commands import refusal
from stages import read_demonstrations, read_prompts, read_rankings, write_rows
from test_trainer_data import HENS, assistant, plain_chat, user
from tiny import SENTENCES, tiny_tokenizer

from alignbench.data import messages
from alignbench.errors import AlignbenchError
from trainers import data
from trainers.config import StageConfig
from trainers.data import Ranking
from trainers.models import Texts

SYSTEM = {"role": "system", "content": "s"}
TWICE = [user("a"), assistant("b"), user("c"), assistant("d")]
ASKED_TWICE = "<user>a<end><assistant>b<end><user>c<end><assistant>"


def test_the_text_of_a_response_may_contain_a_turn_of_the_user(tmp_path):
    rows = [{"prompt": HENS, "response": " No.\n\nHuman: Why?"}]  # as a policy samples it
    assert read_demonstrations(write_rows(tmp_path / "d.jsonl", rows)) == [Ranking(HENS, (" No.\n\nHuman: Why?",))]
    pairs = [{"chosen": f"{HENS} No.\n\nHuman: Why?", "rejected": f"{HENS} Yes."}]
    (found,) = read_rankings(write_rows(tmp_path / "r.jsonl", pairs))
    assert (found.prompt, found.responses) == (HENS, (" No.\n\nHuman: Why?", " Yes."))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TWICE},
        {"prompt": "a", "response": TWICE[1:]},
        {"prompt": "a", "response": TWICE},
        {"prompt": "a", "chosen": TWICE, "rejected": [user("a"), assistant("no")]},
        {"chosen": TWICE, "rejected": [user("a"), assistant("no")]},
        {"prompt": [user("a")], "responses": [[assistant("no")], TWICE[1:]], "ranks": [2, 1]},
        {"prompt": "\n\nHuman: a\n\nAssistant:", "response": " b\n\nHuman: c\n\nAssistant: d"},
    ],
)
def test_the_last_response_of_a_conversation_is_learned_and_no_text_of_the_user(tmp_path, row):
    (found,) = read_demonstrations(write_rows(tmp_path / "d.jsonl", [row]), plain_chat)
    assert (found.prompt, found.responses) == (ASKED_TWICE, ("d<end>",))
    assert found.asked == TWICE[:3] or messages.as_messages(found.asked) == TWICE[:3]


@pytest.mark.parametrize("chosen", [[SYSTEM, *TWICE], [user("a "), assistant("b")]])
def test_a_dialogue_that_does_not_repeat_the_prompt_is_named(tmp_path, chosen):
    row = {"prompt": "a", "chosen": chosen, "rejected": [*chosen[:-1], assistant("no")]}
    source = write_rows(tmp_path / "r.jsonl", [row])
    line = refusal(read_rankings, source, plain_chat)
    assert line == f"{source}:1: a response does not begin with the prompt, nor with the assistant's message"


@pytest.mark.parametrize("prompt", [HENS, HENS + " ", HENS.strip(), HENS + "\n"])
def test_white_space_around_a_dialogue_does_not_change_its_messages(tmp_path, prompt):
    (found,) = read_prompts(write_rows(tmp_path / "p.jsonl", [{"prompt": prompt}]), plain_chat)
    assert found.prompt == "<user>Do hens fly?<end><assistant>"


@pytest.mark.parametrize(("name", "text", "prompts"), cases("training")["unread"])
def test_prompts_do_not_depend_on_the_responses_and_empty_ones_are_counted(tmp_path, name, text, prompts):
    (tmp_path / name).write_text(text)
    said = list[str]()
    assert [row.prompt for row in read_prompts(str(tmp_path / name), None, said.append)] == prompts
    assert "; 1 without a response that can be read" in said[0]
    assert ("; 1 with an empty prompt" in said[0]) == ("" in prompts)


def test_a_conversation_without_its_last_response_is_a_prompt(tmp_path):
    source = write_rows(tmp_path / "p.jsonl", [{"messages": [user("a"), assistant("")]}])
    assert [row.prompt for row in read_prompts(source, plain_chat)] == ["<user>a<end><assistant>"]
    assert "a response is empty" in refusal(read_demonstrations, source, plain_chat)


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_messages_in_csv_are_json(tmp_path, field):
    cells = '"[{""role"":""user"",""content"":""a""},{""role"":""assistant"",""content"":""x""}]"'
    (tmp_path / "m.csv").write_text(f"{field}\n{cells}\n")
    (found,) = read_demonstrations(str(tmp_path / "m.csv"), plain_chat)
    assert (found.prompt, found.responses) == ("<user>a<end><assistant>", ("x<end>",))
    (tmp_path / "p.csv").write_text(f"prompt,chosen,rejected\na,{cells},{cells.replace('x', 'y')}\n")
    (found,) = read_rankings(str(tmp_path / "p.csv"), plain_chat)
    assert (found.prompt, found.responses) == ("<user>a<end><assistant>", ("x<end>", "y<end>"))
    (tmp_path / "t.csv").write_text('prompt,response\n"[1, 2]","{""x"": 1}"\n')
    assert read_demonstrations(str(tmp_path / "t.csv")) == [Ranking("[1, 2]", ('{"x": 1}',))]


def test_a_long_conversation_keeps_its_system_message():
    chat = [SYSTEM, user("x" * 50), assistant("y" * 20), user("Last question?")]

    def size(turns):
        return sum(len(turn["content"]) for turn in turns)

    assert data.shortened(chat, 16, size) == [SYSTEM, chat[-1]]
    assert data.shortened(chat, 8, size) == [SYSTEM, user("estion?")]
    assert data.shortened(chat, 1, size) is None
    assert data.shortened([SYSTEM], 1, size) == [SYSTEM]


def test_prompts_have_no_limit_without_a_window(tmp_path):
    write_rows(tmp_path / "p.jsonl", [{"prompt": "a"}])
    reader = data.Reader(StageConfig(out="o", long="truncate"), None, Texts(tiny_tokenizer()), None, print)
    assert [row.prompt for row in reader.prompts(str(tmp_path / "p.jsonl"), math.inf)] == ["a"]


def test_rows_have_their_place(tmp_path):
    source = tmp_path / "d.jsonl"
    source.write_text('\n{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response": "d"}\n')
    assert [row.where for row in read_demonstrations(str(source))] == [f"{source}:2", f"{source}:4"]
    assert [row.where for row in read_prompts(str(source), plain_chat)] == [f"{source}:2", f"{source}:4"]


def test_documents_of_one_token_are_left_out_and_a_failure_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = tiny_tokenizer(bos=False)
    one = next(text for text in "abcdefghijklmnop" if len(Texts(tokenizer).prompts([text])[0]) == 1)
    (tmp_path / "t.txt").write_text("\n\n".join([one] * 1000 + list(SENTENCES)))
    found = data.pretraining_examples(str(tmp_path / "t.txt"), Texts(tokenizer), 7)
    assert all(len(example.responses[0]) > 0 for example in found)
    assert len(found) >= len(SENTENCES)
    (tmp_path / "one.txt").write_text(one)
    with pytest.raises(AlignbenchError, match="no pretraining text of two tokens or more"):
        data.pretraining_examples(str(tmp_path / "one.txt"), Texts(tokenizer), 7)
    assert not list((tmp_path / "cache" / "alignbench").glob("*.part"))
