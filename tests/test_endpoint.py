"""An endpoint that times out, breaks off, answers 429, 500 or garbage loses nothing; its key is never shown."""

import gc
import itertools
import json
import logging
import math
import os
import signal
import threading
import time
from collections import Counter

import pytest
from alignbench.models.choices import read_choices
from alignbench.models.client import find_key, is_local, parse_endpoint
from alignbench.models.echo import continuation_start, spans
from alignbench.models.endpoint import connect, sample_seed
from hypothesis import given
from hypothesis import strategies as st
from standin_server import MODEL, StandIn, logprob_of, pieces_of, written

from alignbench.errors import AlignbenchError
from alignbench.types.engine import Completion, Prompt, Request, Sampling

FAST = {"first_wait": 0.01, "longest_wait": 0.05, "timeout": 5.0}
SECRET = "sk-a1b2c3d4e5f6a7b8c9d0"
PROMPTS = [Prompt(f"farm-{i}", f"Tell me about hive {i}.") for i in range(20)]
DRAWN = Sampling(max_tokens=12, samples=3, temperature=1.0, top_p=0.9, stop=("\n",))
GREEDY = Sampling(max_tokens=8)
REQUESTS = [Request(f"The hive {i} has", choice) for i in range(8) for choice in (" honey", " no honey", " two moons.")]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("ALIGNBENCH_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def reach(standin, **settings):
    """Connect, and let the faults begin."""
    engine = connect(standin.spec, **(FAST | settings))
    standin.armed = True
    standin.asked.clear()
    standin.answered.clear()
    return engine


def expected(prompt, sampling, *, seed=0, chat=False):
    """What the stand-in's model writes for a prompt when nothing goes wrong."""
    asked = f"<user>{prompt.text}<model>" if chat else prompt.text
    first = sample_seed(seed, prompt.key, 0)
    texts = [
        written(asked, first + i if sampling.temperature else 0, sampling.max_tokens) for i in range(sampling.samples)
    ]
    return [next((text[: text.find(stop)] for stop in sampling.stop if stop in text), text) for text in texts]


def texts(answers):
    return {index: [completion.text for completion in completions] for index, completions in answers}


def refused(error):
    """The one line that the user reads."""
    line = str(error.value)
    assert "\n" not in line
    return line


# ---- what is asked for ---------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_prompt_and_the_seed_whatever_the_order():
    with StandIn() as standin:
        engine = reach(standin)
        answers = texts(engine.generate(PROMPTS, DRAWN, seed=7))
        backwards = texts(engine.generate(PROMPTS[::-1], DRAWN, seed=7))
        other = texts(engine.generate(PROMPTS, DRAWN, seed=8))
    assert answers == {i: expected(prompt, DRAWN, seed=7) for i, prompt in enumerate(PROMPTS)}
    assert answers == {len(PROMPTS) - 1 - i: found for i, found in backwards.items()}
    assert answers != other


def test_a_prompt_goes_to_completions_and_a_chat_to_chat_completions():
    with StandIn() as standin:
        engine = reach(standin)
        plain = texts(engine.generate(PROMPTS[:2], GREEDY))
        chat = texts(engine.generate(PROMPTS[:2], GREEDY, chat=True))
        paths = [path for path, _, _ in standin.asked]
        bodies = [body for _, body, _ in standin.asked]
    assert paths == ["/completions"] * 2 + ["/chat/completions"] * 2
    assert sorted(body["messages"][0]["content"] for body in bodies[2:]) == [prompt.text for prompt in PROMPTS[:2]]
    assert plain == {i: expected(PROMPTS[i], GREEDY) for i in range(2)}
    assert chat == {i: expected(PROMPTS[i], GREEDY, chat=True) for i in range(2)}


def test_all_that_the_sampling_says_is_sent():
    with StandIn() as standin:
        engine = reach(standin)
        list(engine.generate(PROMPTS[:1], Sampling(9, 4, 0.7, 0.8, ("\n", "."))))
        (_, _, (_, body, _)) = [None, *standin.asked]
    wanted = {"max_tokens": 9, "n": 4, "temperature": 0.7, "top_p": 0.8, "stop": ["\n", "."], "model": MODEL}
    assert wanted.items() <= body.items()


def test_a_greedy_prompt_is_asked_once_however_many_samples_are_named():
    with StandIn() as standin:
        engine = reach(standin)
        ((_, completions),) = engine.generate(PROMPTS[:1], Sampling(5, samples=3))
        assert len(completions) == 1
        assert len(standin.asked) == 1


@pytest.mark.parametrize("several", ["one", "equal", "refused"])
def test_servers_that_cannot_draw_several_samples_at_once_are_asked_for_each(several):
    told = []
    with StandIn(several=several) as standin:
        engine = reach(standin, notify=told.append)
        answers = texts(engine.generate(PROMPTS[:4], DRAWN))
        answered = [body for _, body in standin.answered if body["prompt"].startswith("Tell")]
    seeds = [sample_seed(0, PROMPTS[0].key, i) for i in range(3)]
    cut = [written(PROMPTS[0].text, seed, DRAWN.max_tokens).partition("\n")[0] for seed in seeds]
    assert answers[0] == cut
    assert all(len(found) == 3 for found in answers.values())
    assert len(answered) == 12
    assert any("one a request" in line for line in told)


def test_a_server_that_writes_greedily_whatever_the_temperature_is_not_sampled_from():
    with StandIn(samples=False) as standin:
        engine = reach(standin)
        assert texts(engine.generate(PROMPTS[:2], GREEDY)) == {i: expected(PROMPTS[i], GREEDY) for i in range(2)}
        with pytest.raises(AlignbenchError, match="does not sample"):
            next(engine.generate(PROMPTS, DRAWN))
        assert not any(body["prompt"] == PROMPTS[2].text for _, body, _ in standin.asked)


def test_choices_that_are_missing_are_asked_for_and_those_that_came_are_kept():
    with StandIn(faults={1: "fewer 1"}) as standin:
        engine = reach(standin, concurrency=1)
        answers = texts(engine.generate(PROMPTS[:1], DRAWN))
        counts = [body.get("n", 1) for _, body, _ in standin.asked[1:]]
    assert counts == [3, 2]
    assert answers[0][0] == expected(PROMPTS[0], DRAWN)[0]
    assert len(answers[0]) == 3


def test_text_is_cut_at_stop_strings_that_the_server_does_not_know():
    stops = ("~", "#", "@", "$", " honey")  # the fifth is over OpenAI's limit
    with StandIn() as standin:
        engine = reach(standin)
        answers = dict(engine.generate(PROMPTS, Sampling(30, stop=stops)))
        assert all(len(body["stop"]) == 4 for _, body, _ in standin.asked)
    stopped = [completions[0] for completions in answers.values() if completions[0].finish == "stop"]
    assert stopped
    for index, (completion,) in answers.items():
        whole = written(PROMPTS[index].text, 0, 30)
        assert completion.text == whole.partition(" honey")[0]
        # the tokens that were kept are those of the text and of the stop string
        kept = pieces_of(completion.text + (" honey" if completion.finish == "stop" else ""))
        assert completion.logprobs == tuple(map(logprob_of, kept))


def test_the_end_of_a_text_is_told_apart_from_a_stop_string_where_the_server_tells():
    def finish(**choice):
        from alignbench.models.choices import completion

        (read,) = read_choices({"choices": [{"text": "a"} | choice]})
        return completion(read, ("\n",)).finish

    assert finish(finish_reason="stop", stop_reason="\n") == "stop"
    assert finish(finish_reason="stop", stop_reason=None) == "end"
    assert finish(finish_reason="stop", stop_reason=128001) == "end"
    assert finish(finish_reason="stop") == "stop"
    assert finish(finish_reason="length") == "length"
    assert finish(finish_reason="length", text="a\nb") == "stop"


def test_an_answer_that_the_filter_withheld_is_unscored_and_not_an_empty_one():
    with StandIn(faults={0: "filter"}) as standin:
        ((_, (completion,)),) = reach(standin).generate(PROMPTS[:1], GREEDY)
    assert "filter" in completion.unscored


# ---- what goes wrong -----------------------------------------------------------------------------------------------

FAULTS = [
    "429 0.02",
    "429 date",
    "500 out of memory",
    "503 overloaded",
    "page",
    "late 2",
    "trickle 0.1",
    "half",
    "silence",
    "garbage ",
    "garbage <html>",
    "garbage [1, 2]",
    'garbage {{"choices": []}}',
    'garbage {{"choices": [{{"index": 0}}]}}',
    'garbage {{"choices": [{{"text": 5}}, null, {{"text": "\\ud800"}}]}}',
    'garbage {{"error": {{"message": "upstream failed"}}}}',
    "garbage " + "[" * 100_000,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[:25])
def test_one_fault_of_any_kind_changes_no_answer_and_repeats_no_other_request(fault):
    with StandIn(faults={2: fault, 3: fault, 9: fault}) as standin:
        engine = reach(standin, timeout=0.8 if fault.startswith(("late", "trickle")) else 20, concurrency=4)
        answers = list(engine.generate(PROMPTS, DRAWN, seed=1))
        prompts = Counter(body["prompt"] for _, body in standin.answered if body["prompt"].startswith("Tell"))
    assert sorted(index for index, _ in answers) == list(range(len(PROMPTS)))
    assert texts(answers) == {i: expected(prompt, DRAWN, seed=1) for i, prompt in enumerate(PROMPTS)}
    assert prompts == {prompt.text: 1 for prompt in PROMPTS}
    assert engine.work()["repeated"] == 3


def test_scores_are_equal_whatever_goes_wrong_on_the_way():
    faults = dict(zip(range(0, 40, 3), itertools.cycle(["429 0.01", "500 oh", "half", "silence", "garbage {{"])))
    with StandIn() as quiet:
        undisturbed = dict(reach(quiet).loglikelihood(REQUESTS))
    with StandIn(faults=faults) as standin:
        disturbed = dict(reach(standin).loglikelihood(REQUESTS))
    assert disturbed == undisturbed
    assert undisturbed[2].logprob == sum(map(logprob_of, pieces_of(" two moons.")))


def test_retry_after_is_waited_for_and_no_longer_than_the_limit():
    with StandIn(faults={0: "429 0.4"}) as standin:
        engine = reach(standin, longest_wait=10.0)
        start = time.monotonic()
        list(engine.generate(PROMPTS[:1], GREEDY))
        assert 0.4 <= time.monotonic() - start < 2
    with StandIn(faults={0: "429 3600"}) as standin:
        engine = reach(standin, longest_wait=0.2)
        start = time.monotonic()
        list(engine.generate(PROMPTS[:1], GREEDY))
        assert 0.2 <= time.monotonic() - start < 2


def test_a_prompt_that_is_never_answered_is_unscored_and_the_others_go_on():
    def poison(body):
        return "500 out of memory" if body["prompt"] == PROMPTS[3].text else None

    with StandIn(fault_of=poison) as standin:
        engine = reach(standin, retries=2)
        answers = dict(engine.generate(PROMPTS, GREEDY))
        tries = sum(body["prompt"] == PROMPTS[3].text for _, body, _ in standin.asked)
    assert tries == 3
    assert answers[3] == (Completion("", "end", unscored="500 out of memory, 3 times", transient=True),)
    assert all(completion.unscored is None for i, (completion,) in answers.items() if i != 3)
    assert len(answers) == len(PROMPTS)


def test_samples_that_had_come_are_kept_when_the_rest_never_does():
    seen = Counter()

    def fault(body):
        seen[body["prompt"]] += 1
        return "500 gone" if body["prompt"].startswith("Tell") and seen[body["prompt"]] > 2 else None

    with StandIn(several="one", fault_of=fault) as standin:
        ((_, completions),) = reach(standin, retries=1).generate(PROMPTS[:1], DRAWN)
    assert [completion.unscored is None for completion in completions] == [True, True, False]


def test_a_prompt_that_is_too_long_is_unscored_with_the_servers_words_and_not_asked_again():
    long = [Prompt(f"long-{i}", "bees " * 200) for i in range(12)]
    with StandIn(window=500) as standin:
        engine = reach(standin)
        answers = dict(engine.generate([*long, *PROMPTS[:2]], GREEDY))
        assert len(standin.asked) == 14
        (score,) = [answer for _, answer in engine.loglikelihood([Request("bees " * 200, "hum")])]
    assert all(answers[i][0].unscored.startswith("400 maximum context length is 500") for i in range(12))
    assert "\x1b" not in answers[0][0].unscored
    assert answers[12][0].unscored is None
    assert "context length" in score.unscored
    assert math.isnan(score.logprob)


def test_a_servers_long_message_is_cut():
    with StandIn(faults={0: "400 context " + "x" * 5000}) as standin:
        ((_, (completion,)),) = reach(standin).generate(PROMPTS[:1], GREEDY)
    assert len(completion.unscored) < 250


@pytest.mark.parametrize("fault", ["silence", "503 down", "400 unknown parameter: top_p"])
def test_an_endpoint_that_has_gone_ends_the_run_and_leaves_nothing_unscored(fault):
    answers = []
    with StandIn(fault_of=lambda body: fault) as standin:
        engine = reach(standin, retries=1)
        with pytest.raises(AlignbenchError) as error:
            answers.extend(engine.generate(PROMPTS, GREEDY))
        asked = len(standin.asked)
    assert answers == []
    assert "8 prompts in a row got no answer" in refused(error)
    assert asked < 2 * len(PROMPTS)


def test_an_endpoint_that_goes_in_the_middle_keeps_what_was_answered():
    answers = {}
    with StandIn(faults=dict.fromkeys(range(5, 1000), "silence")) as standin:
        engine = reach(standin, retries=1, concurrency=1)
        with pytest.raises(AlignbenchError, match="start the same command again"):
            answers.update(engine.generate(PROMPTS, GREEDY))
    assert answers.keys() == set(range(5))
    assert not any(completion.unscored for (completion,) in answers.values())


def test_a_refusal_of_one_prompt_after_others_were_answered_ends_nothing():
    with StandIn(faults=dict.fromkeys(range(2, 14), "400 we do not like this prompt")) as standin:
        answers = dict(reach(standin, concurrency=1).generate(PROMPTS, GREEDY))
    assert sum(completion.unscored is not None for (completion,) in answers.values()) == 12


# ---- many at once --------------------------------------------------------------------------------------------------


def test_no_more_requests_are_under_way_than_allowed_and_as_many_as_that():
    with StandIn(delay=0.05) as standin:
        engine = reach(standin, concurrency=3)
        list(engine.generate(PROMPTS, GREEDY))
        assert standin.most_at_once == 3


def test_a_generator_that_is_closed_early_stops_asking():
    with StandIn(delay=0.02) as standin:
        engine = reach(standin, concurrency=2)
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        answers.close()
        time.sleep(0.3)
        asked = len(standin.asked)
        time.sleep(0.2)
        assert len(standin.asked) == asked < len(PROMPTS)
        assert texts(engine.generate(PROMPTS[:3], GREEDY)) == {i: expected(PROMPTS[i], GREEDY) for i in range(3)}


def test_a_slow_reader_is_not_run_ahead_of():
    with StandIn() as standin:
        answers = reach(standin, concurrency=2).generate(PROMPTS, GREEDY)
        next(answers)
        time.sleep(0.3)
        assert len(standin.asked) <= 5
        assert len(list(answers)) == len(PROMPTS) - 1


def test_a_retry_that_is_waited_for_ends_with_the_generator():
    with StandIn(faults=dict.fromkeys(range(1, 99), "429 30")) as standin:
        engine = reach(standin, longest_wait=60, concurrency=2)
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        before = threading.active_count()
        answers.close()
        time.sleep(0.3)
        assert threading.active_count() < before


def test_ctrl_c_is_obeyed_while_an_answer_is_waited_for():
    with StandIn(delay=3) as standin:
        standin.behaviour.delay = 0
        engine = reach(standin, timeout=10)
        standin.behaviour.delay = 3
        # a job that a shell has put into the background begins with the signal ignored
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                list(engine.generate(PROMPTS, GREEDY))
        finally:
            signal.signal(signal.SIGINT, before)
        assert time.monotonic() - start < 2


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [(), ("<s>",), ("[gMASK]", "<sop>")])
def test_a_continuation_is_scored_from_its_first_token_on(begin):
    requests = [
        Request("The hive has", " honey and bees"),
        Request("The hive has ", "honey"),  # white space moves to the continuation
        Request("Größe 🐝", " 🍯!"),
    ]
    with StandIn(begin=begin) as standin:
        answers = dict(reach(standin).loglikelihood(requests))
    wholes = [" honey and bees", " honey", " 🍯!"]
    for index, whole in enumerate(wholes):
        assert answers[index].logprob == sum(map(logprob_of, pieces_of(whole)))
        assert answers[index].tokens == len(pieces_of(whole))


def test_a_token_over_the_boundary_counts_to_the_continuation():
    with StandIn() as standin:
        ((_, answer),) = reach(standin).loglikelihood([Request("The bee", "hive hums")])
    assert answer.logprob == logprob_of(" beehive") + logprob_of(" hums")


def test_an_empty_context_needs_a_token_before_the_text():
    with StandIn() as standin:
        ((_, answer),) = reach(standin).loglikelihood([Request("", "Honey bees")])
    assert answer.logprob == logprob_of("Honey") + logprob_of(" bees")
    with StandIn(begin=()) as standin:
        ((_, answer),) = reach(standin).loglikelihood([Request("", "Honey bees")])
    assert "first token" in answer.unscored


def test_only_what_is_wanted_is_scored():
    with StandIn() as standin:
        assert sorted(index for index, _ in reach(standin).loglikelihood(REQUESTS, wanted={3, 5})) == [3, 5]
        assert len(standin.asked) == 2


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "null", '"-1"', "0.7", "true"])
def test_a_log_probability_that_is_none_leaves_the_request_unscored(value):
    pieces = json.dumps(["<s>", "The", " hive", " hums", "."])
    logprobs = f'{{{{"tokens": {pieces}, "token_logprobs": [null, -1, -1, {value}, -1]}}}}'
    with StandIn(faults={0: f'garbage {{{{"choices": [{{{{"text": "x", "logprobs": {logprobs}}}}}]}}}}'}) as standin:
        ((_, answer),) = reach(standin).loglikelihood([Request("The hive", " hums")])
    assert math.isnan(answer.logprob)
    assert "not numbers up to 0" in answer.unscored


def test_a_prompt_that_the_server_cut_is_not_scored():
    pieces = json.dumps(["<s>", " hive", " hums", "."])
    logprobs = f'{{{{"tokens": {pieces}, "token_logprobs": [null, -1, -1, -1]}}}}'
    with StandIn(faults={0: f'garbage {{{{"choices": [{{{{"text": "x", "logprobs": {logprobs}}}}}]}}}}'}) as standin:
        ((_, answer),) = reach(standin).loglikelihood([Request("The hive", " hums")])
    assert "do not fit" in answer.unscored


# ---- tokens along a text -------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=12), st.integers(0, 40))
def test_tokens_that_spell_a_text_cut_it_where_it_is_cut(pieces, boundary):
    pieces = [piece.replace("\ufffd", "x").replace("bytes:", "") for piece in pieces]
    text = "".join(pieces)
    boundary = min(boundary, len(text))
    start = continuation_start(pieces, text, boundary)
    assert len("".join(pieces[:start])) <= boundary
    assert start == len(pieces) or len("".join(pieces[: start + 1])) > boundary or not pieces[start]


def test_tokens_that_share_a_character_get_its_span():
    assert spans(["a", "\ufffd", "\ufffd", "b"], "a🐝b") == [(0, 1), (1, 2), (1, 2), (2, 3)]
    assert spans(["a", " \ufffd", "\ufffd"], "a 🐝") == [(0, 1), (1, 3), (1, 3)]
    assert spans(["bytes:\\xf0\\x9f", "bytes:\\x90\\x9d", "!"], "🐝!") == [(0, 1), (0, 1), (1, 2)]
    assert continuation_start(["a", "\ufffd", "\ufffd", "b"], "a🐝b", 1) == 1
    assert continuation_start(["a", "\ufffd", "\ufffd", "b"], "a🐝b", 2) == 3


def test_a_boundary_among_tokens_that_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="share"):
        continuation_start(["a", "\ufffd", "\ufffd", "\ufffd", "b"], "a🐝🍯b", 2)


def test_sentencepiece_tokens_are_found_with_their_spaces():
    assert spans(["<s>", "▁The", "▁hive"], "The hive") == [None, (0, 3), (3, 8)]
    assert spans(["<s>", "The", "hive", "s"], "The hives") == [None, (0, 3), (3, 8), (8, 9)]
    # a space that is a token of its own decodes to nothing
    assert spans(["<s>", "The", "", "hive"], "The  hive") == [None, (0, 3), (3, 3), (3, 9)]
    assert continuation_start(["<s>", "The", "", "hive"], "The  hive", 3) == 2


@pytest.mark.parametrize("tokens", [["The"], ["The", " hive", " hums"], ["The", " bee"], [], ["\ufffd"]])
def test_tokens_that_do_not_spell_the_text_are_refused(tokens):
    with pytest.raises(ValueError, match=r"answer"):
        spans(tokens, "The hive")


# ---- what the server offers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "scores", "chat"),
    [
        ({}, True, True),
        ({"echo": False}, False, True),
        ({"logprobs": False}, False, True),
        ({"content_form": True}, False, True),  # llama.cpp: echo is taken, and only what was written has log-probs
        ({"chat": False}, True, False),
        ({"completions": False}, False, True),
        ({"refused": ("echo", "logprobs", "seed", "max_tokens")}, False, True),
    ],
)
def test_what_the_server_offers_is_known_before_any_work(behaviour, scores, chat):
    with StandIn(**behaviour) as standin:
        engine = reach(standin)
        assert (engine.scores, engine.chat_template) == (scores, chat)
        # a refusal comes once at most, when it connects: no prompt is spoilt by what the server does not take
        for on in [True] * chat + [False] * behaviour.get("completions", True):
            answers = list(engine.generate(PROMPTS[:3], DRAWN, chat=on))
            assert [c.unscored for _, completions in answers for c in completions] == [None] * 9
            logprobs = [c.logprobs for _, completions in answers for c in completions]
            offered = "logprobs" not in behaviour and "refused" not in behaviour
            assert [bool(found) for found in logprobs] == [offered] * 9
        if not scores:
            with pytest.raises(AlignbenchError, match="no log-probabilities"):
                next(engine.loglikelihood(REQUESTS))


def test_what_does_not_work_is_refused_before_anything_is_asked():
    with StandIn(chat=False) as standin:
        engine = reach(standin)
        with pytest.raises(AlignbenchError, match="chat/completions does not work"):
            next(engine.generate(PROMPTS, GREEDY, chat=True))
        assert standin.asked == []


def test_a_server_that_takes_no_seed_is_told_of():
    told = []
    with StandIn(seed=False) as standin:
        engine = reach(standin, notify=told.append)
        list(engine.generate(PROMPTS[:2], DRAWN))
        assert not any("seed" in body for _, body, _ in standin.asked)
    assert sum("takes no seed" in line for line in told) == 2


def test_a_server_that_falls_over_an_echo_still_writes():
    with StandIn(fault_of=lambda body: "500 Only no echo is supported" if body.get("echo") else None) as standin:
        standin.armed = True
        engine = connect(standin.spec, **FAST)
        assert not engine.scores
        assert texts(engine.generate(PROMPTS[:2], GREEDY)) == {i: expected(PROMPTS[i], GREEDY) for i in range(2)}


def test_the_run_says_which_model_answered():
    with StandIn() as standin:
        engine = reach(standin)
        list(engine.generate(PROMPTS[:4], GREEDY))
        assert engine.identity() == {"url": standin.address, "name": MODEL, "reported": f"{MODEL}-2026-01-01"}
        work = engine.work()
    assert (work["requests"], work["repeated"], work["system_fingerprint"]) == (6, 0, "fp_7")
    assert work["completion_tokens"] == 6


# ---- addresses and keys --------------------------------------------------------------------------------------------


def test_an_address_is_a_url_and_a_model():
    found = parse_endpoint("https://models.example:8443/v1/#meta-llama/Llama-3.1-8B")
    assert (found.url, found.model) == ("https://models.example:8443/v1", "meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("https://models.example/v1", "which model"),
        ("https://models.example/v1#", "which model"),
        ("https:///v1#m", "not an address"),
        ("ftp://models.example/v1#m", "not an address"),
        ("https://models.example:99999/v1#m", "not a URL"),
        ("https://[::1/v1#m", "not a URL"),
        ("https://models.example/v1 #m", "spaces"),
        ("https://models.example/v1\n#m", "control"),
        (f"https://me:{SECRET}@models.example/v1#m", "no name or password"),
        (f"https://{SECRET}@models.example/v1", "no name or password"),
        (f"https://models.example/v1?api-key={SECRET}#m", "after a ?"),
    ],
)
def test_an_address_that_is_wrong_is_refused_in_one_line_without_its_secrets(spec, message):
    with pytest.raises(AlignbenchError) as error:
        parse_endpoint(spec)
    assert message in refused(error)
    assert SECRET not in refused(error)


def test_openais_key_goes_to_openai_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert find_key("https://api.openai.com/v1") == SECRET
    for other in (
        "http://api.openai.com/v1",
        "https://api.openai.com.evil.example/v1",
        "https://evil.example/api.openai.com",
        "https://openai.com/v1",
    ):
        assert find_key(other) is None
    monkeypatch.setenv("ALIGNBENCH_API_KEY", "another")
    assert find_key("https://api.openai.com/v1") == "another"
    assert find_key("https://evil.example/v1") == "another"


@pytest.mark.parametrize("key", ["sk-a b", "sk-ä", "sk-a\nX-Other: 1"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(monkeypatch, key):
    monkeypatch.setenv("ALIGNBENCH_API_KEY", key)
    with pytest.raises(AlignbenchError, match="ALIGNBENCH_API_KEY") as error:
        find_key("https://models.example/v1")
    assert key not in refused(error)


def test_a_key_that_would_travel_unencrypted_is_told_of():
    assert is_local("http://localhost:8000/v1")
    assert is_local("http://127.0.0.1/v1")
    assert is_local("http://192.168.3.4/v1")
    assert is_local("http://gpu-box:8000/v1")
    assert not is_local("http://models.example/v1")
    assert not is_local("http://8.8.8.8/v1")


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("401 the key {key} is wrong", AlignbenchError),
        ("400 context: {key}", "unscored"),
        ("500 {key}", "unscored"),
        ("page", "unscored"),
        ("garbage {key}", "unscored"),
        ('garbage {{"error": "{key}"}}', "unscored"),
        ('garbage {{"choices": [{{"text": "your key is {key}"}}], "system_fingerprint": "{key}"}}', "answer"),
        ("redirect https://evil.example/{key}", AlignbenchError),
    ],
)
def test_the_key_is_never_shown_even_if_the_server_repeats_it(monkeypatch, caplog, fault, outcome):
    monkeypatch.setenv("ALIGNBENCH_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    shown = []
    with StandIn(fault_of=lambda body: fault) as standin:
        engine = reach(standin, retries=1, notify=shown.append)
        if outcome is AlignbenchError:
            with pytest.raises(AlignbenchError) as error:
                list(engine.generate(PROMPTS[:2], GREEDY))
            shown.append(refused(error))
        else:
            answers = dict(engine.generate(PROMPTS[:2], GREEDY))
            assert all((c.unscored is not None) == (outcome == "unscored") for (c,) in answers.values())
            shown.append(repr(answers))
        assert {headers["Authorization"] for _, _, headers in standin.asked} == {f"Bearer {SECRET}"}
    shown += [repr(engine), repr(engine.client), repr(engine.endpoint), str(engine.identity()), str(engine.work())]
    assert SECRET not in "\n".join(shown) + caplog.text


def test_a_short_key_does_not_tear_holes_into_answers(monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_API_KEY", "honey")
    with StandIn() as standin:
        answers = texts(reach(standin).generate(PROMPTS, GREEDY))
    assert answers == {i: expected(prompt, GREEDY) for i, prompt in enumerate(PROMPTS)}
    assert any("honey" in text for (text,) in answers.values())


def test_no_redirect_is_followed():
    with StandIn() as other, StandIn(fault_of=lambda body: f"redirect {other.address}/completions") as standin:
        engine = reach(standin)
        with pytest.raises(AlignbenchError, match="redirects to http"):
            list(engine.generate(PROMPTS, GREEDY))
        assert other.asked == []


@pytest.mark.parametrize(("key", "mend"), [(None, "set the key in ALIGNBENCH_API_KEY"), ("sk-wrong", "not accepted")])
def test_a_missing_or_wrong_key_is_told_at_once(monkeypatch, key, mend):
    if key:
        monkeypatch.setenv("ALIGNBENCH_API_KEY", key)
    with StandIn(fault_of=lambda body: "401 no") as standin:
        standin.armed = True
        with pytest.raises(AlignbenchError) as error:
            connect(standin.spec, **FAST)
        assert len(standin.asked) == 1
    assert mend in refused(error)


def test_a_model_that_is_not_there_is_named():
    with StandIn() as standin, pytest.raises(AlignbenchError) as error:
        connect(f"{standin.address}#other", **FAST)
    assert "'other'" in refused(error)
    with StandIn() as standin, pytest.raises(AlignbenchError, match="end with the version"):
        connect(standin.spec.replace("/v1", ""), **FAST)


def test_an_endpoint_that_is_not_up_is_told_soon():
    with StandIn() as standin:
        spec = standin.spec
    with pytest.raises(AlignbenchError) as error:
        connect(spec, **FAST)
    assert "is it up" in refused(error)


def test_no_connection_is_left_open():
    with StandIn() as standin:
        engine = reach(standin)
        list(engine.generate(PROMPTS, GREEDY))
        engine.close()
        gc.collect()
        assert engine.client._http.is_closed


def test_an_impossible_concurrency_is_refused():
    with pytest.raises(AlignbenchError, match="at least 1"):
        connect("https://models.example/v1#m", concurrency=0)
