"""A whole study with the real command: the demo's simulated labelers use the page in a browser, the server is killed
and started again, and the report has the win rate with its interval.

ALIGNBENCH_STUDY=60x6 sets the numbers of prompts and labelers (docs/labels.md has such a run).
"""

import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from audit_runs import write_run
from commands import run
from demo_world import world
from study_helpers import Labeler

from alignbench.demo.labelers import LABELERS, NEW, TRAINERS, _labels
from alignbench.demo.requests import as_response, candidates, good, make_requests
from alignbench.labels.table import FLAGS, read_labels

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
pytest_plugins = ("browser",)
pytestmark = pytest.mark.slow
PROMPTS, WHO = map(int, os.environ.get("ALIGNBENCH_STUDY", "6x2").split("x"))
OVERLAP = min(3, WHO)
OUTLIER = next(one for one in LABELERS if one.outlier == "careless")
HIRED = [TRAINERS[0], NEW[0], TRAINERS[1], TRAINERS[2], NEW[1], OUTLIER][:WHO]
SYSTEMS = ("sft", "ppo", "ppo-ptx")
GOOD = {"sft": 0.4, "ppo": 0.7, "ppo-ptx": 0.6}  # rates of good answers
LINK = re.compile(r"^(.+)\t(http://\S+)$")


@pytest.fixture(scope="module")
def texts():
    """Prompt -> system -> output, of the demo's world."""
    known, draw = world(), random.Random(7)
    found = {}
    for request in make_requests(known).by_split[1][:PROMPTS]:
        worse = [text for text in candidates(known, request, 8, draw) if text.strip()]
        outputs = {s: good(known, request, draw) if draw.random() < GOOD[s] else draw.choice(worse) for s in SYSTEMS}
        found[request.prompt] = {system: as_response(text) for system, text in outputs.items()}
    return found


@pytest.fixture
def runs(tmp_path, texts):
    columns = {
        system: [
            {"id": f"p{n}", "prompt": prompt, "outputs": [{"text": own[system]}]}
            for n, (prompt, own) in enumerate(texts.items())
        ]
        for system in SYSTEMS
    }
    values = {"answer_rate": [1.0] * len(texts), "words": [9.0] * len(texts)}
    return [write_run(tmp_path / "runs", name, ("answers", values, {"columns": own})) for name, own in columns.items()]


@pytest.fixture
def serving(tmp_path, runs):
    """Starts the command, at the same port each time; gives the process and the links that it printed."""
    groups = "".join(f"{one.name},{one.group}\n" for one in HIRED)
    (tmp_path / "labelers.csv").write_text(f"labeler,group\n{groups}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"--labelers": tmp_path / "labelers.csv", "--out": tmp_path / "study.db", "--overlap": OVERLAP}
    options |= {"--port": port, "--stop-width": 0.3}
    command, begun = ["labels", "serve", *runs, *(word for pair in options.items() for word in pair)], []

    def again():
        program = [sys.executable, "-m", "alignbench", *map(str, command)]
        process, links = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), {}
        begun.append(process)
        for line in process.stdout:
            if found := LINK.match(line.rstrip("\n")):
                links[found[1]] = found[2]
            if "page: http" in line:
                return process, links
        raise AssertionError("the server has not started")

    yield again
    for process in begun:
        process.kill()
        process.wait()


def judge(page, texts):
    """Answer the item on the page as the labeler of that page does: ratings, flags, a ranking with ties."""
    name = page.inner_text("#who").removeprefix("Labeler ")
    labeler = next(one for one in HIRED if one.name == name)
    prompt = page.text_content("#prompt")
    goal = make_requests(world()).by_prompt[prompt].goal
    rows = {row["output"]: row for row in _labels(world(), goal, prompt, texts[prompt], [labeler], 0)}
    shown = [rows[text] for text in page.locator(".card .text").all_text_contents()]
    for output, row in enumerate(shown):
        page.locator(f"input[name=likert-{output}][value='{row['likert']}']").check(force=True)
        if any(row["flags"].values()):
            page.locator("details summary").nth(output).click()
        for flag, value in row["flags"].items():
            page.locator(f"input[name=flags-{output}][value={flag}]").set_checked(bool(value))
    levels = []
    for output in sorted(range(len(shown)), key=lambda output: shown[output]["rank"]):
        page.click(f".pool [data-output='{output}'] button")
        if levels and shown[output]["rank"] == levels[-1]:
            page.click(f"[data-output='{output}'] [data-move=up]")
        levels.append(shown[output]["rank"])
    page.click("button[type=submit]")


@pytest.mark.needs_browser
def test_simulated_labelers_label_through_the_page_and_the_report_has_the_win_rate(
    chromium, serving, texts, runs, tmp_path
):
    began = time.monotonic()
    process, links = serving()
    pages, done, killed = {}, 0, False
    for one in HIRED:
        page = chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        page.set_default_timeout(60_000)
        page.goto(links[one.name])
        page.wait_for_selector("html[data-item]")
        pages[one.name] = page
    while pages:
        for name, page in list(pages.items()):
            item = page.get_attribute("html", "data-item")
            if item == "none":
                del pages[name]
                continue
            if not killed and done >= PROMPTS * OVERLAP // 2:  # the page repeats its request until the server is back
                process.kill()
                process.wait()
                killed = True
                judge(page, texts)
                page.wait_for_selector("text=Not saved yet")
                process, more = serving()
                assert more == {}
            else:
                judge(page, texts)
            page.wait_for_selector(f"html[data-item]:not([data-item='{item}'])")
            done += 1
    print(f"\n{done} items of {len(SYSTEMS)} outputs in {time.monotonic() - began:.0f} s")
    labels = read_labels(str(tmp_path / "study.db"))
    assert len(labels) == PROMPTS * OVERLAP * len(SYSTEMS)
    by_prompt, hired = make_requests(world()).by_prompt, {one.name: one for one in HIRED}
    for own in labels:
        rows = _labels(world(), by_prompt[own.prompt].goal, own.prompt, texts[own.prompt], [hired[own.labeler]], 0)
        expected = next(row for row in rows if (row["model"], row["output"]) == (own.model, own.output))
        ranks = sorted({row["rank"] for row in rows})
        assert (own.likert, own.rank) == (expected["likert"], 1 + ranks.index(expected["rank"]))
        assert own.flags == {flag: bool(expected["flags"].get(flag, 0)) for flag in FLAGS}
    for command, shown in (("summary", "win_rate"), ("agreement", "ranking")):
        lines = run("labels", command, tmp_path / "study.db").stdout.splitlines()
        print("\n".join(line for line in lines if shown in line))
    address, secret = links["(admin view)"].split("/admin#")
    admin = httpx.get(f"{address}/api/admin", headers={"Authorization": f"Bearer {secret}"}, timeout=120).json()
    print(json.dumps({name: admin[name] for name in ("done", "rates", "stop")}), [
        own["labeler"] for own in admin["labelers"] if own["outlier"]
    ])  # fmt: skip
    assert admin["done"] == admin["needed"] == PROMPTS * OVERLAP
    made = run("report", *runs, tmp_path / "study.db", "--reference", "sft", "--out", tmp_path / "report")
    assert made.returncode == 0, made.stderr
    page = (tmp_path / "report" / "index.html").read_text()
    sentences = re.findall(r"win_rate\s↑ [^<]*?from 0\.500 to [^<]*? interval [^<]*?\)", page)
    assert len(set(sentences)) >= 2, "a win rate with its interval for ppo and for ppo-ptx"
    print("\n".join(dict.fromkeys(sentences)))
    rankings = tmp_path / "rankings.jsonl"
    assert run("labels", "export", tmp_path / "study.db", "--group", "training", "--out", rankings).returncode == 0


def test_what_was_acknowledged_survives_kills(serving, tmp_path):
    acknowledged: set[str] = set()
    links: dict[str, str] = {}
    for _ in range(3):
        process, more = serving()
        links |= more
        threads = []
        for one in HIRED:
            address, secret = links[one.name].split("/#")

            def work(address=address, secret=secret):
                labeler = Labeler(address, secret)
                with contextlib.suppress(httpx.HTTPError, KeyError):
                    for _ in range(max(1, PROMPTS // 3)):
                        acknowledged.add(_submit(labeler))

            threads.append(threading.Thread(target=work))
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
    process, _ = serving()
    for one in HIRED:
        labeler = Labeler(*links[one.name].split("/#"))
        while labeler.state()["item"]:
            acknowledged.add(_submit(labeler))
    import sqlite3

    with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        stored = {row[0] for row in database.execute("select id from submissions")}
    assert acknowledged <= stored
    assert len(read_labels(str(tmp_path / "study.db"))) == PROMPTS * OVERLAP * len(SYSTEMS)


def _submit(labeler: Labeler) -> str:
    item = labeler.state()["item"]
    marks = [{"rank": n, "likert": 4, "flags": []} for n, _ in enumerate(item["outputs"], 1)]
    content = {"submission": os.urandom(16).hex(), "item": item["id"], "answer": marks, "note": "", "seconds": 1}
    labeler.post("submit", content).raise_for_status()
    return content["submission"]
