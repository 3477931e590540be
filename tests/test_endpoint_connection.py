"""Connecting to an endpoint: what it supports, addresses, and keys, which are never shown."""

import logging

import pytest
from standin_server import MODEL, StandIn
from test_endpoint import CASES, DRAWN, FAST, GREEDY, PROMPTS, REQUESTS, connected, expected, texts

from alignbench.errors import AlignbenchError
from alignbench.models.remote.client import find_key, parse_endpoint
from alignbench.models.remote.endpoint import EndpointEngine

KEY = "ALIGNBENCH_API_KEY_127_0_0_1"
SECRET = "sk-a1b2c3d4e5f6a7b8c9d0"


@pytest.mark.parametrize(("behaviour", "scores", "chat"), CASES["supported"])
def test_what_a_server_supports_is_known_after_connecting(behaviour, scores, chat):
    with connected(**behaviour) as (server, engine):
        assert (engine.scores, engine.chat_template) == (scores, chat)
        # parameters are refused at most once, when connecting: no prompt fails because of them
        for on in [True] * chat + [False] * behaviour.get("completions", True):
            answers = list(engine.generate(PROMPTS[:3], DRAWN, chat=on))
            assert [c.unscored for _, completions in answers for c in completions] == [None] * 9
            logprobs = [c.logprobs for _, completions in answers for c in completions]
            supported = "logprobs" not in behaviour and "refused" not in behaviour
            assert [bool(found) for found in logprobs] == [supported] * 9
        server.asked.clear()
        if not scores:
            with pytest.raises(AlignbenchError, match="does not return log-probabilities"):
                next(engine.loglikelihood(REQUESTS))
        if not chat:
            with pytest.raises(AlignbenchError, match="chat/completions does not work"):
                next(engine.generate(PROMPTS, GREEDY, chat=True))
        assert server.asked == []


def test_a_server_without_seeds_is_reported_and_one_that_crashes_on_echo_still_generates():
    notes = []
    with connected({"notify": notes.append}, seed=False) as (server, engine):
        list(engine.generate(PROMPTS[:2], DRAWN))
        assert not any("seed" in body for _, body, _ in server.asked)
    assert sum("accepts no seed" in note for note in notes) == 2
    with StandIn(fault_of=lambda body: "500 Only no echo is supported" if body.get("echo") else None) as server:
        server.armed = True
        engine = EndpointEngine(server.spec, **FAST)
        assert not engine.scores
        assert texts(engine.generate(PROMPTS[:2], GREEDY)) == expected(PROMPTS[:2], GREEDY)


def test_identity_and_counters_name_the_model_and_the_requests():
    with connected() as (server, engine):
        list(engine.generate(PROMPTS[:4], GREEDY))
        assert engine.identity() == {"url": server.address, "name": MODEL, "reported": f"{MODEL}-2026-01-01"}
        work = {"requests": 6, "repeated": 0, "completion_tokens": 6, "system_fingerprint": "fp_7"}
        assert work.items() <= engine.work().items()


@pytest.mark.parametrize(("spec", "message"), CASES["addresses"])
def test_an_invalid_address_is_refused_in_one_line_without_its_secrets(spec, message):
    with pytest.raises(AlignbenchError, match=rf"\A[^\n]*{message}[^\n]*\Z") as error:
        parse_endpoint(spec)
    assert SECRET not in str(error.value)
    found = parse_endpoint("https://models.example:8443/v1/#meta-llama/Llama-3.1-8B")
    assert found == ("https://models.example:8443/v1", "meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(("variables", "key"), CASES["keys"])
def test_a_key_is_sent_to_its_own_host_only(monkeypatch, variables, key):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_key("https://api.example.com:8443/v1") == key


@pytest.mark.parametrize("key", ["sk-a b", "sk-ä", "sk-a\nX-Other: 1"])
def test_an_invalid_key_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(AlignbenchError, match=rf"\A{KEY}[^\n]*\Z") as error:
        find_key("http://127.0.0.1:80/v1")
    assert key not in str(error.value)


@pytest.mark.parametrize(("fault", "outcome"), CASES["key_repeated"])
def test_the_key_is_never_shown_even_if_the_server_repeats_it(monkeypatch, caplog, fault, outcome):
    monkeypatch.setenv(KEY, SECRET)
    caplog.set_level(logging.DEBUG)
    shown = []
    with connected({"retries": 1, "notify": shown.append}, fault_of=lambda body: fault) as (server, engine):
        try:
            answers = dict(engine.generate(PROMPTS[:2], GREEDY))
            assert all((c.unscored is not None) == (outcome == "unscored") for (c,) in answers.values())
            shown.append(repr(answers))
        except AlignbenchError as error:
            assert outcome == "error"
            shown.append(str(error))
        assert {headers["Authorization"] for _, _, headers in server.asked} == {f"Bearer {SECRET}"}
    shown += [repr(engine), repr(engine.client), str(engine.identity()), str(engine.work())]
    assert SECRET not in "\n".join(shown) + caplog.text


def test_a_short_key_changes_no_answer_and_no_redirect_is_followed(monkeypatch):
    monkeypatch.setenv(KEY, "honey")
    with connected() as (_, engine):
        assert texts(engine.generate(PROMPTS, GREEDY)) == expected(PROMPTS, GREEDY)
    assert "honey" in str(expected(PROMPTS, GREEDY))
    with StandIn() as other, connected(fault_of=lambda body: f"redirect {other.address}/completions") as (_, engine):
        with pytest.raises(AlignbenchError, match="redirects to http"):
            list(engine.generate(PROMPTS, GREEDY))
        assert other.asked == []


def test_a_wrong_key_model_path_server_and_concurrency_are_reported(monkeypatch):
    with StandIn(fault_of=lambda body: "401 no") as server:
        server.armed = True
        for key, advice in (("", f"set the key in {KEY}"), ("sk-1", "is not accepted")):
            monkeypatch.setenv(KEY, key)
            with pytest.raises(AlignbenchError, match=advice):
                EndpointEngine(server.spec, **FAST)
        assert len(server.asked) == 2
    with StandIn() as server:
        for old, new, message in (("farm-1", "other", "'other'"), ("/v1", "", "ends with the version")):
            with pytest.raises(AlignbenchError, match=message):
                EndpointEngine(server.spec.replace(old, new), **FAST)
    with pytest.raises(AlignbenchError, match="check that it is up"):
        EndpointEngine(server.spec, **FAST)
    with pytest.raises(AlignbenchError, match="at least 1"):
        EndpointEngine(server.spec, concurrency=0)
