"""Loading the user's program, and what is said when that fails. Errors as one line, too."""

from __future__ import annotations

import inspect
import logging
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from market_data_pipeline import errors
from market_data_pipeline.app import load_app, parse_sets
from market_data_pipeline.catalog.dump import dump
from market_data_pipeline.cli import main
from market_data_pipeline.errors import ConfigError, DagValidationError, MdpError
from market_data_pipeline.options import one_line_errors, options

EXAMPLES = Path(__file__).parents[3] / "examples"
PROGRAM = """
from pathlib import Path
from typing import Literal
from market_data_pipeline import Collect, Dag, Node, Pipeline, Synthetic

def pipeline(n: int = 3, out: Path | None = None, name: str = "made", flag: bool = False):
    assert isinstance(n, int) and isinstance(flag, bool)
    assert out is None or isinstance(out, Path)
    return Pipeline(f"{name}-{n}-{flag}").source(Synthetic(items=n)).sink(Collect())

def needs(path: Path, rate: float):
    return pipeline()

def chooses(until: Literal["end", "never"] | None = None, count: int | None = None):
    return pipeline()

def raises():
    return 1 // 0

def mistyped():
    return Pipeline("x").source(Synthetic()).fitler()

async def later():
    return pipeline()

def wrong():
    return 42

def refuses():
    return Pipeline("x").sink(Collect())

ready = pipeline().build()
chain = pipeline(5)
number = 7
invalid = Dag("invalid")
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "prog_under_test.py"
    path.write_text(PROGRAM)
    before, modules = list(sys.path), set(sys.modules)
    yield str(path)
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.endswith("_under_test"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("attribute", "values", "name"),
    [
        ("", {}, "made-3-False"),
        (":pipeline", {"n": "9", "out": "/tmp/x", "flag": "true"}, "made-9-True"),
        (":ready", {}, "made-3-False"),
        (":chain", {}, "made-5-False"),
        (":needs", {"path": "p", "rate": "1.5"}, "made-3-False"),
    ],
)
def test_what_can_be_loaded(program: str, attribute: str, values: dict[str, str], name: str) -> None:
    dag = load_app(program + attribute, values)
    assert dag.name == name
    assert [node.kind for node in dag.nodes.values()] == ["source", "sink"]


def test_a_module_is_loaded_by_name(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(program).parent))
    assert load_app("prog_under_test:chain", {}).name == "made-5-False"


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        (":pipelin", {}, r"has no 'pipelin'; did you mean 'pipeline'\?"),
        (":number", {}, "gives a int; needed: a Dag, a Pipeline"),
        (":wrong", {}, "gives a int"),
        (":raises", {}, r"raises\(\) raised ZeroDivisionError \(line \d+\): integer division or modulo by zero$"),
        (":mistyped", {}, r"raised AttributeError \(line \d+\): .*'fitler'; did you mean 'filter'\?$"),
        (":later", {}, "later is async; needed: a plain function of a Dag or a Pipeline$"),
        (":needs", {"path": "", "rate": "1"}, r"parameter path: an empty path is none; write \. for the folder"),
        (":pipeline", {"out": ""}, "parameter out: an empty path is none"),
        (":needs", {}, "needs a value for 'path': --set path="),
        (":needs", {"path": "x", "rate": "fast"}, "parameter rate=fast: must be a number$"),
        (":chooses", {"until": "End"}, "parameter until=End: 'End' is not allowed; one of: end, never$"),
        (":chooses", {"count": "x"}, "parameter count=x: must be a whole number$"),
        (":pipeline", {"m": "1"}, "^m: .*it takes: n, out, name, flag"),
        (":pipeline", {"nam": "1"}, "did you mean 'name'"),
        (":ready", {"n": "1"}, "takes no parameters, so n="),
    ],
)
def test_what_cannot_be_loaded_says_why(program: str, attribute: str, values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_app(program + attribute, values)


@pytest.mark.parametrize("attribute", [":refuses", ":invalid"])
def test_a_wrong_graph_keeps_its_own_error(program: str, attribute: str) -> None:
    with pytest.raises(DagValidationError):
        load_app(program + attribute, {})


def test_a_missing_file_or_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.py'?: no such file"):
        load_app(str(tmp_path / "nowhere.py"), {})
    with pytest.raises(ConfigError, match="'no_such_module_here': no such module"):
        load_app("no_such_module_here", {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prog", r"there is no such file, and no module can have this name; did you mean '.*/prog\.py'\?$"),
        ("declared", r"did you mean '.*/declared\.yaml'\?$"),
        ("nothing", r"there is no such file, and no module can have this name$"),
        ("notes.txt", r"a program is a file that ends in \.py, \.yaml, \.yml, \.json$"),
        (".", r"it is a folder; name a file in it$"),
    ],
)
def test_what_is_no_modules_name_is_told_with_what_was_meant(tmp_path: Path, name: str, message: str) -> None:
    for file in ("prog.py", "declared.yaml", "notes.txt"):
        (tmp_path / file).touch()
    with pytest.raises(ConfigError, match=message):
        load_app(f"{tmp_path}/{name}", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing_at_all", "importing it raised .*no_such_thing_at_all"),
        ("x = 1\n1 / 0", r"importing it raised ZeroDivisionError \(line 2\): division by zero$"),
        ("def broken(:", "importing it raised SyntaxError"),
        ("x = 1", "has none of pipeline, dag, app"),
    ],
)
def test_a_program_that_cannot_be_imported_says_why(program: str, text: str, message: str) -> None:
    path = Path(program).with_name("bad_under_test.py")
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_app(str(path), {})


def test_sets_are_name_and_value() -> None:
    assert parse_sets(("a=1", "b=x=y", "c=")) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("text", ["a", "", "=1"])
def test_other_sets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write name=value"):
        parse_sets((text,))


# --- errors and options -----------------------------------------------------------------------------------------


def every_error() -> list[type[MdpError]]:
    return [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MdpError)]


def test_errors_are_a_tree_with_exit_codes_and_docstrings() -> None:
    assert len(every_error()) > 15
    codes = {cls.__name__: cls.exit_code for cls in every_error()}
    assert {name for name, code in codes.items() if code == 2} == {
        "ConfigError",
        "DagValidationError",
        "DocumentError",
        "PlanMismatch",
    }
    assert codes["StoreUnavailable"] == 3
    assert all(code in (1, 2, 3) for code in codes.values())
    assert all(cls.__doc__ for cls in every_error())


def command(error: Exception) -> click.Command:
    @click.command("tool")
    @options("partitions", "debug")
    @one_line_errors
    def tool(**flags: Any) -> None:
        raise error

    return tool


@pytest.mark.parametrize("cls", every_error())
def test_every_error_becomes_one_line_and_its_exit_code(cls: type[MdpError]) -> None:
    result = CliRunner().invoke(command(cls("what is wrong")), [])
    assert result.exit_code == cls.exit_code
    assert result.output == "tool: error: what is wrong\n"


def test_debug_shows_the_traceback_before_the_line() -> None:
    result = CliRunner().invoke(command(ConfigError("bad\x1b[2J")), ["--debug"])
    first, *_, last = result.output.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "tool: error: bad\\u001b[2J"
    assert result.exit_code == 2
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("error", "message", "logged"),
    [
        (ConnectionResetError(104, "reset"), "Future exception was never retrieved", False),
        (ssl.SSLError(1, "closed"), "Future exception was never retrieved", False),
        (ValueError("a bug"), "Future exception was never retrieved", True),
        (ConnectionResetError(104, "reset"), "something else", True),
    ],
)
def test_the_end_of_a_connection_is_not_reported_again(
    caplog: pytest.LogCaptureFixture, error: Exception, message: str, logged: bool
) -> None:
    CliRunner().invoke(command(ConfigError("x")), [])
    logging.getLogger("asyncio").error(message, exc_info=error)
    assert bool(caplog.records) == logged


@pytest.mark.parametrize(
    ("name", "said"), [("run", "run: interrupted before anything was started\n"), ("status", "status: interrupted\n")]
)
def test_ctrl_c_is_one_line_and_130(name: str, said: str) -> None:
    result = CliRunner().invoke(command(KeyboardInterrupt()), [], prog_name=name)
    assert (result.exit_code, result.output) == (130, said)


def test_the_list_of_commands_is_not_cut() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    assert re.search(r"^  run +Run APP", shown, re.MULTILINE)
    assert "..." not in shown.partition("Commands:")[2]


def test_a_programming_error_is_not_dressed_up() -> None:
    assert isinstance(CliRunner().invoke(command(KeyError("bug")), []).exception, KeyError)


def test_an_example_without_its_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"^examples/replay_parquet\.py needs .*: pip install '.*\[parquet\]'$"):
        load_app(str(EXAMPLES / "replay_parquet.py"), {"output": str(tmp_path / "out")})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "attribute"), [("raise SystemExit(3)", ""), ("def f(): raise SystemExit(3)", ":f")])
def test_a_program_that_ends_itself_ends_no_other(tmp_path: Path, text: str, attribute: str) -> None:
    program = tmp_path / "ending_program.py"
    program.write_text(text)
    with pytest.raises(ConfigError, match=r"raised SystemExit \(line 1\): 3"):
        load_app(f"{program}{attribute}", {})


def test_a_program_that_was_mended_is_loaded_anew(tmp_path: Path) -> None:
    """And what the document of its Dag names is the program that was loaded last."""
    program = tmp_path / "mended_program.py"
    start = "from market_data_pipeline import Discard, Pipeline, Synthetic\ndef same(x): return x\n"
    end = "dag = Pipeline('p').source(Synthetic()).map(same).sink(Discard()).build()\n"
    program.write_text(f"{start}1 // 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_app(str(program), {})
    assert "mended_program" not in sys.modules
    program.write_text(start + end)
    try:
        for _ in range(2):
            assert dump(load_app(str(program), {})).document["nodes"][1]["with"] == {"fn": "mended_program:same"}
    finally:
        sys.modules.pop("mended_program")
        sys.path.remove(str(tmp_path))


MODULES = ("neighbour_of_app", "inner_of_app", "shared_of_app", "own_of_app", "one_of_app", "two_of_app")


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders with neighbours of the same names, of which the second one's are others."""
    path = list(sys.path)
    for name, factor in (("one", 2), ("two", 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "neighbour_of_app.py").write_text(
            "from inner_of_app import FACTOR\ndef times(x): return x * FACTOR\n"
        )
        (folder / "inner_of_app.py").write_text(f"FACTOR = {factor}\n")
        (folder / "own_of_app.py" if name == "two" else folder / "x.py").write_text("import inner_of_app\n")
        (folder / f"{name}_of_app.py").write_text(
            "from market_data_pipeline import Discard, Pipeline, Synthetic\nfrom neighbour_of_app import times\n"
            "dag = Pipeline('p').source(Synthetic()).map(times, name='map').sink(Discard()).build()\n"
        )
    yield tmp_path / "one", tmp_path / "two"
    sys.path[:] = path
    for module in MODULES:
        sys.modules.pop(module, None)


def factor(app: Path) -> int:
    fn: Any = load_app(str(app), {}).nodes["map"].fn
    result: int = fn.fn(1)
    return result


def test_a_program_gets_no_neighbour_of_another_one(folders: tuple[Path, Path]) -> None:
    """One process has one module of a name: the second program is refused rather than run with the first one's function."""
    one, two = folders
    assert factor(one / "one_of_app.py") == 2
    with pytest.raises(ConfigError) as caught:
        load_app(str(two / "two_of_app.py"), {})
    assert str(caught.value) == (
        f"app '{two}/two_of_app.py': the module neighbour_of_app of this process is {one}/neighbour_of_app.py, and not"
        f" {two}/neighbour_of_app.py: give one of them another name, or load this file in a process of its own"
    )
    assert factor(one / "one_of_app.py") == 2
    for module in MODULES:
        sys.modules.pop(module, None)
    assert factor(two / "two_of_app.py") == 3  # its folder is before the other one's


def test_what_neighbours_import_is_looked_at_too(folders: tuple[Path, Path]) -> None:
    one, two = folders
    load_app(str(one / "one_of_app.py"), {})
    program = two / "two_of_app.py"
    program.write_text("import own_of_app\n")
    with pytest.raises(ConfigError, match=r"the module inner_of_app of this process is \S+/one/inner_of_app.py"):
        load_app(str(program), {})
    document = two / "p.yaml"
    document.write_text(
        "name: x\nnodes:\n- source: synthetic\n- {sink: discard, feedback: {value: 'own_of_app:Says'}}\n"
    )
    with pytest.raises(ConfigError, match=r"p.yaml:4:37: \S+: the module inner_of_app of this process is"):
        load_app(str(document), {})


def test_a_program_beside_this_packages_source_runs_with_the_package_that_is_installed(
    folders: tuple[Path, Path],
) -> None:
    """As in a clone of this project."""
    one, _ = folders
    beside = one / "market_data_pipeline" / "__init__.py"
    beside.parent.mkdir()
    beside.write_text("raise ImportError('not this one')\n")
    assert factor(one / "one_of_app.py") == 2


@pytest.mark.parametrize("text", ["def", "\0", "(" * 500, "# coding: no-such\n"])
def test_a_neighbour_that_cannot_be_read_is_the_imports_business(tmp_path: Path, text: str) -> None:
    program = tmp_path / "unread_of_app.py"
    program.write_text(text)
    with pytest.raises(ConfigError, match=r"importing it raised \w*Error"):
        load_app(str(program), {})
