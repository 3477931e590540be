"""The page in headless Chromium, from disk: it can be read and operated by anyone, and no sample can act on it."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audit_runs import shares, write_run
from cases import cases
from report_runs import ARABIC, LONG, MARKUP, WORDS, evidence_of, rte, write_nasty_texts, wrote

from reports.drawing import Drawing
from reports.evidence import gather
from reports.page import samples
from reports.page.page import write_page
from reports.style import new_figure, styled

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; skips where it, or playwright, is not there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = os.environ.get("ALIGNBENCH_CHROMIUM") or shutil.which("chromium")
    if program is None or not Path(program).exists():
        pytest.skip("no chromium: install it, or set ALIGNBENCH_CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page of the browser, with everything that it asked for or complained about."""

    def __init__(self, browser: Any, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        scheme, size = "dark" if dark else "light", {"width": width, "height": height}
        self.context = browser.new_context(color_scheme=scheme, viewport=size, accept_downloads=True)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())

    def open(self, file: Path, place: str = "") -> Any:
        """The page, once its script has done its work."""
        self.page.goto(f"{file.resolve().as_uri()}{place}")
        self.page.wait_for_selector("html[data-ready=yes]")
        return self.page


pytestmark = pytest.mark.needs_browser
PLACES = ["", "#task/squad2", "#task/rte"]
OPEN_ALL = "for (const details of document.querySelectorAll('details')) details.open = true"
FOCUS = "document.activeElement"
CASES = cases("page_browser")


def figure() -> Drawing:
    with styled():
        drawn, axes = new_figure(2.0)
        axes.plot([0, 1, 2], [1, 3, 2])
    table = pd.DataFrame({"step": range(60), "name": [MARKUP] * 60, "value": [float("nan")] + [0.5] * 59})
    title, source = "A <b>figure</b>", "InstructGPT, Fig. 6"
    return Drawing("a_figure", title, source, drawn, table, "What it shows.", "Rises, then falls.")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return gather(write_nasty_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def file(evidence, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page")
    return write_page(evidence, [figure()], {"Likert ratings": "no labels"}, out, "Nasty samples")


@pytest.fixture
def watched(chromium):
    """A page that must not have requested anything but itself, nor logged an error, when the test is over."""
    found = Watched(chromium)
    yield found
    assert found.errors == []
    fetched = {url.partition("#")[0] for url in found.requests if not url.startswith(("data:", "blob:"))}
    assert {url.rpartition("/")[2] for url in fetched} <= {"index.html"}
    found.context.close()


def open_task(watched, file, name, search=""):
    page = watched.open(file, f"#task/{name}")
    page.wait_for_selector(".sample")
    if search:
        page.fill("#task-text", search)
        page.wait_for_selector("#samples mark")
    return page


def written(out, evidence):
    return write_page(evidence, [], {}, out, "t")


def squad2(out, columns, f1=0.5, name="one"):
    return write_run(out, name, ("squad2", {"f1": [f1] * len(columns)}, {"columns": columns}))


def column(page, name):
    """The first line of each cell of a column of the audit table."""
    names = page.locator("#audit-table thead th").all_inner_texts()
    place = next(place for place, own in enumerate(names) if own.rstrip(" ↑↓") == name) + 1
    cells = page.locator(f"#audit-table tbody tr > :nth-child({place})").all_inner_texts()
    return [cell.split("\n")[0] for cell in cells]


@pytest.mark.parametrize("name", CASES)
def test_a_reader_sees_what_the_case_says(name, watched, file):
    page = watched.open(file, CASES[name]["place"])
    actions = {
        "select": page.select_option, "fill": page.fill, "press": page.keyboard.press, "wait": page.wait_for_selector,
        "back": page.go_back, "click": lambda own: page.locator(own).first.click(),
        "focus": lambda own: page.locator(own).first.focus(), "media": lambda own: page.emulate_media(media=own),
    }  # fmt: skip
    for step, *values in CASES[name]["steps"]:
        first = page.locator(values[0]).first if values and step not in ("press", "column", "active") else None
        match step:
            case "is" | "has" | "lacks" | "begins":
                text, own = first.inner_text(), values[1]
                seen = {"is": text == own, "has": own in text, "lacks": own not in text, "begins": text.startswith(own)}
                assert seen[step], text
            case "count":
                assert page.locator(values[0]).count() == values[1]
            case "visible" | "hidden":
                assert first.is_visible() == (step == "visible")
            case "value":
                assert first.input_value() == values[1]
            case "active":
                assert values[0] in (page.evaluate(f"{FOCUS}.id"), page.evaluate(f"{FOCUS}.textContent"))
            case "column":
                assert sorted(set(column(page, values[0]))) == sorted(values[1])
            case _:
                actions[step](*values)


class TestSafety:
    def test_no_sample_acts(self, watched, file):
        page = open_task(watched, file, "squad2")
        page.evaluate("for (const button of document.querySelectorAll('#samples button')) button.click()")
        assert page.locator("#samples .text", has_text=MARKUP).count() > 0
        assert page.locator(".output").count() > 3 * page.locator(".sample").count()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#samples img, #samples script, #samples b").count() == 0

    def test_no_figure_acts(self, watched, file):
        page = watched.open(file)
        assert page.evaluate("window.hacked") is None
        assert page.locator("figure h3").inner_text() == "A <b>figure</b> after InstructGPT, Fig. 6"
        assert page.locator("figure img").evaluate("image => image.complete && image.naturalWidth > 0")
        assert page.locator("figure img").get_attribute("alt") == "Rises, then falls."
        page.locator("figure summary").click()
        assert page.locator("figure tbody tr").count() == 50
        assert page.locator("figure tbody td").nth(2).inner_text() == "–"
        with page.expect_download() as started:
            page.locator("figure button.download").click()
        assert len(pd.read_csv(started.value.path())) == 60


class TestLayout:
    @pytest.mark.parametrize("place", PLACES)
    def test_nothing_is_wider_than_the_window(self, watched, file, place):
        page = watched.open(file, place)
        page.evaluate(OPEN_ALL)
        for width in (320, 375, 768, 1280, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize(
        ("place", "dark", "width"),
        [(PLACES[0], False, 1280), (PLACES[0], True, 375), (PLACES[1], True, 1280), (PLACES[2], False, 375)],
    )
    def test_axe_finds_no_serious_violation(self, chromium, file, place, dark, width):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python").Axe()
        watched = Watched(chromium, dark=dark, width=width)
        page = watched.open(file, place)
        page.evaluate("for (const sample of [...document.querySelectorAll('.sample')].slice(7)) sample.remove()")
        page.evaluate(OPEN_ALL)
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        watched.context.close()
        serious = [own for own in found if own["impact"] in ("serious", "critical")]
        assert [(own["id"], own["nodes"][0]["html"][:120]) for own in serious] == []

    def test_without_javascript_verdict_and_figures_are_there(self, chromium, file):
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.locator(".verdict").count() == 3
        assert page.locator("figure img").is_visible()
        assert "need JavaScript" in page.locator("main").inner_text()
        context.close()

    def test_the_theme_can_be_chosen(self, watched, file):
        page, papers = watched.open(file), []
        for _ in range(3):
            papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.click("#theme")
        assert papers[0] == papers[1] != papers[2]

    def test_folded_comparisons_open(self, watched, evidence, tmp_path):
        audit = evidence.audits[""]
        many = replace(evidence, audits={"": replace(audit, contrasts=audit.contrasts * 3)})
        page = watched.open(written(tmp_path, many))
        folded = page.locator("details.folded").last
        assert folded.locator(".findings").first.is_hidden()
        assert "against" in folded.locator("summary").first.inner_text()
        folded.locator("summary").first.click()
        assert folded.locator(".findings").first.is_visible()


class TestAudit:
    def test_it_sorts_by_click_and_by_keyboard(self, watched, file):
        page = watched.open(file)
        page.select_option("#audit-metrics", "all")
        header = page.locator("#audit-table thead th", has_text="change")
        header.locator("button").click()
        for order in ("descending", "ascending"):
            assert header.get_attribute("aria-sort") == order
            changes = [float(text.replace("−", "-")) for text in column(page, "change")]
            assert changes == sorted(changes, reverse=order == "descending")
            page.keyboard.press("Enter")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert page.locator("#audit-table thead th", has_text="metric").get_attribute("aria-sort") == "ascending"
        assert header.get_attribute("aria-sort") == "none"

    def test_the_csv_contains_the_shown_rows(self, watched, file):
        page = watched.open(file)
        page.select_option("#audit-verdict", "gain")
        with page.expect_download() as started:
            page.click("#audit-csv")
        rows = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text(encoding="utf-8"))))
        assert started.value.suggested_filename == "audit.csv"
        assert {(row["aligned_model"], row["task"], row["verdict"]) for row in rows} == {("ppo", "rte", "gain")}
        assert all(float(row["delta"]) > 0 for row in rows)

    def test_a_row_links_to_the_folders_that_it_compares(self, watched, tmp_path):
        other = {"shots": 4, "documents_sha256": "e" * 64}
        runs = [
            write_run(tmp_path, name, rte(zero), ("rte", {"acc": shares(four)}, other))
            for name, zero, four in (("a", 0.3, 0.4), ("b", 0.8, 0.9))
        ]
        page = watched.open(written(tmp_path, gather(runs)))
        page.locator("#audit-table tr", has_text="0.400").locator("a").click()
        page.wait_for_selector(".sample")
        assert page.locator("#task-sets a[aria-current]").inner_text() == "shots 4"
        assert "0.400" in page.locator("#results").inner_text()


class TestSamples:
    def test_text_from_right_to_left_stays_in_its_box_and_long_text_is_cut(self, watched, file):
        page = open_task(watched, file, "squad2", search="بالعربية")
        box = page.locator("#samples .text", has_text="مرحبا").first
        assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"
        assert box.evaluate("box => getComputedStyle(box.closest('.answer').querySelector('h4')).direction") == "ltr"
        assert ARABIC.count("\u202e") == box.inner_text().count("⟨U+202E⟩") == 1
        page.fill("#task-text", LONG[:50])
        cut = page.locator(".cut").first
        cut.wait_for()
        assert len(cut.locator(".text").inner_text()) < 2100
        cut.get_by_role("button", name="Show all 100,000 characters").click()
        assert len(page.locator(".cut .text").first.inner_text()) == len(LONG)

    def test_a_match_far_inside_a_long_text_is_shown(self, watched, tmp_path):
        text = "early " + "filler " * 1000 + "needle" + " after" * 1000
        columns = [{"prompt": f"Prompt {row}", **wrote(text if row == 7 else "short")} for row in range(30)]
        page = open_task(watched, written(tmp_path, evidence_of(squad2(tmp_path, columns))), "squad2", search="needle")
        shown = page.locator(".output .text").first.inner_text()
        assert shown.startswith("…")
        assert "needle after" in shown
        assert "early" not in shown

    def test_a_text_cut_in_the_file_has_its_length(self, watched, tmp_path, monkeypatch):
        monkeypatch.setattr(samples, "MOST_TEXT", 200)
        folder = squad2(tmp_path, [{"prompt": "p" * 4500, **wrote("o" * 4501)}])
        sample = open_task(watched, written(tmp_path, evidence_of(folder)), "squad2").locator(".sample").inner_text()
        assert "Cut in this file, complete in the run folder: prompt (4,500 characters)." in sample
        assert "200 of 4,501 characters in this file" in sample

    @pytest.mark.slow
    def test_ten_thousand_samples_of_two_systems_can_be_paged_and_searched(self, watched, tmp_path):
        texts = (
            f"{' '.join(WORDS[(row + k * k) % 12] for k in range(40))} needle{row % 1000}" for row in range(10_000)
        )
        columns = [{"prompt": f"Capital of country {row}?", **wrote(text)} for row, text in enumerate(texts)]
        found = evidence_of(*(squad2(tmp_path, columns, f1, f"system {f1}") for f1 in (0.4, 0.5)))
        page = open_task(watched, written(tmp_path, found), "squad2", search="needle77")
        assert page.locator("#task-count").inner_text().startswith("110 of 10,000")
        page.fill("#task-text", "")
        page.wait_for_selector("#task-pager >> text=page")
        assert page.locator(".sample").count() == 25
