"""docs/api.md is what the docstrings say, and every public name stands in it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import market_data_pipeline
from market_data_pipeline import errors

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "api_docs"
PAGE = ROOT / "docs" / "api.md"


@pytest.fixture
def api_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    loader = SourceFileLoader("api_docs", str(SCRIPT))
    spec = importlib.util.spec_from_loader("api_docs", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def has_docstring_of_its_own(value: Any, name: str) -> bool:
    """Not an inherited one, and not what dataclasses and named tuples are given (``Name(field, ...)``)."""
    doc = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
    return bool(doc and doc.strip()) and not re.match(rf"{name}\(.*\)$", doc.strip(), re.S)


def test_the_page_is_what_the_docstrings_say() -> None:
    done = subprocess.run([sys.executable, "-B", SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_has_a_docstring_of_its_own_and_stands_in_the_page(api_docs: ModuleType) -> None:
    headings = re.findall(r"^### (\w+)$", PAGE.read_text(), re.M)
    public = api_docs.public_names()
    assert sorted(headings) == sorted(public)
    lacking = [name for name, one in public.items() if not has_docstring_of_its_own(one.value, one.alias_of or name)]
    assert lacking == []


def test_every_module_of_the_api_exports_what_it_says() -> None:
    for name in ("", ".orchestration", ".orchestration.dag"):
        module = importlib.import_module(f"market_data_pipeline{name}")
        exported = getattr(module, "__all__", [])
        assert len(set(exported)) == len(exported)
        assert [each for each in exported if getattr(module, each, None) is None] == []


@pytest.mark.parametrize("package", ["market_data_pipeline", "market_data_pipeline.orchestration"])
def test_each_line_of_a_stub_names_what_is_defined_there_for_type_checkers_too(package: str) -> None:
    module = importlib.import_module(package)
    stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text())
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    assert len(lines) == len(stub.body) - 1 == len(module.__all__)
    for line in lines:
        (alias,) = line.names
        assert alias.asname == alias.name  # else it would not be public to a type checker
        value = getattr(module, alias.name)
        assert getattr(value, "__module__", line.module) == line.module, alias.name


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'market_data_pipeline' has no attribute 'Nothing'"):
        _ = market_data_pipeline.Nothing
    assert dir(market_data_pipeline) == market_data_pipeline.__all__ == sorted(market_data_pipeline.__all__)


def test_every_error_that_a_user_may_meet_is_public() -> None:
    within = {"CommitRefused", "NameTaken"}  # between a worker and its server
    known = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.MdpError)]
    public = [one for one in known if not any(base.__name__ in within for base in one.__mro__)]
    assert {one.__name__ for one in public} - set(market_data_pipeline.__all__) == set()


def test_nothing_depends_on_the_process_that_made_the_page() -> None:
    page = PAGE.read_text()
    assert re.findall(r"object at |0x[0-9a-f]{6}|<function|<class|ForwardRef|typing\.", page) == []


def test_links_within_the_page_lead_somewhere(api_docs: ModuleType) -> None:
    page = PAGE.read_text()
    anchors = set(api_docs._slugs(re.findall(r"^#+ (.*)$", page, re.M)))
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) - anchors == set()
    assert api_docs._slugs(["Registry", "By name, or not", "registry"]) == ["registry", "by-name-or-not", "registry-1"]


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("``Trade`` of ``a.b``", "[`Trade`](#trade) of `a.b`"),
        (
            ":class:`~market_data_pipeline.records.Bar` by :meth:`Dag.validate`",
            "[`Bar`](#bar) by [`Dag.validate`](#dag)",
        ),
        (":func:`exchange`, :mod:`~market_data_pipeline.operators.lateness`", "`exchange`, `lateness`"),
        ("``a\nb`` over two lines", "`a b` over two lines"),
        ("**Bold.** *args, <name>, a * b, ``*x`` and _y", r"**Bold.** \*args, \<name>, a * b, `*x` and \_y"),
        ("So::\n\n    x = 1\n\n    y = 2\n\nThen.", "So:\n\n```python\nx = 1\n\ny = 2\n```\n\nThen."),
    ],
)
def test_docstrings_become_markdown(api_docs: ModuleType, docstring: str, markdown: str) -> None:
    assert api_docs.Renderer(api_docs.public_names()).markdown(docstring) == markdown


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Trade", '    trade_id: int | str = "",'),  # a named tuple
        ("CircuitRule", '    window: Duration = "60s",'),  # a dataclass
        ("OrchestratorSettings", '    mode: Literal["dag", "pipeline", "distributed"] = "dag",'),  # a model
        ("Node", '    on_error: Literal["fail", "skip", "dead_letter"] = "dead_letter",'),  # an alias
        (
            "DagRuntime",
            "DagRuntime(dag: Dag | Pipeline, config: RunConfig | None = None, clock: Clock = SystemClock())",
        ),
        ("SinkContext", "    reject: Callable[[Any, str], None] = ...,"),  # a private default
        ("Dedupe", "    *fields: str,"),
        ("map_async", "async map_async(in_ch: AnyChannel, out_ch: AnyChannel, fn: Fn) -> None"),
        ("JsonLines", "    roll_bytes: int = 128 * 1024 * 1024,"),  # of a base that is not public
        ("SinkError", "class SinkError(MdpError)"),
        ("FeedConnection", "class FeedConnection(Protocol)"),
        ("Channel", "* `async put(item: T) -> None`: Append `item`; waits while the channel is full."),
        ("Watermark", "* `Watermark.of(capacity: int, high_pct: float = 0.75, low_pct: float = 0.25) -> Watermark`: "),
        ("JsonLines", "And what [`Sink`](#sink) has."),
    ],
)
def test_signatures_are_as_they_are_written(name: str, line: str) -> None:
    entry = PAGE.read_text().partition(f"\n### {name}\n")[2].partition("\n#")[0]
    assert any(each.startswith(line) for each in entry.splitlines())


def test_another_name_of_a_class_says_so(api_docs: ModuleType) -> None:
    public = api_docs.public_names()
    other = api_docs.Public("Line", market_data_pipeline.Pipeline, ["market_data_pipeline"])
    assert (other.theme, other.alias_of) == ("Declaring", "Pipeline")
    page = api_docs.Renderer({**public, "Line": other}).page()
    assert "### Line\n\n`from market_data_pipeline import Line`\n\nAnother name of [`Pipeline`](#pipeline).\n" in page


def test_the_script_writes_the_page_and_tells_the_first_difference(
    api_docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "api.md"
    monkeypatch.setattr(api_docs, "PAGE", page)
    assert api_docs.main(["--check"]) == 1
    assert api_docs.main([]) == 0
    assert page.read_text() == PAGE.read_text()
    assert api_docs.main(["--check"]) == 0
    capsys.readouterr()
    page.write_text(page.read_text().replace("One execution.", "One."))
    assert api_docs.main(["--check"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-3:] == ["-One.", "+One execution.", " "]
    assert api_docs.main(["--chekc"]) == 2
