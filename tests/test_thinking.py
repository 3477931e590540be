"""Thinking models: the block of thoughts is apart from the answer, with its own limit, in every source of outputs."""

import json

import numpy as np
import pytest
from cases import cases
from commands import assert_one_line_error, run
from standin_server import StandIn
from tiny import save_tiny_checkpoint, tiny_model, tiny_tokenizer

from alignbench.evaluation.evaluate import evaluate, prepare
from alignbench.evaluation.thinking import find_thinking
from alignbench.models.distributions import Drawn
from alignbench.models.encode import Encoder
from alignbench.models.generate import samples
from alignbench.models.generate.decoding import Decoding
from alignbench.models.generate.samples import Job, Sample
from alignbench.models.local import LocalEngine
from alignbench.models.remote.endpoint import EndpointEngine
from alignbench.scorers import Item, find_scorer
from alignbench.types.engine import UNFINISHED, Completion, Prompt, Sampling, Thinking
from alignbench.types.settings import TaskSettings

CASES = cases("thinking")
OPENED = "{{ messages[0]['content'] }}A:{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"


def scripted(tokenizer, text):
    """One token a character, and the end of the sequence."""
    return [*(i for c in text for i in tokenizer(c, add_special_tokens=False).input_ids), tokenizer.eos_token_id]


def drawn(token):
    return Drawn(token, -0.5, 1.0, float("nan"))


@pytest.mark.parametrize("case", CASES["continuations"], ids=lambda case: case["text"])
def test_a_stop_string_and_the_limit_of_the_answer_apply_after_the_thoughts(case, tokenizer):
    sampling = {"max_tokens": 30} | case.get("sampling", {})
    sampling |= {"stop": tuple(sampling.get("stop", ())), "thinking": Thinking(**case.get("thinking", {}))}
    decoding = Decoding(tokenizer, [tokenizer.eos_token_id], Sampling(**sampling))
    sample = Sample(Job(0, "", np.array([1], np.int32), [None]), 0, None)
    tokens = scripted(tokenizer, case["text"])
    number, found = next((n, end) for n, t in enumerate(tokens, 1) if (end := sample.append(drawn(t), decoding)))
    assert number == case.get("read", len(tokens))
    assert {name: getattr(found, name) for name in case["found"]} == case["found"]
    assert found.unscored == case["found"].get("unscored")
    kept = tokens[:number][number - len(found.tokens) :]  # numbers per token are the answer's
    assert (list(found.tokens), len(found.logprobs), len(found.entropies)) == (kept, len(kept), len(kept))
    if found.thoughts:
        assert tokenizer.decode(kept, skip_special_tokens=True).lstrip().startswith(found.text)


@pytest.mark.parametrize(("text", "answer", "thoughts"), CASES["texts"])
def test_thoughts_are_told_apart_in_a_text(text, answer, thoughts):
    found = Thinking().apart(Completion(text, "end"))
    assert (found.text, found.thoughts) == (answer or "", thoughts)
    assert found.unscored == (UNFINISHED if answer is None else None)


@pytest.mark.parametrize("packs", [True, False])
def test_a_template_opens_the_block_unless_its_variables_say_otherwise(packs, monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENED
    tokens = iter(())
    monkeypatch.setattr(samples, "draw", lambda logits, sources, streams, own: [drawn(next(tokens)) for _ in streams])
    for kwargs, end, expected in (
        ({}, "A:<think>\n", ("4", "2\n+2", "stop")),
        ({"enable_thinking": False}, "A:", ("2", "", "stop")),
    ):
        encoder = Encoder(tokenizer, kwargs)
        engine = LocalEngine(tiny_model("llama", tokenizer), encoder, packs=packs)
        engine.batched.cached = True
        tokens = iter(scripted(tokenizer, "2\n+2</think>\n\n4\n5"))
        sampling = Sampling(9, stop=("\n",), thinking=Thinking(limit=20))
        ((_, (found,)),) = engine.generate([Prompt("a", "Q")], sampling, chat=True)
        assert (found.text, found.thoughts, found.finish) == expected
        assert tokenizer.decode(encoder.prompts(["Q"], chat=True)[0]).endswith(end)


def test_the_window_has_room_for_thoughts_only_where_the_model_may_think():
    tokenizer, bare = tiny_tokenizer(), tiny_tokenizer()
    tokenizer.chat_template = OPENED
    own, always = (Sampling(9, thinking=Thinking(limit=20, always=always)) for always in (False, True))
    for which, sampling, chat, most in (
        (bare, own, False, 9), (bare, always, False, 29), (tokenizer, own, False, 9), (tokenizer, own, True, 29)
    ):  # fmt: skip
        assert Encoder(which).expecting_thoughts(sampling, chat=chat).most_tokens == most
    engine = LocalEngine(tiny_model("llama", tokenizer), Encoder(tokenizer), window=28)
    ((_, (completion,)),) = engine.generate([Prompt("a", "Q")], own, chat=True)
    assert "29 new ones do not fit the model's window of 28" in completion.unscored


def test_the_identity_has_the_thinking_and_the_variables_of_the_template(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "2+2?"}\n')
    (job,) = prepare({"answers": TaskSettings(prompts=str(tmp_path / "p.jsonl"))})
    auto, strip = find_thinking(), find_thinking("strip", tokens=9)
    found = [
        job.identity(True, *own) for own in ((None, {}), (auto, {}), (strip, {}), (auto, {"a": 1}), (auto, {"a": 2}))
    ]
    assert len({json.dumps(identity) for identity in found}) == 5
    assert all(identity["sampling"] == found[0]["sampling"] for identity in found)  # they stay comparable
    assert job.identity(False, auto, {"a": 1}) == job.identity(False, auto, {})


def test_outputs_of_a_file_are_scored_without_their_thoughts(tmp_path):
    rows = [("<think>2+2 is 5?</think>\n4", "4"), ("<think>2+2", "4"), ("4", "4")]
    (tmp_path / "o.jsonl").write_text("".join(json.dumps({"output": o, "references": r}) + "\n" for o, r in rows))
    values = {}
    for mode in ("auto", "strip", "keep"):
        done = run("score", "o.jsonl", "--thinking", mode, "--metrics", "all", "--json", "--out", mode, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)
        (exact,) = (m for m in result["results"][0]["metrics"] if m["metric"] == "exact_match")
        values[mode] = (exact["value"], exact["n"], exact["n_unscored"])
    assert values == {"auto": (1, 2, 1), "strip": (1, 2, 1), "keep": (pytest.approx(1 / 3), 3, 0)}
    (file,) = (tmp_path / "auto").rglob("documents.jsonl")
    first, second, third = map(json.loads, file.read_text().splitlines())
    assert first["outputs"][0]["text"] == "4"
    assert first["outputs"][0]["thoughts"] == "2+2 is 5?"
    assert second["unscored"] == UNFINISHED
    assert "thoughts" not in third["outputs"][0]


def thinking_server(standin, say):
    """The server's answer to a request is `say(body)`: fields of the message, and why it ended."""
    standin.say = lambda body: say(body) if standin.armed else None
    return standin


LONG = "<think>two and two, and on it goes</think>\n4"


@pytest.mark.parametrize("apart", [False, True], ids=["in the text", "in a field"])
def test_an_endpoint_is_asked_again_with_room_for_thoughts(apart):
    def say(body):
        whole = LONG if body["max_tokens"] > 20 else LONG[:30]
        if not apart:
            return {"content": whole}, "stop" if whole == LONG else "length"
        thoughts, _, text = whole.removeprefix("<think>").partition("</think>")
        return {"content": text.strip() or None, "reasoning_content": thoughts}, "stop" if text else "length"

    with StandIn() as standin:
        engine = EndpointEngine(thinking_server(standin, say).spec, template_kwargs={"enable_thinking": True})
        standin.armed = True
        standin.asked.clear()

        def ask(most, limit=None, **more):
            more |= {} if limit is None else {"thinking": Thinking(limit=limit)}
            ((_, (found,)),) = engine.generate([Prompt("a", "2+2?")], Sampling(most, **more), chat=True)
            return found.text, found.thoughts, found.unscored

        assert ask(9, 20, stop=("\n",)) == ("4", "two and two, and on it goes", None)
        bodies = [body for _, body, _ in standin.asked]
        assert [(body["max_tokens"], body.get("stop")) for body in bodies] == [(9, ["\n"]), (29, None)]
        assert all(body["chat_template_kwargs"] == {"enable_thinking": True} for body in bodies)
        assert ask(3, 4, stop=("\n",))[::2] == ("", UNFINISHED)
        assert ask(9)[::2] == ("" if apart else LONG[:30], None)


def test_evaluate_strips_or_keeps_what_an_endpoint_thinks(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "2+2?"}\n')
    with StandIn() as standin:
        thinking_server(standin, lambda body: ({"content": LONG}, "stop")).armed = True
        for mode, text in (("auto", "4"), ("strip", "4"), ("keep", LONG)):
            out = tmp_path / mode
            settings = {"template": "chat", "thinking": mode, "thinking_tokens": 50, "prompts": tmp_path / "p.jsonl"}
            evaluate([standin.spec], ["answers"], out, **settings)
            (file,) = out.rglob("documents.jsonl")
            record = json.loads(file.read_text())
            assert record["outputs"][0]["text"] == text
            assert record["metrics"]["words"] == len(text.split())
        asked = [body for path, body, _ in standin.asked if path == "/chat/completions"]
        limits = [body["max_tokens"] for body in asked if body["messages"][0]["content"] == "2+2?"]
        assert limits == [256, 306, 256]


WON = Item("Honey.", "What do bees make?", references=("Two moons.",))


def test_a_judge_gives_its_verdict_after_its_thoughts_or_after_an_empty_block(tmp_path):
    def say(body):
        best = "A" if "<answer_a>\nHoney" in body["messages"][0]["content"] else "B"
        if "Honey" not in body["messages"][0]["content"]:
            return {"content": "<think>[[A]]"}, "stop"
        return {"content": f"<think>[[A]] or [[B]]?</think>[[{best}]]"}, "stop"

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENED
    with StandIn(completions=False) as standin:
        endpoint = f"preference=endpoint:{thinking_server(standin, say).spec}"
        judge = find_scorer(endpoint)
        standin.armed = True
        assert judge.score([WON])[0]["win"] == 1
        assert f"no verdict: {UNFINISHED}" in judge.score([Item("Wax.", "What?", references=("Two moons.",))])[0]
        local = f"preference=lm:{save_tiny_checkpoint(tmp_path / 'judge', tokenizer=tokenizer)}"
        assert [find_scorer(local, **own).closing for own in ({}, {"thinking": None})] == ["\n</think>\n\n", ""]
        for spec in (endpoint, local):
            assert find_scorer(spec, thinking=None).revision != find_scorer(spec).revision


@pytest.mark.parametrize(("arguments", "words"), CASES["rejected"])
def test_wrong_settings_are_one_line(arguments, words, tmp_path):
    assert_one_line_error(run("evaluate", "x", "--tasks", "answers", *arguments, cwd=tmp_path), *words)
