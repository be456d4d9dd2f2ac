"""The report: one HTML page with everything in it, made from the files of a run."""

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from experiments import glossary
from experiments.claims import Claim
from experiments.report.plain import write_atomically
from experiments.report.result import Table

RUN_FILE = "run.json"  # the runner's own record of the run: the command, and what was planned
# What every stored result has, and the page shows.
FIELDS = {
    **dict.fromkeys(("experiment", "question", "description", "summary", "finished", "error"), str),
    **dict.fromkeys(("wall_time", "versions"), dict),
    **dict.fromkeys(("claims", "figures", "tables"), list),
}
_JSON_NAMES = {str: "string", dict: "object", list: "array"}
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|inf|nan)(?: %)?"
_RANGE = rf"{_NUMBER}(?: to {_NUMBER})?"
NUMBERS = re.compile(rf"{_RANGE}(?: \({_RANGE}\))?")  # 0.98 (-0.9 to 1.00)
SYMBOLS = {"holds": "✓", "does not hold": "✗", "not reproduced": "○", "holds here": "✓"}


def write(folder: Path | str) -> Path:
    """Makes `report.html` from the JSON and PNG files in `folder`; returns its path.

    Raises:
      FileNotFoundError: if `folder` holds neither a result nor the record of a run.
      ValueError: if a result cannot be read; the message names the file.
    """
    folder = Path(folder)
    html = _template().render(**_page(read_run(folder), folder))
    write_atomically(folder / "report.html", html.encode())
    return folder / "report.html"


def read_run(folder: Path | str) -> dict[str, Any]:
    """The record of a run as the runner wrote it, and under `results` its results in order."""
    files = {path.name: path for path in sorted(Path(folder).glob("*.json"))}
    if not files:
        raise FileNotFoundError(f"no results in {str(folder)!r}: expected <experiment>.json files")
    record = _read_json(files.pop(RUN_FILE)) if RUN_FILE in files else {}
    results = {plain["experiment"]: plain for plain in map(_read_result, files.values())}
    planned = [name for name in record.get("planned", ()) if name in results]
    order = planned + [name for name in results if name not in planned]
    missing = [name for name in record.get("planned", ()) if name not in results]
    return {**record, "missing": missing, "results": [results[name] for name in order]}


def _read_result(path: Path) -> dict[str, Any]:
    """One stored result, its claims computed again."""
    plain, none = _read_json(path), f"{path} is not the result of an experiment"
    for name, kind in FIELDS.items():
        if not isinstance(plain.get(name), kind):
            found = f"has {name!r} = {plain[name]!r}" if name in plain else f"lacks {name!r}"
            raise ValueError(f"{none}: it {found}, expected is a JSON {_JSON_NAMES[kind]}")
    try:
        return {
            **plain,
            "claims": [Claim.from_json(c) for c in plain["claims"]],
            "figures": [
                {name: f[name] for name in ("name", "file", "caption")} for f in plain["figures"]
            ],
            "tables": [Table(**t) for t in plain["tables"]],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{none}: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must be an object."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{path} is not the result of an experiment: it holds no JSON object")
    return plain


def _page(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values that the template shows."""
    results = [_with_pictures(result, folder) for result in run["results"]]
    claims = [claim for result in results for claim in result["claims"]]
    return {
        "lead": next((r for r in results if r["summary"] and not r["error"]), None),
        "words": _words(results),
        "run": run,
        "run_name": folder.resolve().name,
        "results": results,
        "verdicts": Counter(claim.verdict for claim in claims),
        "num_claims": len(claims),
        "num_holding": sum(claim.holds for claim in claims),
        "failed": [result["experiment"] for result in results if result.get("error")],
        "origins": _origins(results),
    }


def _words(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Group -> term -> meaning: the common terms that the page uses, and those of experiments."""
    shown = [text for result in results for text in _texts(result)]
    common = glossary.used_in("\n".join(shown))
    own = {f"Only in {r['experiment']}": r["words"] for r in results if r.get("words")}
    return {group: {t.name: t.meaning for t in terms} for group, terms in common.items()} | own


def _texts(result: Mapping[str, Any]) -> Iterator[str]:
    """What a reader meets of a result: no settings, no series."""
    yield from (result[name] for name in ("question", "description", "summary"))
    for claim in result["claims"]:
        yield from (claim.statement, claim.reason)
    yield from (figure["caption"] for figure in result["figures"])
    for table in result["tables"]:
        cells = (cell for row in table.rows for cell in row if isinstance(cell, str))
        yield from (table.title, table.caption, *table.columns, *cells)


def _origins(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The different (versions, commit) of the results: one, unless a run was made in parts."""
    different = {}
    for result in results:
        origin = {"versions": result.get("versions") or {}, "commit": result.get("commit")}
        different[json.dumps(origin, sort_keys=True)] = origin
    return list(different.values())


def _with_pictures(result: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result with each figure's picture as a data URI; None if its file is gone."""
    figures = []
    for figure in result["figures"]:
        path = folder / Path(figure["file"]).name
        uri = _data_uri(path.read_bytes()) if path.is_file() else None
        figures.append({**figure, "uri": uri})
    return {**result, "figures": figures}


def _data_uri(png: bytes) -> str:
    """A picture as text that an HTML page can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _template():
    """The page's template, with the filters it uses. Everything shown is escaped."""
    import jinja2  # here, so that `--help` and `list` need not wait for it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "measured": measured,
        "how_many": how_many,
        "answer": answer,
        "details": details,
        "cell": table_cell,
        "numeric_columns": numeric_columns,
        "minus": minus,
        "prose": prose,
        "seconds": seconds,
        "symbol": SYMBOLS.__getitem__,
        "setting": setting,
    }
    environment.tests["numeric_cell"] = _is_numeric
    return environment.get_template("template.html")


def number(value: Any) -> str:
    """A cell for the reader: four digits for a float, a dash for nothing, text as it is."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(
            ",", "\u202f"
        )  # a thin space: a comma is a point to some readers
    if isinstance(value, float):
        return _digits(value, 4, "#")  # zeros at the end included, so that a column lines up
    return minus(str(value)) if _is_numeric(value) else str(value)


def table_cell(value: Any) -> Markup:
    """A cell as HTML: the range in brackets behind a number stands below it, to save width."""
    head, bracket, spread = number(value).partition(" (" if _is_numeric(value) else "\0")
    if not bracket:
        return escape(head)
    return Markup('{} <span class="range">({}</span>').format(head, spread)


def _digits(value: float, digits: int, alternate: str = "") -> str:
    """A float to so many digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else minus("∞" if value > 0 else "-∞")
    if value != 0 and not 1e-4 <= abs(value) < 10**digits:
        return minus(f"{value:.{digits - 1}g}")
    return minus(f"{value:{alternate}.{digits}g}".rstrip("."))


def minus(text: str) -> str:
    """The text with real minus signs, which are as wide as a digit."""
    return text.replace("-", "\u2212")


def setting(value: Any) -> str:
    """A value of a configuration, in full: settings are there to be typed again."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_numeric(cell: Any) -> bool:
    """Whether a cell is set to the right, digits under digits; so is a dash for nothing."""
    if isinstance(cell, str):
        return NUMBERS.fullmatch(cell) is not None
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def numeric_columns(table: Table) -> list[bool]:
    """For every column whether all its cells are numbers, so that its head stands over them."""
    columns = list(zip(*table.rows, strict=True)) or [("",)] * len(table.columns)
    return [all(map(_is_numeric, cells)) for cells in columns]


def measured(claim: Claim) -> str:
    """What was measured, for the reader: a number, a range, or the share of parts that hold."""
    smallest, largest = (_digits(value, 5) for value in claim.measured)
    if claim.parts:
        return f"{sum(p.holds for p in claim.parts)} of {len(claim.parts)}"
    return smallest if smallest == largest else f"{smallest} to {largest}"


def how_many(claim: Claim) -> str:
    """How many numbers were measured, if it was more than one."""
    return f"{claim.count} values" if claim.count > 1 else ""


def seconds(value: float) -> str:
    """A duration: 0.4 s, 12 s, 3 min 05 s."""
    if value < 9.95:
        return f"{value:.1f} s" if value >= 0.05 else "< 0.1 s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def answer(summary: str) -> str:
    """The first paragraph of a summary."""
    return _paragraphs(summary)[0]


def details(summary: str) -> str:
    """What a summary says after its answer; often nothing."""
    return "\n\n".join(_paragraphs(summary)[1:])


def _paragraphs(text: str) -> list[str]:
    """The parts of a text between empty lines."""
    return re.split(r"\n\s*\n", text.strip())


def prose(text: str) -> Markup:
    """Paragraphs and lists of a docstring as HTML; `code` in backticks; the rest is escaped."""
    blocks = (block.strip() for block in _paragraphs(text))
    return Markup("\n").join(_block(block) for block in blocks if block)


def _block(block: str) -> Markup:
    """One paragraph, or one list whose items begin with a dash."""
    if not block.startswith("- "):
        return Markup("<p>{}</p>").format(_with_code(block))
    items = re.split(r"\n\s*- ", block.removeprefix("- "))
    return Markup("<ul>{}</ul>").format(
        Markup("").join(Markup("<li>{}</li>").format(_with_code(item)) for item in items)
    )


def _with_code(text: str) -> Markup:
    """Escaped text, in which `x` is set as code, and a number below zero has a real minus."""

    def replaced(found: re.Match) -> str:
        return f"<code>{found[1]}</code>" if found[1] else "\u2212"

    text = str(escape(text)).replace(" %", "\u00a0%")  # never at the beginning of a line
    return Markup(re.sub(r"`([^`]+)`|(?<=\s)-(?=\d)", replaced, text))
