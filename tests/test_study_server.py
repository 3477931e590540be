"""The requests of the labeling page: access, bad input, twenty labelers at once."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from audit_runs import write_run
from commands import run

pytest.importorskip("starlette", reason="no starlette: pip install 'alignbench[labels]'")
from starlette.testclient import TestClient
from study_helpers import SYSTEMS, Labeler, a_study, opened, served, submission

from alignbench.labels.study.results import Rule
from alignbench.labels.study.server import make_app
from alignbench.labels.study.store import Settings, open_study
from alignbench.labels.table import read_labels

study = pytest.fixture(a_study)


class TestServer:
    @pytest.fixture
    def client(self, study, tmp_path):
        _, secrets = opened(tmp_path / "s.db", new_links=True)
        client = TestClient(make_app(study, Rule("hen", 0.1)))
        client.secrets = secrets
        client.headers["Authorization"] = f"Bearer {secrets['ada']}"
        return client

    def test_the_pages_allow_nothing_from_elsewhere(self, client):
        for path in ("/", "/admin", "/label.js", "/style.css", "/api/state"):
            response = client.get(path)
            assert response.status_code == 200
            assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
            assert response.headers["referrer-policy"] == "no-referrer"
            assert "set-cookie" not in response.headers
            assert "http" not in response.text.replace("<!doctype", "") or path == "/api/state"

    def test_a_labeler_never_sees_which_system_wrote_an_output(self, client):
        assert not any(f'"{system}"' in client.get("/api/state").text for system in SYSTEMS)

    def test_only_a_link_gives_access_and_only_to_its_own_view(self, client):
        admin = {"Authorization": f"Bearer {client.secrets['']}"}
        for path, headers, status in (
            ("/api/state", {"Authorization": ""}, 403), ("/api/state", {"Authorization": "Bearer x"}, 403),
            ("/api/state", admin, 403), ("/api/admin", {}, 403), ("/api/admin", admin, 200), ("/nowhere", {}, 404),
            ("/../store.py", {}, 404),
        ):  # fmt: skip
            assert client.get(path, headers=headers).status_code == status, path

    def test_requests_of_other_sites_are_refused(self, client):
        content = json.dumps(submission(client.get("/api/state").json()))
        for headers, status in (
            ({"Origin": "https://elsewhere.example"}, 403), ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Content-Type": "text/plain"}, 415),
        ):  # fmt: skip
            headers = {"Content-Type": "application/json"} | headers
            assert client.post("/api/submit", content=content, headers=headers).status_code == status
        assert client.get("/api/state").json()["done"] == 0
        own = {"Content-Type": "application/json", "Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
        assert client.post("/api/submit", content=content, headers=own).json()["done"] == 1

    def test_the_address_of_a_proxy_is_no_other_site(self, study, client):
        proxied = TestClient(make_app(study, Rule("hen", 0.1), "https://Labels.example/study"), headers=client.headers)
        content = submission(proxied.get("/api/state").json())
        for origin, status in (("https://evil.example", 403), ("https://labels.example", 200)):
            assert proxied.post("/api/submit", json=content, headers={"Origin": origin}).status_code == status

    def test_a_labeler_who_closes_the_page_while_sending_is_no_error(self, study, client):
        async def broken():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        sent = []
        headers = {"authorization": client.headers["Authorization"], "content-type": "application/json"}
        scope = {
            "type": "http", "method": "POST", "path": "/api/submit", "query_string": b"", "root_path": "",
            "headers": [(name.encode(), content.encode()) for name, content in headers.items()],
        }  # fmt: skip
        asyncio.run(make_app(study, Rule("hen", 0.1))(scope, broken, send))
        assert sent[0]["status"] == 400

    def test_bad_input_is_refused_with_a_reason_and_stores_nothing(self, client):
        good = submission(client.get("/api/state").json())
        first, *rest = good["answer"]
        answers = (
            None, [], [first], [*good["answer"], first], "x", [None] * 3, *([first | wrong, *rest] for wrong in (
                {"rank": 0}, {"rank": 1.5}, {"rank": True}, {"rank": None}, {"likert": 8}, {"likert": "7"},
                {"flags": ["nice"]}, {"flags": [[]]}, {"flags": None},
            ))
        )  # fmt: skip
        changes = [{"answer": own} for own in answers]
        changes += [{"reason": "tired"}, {"answer": None, "reason": "other"}, {"answer": None, "reason": "tired"}]
        changes += [{"item": own} for own in (0, -1, "1", 10**30, None, 4.0)] + [{"item": 3 + good["item"]}]
        changes += [{"submission": own} for own in ("", "x" * 65, None, "'; drop table submissions")]
        changes += [{"note": own} for own in (None, 1, "x" * 2001)]
        changes += [{"seconds": own} for own in (-1, "1", True, 1e9)]
        for change in changes:
            response = client.post("/api/submit", json=good | change)
            assert response.status_code in (409, 422), change
            assert response.json()["error"].count("\n") == 0
        typed = {"Content-Type": "application/json"}
        for body in (b"", b"[", b"null", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 50_000):
            assert client.post("/api/submit", content=body, headers=typed).status_code == 422, body[:9]
        assert client.post("/api/submit", content=b" " * 70_000, headers=typed).status_code == 413
        assert client.post("/api/undo", json={"submission": "12345678"}).status_code == 409
        assert client.get("/api/state").json()["done"] == 0
        odd = json.dumps(good | {"note": "\0 \ud83d 'x"})
        assert client.post("/api/submit", content=odd, headers=typed).json()["done"] == 1


def test_twenty_labelers_at_once_fill_the_study_exactly(tmp_path):
    names = [f"labeler {n}" for n in range(20)]
    study, secrets = opened(tmp_path / "s.db", 40, names, 3)
    with served(study) as address, ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda name: Labeler(address, secrets[name]).label_all(), names))
    assert sum(map(len, done)) == 120
    per_prompt = Counter(label.prompt_id for label in read_labels(str(tmp_path / "s.db")))
    assert set(per_prompt.values()) == {3 * len(SYSTEMS)}
    stored = {row[0] for row in study.table("select id from submissions")}
    assert stored == {own for each in done for own in each}


@pytest.mark.parametrize("bad", ["labeler\nada\nada\n", "name\nada\n", "labeler\n\n", "labeler,group\n,x\n"])
def test_a_bad_file_of_labelers_is_one_line(tmp_path, bad):
    file = tmp_path / "labelers.csv"
    file.write_text(bad)
    done = run("labels", "serve", "a", "b", "--labelers", file, "--out", tmp_path / "s.db")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not Path(tmp_path / "s.db").exists()


def test_the_demo_opens_the_page_on_its_models_answers(tmp_path, monkeypatch):
    import webbrowser

    from alignbench.cli.demo import _serve_page
    from alignbench.labels.study import server

    answers = {"answer_rate": [1.0] * 3, "words": [2.0] * 3}
    for name in ("base", "sft"):
        columns = [{"prompt": f"say {n}", "outputs": [{"text": f"{name} {n}"}]} for n in range(3)]
        write_run(tmp_path / "runs", name, ("answers", answers, {"columns": columns}))
    opened_links, served_apps = [], []
    monkeypatch.setattr(webbrowser, "open", opened_links.append)
    monkeypatch.setattr(server, "serve", lambda app, listening: served_apps.append(app))
    for _ in range(2):  # the second time with a new link, for the same study
        _serve_page(tmp_path, 0)
    address, secret = opened_links[-1].split("/#")
    assert address.startswith("http://127.0.0.1:")
    assert opened_links[0] != opened_links[1]
    study, _ = open_study(tmp_path / "study.db", *_items_of(tmp_path))
    assert study.labeler_of(secret) == "you"
    assert len(study.state("you")["item"]["outputs"]) == 2


def _items_of(out):
    from alignbench.demo.labelers import find_all_answers
    from alignbench.evaluation.study import study_items

    return study_items(find_all_answers(out / "runs"), seed=0), Settings(1, 0), {"you": None}
