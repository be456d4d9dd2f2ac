"""What is stored is whole, and the page made from it is self-contained, escaped and honest."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import plots, report
from experiments.claims import Claim
from experiments.report import Result, Table, plain, render

CLAIMS = [
    Claim.at_least("First 2020", "It rises", [0.5, 0.75], 0.25),
    Claim.at_most("Second 2021", "It stays low", 2.0, 1.0),
    Claim.at_most(
        "Third 2022", "It is small", -2.0, -3.0, should_hold=False, reason="float32 ends here"
    ),
    Claim.all_of("Fourth 2023", "Both", [Claim.close("a", "part one", 1.0, 1.0, atol=1e-3)] * 2),
]


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)
    name: str = "<script>alert(1)</script>"


def store(folder: Path, name: str = "demo", **fields) -> Result:
    result = Result(**{"claims": CLAIMS, "summary": "A <b>plain</b> summary.", **fields})
    result = result.signed(name, Config(), question=f"What about {name}?", preset="quick")
    result.save(folder)
    return result


def figure():
    drawn, ax = plots.subplots(width=3)
    plots.theory_line(ax, [0, 1], [0, 1])
    plots.describe(ax, title="t", x="x", y="y")
    return plots.finish(drawn)


@pytest.fixture
def page(tmp_path: Path) -> str:
    rows = [["a & b", 0.123456, "-0.9 (-1.00 to 0.25)"], ["none", None, "4 %"]]
    table = Table("Numbers", ["name", "value", "text"], rows, "A caption.")
    figures = {"curve": (figure(), "A <curve>."), "bare": figure()}
    store(tmp_path, tables=[table], figures=figures, wall_time={"train": 65.0})
    store(tmp_path, "other", claims=[], error="Traceback: <broken>")
    return report.write(tmp_path).read_text(encoding="utf-8")


def words_of(html: str) -> str:
    """The text of a page, without styles and elements."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*</style>|<[^>]+>", " ", html, flags=re.DOTALL))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and whether all are closed in order."""

    VOID = {"meta", "link", "img"}  # noqa: RUF012

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_is_self_contained(page: str):
    elements = Elements(page).found
    for tag, attributes in elements:
        for name in ("src", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in {"script", "iframe", "object", "base"}
        assert not any(name.startswith("on") for name in attributes)
    assert sum(tag == "img" for tag, _ in elements) == 2
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "http" not in page


def test_links_lead_somewhere(page: str):
    elements = Elements(page).found
    targets = {attributes.get("id") for _, attributes in elements}
    links = {a["href"] for tag, a in elements if tag == "a"}
    assert links == {
        "#claims", "#claims-of-demo", "#figure-1", "#demo", "#other", "#origin",
    }  # fmt: skip
    assert {link[1:] for link in links if link} <= targets


def test_what_is_shown_is_escaped(page: str):
    for bad in ("<script>", "<b>plain", "<broken>", "<curve>"):
        assert bad not in page
    for good in ("&lt;script&gt;", "&lt;b&gt;plain", "&lt;broken&gt;", "a &amp; b"):
        assert good in page


def test_a_claim_that_does_not_hold_is_shown_as_such(page: str):
    text = words_of(page)
    assert "✓ 2 of 4 claims hold" in text
    assert "○ 1 not reproduced, with a reason" in text
    assert "✗ 1 should hold and does not" in text
    for source in ("First 2020", "Second 2021", "Third 2022", "Fourth 2023"):
        assert text.count(source) == 1
    assert text.count("✗ does not hold:") == 1
    assert text.count("○ not reproduced:") == 1
    assert "Does not hold: no reason is known" in text
    assert "Not reproduced: float32 ends here" in text
    row = "✓ holds: It rises First 2020. Holds: 0.5 to 0.75 over 2 values, expected ≥ 0.25. "
    assert row + "≥ 0.25 0.5 to 0.75" in text
    assert "part one: 1 (expected 1, tolerance 0.001)" in text


def test_reasons_are_visible_and_full_statements_one_click_away(page: str):
    folded = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "float32 ends here" in folded
    assert "no reason is known" in folded
    for claim in CLAIMS:
        assert f'<summary title="{claim.statement}">' in page
        assert claim.source not in folded


def test_the_page_begins_with_the_answer_and_its_figure(tmp_path: Path):
    store(tmp_path, "a", error="it raised", summary="Not this.")
    figures = {"main": (figure(), "Main."), "second": (figure(), "Second.")}
    store(tmp_path, "b", summary="The answer.\n\nMore about it.", figures=figures)
    html = report.write(tmp_path).read_text(encoding="utf-8")
    marks = ["What about b?</h1>", "The answer.", "Figure 1.</b> Main.", "More about it."]
    marks += ['id="claims"', 'id="a"', "Not this.", 'id="b"', 'href="#figure-1"', "Figure 2.</b>"]
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    assert html.count("The answer.") == 1
    assert html.count("<img") == 2


def test_the_words_are_those_that_occur(tmp_path: Path):
    words = {"wobble <rate>": "How often it wobbles."}
    store(tmp_path, summary="sign descent is robust against Fourier-linf", words=words, claims=[])
    text = words_of(report.write(tmp_path).read_text(encoding="utf-8"))
    for shown in ("sign descent w ← w − η", "Fourier-linf maxₖ", "Fourier-l1 Σₖ", "l1 Σⱼ"):
        assert shown in text
    assert "Only in demo wobble &lt;rate&gt; How often it wobbles." in text
    assert "Fourier phase" not in text


def test_without_words_there_is_no_section_of_words(tmp_path: Path):
    store(tmp_path, summary="Nothing.", claims=[])
    assert 'id="words"' not in report.write(tmp_path).read_text(encoding="utf-8")


def test_a_failed_experiment_is_shown_as_such(page: str):
    assert "Stopped by an error" in page
    assert '<pre class="traceback">Traceback: &lt;broken&gt;</pre>' in page


def test_the_page_says_where_the_numbers_come_from(page: str):
    for name in ("python", "jax", "jaxlib", "optax", "numpy", "jaxrobust", "processor"):
        assert f"<dt>{name}</dt>" in page
    assert jax.__version__ in page
    assert "1 min 05 s" in page
    assert '<td class="number">0.1235</td>' in page
    assert "<b>Figure 2.</b>" in page
    assert "<b>Table 1. Numbers.</b> A caption." in page


def test_numbers_that_are_text_stand_right_with_their_heads(page: str):
    assert '<th scope="col">name</th>' in page
    assert '<th scope="col" class="number">text</th>' in page
    spread = '<span class="range">(−1.00 to 0.25)</span>'
    assert f'<td class="number">−0.9 {spread}</td>' in page
    assert '<td class="number">4 %</td>' in page


def test_a_long_table_is_folded(tmp_path: Path):
    tables = [Table("Long", ["n"], [[i] for i in range(13)]), Table("Short", ["n"], [[1]])]
    store(tmp_path, tables=tables)
    html = report.write(tmp_path).read_text(encoding="utf-8")
    assert html.count("<summary>All 13 rows</summary>") == 1
    assert "All 1 rows" not in html
    Elements(html)  # what was opened is closed


def test_the_page_made_again_is_equal(tmp_path: Path):
    store(tmp_path, figures={"curve": (figure(), "c")})
    first = report.write(tmp_path).read_bytes()
    kept = tmp_path / "copy" / tmp_path.name  # the name of the run is part of the page
    kept.mkdir(parents=True)
    for path in [*tmp_path.glob("*.json"), *tmp_path.glob("*.png")]:
        (kept / path.name).write_bytes(path.read_bytes())
    assert report.write(kept).read_bytes() == first
    assert report.write(tmp_path).read_bytes() == first


def test_results_stand_in_the_order_of_the_plan(tmp_path: Path):
    for name in ("a", "b", "c"):
        store(tmp_path, name)
    plain.write_json(tmp_path / render.RUN_FILE, {"planned": ["c", "missing", "a"]})
    run = report.read_run(tmp_path)
    assert [r["experiment"] for r in run["results"]] == ["c", "a", "b"]
    assert run["missing"] == ["missing"]
    assert "Without a result: missing" in report.write(tmp_path).read_text(encoding="utf-8")


def test_a_run_with_nothing_finished_has_a_page(tmp_path: Path):
    plain.write_json(tmp_path / render.RUN_FILE, {"planned": ["a"], "seconds": 1.0})
    assert "Without a result: a" in report.write(tmp_path).read_text(encoding="utf-8")


def test_a_run_made_in_parts_says_so(tmp_path: Path):
    store(tmp_path, "a")
    older = json.loads((tmp_path / "a.json").read_text())
    older |= {"experiment": "b", "commit": {"id": "0123456789abcdef", "dirty": True}}
    (tmp_path / "b.json").write_text(json.dumps(older))
    html = report.write(tmp_path).read_text(encoding="utf-8")
    assert "made in parts" in html
    assert "<code>0123456789ab</code> with uncommitted changes" in html


def test_a_missing_picture_is_said(tmp_path: Path):
    store(tmp_path, figures={"curve": figure()})
    (tmp_path / "demo-curve.png").unlink()
    html = report.write(tmp_path).read_text(encoding="utf-8")
    assert "demo-curve.png is missing" in html


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "not the result of an experiment: it lacks 'experiment'"),
    ],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: str, message: str):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=rf"bad\.json.*{message}"):
        report.write(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("wall_time", None, "has 'wall_time' = None, expected is a JSON object"),
        ("figures", [{}], "KeyError"),
        ("tables", [{"title": "t", "columns": ["a"], "rows": [[1, 2]]}], "row 0 has 2"),
        ("claims", [{}], "KeyError"),
    ],
)
def test_a_damaged_result_is_named(tmp_path: Path, field: str, value, message: str):
    store(tmp_path)
    path = tmp_path / "demo.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {field: value}))
    with pytest.raises(ValueError, match=rf"demo\.json is not the result.*{message}"):
        report.write(tmp_path)
    del stored[field]
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=rf"demo\.json is not the result.*lacks '{field}'"):
        report.write(tmp_path)


def test_an_empty_folder_has_no_report(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no results in"):
        report.write(tmp_path)


def test_the_file_of_a_result_has_the_promised_keys(tmp_path: Path):
    store(tmp_path, series={"loss": jnp.array([1.0, jnp.nan, jnp.inf])}, figures={"f": figure()})
    stored = json.loads((tmp_path / "demo.json").read_text(), parse_constant=pytest.fail)
    first = ["experiment", "question", "config", "seed", "versions", "commit", "claims"]
    assert list(stored)[:7] == first
    assert stored["config"] == {"seeds": [0, 1], "name": "<script>alert(1)</script>"}
    assert stored["seed"] == [0, 1]
    assert stored["series"] == {"loss": [1.0, None, "Infinity"]}
    assert stored["figures"] == [{"name": "f", "file": "demo-f.png", "caption": ""}]
    assert (tmp_path / "demo-f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a/b", "", "a.b", "../x"])
def test_a_figure_cannot_be_written_elsewhere(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="figure's name"):
        store(tmp_path, figures={name: figure()})


def test_a_table_with_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1"):
        Table("T", ["a", "b"], [[1, 2], [1]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.99, "0.9900"),
        (-1.5e-7, "−1.5e−07"),
        (123456.0, "1.23e+05"),
        (0.0, "0.000"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
        (12345, "12\u202f345"),
        (True, "yes"),
        (None, "—"),
        ("x-y", "x-y"),
        ("2026-11-21", "2026-11-21"),
        ("-0.5 to 1e-3", "−0.5 to 1e−3"),
        ("-3.0 (-4 to -2)", "−3.0 (−4 to −2)"),
    ],
)
def test_how_a_cell_is_shown(value, shown: str):
    assert render.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01, "< 0.1 s"), (3.24, "3.2 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s")],
)
def test_how_a_duration_is_shown(value: float, shown: str):
    assert render.seconds(value) == shown


def test_prose_knows_paragraphs_lists_and_code():
    html = render.prose("One `<x> -1`\nline -1.\n\n- first\n  still\n- second\n\n")
    assert html == (
        "<p>One <code>&lt;x&gt; -1</code>\nline −1.</p>\n"
        "<ul><li>first\n  still</li><li>second</li></ul>"
    )
