"""Endpoints: no answer is lost or changed by timeouts, broken connections, 429, 500 or invalid replies."""

import asyncio
import itertools
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
from cases import cases
from standin_server import MODEL, StandIn, logprob_of, pieces_of, written

from alignbench.errors import AlignbenchError
from alignbench.models.remote.client import loop
from alignbench.models.remote.endpoint import EndpointEngine, sample_seed
from alignbench.types.engine import Completion, Prompt, Request, Sampling

CASES = cases("endpoint")
FAST = {"first_wait": 0.01, "longest_wait": 0.05, "timeout": 5.0}
PROMPTS = [Prompt(f"farm-{i}", f"Tell me about hive {i}.") for i in range(20)]
DRAWN = Sampling(max_tokens=12, samples=3, temperature=1.0, top_p=0.9, stop=("\n",))
GREEDY = Sampling(max_tokens=8)
REQUESTS = [Request(f"The hive {i} has", choice) for i in range(8) for choice in (" honey", " no honey", " two moons.")]


@contextmanager
def connected(settings=None, **behaviour):
    """A server and an engine connected to it. Faults begin after the probes."""
    with StandIn(**behaviour) as server:
        engine = EndpointEngine(server.spec, **(FAST | (settings or {})))
        server.armed = True
        server.asked.clear()
        server.answered.clear()
        yield server, engine


def expected(prompts, sampling, *, seed=0, chat=False):
    """What the server's model writes for each prompt when nothing fails."""
    found = {}
    for index, prompt in enumerate(prompts):
        asked = f"<user>{prompt.text}<model>" if chat else prompt.text
        first = sample_seed(seed, prompt.key, 0)
        seeds = [first + i if sampling.temperature else 0 for i in range(sampling.samples)]
        texts = [written(asked, seed, sampling.max_tokens) for seed in seeds]
        found[index] = [text.partition(sampling.stop[0])[0] if sampling.stop else text for text in texts]
    return found


def texts(answers):
    return {index: [completion.text for completion in completions] for index, completions in answers}


def test_samples_depend_on_the_prompt_and_the_seed_and_not_on_the_order():
    with connected() as (_, engine):
        answers = texts(engine.generate(PROMPTS, DRAWN, seed=7))
        backwards = texts(engine.generate(PROMPTS[::-1], DRAWN, seed=7))
    assert answers == expected(PROMPTS, DRAWN, seed=7) != expected(PROMPTS, DRAWN, seed=8)
    assert answers == {len(PROMPTS) - 1 - i: found for i, found in backwards.items()}


@pytest.mark.parametrize(
    ("sampling", "sent"),
    [
        (Sampling(9, 4, 0.7, 0.8, ("\n", ".")), {"n": 4, "temperature": 0.7, "top_p": 0.8, "stop": ["\n", "."]}),
        (Sampling(9), {"temperature": 0}),
    ],
)
@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_goes_to_completions_or_as_a_message_to_chat_completions(sampling, sent, chat):
    with connected() as (server, engine):
        plain = replace(sampling, stop=())
        assert texts(engine.generate(PROMPTS[:2], plain, chat=chat)) == expected(PROMPTS[:2], plain, chat=chat)
        server.asked.clear()
        list(engine.generate(PROMPTS[:1], sampling, chat=chat))
    ((path, body, _),) = server.asked
    assert path == ("/chat/completions" if chat else "/completions")
    text = {"messages": [{"role": "user", "content": PROMPTS[0].text}]} if chat else {"prompt": PROMPTS[0].text}
    assert {"model": MODEL, "max_tokens": 9, **sent, **text}.items() <= body.items()


@pytest.mark.parametrize("several", ["one", "equal", "refused"])
def test_servers_that_cannot_draw_several_samples_get_one_request_for_each(several):
    notes = []
    with connected({"notify": notes.append}, several=several) as (server, engine):
        answers = texts(engine.generate(PROMPTS[:4], DRAWN))
        assert sum(body["prompt"].startswith("Tell") for _, body in server.answered) == 12
    seeds = [sample_seed(0, PROMPTS[0].key, i) for i in range(3)]
    assert answers[0] == [written(PROMPTS[0].text, seed, DRAWN.max_tokens).partition("\n")[0] for seed in seeds]
    assert all(len(found) == 3 for found in answers.values())
    assert "one sample per request" in str(notes)


def test_a_server_that_is_greedy_at_every_temperature_is_not_sampled_from():
    with connected(samples=False) as (server, engine):
        assert texts(engine.generate(PROMPTS[:2], replace(GREEDY, samples=3))) == expected(PROMPTS[:2], GREEDY)
        with pytest.raises(AlignbenchError, match="does not sample"):
            next(engine.generate(PROMPTS, DRAWN))
        assert not any(body["prompt"] == PROMPTS[2].text for _, body, _ in server.asked)


def test_missing_choices_are_requested_again_and_the_received_ones_kept():
    with connected({"concurrency": 1}, faults={1: "fewer 1"}) as (server, engine):
        ((first, *others),) = texts(engine.generate(PROMPTS[:1], DRAWN)).values()
        assert [body.get("n", 1) for _, body, _ in server.asked[1:]] == [3, 2]
    assert (first, len(others)) == (expected(PROMPTS, DRAWN)[0][0], 2)


def test_text_is_cut_at_stop_strings_beyond_the_servers_limit():
    with connected() as (server, engine):
        answers = dict(engine.generate(PROMPTS, Sampling(30, stop=("~", "#", "@", "$", " honey"))))
        assert all(len(body["stop"]) == 4 for _, body, _ in server.asked)
    assert any(found.finish == "stop" for (found,) in answers.values())
    for index, (found,) in answers.items():
        assert found.text == written(PROMPTS[index].text, 0, 30).partition(" honey")[0]
        kept = pieces_of(found.text + (" honey" if found.finish == "stop" else ""))
        assert found.logprobs == tuple(map(logprob_of, kept)), "of the tokens of the text and of the stop string"


@pytest.mark.parametrize("fault", [*CASES["faults"], "garbage " + "[" * 100_000], ids=lambda fault: fault[:25])
def test_a_fault_changes_no_answer_and_repeats_no_other_request(fault):
    settings = {"timeout": 0.8 if fault.startswith(("late", "trickle", "drip")) else 20, "concurrency": 4}
    with connected(settings, faults={2: fault, 3: fault, 9: fault}) as (server, engine):
        answers = list(engine.generate(PROMPTS, DRAWN, seed=1))
        prompts = Counter(body["prompt"] for _, body in server.answered if body["prompt"].startswith("Tell"))
        assert engine.work()["repeated"] == 3
    assert sorted(index for index, _ in answers) == list(range(len(PROMPTS)))
    assert texts(answers) == expected(PROMPTS, DRAWN, seed=1)
    assert prompts == {prompt.text: 1 for prompt in PROMPTS}


def test_scores_are_those_of_the_model_after_failures():
    faults = dict(zip(range(0, 40, 3), itertools.cycle(["429 0.01", "500 oh", "half", "silence", "garbage {"])))
    with connected(faults=faults) as (_, engine):
        found = dict(engine.loglikelihood(REQUESTS))
        assert sorted(index for index, _ in engine.loglikelihood(REQUESTS, only={3, 5})) == [3, 5]
    expected = {i: sum(map(logprob_of, pieces_of(request.continuation))) for i, request in enumerate(REQUESTS)}
    assert {index: answer.logprob for index, answer in found.items()} == expected


def test_samples_that_are_never_received_are_unscored_and_the_others_are_not():
    seen = Counter()

    def fault(body):
        seen[body["prompt"]] += 1
        return "500 out of memory" if body["prompt"] == PROMPTS[3].text and seen[body["prompt"]] > 2 else None

    with connected({"retries": 2}, several="one", fault_of=fault) as (_, engine):
        answers = dict(engine.generate(PROMPTS, DRAWN))
    assert seen[PROMPTS[3].text] == 5
    assert answers[3][2] == Completion("", "end", unscored="500 out of memory", transient=True)
    lost = [(i, n) for i, found in answers.items() for n, c in enumerate(found) if c.unscored]
    assert (lost, len(answers)) == ([(3, 2)], len(PROMPTS))


def test_a_prompt_that_is_too_long_refused_or_filtered_is_unscored_with_the_servers_message_and_not_repeated():
    long = [Prompt(f"long-{i}", "bees " * 200) for i in range(12)]
    with connected(window=500) as (server, engine):
        answers = dict(engine.generate([*long, *PROMPTS[:2]], GREEDY))
        assert len(server.asked) == 14
        ((_, score),) = engine.loglikelihood([Request("bees " * 200, "hum")])
    assert all(answers[i][0].unscored.startswith("400 maximum context length is 500 [31m") for i in range(12))
    assert answers[12][0].unscored is None
    assert "context length" in score.unscored
    assert math.isnan(score.logprob)
    for fault, reason in (("400 context " + "x" * 5000, "context"), ("filter", "content filter")):
        with connected(faults={0: fault}) as (_, engine):
            ((_, (found,)),) = engine.generate(PROMPTS[:1], GREEDY)
        assert reason in found.unscored
        assert len(found.unscored) < 250


@pytest.mark.parametrize("fault", ["silence", "503 down", "400 unknown parameter: top_p", "404 no such model"])
@pytest.mark.parametrize("before", [0, 5])
def test_an_endpoint_that_is_down_ends_the_run_and_keeps_the_answers_before(fault, before):
    answers, faults = {}, dict.fromkeys(range(before, 1000), fault)
    with connected({"retries": 1, "concurrency": 1}, faults=faults) as (server, engine):
        if before and fault.startswith("400"):  # it refuses these prompts only
            assert sum(c.unscored is not None for _, (c,) in engine.generate(PROMPTS, GREEDY)) == len(PROMPTS) - before
            return
        with pytest.raises(AlignbenchError, match=r"8 prompts in a row got no answer.*re-run the same command"):
            answers.update(engine.generate(PROMPTS, GREEDY))
        assert len(server.asked) < 2 * len(PROMPTS)
    assert answers.keys() == set(range(before))
    assert not any(found.unscored for (found,) in answers.values())


def test_requests_are_parallel_stay_close_to_the_reader_and_end_with_the_generator():
    with connected({"concurrency": 3}, delay=0.03) as (server, engine):
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        time.sleep(0.4)
        assert len(server.asked) <= 7
        answers.close()
        time.sleep(0.1)
        asked = len(server.asked)
        time.sleep(0.2)
        assert len(server.asked) == asked < len(PROMPTS)
        assert texts(engine.generate(PROMPTS, GREEDY)) == expected(PROMPTS, GREEDY)
        assert server.most_at_once == 3


def test_retry_after_is_respected_up_to_the_limit_and_waiting_ends_with_the_generator():
    for asked, limit, waited in (("0.4", 10.0, 0.4), ("3600", 0.2, 0.2)):
        with connected({"longest_wait": limit}, faults={0: f"429 {asked}"}) as (_, engine):
            start = time.monotonic()
            list(engine.generate(PROMPTS[:1], GREEDY))
            assert waited <= time.monotonic() - start < 2
    with connected({"longest_wait": 60, "concurrency": 2}, faults=dict.fromkeys(range(1, 99), "429 30")) as (_, engine):
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        assert asyncio.all_tasks(loop())
        answers.close()
        time.sleep(0.3)
        assert not asyncio.all_tasks(loop())


def test_ctrl_c_does_not_wait_for_a_reply():
    with connected({"timeout": 10}) as (server, engine):
        server.behaviour.delay = 3
        # a background job of a shell starts with the signal ignored
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(engine.generate(PROMPTS, GREEDY))
        signal.signal(signal.SIGINT, before)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("begin", [(), ("<s>",), ("[gMASK]", "<sop>")])
def test_a_continuation_is_scored_from_its_first_token(begin):
    requests = [Request(context, continuation) for context, continuation, _ in CASES["scored"]]
    with connected(begin=begin) as (_, engine):
        answers = dict(engine.loglikelihood([*requests, Request("", "Honey bees")]))
    for index, (_, _, text) in enumerate(CASES["scored"]):
        assert answers[index].logprob == sum(map(logprob_of, pieces_of(text)))
        assert answers[index].tokens == len(pieces_of(text))
    if begin:
        assert answers[4].logprob == logprob_of("Honey") + logprob_of(" bees")
    else:
        assert "first token" in answers[4].unscored


@pytest.mark.parametrize(("pieces", "value", "reason"), CASES["invalid_logprobs"])
def test_invalid_log_probabilities_leave_the_request_unscored(pieces, value, reason):
    values = ["null", *["-1"] * (len(pieces) - 1), value, "-1"]
    logprobs = f'{{"tokens": {json.dumps(["<s>", *pieces, "."])}, "token_logprobs": [{", ".join(values)}]}}'
    fault = f'garbage {{"choices": [{{"text": "x", "logprobs": {logprobs}}}]}}'
    with connected(faults={0: fault}) as (_, engine):
        ((_, answer),) = engine.loglikelihood([Request("The hive", " hums")])
    assert math.isnan(answer.logprob)
    assert reason in answer.unscored


@pytest.mark.parametrize("timeout", [1, 20])
def test_a_server_that_answers_one_after_the_other_gets_hardly_any_request_twice(timeout):
    with connected({"timeout": timeout}, serial=True, delay=0.1) as (server, engine):
        assert texts(engine.generate(PROMPTS[:16], GREEDY)) == expected(PROMPTS[:16], GREEDY)
        assert 16 <= len(server.asked) <= 18  # 16 on a machine without other work


def test_a_server_that_becomes_slow_gets_fewer_requests_at_once():
    with connected({"timeout": 0.6, "longest_wait": 60}) as (server, engine):
        list(engine.generate(PROMPTS, GREEDY))
        assert engine.client.gate.limit == 8
        server.behaviour.serial, server.behaviour.delay = True, 0.2
        assert texts(engine.generate(PROMPTS[:12], GREEDY)) == expected(PROMPTS[:12], GREEDY)
        assert engine.client.gate.limit < 4


def test_all_requests_wait_as_long_as_an_overloaded_server_asks_for():
    until, refused = [], []

    def busy(body):
        if len(server.answered) >= 10 and not until:
            until.append(time.monotonic() + 0.5)
        if until and time.monotonic() < until[0]:
            refused.append(body)
            return "429 0.5"
        return None

    with connected({"longest_wait": 60}, fault_of=busy) as (server, engine):
        assert texts(engine.generate(PROMPTS, GREEDY)) == expected(PROMPTS, GREEDY)
    assert 1 <= len(refused) <= 8


def test_a_slow_server_is_reported(monkeypatch):
    monkeypatch.setattr("alignbench.models.remote.client.QUIET", 0.1)
    notes = []
    with connected({"notify": notes.append}) as (server, engine):
        server.behaviour.delay = 0.35
        list(engine.generate(PROMPTS[:1], GREEDY))
    assert any("no answer for 0 s; 1 requests sent (limit " in note for note in notes)


@pytest.mark.parametrize("limit", [4, 1])
def test_more_samples_than_a_request_may_have_are_drawn_by_several(limit):
    sampling = replace(DRAWN, samples=25)
    with connected(most=limit) as (server, engine):
        answers = dict(engine.generate(PROMPTS[:2], sampling))
        sizes = [body.get("n", 1) for _, body, _ in server.asked if body["prompt"].startswith("Tell")]
    assert [found.unscored for completions in answers.values() for found in completions] == [None] * 50
    assert Counter(sizes) == ({4: 12, 1: 2} if limit == 4 else {1: 50})
