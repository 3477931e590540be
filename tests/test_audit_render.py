"""The formats of an audit: terminal, JSON, CSV, Markdown, LaTeX."""

import csv
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
from audit_runs import headline_of, rte, shares, weights_of, write_run
from commands import assert_refused

from alignbench.audit.compare import compare
from alignbench.audit.render import to_csv, to_json, to_latex, to_markdown, to_terminal
from alignbench.console import interval, number

HOSTILE = r"50% of A_B & {C} | $x^2$ ~#\end <script>alert(1)</script>"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A base model, and one with a loss on RTE, a gain on SST-2, and no change on HellaSwag."""
    out = tmp_path_factory.mktemp("two")
    both = {"acc": shares(0.6), "acc_norm": shares(0.6)}
    for name, p, q in (("base", 0.8, 0.5), ("aligned", 0.6, 0.9)):
        write_run(out, name, rte(p), ("sst2", {"acc": shares(q)}), ("hellaswag", both))
    return compare(["base", "aligned"], runs=out)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two models with names that would break each of the formats; one is a formula for a spreadsheet."""
    out = tmp_path_factory.mktemp("hostile")
    write_run(out, "=1+1", rte(0.8), weights=weights_of("a"))
    write_run(out, HOSTILE, rte(0.6), weights=weights_of("b"))
    return compare([str(path) for path in sorted(out.iterdir())], runs=out, reference="=1+1")


def test_csv_has_all_metrics_unrounded_and_no_formulas_and_json_the_whole_audit(hostile, two, tmp_path):
    file = tmp_path / "audit.csv"
    to_csv(hostile, file)
    (row,) = csv.DictReader(file.open())
    assert (row["aligned_model"], row["reference_model"]) == (HOSTILE, "'=1+1")
    assert row["p_holm"] == repr(hostile.contrasts[0].rows[0].p_holm)
    to_csv(two, file)
    assert len(list(csv.DictReader(file.open()))) == len(two.contrasts[0].rows) == 4
    assert_refused(r"nowhere/a\.csv: cannot be written", to_csv, two, tmp_path / "nowhere" / "a.csv")
    # JSON, without the folders
    assert json.loads(to_json(hostile))["contrasts"][0]["aligned"] == HOSTILE
    expected = json.loads(json.dumps(asdict(two), default=str))
    for row in expected["contrasts"][0]["rows"]:
        del row["reference_folder"], row["aligned_folder"], row["order"]
    for own in expected["contrasts"][0]["abilities"]:
        del own["clauses"]
    assert json.loads(to_json(two)) == expected


def test_markdown_shows_names_as_text(hostile, tmp_path):
    file = tmp_path / "audit.md"
    to_markdown(hostile, file)
    text, parser = file.read_text(), HTMLParser()
    parser.handle_starttag = pytest.fail
    parser.feed(re.sub(r"\\<", "", text))  # in CommonMark, a backslash before "<" makes it text
    cells = {len(re.split(r"(?<!\\)\|", line)[1:-1]) for line in text.splitlines() if line.startswith("| ")}
    assert cells == {13, 5}


def test_latex_is_balanced_and_has_no_active_characters(hostile, tmp_path):
    file = tmp_path / "audit.tex"
    to_latex(hostile, file)
    text = file.read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    body = text.split("\n", 1)[1]
    assert not re.search(r"(?<!\\)[%#]", body)
    bare = re.sub(r"\\[{}]", "", body)
    assert bare.count("{") == bare.count("}")
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {12, 4}
    assert r"\textless{}script\textgreater{}" in text
    assert r"A\_B \& \{C\} \textbar{} \$x\textasciicircum{}2\$ \textasciitilde{}\#\textbackslash{}end" in text


def test_the_terminal_shows_headline_metrics_or_all(two, capsys):
    to_terminal(two)
    shown = capsys.readouterr().out
    assert "aligned against base (reference)" in shown
    assert "gain 1, loss 1, retained 0, inconclusive 1 " in shown
    assert "\tacc_norm, proportion ↑\t" in shown
    assert shown.count("hellaswag\tacc, proportion ↑\t") == 0
    to_terminal(two, every_metric=True)
    assert capsys.readouterr().out.count("hellaswag\tacc, proportion ↑\t") == 1


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_terminal_shows_whole_numbers_and_names_the_columns_that_do_not_fit(two, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    to_terminal(two)
    shown = capsys.readouterr().out
    row = headline_of(two.contrasts[0], "rte")
    for cell in (number(row.delta), interval(row.low, row.high, "+.3f"), "<.001", number(row.detectable), "rte"):
        assert cell in shown
    assert ("hidden on a terminal of this width" in shown) == (columns < 140)
    assert ("McNemar" in shown) == (columns >= 140)
