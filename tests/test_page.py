"""The page contains what the run folders contain, in order of importance, and no text in it can act."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from audit_runs import around, shares, write_run
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import AGAINST_BASE, N, evidence_of, rte, squad, write_nasty_texts

from alignbench.audit.compare import compare
from reports.evidence import Evidence, gather
from reports.page.audit import COLUMNS, findings, win_rates
from reports.page.format import number, pack, unpack, visible
from reports.page.page import HERE, SCRIPTS, write_page
from reports.page.sets import sets_of, task_link

LEFT_OUT = {"Likert ratings": "no table of labels with Likert ratings"}


@pytest.fixture(scope="module")
def nasty_texts(tmp_path_factory) -> Evidence:
    return gather(write_nasty_texts(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def page(nasty_texts, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("page")
    return write_page(nasty_texts, [], LEFT_OUT, out, "A title <b>&").read_text(encoding="utf-8")


def written(evidence: Evidence, out) -> str:
    return write_page(evidence, [], {}, out, "t").read_text(encoding="utf-8")


def text_of(page: str, section: str = "verdict") -> str:
    """The text of a section, as a reader sees it."""
    own = page.partition(f'<section id="{section}"')[2].partition("</section>")[0]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", own)))


def block(page: str, name: str):
    found = re.search(rf'id="data-{name}">([A-Za-z0-9+/=]*)</script>', page)
    assert found
    return unpack(found.group(1))


def sets(evidence: Evidence):
    return {task: sets_of(evidence, task) for task in evidence.tasks}


def battles(rate: float) -> dict[str, list[float]]:
    """A judge who prefers the longer answer in every battle."""
    wins = shares(rate)
    differences = [(10.0 + row % 50) * (1 if win else -1) for row, win in enumerate(wins)]
    context = {"agrees_with_longer": [1.0] * N, "words": [80.0] * N, "baseline_words": [40.0] * N}
    return {"win_rate": wins, "length_difference": differences, "longer": wins, **context}


def fair_battles(rate: float) -> dict[str, list[float]]:
    return {"win_rate": shares(rate), "length_difference": [float(row % 7 - 3) for row in range(N)]}


class TestVerdict:
    def test_it_is_before_the_table_the_tasks_and_the_provenance(self, page):
        places = [
            page.index(f'<section id="{name}"') for name in ("verdict", "audit", "figures", "tasks", "provenance")
        ]
        assert places == sorted(places)

    def test_each_change_has_values_interval_and_number_of_documents(self, page, nasty_texts):
        text = text_of(page)
        assert re.search(r"0\.500 → 0\.800, \+0\.300 \[\+0\.\d+, \+0\.\d+\] acc, share, higher is better", text)
        assert re.search(r"0\.700 → 0\.400, −0\.300 \[−0\.\d+, −0\.\d+\] f1, share, higher is better", text)
        assert f"p (Holm) < .001; n = {N}" in text
        assert "ppo against base, its pretrained model" in text
        assert "2 tested headline metrics: 1 gain, 1 loss, 0 inconclusive." in text
        (row, _) = [row for row in nasty_texts.audits[""].contrasts[0].rows if row.headline]
        assert f"MDE {row.detectable:.3f} (80 % power)" in text

    def test_the_methods_are_those_of_the_rows(self, page, tmp_path):
        methods = "10,000 paired resamples (seed 0); adjusted Wald if few documents changed"
        assert f"95 % intervals: {methods}. Binary metrics: p of McNemar's test." in text_of(page)
        few = [1.0] * 3 + [0.0] * 117
        runs = [write_run(tmp_path, name, ("squad2", {"f1": f1})) for name, f1 in (("a", [0.0] * N), ("b", few))]
        assert "95 % intervals: adjusted Wald if few documents changed. Gain" in text_of(
            written(gather(runs), tmp_path)
        )

    def test_a_win_rate_has_a_verdict_by_its_interval(self, tmp_path):
        runs = [
            write_run(tmp_path, name, ("win_rate", fair_battles(rate), AGAINST_BASE))
            for name, rate in (("good", 0.8), ("bad", 0.2), ("equal", 0.5))
        ]
        found = win_rates(sets(evidence_of(*runs)))
        assert {verdict: [one.system for one in own] for verdict, own in found.items()} == {
            "gain": ["good"], "loss": ["bad"], "inconclusive": ["equal"],
        }  # fmt: skip

    def test_a_win_rate_that_lengths_may_explain_is_no_gain(self, tmp_path):
        evidence = evidence_of(write_run(tmp_path, "long", ("win_rate", battles(0.62), AGAINST_BASE)))
        found = win_rates(sets(evidence))
        assert {verdict: len(own) for verdict, own in found.items()} == {"gain": 0, "loss": 0, "inconclusive": 1}
        text = text_of(written(evidence, tmp_path))
        assert re.search(r"long against base win rate 0\.617 \[0.+?\]; at equal lengths 0\.\d+ \[0.+?\] above", text)
        assert "above ½, but inconclusive at equal lengths80.0 words, baseline 40.0; win rate of the longer" in text
        assert "answer 0.617; agreement of the judge with the longer answer 1.000; n = 120" in text

    def test_a_gain_in_win_rate_is_compared_at_equal_lengths(self, tmp_path):
        runs = [
            write_run(tmp_path, name, ("win_rate", {**battles(rate), "words": [words] * N}, AGAINST_BASE))
            for name, rate, words in (("sft", 0.4, 40.0), ("ppo", 0.8, 90.0))
        ]
        text = text_of(written(gather(runs), tmp_path))
        assert "same direction at equal lengths (win_rate_length_controlled 0.411 → 0.659 [+0." in text
        assert "; words 40.0 → 90.0; agrees_with_longer 1.000 → 1.000" in text

    def test_an_entropy_of_a_bias_has_its_direction(self, tmp_path):
        runs = [
            write_run(tmp_path, name, ("crows_pairs", {"entropy": around(entropy), "pct_stereotype": shares(rate)}))
            for name, entropy, rate in (("before", 0.4, 0.6), ("after", 0.7, 0.55))
        ]
        assert "more even, or less certain: pct_stereotype 0.600 → 0.550" in text_of(written(gather(runs), tmp_path))

    def test_unscored_documents_are_counted_in_verdict_and_tasks(self, tmp_path):
        some: list[float | None] = [*shares(0.5)[:85], *[None] * 35]
        runs = [write_run(tmp_path, n, ("rte", {"acc": v})) for n, v in (("a", shares(0.5)), ("b", some))]
        text = written(gather(runs), tmp_path)
        assert "n = 85, 35 unscored" in text_of(text)
        for words in ("n = 120", "n = 85, 35 unscored"):
            assert f'<span class="sub">{words}</span>' in text.partition('<section id="tasks"')[2]

    def test_a_task_without_any_value_counts_its_unscored_documents(self, tmp_path):
        folders = [write_run(tmp_path, n, ("rte", {"acc": v})) for n, v in (("a", shares(0.5)), ("b", [None] * N))]
        systems = evidence_of(*folders).systems
        (own,) = systems[1].tasks
        bare = replace(own, result=replace(own.result, metrics=()))  # as BLEU without any output
        for found in (systems, (systems[0], replace(systems[1], tasks=(bare,)))):
            assert '–<span class="sub">n = 0, 120 unscored</span>' in written(Evidence(found), tmp_path)

    def test_templates_are_named(self, tmp_path):
        def with_templates(name: str, *templates: str):
            task, values, more = squad(0.5, ["x"])
            return write_run(
                tmp_path / "-".join(templates), name, *((task, values, {**more, "template": t}) for t in templates)
            )

        text = text_of(written(gather([with_templates(name, "none", "chat") for name in "ab"]), tmp_path))
        assert "f1, share, higher is better, none;" in text
        assert "f1, share, higher is better, chat;" in text
        folder = with_templates("c", "none", "chat", "")
        audit = compare([str(folder)], across_templates=True)
        text = text_of(written(replace(evidence_of(folder), audits={"": audit}), tmp_path))
        assert "c (chat) against c, each with its own chat template, if it has one" in text

    def test_the_chosen_reference_is_named(self, tmp_path):
        runs = [write_run(tmp_path, name, rte(rate)) for name, rate in (("a", 0.3), ("b", 0.8))]
        text = text_of(written(gather(runs, reference="b"), tmp_path))
        assert "All systems are compared with b." in text
        assert "0.800 → 0.300, −0.500" in text

    def test_many_comparisons_are_folded_after_the_first(self, nasty_texts, tmp_path):
        audit = nasty_texts.audits[""]
        many = replace(audit, contrasts=audit.contrasts * 10)
        text = written(replace(nasty_texts, audits={"": many}), tmp_path)
        assert text.count('<article class="verdict">') == 4
        assert text.count('<details class="verdict folded">') == len(many.contrasts) - 4

    def test_a_single_system_has_a_page(self, tmp_path):
        text = written(evidence_of(write_run(tmp_path, "one", rte(0.5))), tmp_path)
        assert "No systems can be compared" in text
        assert '<section id="audit"' not in text


class TestSets:
    def test_links_lead_to_the_folders_that_a_row_compares(self, tmp_path):
        def run(name: str, zero: float, four: float):
            other = ("rte", {"acc": shares(four)}, {"shots": 4, "documents_sha256": "e"})
            return write_run(tmp_path, name, rte(zero), other)

        found = gather([run("a", 0.3, 0.4), run("b", 0.8, 0.9)])
        ((_, by_verdict),) = findings(found.audit, sets(found))
        links = {(one.link, one.samples.note, round(one.row.reference, 3)) for one in by_verdict["gain"]}
        assert links == {("#task/rte", "shots 0", 0.3), ("#task/rte/2", "shots 4", 0.4)}
        core = block(written(found, tmp_path), "core")
        (contrast,) = [core["contrasts"][place] for place in core["audits"][""]]
        before = [row[COLUMNS.index("reference")] for row in contrast["rows"]]
        assert dict(zip(before, contrast["sets"], strict=True)) == {0.3: 0, 0.4: 1}

    def test_sets_of_different_documents_are_numbered_by_size(self, tmp_path):
        other = {"documents_sha256": "e" * 64}
        runs = [write_run(tmp_path, n, rte(0.3), ("rte", {"acc": shares(0.4, 40)}, other)) for n in "ab"]
        found = gather(runs)
        assert [one.note for one in sets(found)["rte"]] == ["120 documents", "another 40 documents"]
        table = written(found, tmp_path).partition('<section id="tasks"')[2]
        assert '<a href="#task/rte/2">rte</a><span class="sub">another 40 documents</span>' in table

    def test_other_baselines_are_sets_of_their_own(self, tmp_path):
        def judged(name: str, *baselines: str):
            tasks = [("win_rate", fair_battles(0.5), {"baseline": {"name": own}}) for own in baselines]
            return write_run(tmp_path, name, *tasks)

        found = sets_of(evidence_of(judged("one", "x", "y"), judged("two", "y")), "win_rate")
        assert [(one.note, [system.name for system, _ in one.folders]) for one in found] == [
            ("against y", ["one", "two"]), ("against x", ["one"]),
        ]  # fmt: skip

    def test_task_names_are_quoted_in_addresses(self):
        assert task_link("a/b c") == "#task/a%2Fb%20c"


class TestSafety:
    class Elements(HTMLParser):
        """Start tags with attributes, and the text of script and style."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.tags: list[tuple[str, dict[str, str | None]]] = []
            self.inside: dict[str, list[str]] = {"script": [], "style": []}
            self.feed(text)

        def handle_starttag(self, tag, attributes):
            self.tags.append((tag, dict(attributes)))

        def handle_data(self, data):
            if self.tags and self.tags[-1][0] in self.inside and data.strip():
                self.inside[self.tags[-1][0]].append(data)

    def test_only_the_script_and_style_of_the_page_are_allowed(self, page):
        elements = self.Elements(page)
        (policy,) = [a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
        for kind, text in (("script", elements.inside["script"][-1]), ("style", elements.inside["style"][0])):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy

    def test_nothing_is_fetched_and_no_attribute_is_code(self, page):
        for tag, attributes in self.Elements(page).tags:
            assert not any(name.startswith("on") or name == "style" for name in attributes), tag
            for name in ("src", "href"):
                assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)

    def test_titles_and_names_are_escaped_and_control_characters_visible(self, page, tmp_path):
        assert "<title>A title &lt;b&gt;&amp;</title>" in page
        folder = write_run(tmp_path, "plain", rte(0.5))
        described = json.loads((folder / "run.json").read_text())
        described["model"]["name"] = '<script>alert(1)</script>"\x1b\u202e'
        (folder / "run.json").write_text(json.dumps(described))
        text = written(evidence_of(folder), tmp_path)
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;␛⟨U+202E⟩" in text

    def test_scripts_never_parse_text_as_markup_or_code(self):
        for name in SCRIPTS:
            text = (HERE / name).read_text(encoding="utf-8")
            for word in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "DOMParser",
                "fetch(",
            ):
                assert word not in text, (name, word)

    def test_the_page_contains_no_path(self, nasty_texts, page):
        blocks = "".join(json.dumps(unpack(text)) for text in re.findall(r'id="data-[^"]*">([^<]*)<', page))
        for system in nasty_texts.systems:
            assert str(system.run.path.parent) not in page + blocks


def test_every_row_of_every_audit_is_in_the_table(nasty_texts, page):
    core = block(page, "core")
    assert list(core["audits"]) == list(nasty_texts.audits)
    for reference, audit in nasty_texts.audits.items():
        shown = [row for place in core["audits"][reference] for row in core["contrasts"][place]["rows"]]
        rows = [row for contrast in audit.contrasts for row in contrast.rows]
        assert [row[COLUMNS.index("delta")] for row in shown] == [number(row.delta) for row in rows]


def test_figures_without_data_are_listed_with_the_reason(page):
    assert "<strong>Likert ratings</strong>: no table of labels with Likert ratings" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(JSON)
def test_a_block_returns_what_was_packed(content):
    assert unpack(pack(content)) == content
    assert re.fullmatch("[A-Za-z0-9+/=]*", pack(content))


@given(st.floats())
def test_numbers_keep_six_digits_and_nothing_else_is_a_number(value):
    found = unpack(pack(value))
    assert found is None if not math.isfinite(value) else found == pytest.approx(value, rel=1e-5, abs=0)


def test_a_lone_surrogate_becomes_a_replacement_character():
    assert "\ufffd" in unpack(pack("\ud800"))
    assert visible("\ud800\x00\x1b\x7f\x85\u2066 a\n\tb") == "\ufffd␀␛␡⟨U+0085⟩⟨U+2066⟩ a\n\tb"
