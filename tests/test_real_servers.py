"""Real servers as endpoints: llama.cpp, `transformers serve` and vLLM answer what the local engine computes."""

import json
import math
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import torch
from conftest import REPOSITORY
from test_cli_generation import write_lines
from tiny import engine_of, tiny_model, tiny_tokenizer

from alignbench.errors import AlignbenchError
from alignbench.evaluation.evaluate import evaluate
from alignbench.models.remote.endpoint import EndpointEngine
from alignbench.progress import Progress
from alignbench.types.engine import Prompt, Request, Sampling

pytestmark = pytest.mark.servers
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}:"
PROMPTS = [Prompt(word, f"{word} and the hive") for word in ("Honey", "Wax", "Bees", "Mars", "Red", "Two")]
GREEDY = Sampling(max_tokens=10)
WINDOW = 256
COMMANDS = {  # environment -> the arguments of its Python
    "llama": (REPOSITORY / "tests" / "servers" / "llama.py", "{folder}", "{port}", WINDOW * 4, 4),
    "serve": ("-c", "from transformers.cli.transformers import main; main()", "serve", "{folder}", "--port", "{port}"),
    "vllm": (
        *("-m", "vllm.entrypoints.openai.api_server", "--model", "{folder}", "--port", "{port}", "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", WINDOW, "--chat-template-content-format", "string"),
    ),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint that writes ASCII alone, so that every token is a text of its own, and its local engine."""
    tokenizer = tiny_tokenizer(ascii_only=True)
    tokenizer.chat_template = TEMPLATE
    # one head of 32 values, since vLLM has no kernels on a CPU for fewer
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = tiny_model("llama", tokenizer, max_position_embeddings=WINDOW, **heads)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, engine_of(model, tokenizer), model, tokenizer


@contextmanager
def running(kind, folder, port=None):
    """A server's process and the endpoint's address. Skips the test where the server is not installed."""
    environment = REPOSITORY / f".venv-{kind}"
    if not (environment / "ready").exists():
        pytest.skip(f"no server {kind}: `make test-servers SERVERS={kind}` installs it")
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [str(part).format(folder=folder, port=port) for part in COMMANDS[kind]]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (folder / f"{kind}.log").open("w") as log:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | settings
        process = subprocess.Popen([environment / "bin" / "python", *command], stdout=log, stderr=log, env=variables)
    try:
        for _ in range(1200):
            assert process.poll() is None, (folder / f"{kind}.log").read_text()[-2000:]
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process, f"http://127.0.0.1:{port}/v1#{folder}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module", params=COMMANDS)
def served(request, tiny):
    with running(request.param, tiny[0]) as (process, spec):
        yield request.param, process, spec


def texts(answers):
    return {index: [(found.text, found.finish) for found in completions] for index, completions in answers}


@pytest.mark.parametrize("chat", [False, True])
def test_greedy_texts_and_their_log_probabilities_are_those_of_the_local_engine(served, tiny, chat):
    kind, _, spec = served
    engine = EndpointEngine(spec)
    found, expected = (dict(own.generate(PROMPTS, GREEDY, chat=chat)) for own in (engine, tiny[1]))
    assert texts(found.items()) == texts(expected.items())
    for index, (own,) in found.items():
        assert len(own.logprobs) == (0 if kind == "serve" else len(expected[index][0].logprobs))
        assert own.logprobs == pytest.approx(expected[index][0].logprobs[: len(own.logprobs)], abs=1e-3)


def test_scores_are_those_of_the_local_engine_where_the_server_gives_them(served, tiny):
    kind, _, spec = served
    engine = EndpointEngine(spec)
    assert engine.scores == (kind == "vllm")
    requests = [Request(prompt.text, choice) for prompt in PROMPTS for choice in (" is warm.", " has two moons.")]
    if engine.scores:
        found, expected = (dict(own.loglikelihood(requests)) for own in (engine, tiny[1]))
        for index, answer in expected.items():
            assert found[index].logprob == pytest.approx(answer.logprob, abs=1e-3)


def test_all_25_samples_come_from_the_unmodified_distribution(served, tiny):
    """A server's defaults (top_k 40, min_p 0.05 in llama.cpp) would leave out the tail."""
    kind, _, spec = served
    _, _, model, tokenizer = tiny
    engine = EndpointEngine(spec)
    assert engine.sampling(False, True)[1].startswith("unmodified")
    prompts = [Prompt(f"s{i}", PROMPTS[0].text) for i in range(10 if kind == "serve" else 40)]
    answers = dict(engine.generate(prompts, Sampling(max_tokens=1, samples=25, temperature=1.0)))
    drawn = [found.text for completions in answers.values() for found in completions]
    assert [found.unscored for completions in answers.values() for found in completions] == [None] * 25 * len(prompts)
    ids = tokenizer(PROMPTS[0].text, return_tensors="pt").input_ids
    p = torch.softmax(model(ids).logits[0, -1].double(), -1)
    for kept in (p.topk(20).indices, (p > 0.05 * p.max()).nonzero()[:, 0]):
        expected, likely = p[kept].sum().item(), {tokenizer.decode([token]) for token in kept}
        share = sum(text in likely for text in drawn) / len(drawn)
        assert 0.1 < expected < 0.9
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / len(drawn))


def test_a_long_prompt_is_unscored_and_the_others_are_not(served, tiny):
    kind, _, spec = served
    if kind == "serve":
        pytest.skip("transformers has no limit of a prompt's length")
    long = Prompt("long", "bees " * WINDOW)
    answers = dict(EndpointEngine(spec).generate([*PROMPTS, long, *PROMPTS[:3]], GREEDY))
    assert [i for i, (found,) in answers.items() if found.unscored] == [len(PROMPTS)]


def test_a_server_that_stands_still_is_asked_again(served, tiny):
    _, process, spec = served
    engine = EndpointEngine(spec, timeout=1.5, first_wait=0.1)
    expected = texts(engine.generate(PROMPTS, GREEDY))
    process.send_signal(signal.SIGSTOP)
    threading.Timer(4, process.send_signal, (signal.SIGCONT,)).start()
    assert texts(engine.generate(PROMPTS, GREEDY)) == expected
    assert engine.work()["repeated"] > 0


@pytest.mark.parametrize("kind", ["llama", "serve"])
def test_a_run_whose_server_dies_resumes_as_if_it_had_not(kind, tiny, tmp_path):
    write_lines(tmp_path / "p.jsonl", [{"id": str(i), "prompt": f"Hive {i} has"} for i in range(40)])
    settings = {"prompts": tmp_path / "p.jsonl", "retries": 0, "concurrency": 2}

    class Killing(Progress):
        def advance(self):
            process.kill()

    def records(out):
        """Records, and apart from them log-probabilities: llama.cpp computes a prompt in other batches if it knows its
        beginning, which changes the last digits."""
        lines = [line for path in (tmp_path / out).glob("**/documents.jsonl") for line in path.read_text().splitlines()]
        found = [json.loads(line) for line in lines]
        outputs = [output for record in found for output in record["outputs"]]
        return found, [value for output in outputs for value in output.pop("logprobs", ())]

    with running(kind, tiny[0]) as (process, spec):
        evaluate([spec], ["answers"], tmp_path / "calm", **settings)
        with pytest.raises(AlignbenchError, match="re-run the same command to resume"):
            evaluate([spec], ["answers"], tmp_path / "died", **settings, progress=Killing())
    assert records("died") == ([], [])
    (partial,) = (tmp_path / "died").glob("**/documents.partial.jsonl")
    assert 1 <= len(partial.read_text().splitlines()) < 40
    with running(kind, tiny[0], urlsplit(spec).port):
        evaluate([spec], ["answers"], tmp_path / "died", **settings)
    (found, values), (expected, exact) = records("died"), records("calm")
    assert found == expected
    assert len(found) == 40
    assert values == pytest.approx(exact, abs=1e-3)
