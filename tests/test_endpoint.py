"""Endpoints: no answer is lost or changed by timeouts, broken connections, 429, 500 or invalid replies."""

import itertools
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from standin_server import MODEL, StandIn, logprob_of, pieces_of, written

from alignbench.errors import AlignbenchError
from alignbench.models.remote.endpoint import connect, sample_seed
from alignbench.types.engine import Completion, Prompt, Request, Sampling

FAST = {"first_wait": 0.01, "longest_wait": 0.05, "timeout": 5.0}
PROMPTS = [Prompt(f"farm-{i}", f"Tell me about hive {i}.") for i in range(20)]
DRAWN = Sampling(max_tokens=12, samples=3, temperature=1.0, top_p=0.9, stop=("\n",))
GREEDY = Sampling(max_tokens=8)
REQUESTS = [Request(f"The hive {i} has", choice) for i in range(8) for choice in (" honey", " no honey", " two moons.")]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("ALIGNBENCH_API_KEY", "OPENAI_API_KEY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def connected(settings=None, **behaviour):
    """A server and an engine connected to it. Faults begin after the probes."""
    with StandIn(**behaviour) as server:
        engine = connect(server.spec, **(FAST | (settings or {})))
        server.armed = True
        server.asked.clear()
        server.answered.clear()
        yield server, engine
        engine.close()


def expected(prompt, sampling, *, seed=0, chat=False):
    """What the server's model writes for a prompt when nothing fails."""
    asked = f"<user>{prompt.text}<model>" if chat else prompt.text
    first = sample_seed(seed, prompt.key, 0)
    seeds = [first + i if sampling.temperature else 0 for i in range(sampling.samples)]
    found = [written(asked, seed, sampling.max_tokens) for seed in seeds]
    return [next((text[: text.find(stop)] for stop in sampling.stop if stop in text), text) for text in found]


def texts(answers):
    return {index: [completion.text for completion in completions] for index, completions in answers}


# ---- requests ------------------------------------------------------------------------------------------------------


def test_samples_depend_on_the_prompt_and_the_seed_and_not_on_the_order():
    with connected() as (_, engine):
        answers = texts(engine.generate(PROMPTS, DRAWN, seed=7))
        backwards = texts(engine.generate(PROMPTS[::-1], DRAWN, seed=7))
        other = texts(engine.generate(PROMPTS, DRAWN, seed=8))
    assert answers == {i: expected(prompt, DRAWN, seed=7) for i, prompt in enumerate(PROMPTS)}
    assert answers == {len(PROMPTS) - 1 - i: found for i, found in backwards.items()}
    assert answers != other


def test_a_prompt_goes_to_completions_and_a_chat_to_chat_completions():
    with connected() as (server, engine):
        plain = texts(engine.generate(PROMPTS[:2], GREEDY))
        chat = texts(engine.generate(PROMPTS[:2], GREEDY, chat=True))
        paths, bodies = [path for path, _, _ in server.asked], [body for _, body, _ in server.asked]
    assert paths == ["/completions"] * 2 + ["/chat/completions"] * 2
    assert sorted(body["messages"][0]["content"] for body in bodies[2:]) == [prompt.text for prompt in PROMPTS[:2]]
    assert plain == {i: expected(PROMPTS[i], GREEDY) for i in range(2)}
    assert chat == {i: expected(PROMPTS[i], GREEDY, chat=True) for i in range(2)}


@pytest.mark.parametrize(
    ("sampling", "sent", "count"),
    [
        (Sampling(9, 4, 0.7, 0.8, ("\n", ".")), {"n": 4, "temperature": 0.7, "top_p": 0.8, "stop": ["\n", "."]}, 4),
        (Sampling(9, samples=3), {"temperature": 0}, 1),  # greedy: one sample
    ],
)
def test_the_sampling_parameters_are_sent(sampling, sent, count):
    with connected() as (server, engine):
        ((_, found),) = engine.generate(PROMPTS[:1], sampling)
        body = server.asked[-1][1]
    assert {"model": MODEL, "max_tokens": 9, **sent}.items() <= body.items()
    assert len(found) == count


@pytest.mark.parametrize("several", ["one", "equal", "refused"])
def test_servers_that_cannot_draw_several_samples_get_one_request_for_each(several):
    notes = []
    with connected({"notify": notes.append}, several=several) as (server, engine):
        answers = texts(engine.generate(PROMPTS[:4], DRAWN))
        answered = [body for _, body in server.answered if body["prompt"].startswith("Tell")]
    seeds = [sample_seed(0, PROMPTS[0].key, i) for i in range(3)]
    assert answers[0] == [written(PROMPTS[0].text, seed, DRAWN.max_tokens).partition("\n")[0] for seed in seeds]
    assert all(len(found) == 3 for found in answers.values())
    assert len(answered) == 12
    assert any("one sample per request" in line for line in notes)


def test_a_server_that_is_greedy_at_every_temperature_is_not_sampled_from():
    with connected(samples=False) as (server, engine):
        assert texts(engine.generate(PROMPTS[:2], GREEDY)) == {i: expected(PROMPTS[i], GREEDY) for i in range(2)}
        with pytest.raises(AlignbenchError, match="does not sample"):
            next(engine.generate(PROMPTS, DRAWN))
        assert not any(body["prompt"] == PROMPTS[2].text for _, body, _ in server.asked)


def test_missing_choices_are_requested_again_and_the_received_ones_kept():
    with connected({"concurrency": 1}, faults={1: "fewer 1"}) as (server, engine):
        answers = texts(engine.generate(PROMPTS[:1], DRAWN))
        assert [body.get("n", 1) for _, body, _ in server.asked[1:]] == [3, 2]
    assert answers[0][0] == expected(PROMPTS[0], DRAWN)[0]
    assert len(answers[0]) == 3


def test_text_is_cut_at_stop_strings_beyond_the_servers_limit():
    with connected() as (server, engine):
        answers = dict(engine.generate(PROMPTS, Sampling(30, stop=("~", "#", "@", "$", " honey"))))
        assert all(len(body["stop"]) == 4 for _, body, _ in server.asked)
    assert any(found.finish == "stop" for (found,) in answers.values())
    for index, (found,) in answers.items():
        assert found.text == written(PROMPTS[index].text, 0, 30).partition(" honey")[0]
        kept = pieces_of(found.text + (" honey" if found.finish == "stop" else ""))
        assert found.logprobs == tuple(map(logprob_of, kept)), "of the tokens of the text and of the stop string"


# ---- failures ------------------------------------------------------------------------------------------------------

FAULTS = [
    *(
        "429 0.02",
        "429 date",
        "500 out of memory",
        "503 overloaded",
        "page",
        "late 2",
        "trickle 0.1",
        "half",
        "silence",
    ),
    *("garbage ", "garbage <html>", "garbage [1, 2]", 'garbage {{"choices": []}}', "garbage " + "[" * 100_000),
    'garbage {{"choices": [{{"index": 0}}]}}',
    'garbage {{"choices": [{{"text": 5}}, null, {{"text": "\\ud800"}}]}}',
    'garbage {{"error": {{"message": "upstream failed"}}}}',
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[:25])
def test_a_fault_changes_no_answer_and_repeats_no_other_request(fault):
    settings = {"timeout": 0.8 if fault.startswith(("late", "trickle")) else 20, "concurrency": 4}
    with connected(settings, faults={2: fault, 3: fault, 9: fault}) as (server, engine):
        answers = list(engine.generate(PROMPTS, DRAWN, seed=1))
        prompts = Counter(body["prompt"] for _, body in server.answered if body["prompt"].startswith("Tell"))
        assert engine.work()["repeated"] == 3
    assert sorted(index for index, _ in answers) == list(range(len(PROMPTS)))
    assert texts(answers) == {i: expected(prompt, DRAWN, seed=1) for i, prompt in enumerate(PROMPTS)}
    assert prompts == {prompt.text: 1 for prompt in PROMPTS}


def test_scores_are_equal_with_and_without_failures():
    faults = dict(zip(range(0, 40, 3), itertools.cycle(["429 0.01", "500 oh", "half", "silence", "garbage {{"])))
    with connected() as (_, quiet), connected(faults=faults) as (_, engine):
        undisturbed = dict(quiet.loglikelihood(REQUESTS))
        assert dict(engine.loglikelihood(REQUESTS)) == undisturbed
        assert sorted(index for index, _ in quiet.loglikelihood(REQUESTS, only={3, 5})) == [3, 5]
    assert undisturbed[2].logprob == sum(map(logprob_of, pieces_of(" two moons.")))


@pytest.mark.parametrize(("asked", "limit", "waited"), [("0.4", 10.0, 0.4), ("3600", 0.2, 0.2)])
def test_retry_after_is_respected_up_to_the_limit(asked, limit, waited):
    with connected({"longest_wait": limit}, faults={0: f"429 {asked}"}) as (_, engine):
        start = time.monotonic()
        list(engine.generate(PROMPTS[:1], GREEDY))
        assert waited <= time.monotonic() - start < 2


def test_a_prompt_that_is_never_answered_is_unscored_and_the_others_are_not():
    def poison(body):
        return "500 out of memory" if body["prompt"] == PROMPTS[3].text else None

    with connected({"retries": 2}, fault_of=poison) as (server, engine):
        answers = dict(engine.generate(PROMPTS, GREEDY))
        assert sum(body["prompt"] == PROMPTS[3].text for _, body, _ in server.asked) == 3
    assert answers[3] == (Completion("", "end", unscored="500 out of memory, 3 times", transient=True),)
    assert all(found.unscored is None for i, (found,) in answers.items() if i != 3)
    assert len(answers) == len(PROMPTS)


def test_received_samples_are_kept_when_the_rest_fails():
    seen = Counter()

    def fault(body):
        seen[body["prompt"]] += 1
        return "500 gone" if body["prompt"].startswith("Tell") and seen[body["prompt"]] > 2 else None

    with connected({"retries": 1}, several="one", fault_of=fault) as (_, engine):
        ((_, completions),) = engine.generate(PROMPTS[:1], DRAWN)
    assert [found.unscored is None for found in completions] == [True, True, False]


def test_a_prompt_that_is_too_long_is_unscored_with_the_servers_message_and_not_repeated():
    long = [Prompt(f"long-{i}", "bees " * 200) for i in range(12)]
    with connected(window=500) as (server, engine):
        answers = dict(engine.generate([*long, *PROMPTS[:2]], GREEDY))
        assert len(server.asked) == 14
        (score,) = [answer for _, answer in engine.loglikelihood([Request("bees " * 200, "hum")])]
    assert all(answers[i][0].unscored.startswith("400 maximum context length is 500") for i in range(12))
    assert "\x1b" not in answers[0][0].unscored
    assert answers[12][0].unscored is None
    assert "context length" in score.unscored
    assert math.isnan(score.logprob)


@pytest.mark.parametrize(("fault", "reason"), [("400 context " + "x" * 5000, "context"), ("filter", "content filter")])
def test_a_refused_or_filtered_answer_is_unscored_with_a_short_reason(fault, reason):
    with connected(faults={0: fault}) as (_, engine):
        ((_, (found,)),) = engine.generate(PROMPTS[:1], GREEDY)
    assert reason in found.unscored
    assert len(found.unscored) < 250


@pytest.mark.parametrize("fault", ["silence", "503 down", "400 unknown parameter: top_p"])
def test_an_endpoint_that_is_down_ends_the_run_and_leaves_nothing_unscored(fault):
    answers = []
    with connected({"retries": 1}, fault_of=lambda body: fault) as (server, engine):
        with pytest.raises(AlignbenchError, match="8 prompts in a row got no answer"):
            answers.extend(engine.generate(PROMPTS, GREEDY))
        assert len(server.asked) < 2 * len(PROMPTS)
    assert answers == []


def test_an_endpoint_that_fails_later_keeps_the_answers_before():
    answers, faults = {}, dict.fromkeys(range(5, 1000), "silence")
    error = pytest.raises(AlignbenchError, match="re-run the same command to resume")
    with connected({"retries": 1, "concurrency": 1}, faults=faults) as (_, engine), error:
        answers.update(engine.generate(PROMPTS, GREEDY))
    assert answers.keys() == set(range(5))
    assert not any(found.unscored for (found,) in answers.values())


def test_refusals_after_other_prompts_were_answered_end_nothing():
    faults = dict.fromkeys(range(2, 14), "400 we do not like this prompt")
    with connected({"concurrency": 1}, faults=faults) as (_, engine):
        answers = dict(engine.generate(PROMPTS, GREEDY))
    assert sum(found.unscored is not None for (found,) in answers.values()) == 12


# ---- parallel requests ---------------------------------------------------------------------------------------------


def test_the_number_of_parallel_requests_is_the_concurrency():
    with connected({"concurrency": 3}, delay=0.05) as (server, engine):
        list(engine.generate(PROMPTS, GREEDY))
        assert server.most_at_once == 3


def test_requests_stay_close_to_the_reader_and_end_with_the_generator():
    with connected({"concurrency": 2}, delay=0.02) as (server, engine):
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        time.sleep(0.3)
        assert len(server.asked) <= 5
        answers.close()
        time.sleep(0.1)
        asked = len(server.asked)
        time.sleep(0.2)
        assert len(server.asked) == asked < len(PROMPTS)
        assert texts(engine.generate(PROMPTS[:3], GREEDY)) == {i: expected(PROMPTS[i], GREEDY) for i in range(3)}


def test_waiting_for_a_retry_ends_with_the_generator():
    with connected({"longest_wait": 60, "concurrency": 2}, faults=dict.fromkeys(range(1, 99), "429 30")) as (_, engine):
        answers = engine.generate(PROMPTS, GREEDY)
        next(answers)
        before = threading.active_count()
        answers.close()
        time.sleep(0.3)
        assert threading.active_count() < before


def test_ctrl_c_does_not_wait_for_a_reply():
    with connected({"timeout": 10}) as (server, engine):
        server.behaviour.delay = 3
        # a background job of a shell starts with the signal ignored
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
def test_a_continuation_is_scored_from_its_first_token(begin):
    scored = {
        Request("The hive has", " honey and bees"): " honey and bees",
        Request("The hive has ", "honey"): " honey",  # white space moves to the continuation
        Request("Größe 🐝", " 🍯!"): " 🍯!",
        Request("The bee", "hive hums"): " beehive hums",  # a token across the boundary
    }
    with connected(begin=begin) as (_, engine):
        answers = dict(engine.loglikelihood([*scored, Request("", "Honey bees")]))
    for index, text in enumerate(scored.values()):
        assert answers[index].logprob == sum(map(logprob_of, pieces_of(text)))
        assert answers[index].tokens == len(pieces_of(text))
    if begin:
        assert answers[4].logprob == logprob_of("Honey") + logprob_of(" bees")
    else:
        assert "first token" in answers[4].unscored


@pytest.mark.parametrize(
    ("pieces", "value", "reason"),
    [
        *((["The", " hive", " hums"], v, "finite numbers up to 0") for v in ("NaN", "-Infinity", "null", '"-1"')),
        *((["The", " hive", " hums"], value, "finite numbers up to 0") for value in ("0.7", "true")),
        ([" hive", " hums"], "-1", "do not match the text"),  # the server has cut the prompt
    ],
)
def test_invalid_log_probabilities_leave_the_request_unscored(pieces, value, reason):
    values = ["null", *["-1"] * (len(pieces) - 1), value, "-1"]
    logprobs = f'{{{{"tokens": {json.dumps(["<s>", *pieces, "."])}, "token_logprobs": [{", ".join(values)}]}}}}'
    fault = f'garbage {{{{"choices": [{{{{"text": "x", "logprobs": {logprobs}}}}}]}}}}'
    with connected(faults={0: fault}) as (_, engine):
        ((_, answer),) = engine.loglikelihood([Request("The hive", " hums")])
    assert math.isnan(answer.logprob)
    assert reason in answer.unscored
