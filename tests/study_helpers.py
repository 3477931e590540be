"""A labeling study for tests: its items, a running server, and labelers who answer through requests."""

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from alignbench.labels.study.answers import Submission, parse
from alignbench.labels.study.results import stopped
from alignbench.labels.study.store import Item, Settings, Study, open_study
from alignbench.labels.table import FLAGS

SYSTEMS = ("hen", "cow", "pig")
MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script> & more"
QUALITY = re.compile(r"quality (\d)")
GOLD = Item(
    "gold", "Say moo.", (("good", "quality 6"), ("bad", "quality 1")),
    tuple({"rank": rank, "likert": likert, "flags": dict.fromkeys(FLAGS, 0)} for rank, likert in ((1, 7), (2, 1))),
)  # fmt: skip


def items(prompts: int, systems: Sequence[str] = SYSTEMS) -> list[Item]:
    """The texts say how good they are: `quality N`, different for all outputs of a prompt."""
    return [
        Item(f"p{n}", f"Prompt {n}. {MARKUP}", tuple(
            (system, f"quality {1 + (n + 2 * place) % 6} {MARKUP}") for place, system in enumerate(systems)
        ))
        for n in range(prompts)
    ]  # fmt: skip


def opened(
    path: Path, prompts: int = 4, labelers: Sequence[str] = ("ada", "bob"), overlap: int = 2, *, gold: bool = False,
    pass_mark: float | None = None, new_links: bool = False,
) -> tuple[Study, dict[str, str]]:  # fmt: skip
    settings = Settings(overlap, 0, "ref" if gold else None, pass_mark)
    groups = {name: "held-out" if name == "eve" else "training" for name in labelers}
    return open_study(path, [*[GOLD] * gold, *items(prompts)], settings, groups, new_links=new_links)


def answer(outputs: Sequence[str], flags: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rank and rate outputs by the quality that they name."""
    found = [int(QUALITY.search(text)[1]) for text in outputs]  # type: ignore[index]
    return [{"rank": 1 + sum(other > own for other in found), "likert": own, "flags": [*flags]} for own in found]


def submission(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    item = state["item"]
    content = {"submission": uuid4().hex, "item": item["id"], "seconds": 3.5, "note": ""}
    return content | {"answer": answer(item["outputs"])} | changes


def submit(study: Study, labeler: str, **changes: Any) -> dict[str, Any]:
    """Answer the labeler's next item, and return what was submitted."""
    content = submission(study.state(labeler, stopped(study)), **changes)
    study.submit(labeler, parse(Submission, json.dumps(content).encode()))
    return content


def a_study(tmp_path: Path) -> Iterator[Study]:
    """A fixture of several test files."""
    made, _ = opened(tmp_path / "s.db")
    yield made
    made.close()


@contextmanager
def served(study: Study, baseline: str = "hen", width: float = 0.2) -> Iterator[str]:
    """The address of a server in this process."""
    import uvicorn

    from alignbench.labels.study.server import Rule, listen, make_app

    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(make_app(study, Rule(baseline, width)), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


class Labeler:
    """Labels through requests, as the page does."""

    def __init__(self, address: str, secret: str) -> None:
        self.client = httpx.Client(base_url=address, headers={"Authorization": f"Bearer {secret}"}, timeout=30)

    def state(self) -> dict[str, Any]:
        return self.client.get("/api/state").raise_for_status().json()

    def post(self, what: str, content: Any) -> httpx.Response:
        return self.client.post(f"/api/{what}", json=content)

    def label_all(self) -> list[str]:
        """Label until nothing is left, and return the acknowledged submissions."""
        state, done = self.state(), []
        while state["item"]:
            content = submission(state)
            state = self.post("submit", content).raise_for_status().json()
            done.append(content["submission"])
        return done
