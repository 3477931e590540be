"""The page in headless Chromium, from disk: it can be read and operated by anyone, and no sample can act on it."""

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from audit_runs import N, shares, write_run
from matplotlib.image import imread
from report_runs import ARABIC, LONG, MARKUP, WORDS, evidence_of, rte, toxic, wrote
from scipy.stats import false_discovery_control

from reports.drawing import Drawing
from reports.evidence import gather
from reports.page import samples
from reports.page.page import write_page
from reports.style import new_figure, styled

pytest_plugins = ("browser", "report_fixtures")
pytestmark = pytest.mark.needs_browser


@pytest.fixture
def page(chromium):
    """A page that must not have requested anything but itself, nor logged an error, when the test is over."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page, requests, errors = context.new_page(), [], []
    page.set_default_timeout(20_000)
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    context.on("request", lambda request: requests.append(request.url))
    context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())
    yield page
    assert errors == []
    fetched = {url.partition("#")[0] for url in requests if not url.startswith(("data:", "blob:"))}
    assert all(re.search(r"/(index\.html|samples/[0-9a-f]{32}\.js)$", url) for url in fetched)
    context.close()


@pytest.fixture(scope="module")
def file(nasty_texts, tmp_path_factory) -> Path:
    with styled():
        drawn, axes = new_figure(2.0)
        axes.plot([0, 1, 2], [1, 3, 2])
    table = pd.DataFrame({"step": range(60), "name": [MARKUP] * 60, "value": [float("nan")] + [0.5] * 59})
    words = ("A <b>figure</b>", "InstructGPT, Fig. 6", drawn, table, "What it shows.", "Rises, then falls.")
    drawings, left_out = [Drawing("a_figure", *words)], {"Likert ratings": "no labels"}
    return write_page(nasty_texts, drawings, left_out, tmp_path_factory.mktemp("page"), "Nasty samples")[0]


def written(out, evidence, shards=None):
    return write_page(evidence, [], {}, out, "t", shards=shards)[0]


def visit(page, file, place="", search=""):
    """Open the page, and wait until its script has done its work."""
    page.goto(f"{file.resolve().as_uri()}{place}")
    page.wait_for_selector("html[data-ready=yes]")
    if place:
        page.wait_for_selector(".sample")
    if search:
        page.fill("#task-text", search)
        page.wait_for_selector("#samples mark")


def text(page, selector):
    return page.locator(selector).first.inner_text()


def downloaded(page, button):
    with page.expect_download() as started:
        page.click(button)
    return started.value.suggested_filename, pd.read_csv(started.value.path())


def column(page, name):
    """The first line of each cell of a column of the audit table."""
    names = [own.rstrip(" ↑↓") for own in page.locator("#audit-table thead th").all_inner_texts()]
    cells = page.locator(f"#audit-table tbody tr > :nth-child({names.index(name) + 1})").all_inner_texts()
    return [cell.split("\n")[0] for cell in cells]


def squad2(out, columns, f1=0.5, name="one"):
    return write_run(out, name, ("squad2", {"f1": [f1] * len(columns)}, {"columns": columns}))


class TestOverview:
    def test_it_is_read_by_keyboard_and_no_figure_acts(self, page, file):
        visit(page, file)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        assert text(page, "figure h3") == "A <b>figure</b> after InstructGPT, Fig. 6"
        assert page.locator("figure img").evaluate("image => image.complete && image.naturalWidth > 0")
        assert page.locator("figure img").get_attribute("alt") == "Rises, then falls."
        page.click("figure summary")
        assert page.locator("figure tbody tr").count() == 50
        assert page.locator("figure tbody td").nth(2).inner_text() == "–"
        assert len(downloaded(page, "figure button.download")[1]) == 60
        assert page.evaluate("window.hacked") is None

    def test_the_audit_is_filtered_sorted_by_click_and_by_keyboard_and_downloaded(self, page, file):
        visit(page, file)
        assert page.locator("#audit-table tbody tr").count() == 9  # with the calibration of rte
        for control, value, tasks in (("verdict", "loss", {"squad2"}), ("group", "capability", {"squad2", "rte"})):
            page.select_option(f"#audit-{control}", value)
            assert set(column(page, "task")) == tasks
            page.select_option(f"#audit-{control}", "")
        page.fill("#audit-text", "squad sft")
        page.wait_for_selector("#audit-table tbody:not(:has(tr:nth-child(3)))")
        assert text(page, "#audit-count").startswith("2 of ")
        page.fill("#audit-text", "")
        page.wait_for_selector("#audit-table tbody tr:nth-child(9)")
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
        page.select_option("#audit-verdict", "gain")
        name, rows = downloaded(page, "#audit-csv")
        assert name == "audit.csv"
        gains = {("ppo", "rte", "gain"), ("ppo", "rte_calibration", "gain")}
        assert set(rows[["aligned_model", "task", "verdict"]].itertuples(index=False)) == gains
        assert (rows.delta > 0).equals(rows.task == "rte")  # a lower Brier score is better
        page.select_option("#audit-verdict", "")
        page.select_option("#audit-reference", "ppo")  # it has its own comparisons
        assert set(column(page, "systems")) == {"base", "sft"}
        page.select_option("#audit-aligned", "base")
        found = sorted(zip(*(column(page, name) for name in ("task", "verdict", "change")), strict=True))
        assert found[::2] == [("rte", "▼ loss", "−0.300"), ("squad2", "▲ gain", "+0.300")]
        assert found[1][:2] == ("rte_calibration", "▼ loss")

    def test_verdicts_are_those_of_the_audit_and_follow_correction_margin_and_scorer(self, page, tmp_path):
        gained = {"rte": 6, "sst2": 8, "wsc": 0}  # of 120 documents; none is lost
        runs = []
        for name, times in (("base", 0), ("ppo", 1)):
            tasks = [(task, {"acc": shares(0.5 + times * more / N)}) for task, more in gained.items()]
            tasks += [("drop", {"f1": shares(0.5)}), ("hellaswag", {"acc_norm": shares(0.5 + times * 7 / N)})]
            scorers = {"other": 0.5 - 0.2 * times, "words": 0.5}
            runs.append(write_run(tmp_path, name, *tasks, *(toxic("basic", x, own) for own, x in scorers.items())))
        evidence = gather(runs)
        rows = [row for row in evidence.audit.contrasts[0].rows if row.headline]
        visit(page, written(tmp_path, evidence))

        def shown():
            table = downloaded(page, "#audit-csv")[1].sort_values(["task", "scorer"])
            return table.assign(p_adjusted=table.p_adjusted.fillna(-1), detectable=table.detectable.fillna(-1))

        known = sorted(rows, key=lambda row: (row.task, row.scorer or "z"))
        first = shown()
        assert first.verdict.tolist() == [row.verdict for row in known]
        for name in ("p_holm", "detectable"):
            values = [-1 if getattr(row, name) is None else getattr(row, name) for row in known]
            assert first[name.replace("p_holm", "p_adjusted")].tolist() == pytest.approx(values, rel=1e-4)
        primary = [row for row in known if row.primary]
        by_rate = false_discovery_control([row.p for row in primary], method="bh").tolist()
        for correction, expected in (("bh", by_rate), ("none", [row.p for row in primary])):
            page.select_option("#audit-correction", correction)
            found = shown().query("verdict != '–'")
            assert found.p_adjusted.tolist() == pytest.approx(expected, rel=1e-4)
            assert (found.verdict == "gain").tolist() == [p < 0.05 for p in expected]
            assert "other settings: Holm" in text(page, "#audit-settings")
        assert {row.verdict for row in primary} == {"gain", "retained", "inconclusive"}
        page.fill("#audit-margin", "60")
        page.press("#audit-margin", "Enter")
        assert set(shown().query("verdict != '–'").verdict) == {"gain", "retained"}
        page.select_option("#audit-scorer", "words@1")
        tested = shown().query("verdict != '–' and ability == 'toxicity'")
        assert tested[["scorer", "verdict"]].values.tolist() == [["words@1", "retained"]]

    def test_verdicts_of_the_audit_are_not_computed_again_and_its_notes_stay(self, page, tmp_path):
        evidence = gather(
            [write_run(tmp_path, name, ("drop", {"f1": shares(f1)})) for name, f1 in (("a", 0.5), ("b", 0.6))]
        )
        (contrast,) = evidence.audit.contrasts
        changes = {"p": 0.04999999, "p_holm": 0.04999999, "verdict": "gain", "note": "one labeler"}  # rounded: .05
        rows = tuple(replace(row, **changes) if row.primary else row for row in contrast.rows)
        audit = replace(evidence.audit, contrasts=(replace(contrast, rows=rows),))
        visit(page, written(tmp_path, replace(evidence, audits={"": audit})))
        assert column(page, "verdict") == ["▲ gain"]
        page.fill("#audit-margin", "200")  # more than the range
        page.press("#audit-margin", "Enter")
        assert column(page, "verdict") == ["● retained"]
        assert set(downloaded(page, "#audit-csv")[1].margin_percent) == {100}
        assert text(page, "#audit-notes") == "drop.f1: one labeler"

    def test_a_row_links_to_the_folders_that_it_compares(self, page, tmp_path):
        other = {"shots": 4, "documents_sha256": "e" * 64}
        runs = [
            write_run(tmp_path, name, rte(zero), ("rte", {"acc": shares(four)}, other))
            for name, zero, four in (("a", 0.3, 0.4), ("b", 0.8, 0.9))
        ]
        visit(page, written(tmp_path, gather(runs)))
        page.locator("#audit-table tr", has_text="0.400").locator("a").click()
        page.wait_for_selector(".sample")
        assert text(page, "#task-sets a[aria-current]") == "shots 4"
        assert "0.400" in text(page, "#results")


class TestTask:
    def test_it_opens_by_a_link_and_back_leads_to_the_overview(self, page, file):
        visit(page, file, "#task/rte")
        assert text(page, "#task-title") == "rte"
        assert page.locator("#overview").is_hidden()
        assert "NaN" not in text(page, "main")
        assert "null" not in text(page, "#results")
        page.click("#task .back a")
        page.click("#tasks a:has-text('squad2')")
        page.wait_for_selector(".sample")
        assert text(page, "#task-title") == "squad2" == page.evaluate("document.activeElement.textContent")
        page.go_back()
        page.wait_for_selector("#overview")
        page.goto(f"{file.as_uri()}#task/%3Cimg%20src=x%3E")
        page.wait_for_selector("#task-title:has-text('Unknown')")
        assert text(page, "#task-title") == "Unknown task <img src=x>"

    def test_the_worst_regressions_are_first_and_pages_turn_by_keyboard(self, page, file):
        visit(page, file, "#task/squad2")
        assert page.input_value("#task-order") == "worst"
        assert "▼ −1.000 worse" in text(page, ".sample")
        page.select_option("#task-order", "document")
        page.focus("button:has-text('Next ›')")
        page.keyboard.press("Enter")
        assert text(page, ".sample h3") == "document 25"
        assert page.evaluate("document.activeElement.textContent") == "Next ›"
        page.locator("button:has-text('Last »')").first.click()
        assert page.locator(".sample").count() == 20
        for reference, shown, count in ((0, "improvement", 0), (0, "regression", 36), (2, "improvement", 36)):
            page.select_option("#task-reference", str(reference))
            page.select_option("#task-show", shown)
            assert text(page, "#task-count").startswith(f"{count} of 120")

    def test_choices_are_side_by_side_and_filtered_by_category_and_text(self, page, file):
        visit(page, file, "#task/rte")
        heads = page.locator(".sample").first.locator("thead th").all_inner_texts()
        for head, own in zip(heads, ("choice", "base", "sft", "ppo"), strict=True):
            assert own in head
        assert "✓ correct" in text(page, ".sample tbody tr")
        page.select_option("#task-category", "odd")
        assert text(page, "#task-count").startswith("60 of 120")
        page.fill("#task-text", "Question 77.")
        page.wait_for_selector("#samples:not(:has(.sample:nth-child(2))) mark")
        assert (text(page, ".sample h3"), text(page, "#samples mark")) == ("document 77", "Question 77.")
        page.fill("#task-text", "nowhere to be found")
        page.wait_for_selector("text=No matching samples.")

    def test_answers_of_the_systems_are_side_by_side_and_no_sample_acts(self, page, file):
        visit(page, file, "#task/squad2")
        sample = page.locator(".sample").first
        assert sample.locator("h4").all_inner_texts()[:3] == ["base reference", "sft", "ppo"]
        answer = sample.locator(".answer").first
        assert answer.locator(".output").count() == 1
        answer.locator("button:has-text('2 more')").click()
        assert answer.locator(".output").count() == 3
        page.evaluate("for (const button of document.querySelectorAll('#samples button')) button.click()")
        assert page.locator("#samples .text", has_text=MARKUP).count() > 0
        assert page.evaluate("window.hacked") is None
        assert page.locator("#samples img, #samples script, #samples b").count() == 0

    def test_unusual_texts_are_shown_as_they_are(self, page, file):
        visit(page, file, "#task/squad2", search="escape")
        assert "bell␇ escape␛[31m red ⟨U+009B⟩ null␀ end" in text(page, "#samples")
        page.fill("#task-text", "بالعربية")
        page.wait_for_selector("#samples mark:has-text('بالعربية')")
        box = page.locator("#samples .text", has_text="مرحبا").first
        assert box.evaluate("box => getComputedStyle(box).direction") == "rtl"
        assert box.evaluate("box => getComputedStyle(box.closest('.answer').querySelector('h4')).direction") == "ltr"
        assert ARABIC.count("\u202e") == box.inner_text().count("⟨U+202E⟩") == 1
        page.fill("#task-text", LONG[:50])
        cut = page.locator(".cut").first
        cut.wait_for()
        assert len(cut.locator(".text").inner_text()) < 2100
        cut.get_by_role("button", name="Show all 100,000 characters").click()
        assert len(text(page, ".cut .text")) == len(LONG)

    def test_a_match_far_inside_a_long_text_is_shown_and_a_text_cut_in_the_file_has_its_length(
        self, page, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(samples, "MOST_TEXT", 12_000)
        far = "early " + "filler " * 1000 + "needle" + " after" * 1000
        columns = [{"prompt": f"Prompt {row}", **wrote(far if row == 7 else "short")} for row in range(30)]
        found = evidence_of(squad2(tmp_path, columns))
        visit(page, written(tmp_path, found, shards=False), "#task/squad2", search="needle")
        shown = text(page, ".output .text")
        assert shown.startswith("…")
        assert "needle after" in shown
        assert "early" not in shown
        assert "12,000 of 13,012 characters in this file" in text(page, ".sample")

    @pytest.mark.slow
    def test_ten_thousand_samples_of_two_systems_can_be_paged_and_searched(self, page, tmp_path):
        texts = [f"{' '.join(WORDS[(n + k * k) % 12] for k in range(40))} needle{n % 1000}" for n in range(10_000)]
        columns = [{"prompt": f"Capital of country {row}?", **wrote(text)} for row, text in enumerate(texts)]
        found = evidence_of(*(squad2(tmp_path, columns, f1, f"system {f1}") for f1 in (0.4, 0.5)))
        visit(page, written(tmp_path, found), "#task/squad2", search="needle77")
        assert text(page, "#task-count").startswith("110 of 10,000")
        page.fill("#task-text", "")
        page.wait_for_selector("#task-pager >> text=page")
        assert page.locator(".sample").count() == 25


class TestLayout:
    @pytest.mark.parametrize(
        ("place", "scheme"), [("", "light"), ("", "dark"), ("#task/squad2", "dark"), ("#task/rte", "light")]
    )
    def test_nothing_is_wider_than_the_window_and_axe_finds_nothing(self, page, file, place, scheme, violations):
        page.emulate_media(color_scheme=scheme)
        visit(page, file, place)
        page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
        page.evaluate("for (const sample of [...document.querySelectorAll('.sample')].slice(7)) sample.remove()")
        for width in (320, 768, 1600, 1280, 375):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert width not in (1280, 375) or violations(page) == []

    def test_the_task_of_a_row_stays_in_view_and_a_picture_is_scrolled_not_shrunk(self, page, file):
        page.set_viewport_size({"width": 375, "height": 900})
        visit(page, file)
        table = page.locator("[aria-label='Table of the audit']")
        task = table.locator("tbody th").first
        before = task.bounding_box()["x"]
        table.evaluate("box => box.scrollTo(400, 0)")
        assert table.evaluate("box => box.scrollLeft") == 400
        assert task.bounding_box()["x"] == before
        assert page.locator(".picture img").first.bounding_box()["width"] >= 500

    def test_a_sentence_of_the_verdict_links_to_the_samples_that_show_it(self, page, file):
        visit(page, file)
        page.locator("#verdict article", has_text="ppo against base").locator("a.samples").first.click()
        page.wait_for_selector(".sample")
        assert [page.input_value(f"#task-{name}") for name in ("order", "reference", "aligned")] == ["best", "0", "2"]
        assert "▲ +1.000 better" in text(page, ".sample")
        page.goto(f"{file.resolve().as_uri()}#task/squad2/1/show/best/nobody/ppo")
        page.wait_for_selector("#task-title:text-is('squad2')")
        page.wait_for_selector(".sample")
        assert [page.input_value(f"#task-{name}") for name in ("order", "reference", "aligned")] == ["worst", "0", ""]

    def test_figures_have_the_colours_of_the_theme(self, page, file):
        visit(page, file)
        for theme, low, high in (("auto", 0.7, 1), ("light", 0.7, 1), ("dark", 0, 0.3)):
            assert theme in text(page, "#theme")
            assert low < imread(BytesIO(page.locator("figure img").first.screenshot()))[..., :3].mean() < high
            page.click("#theme")

    def test_without_javascript_verdict_and_figures_are_there(self, chromium, file):
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.locator(".verdict").count() == 3
        assert page.locator("figure img").is_visible()
        assert "need JavaScript" in text(page, "main")
        context.close()

    def test_print_has_all_sections_and_no_controls(self, page, file):
        visit(page, file, "#task/squad2")
        page.emulate_media(media="print")
        for section in ("verdict", "findings", "audit", "figures", "tasks", "provenance"):
            assert page.locator(f"#{section}").is_visible()
        assert page.locator("form:visible, button:visible:not(.sort), nav:visible").count() == 0
        assert page.locator(".sample:visible").count() == 5
