"""What is wrong with a document: all of it, each with its place, what is allowed, and the nearest right name."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.catalog import filling
from market_data_pipeline.catalog.load import dag_of, load_file
from market_data_pipeline.cli import main
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, DocumentError

HEAD = "name: x\nnodes:\n  - source: synthetic\n"
CASES = [
    part.partition("\n") for part in ("\n" + (Path(__file__).parent / "mistakes.txt").read_text()).split("\n== ")[1:]
]


@pytest.mark.parametrize(("head", "case"), [(head, case) for head, _, case in CASES], ids=[case[0] for case in CASES])
def test_all_mistakes_of_a_document(tmp_path: Path, head: str, case: str) -> None:
    text, _, expected = f"\n{case}".partition("\n--\n")
    file = tmp_path / "p.yaml"
    file.write_text(text.removeprefix("\n"))
    values = dict(item.split("=") for item in head.partition(";")[2].split())
    with pytest.raises(DocumentError) as caught:
        load_file(file, values)
    assert "\n".join(caught.value.mistakes).replace(str(file), "FILE") == expected.strip("\n")


def test_only_so_many_mistakes_are_told() -> None:
    with pytest.raises(DocumentError) as caught:
        dag_of({"name": "x", "nodes": [{"sink": "discrd", "from": "y"}] * 300})
    assert len(caught.value.mistakes) == 101
    assert caught.value.mistakes[-1] == "document: more mistakes than these 100"


def test_a_document_without_a_file_has_paths_only() -> None:
    with pytest.raises(
        DocumentError, match=r"^nodes\[0\]\.with\['a b'\]: there is no argument 'a b'; there are: symbols, "
    ):
        dag_of({"name": "x", "nodes": [{"source": "synthetic", "with": {"a b": 1}}, {"sink": "discard"}]})


def test_what_a_document_says_does_not_move_a_terminals_cursor() -> None:
    document = {"name": "x", "nodes": [{"source": "synthetic"}, {"sink": "discard"}]}
    with pytest.raises(DocumentError) as caught:
        dag_of(document, {"a\x1b[2Jb\n": "1"})
    assert str(caught.value) == ("parameters: a\\u001b[2Jb\\u000a: there is no such parameter; there are none")


def cli(*args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, args)
    return done.exit_code, done.stdout, done.stderr


def test_validate_says_what_would_run_or_what_stands_against_it(tmp_path: Path) -> None:
    good, bad, program = (str(tmp_path / name) for name in ("good.yaml", "bad.yaml", "program_of_a_file.py"))
    Path(good).write_text(HEAD + "  - sink: discard\n")
    Path(bad).write_text(HEAD + "  - sink: dicard\n  - sink: stdin\n")
    Path(program).write_text("pipeline = 5")
    fingerprint = compile_dag(load_file(good), 8).fingerprint
    code, out, err = cli("validate", good)
    assert (code, err) == (0, "")
    assert out == f"{good}: ok: 2 nodes, 1 edges, plan {fingerprint}\n"
    code, out, err = cli("validate", bad, good, program)
    assert (code, out) == (2, f"{good}: ok: 2 nodes, 1 edges, plan {fingerprint}\n")
    assert [line.split(": ")[0] for line in err.splitlines()] == [f"{bad}:4:11", f"{bad}:5:11", program]
    code, out, err = cli("validate", good, "--set", "a=1")
    assert (code, out) == (2, "")
    assert "parameters: a: there is no such parameter; there are none" in err


def test_the_other_commands_take_files_and_tell_each_mistake_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(textwrap.dedent(HEAD + '  - sink: dicard\n  - sink: "stdin\\nx"\n'))
    code, out, err = cli("plan", str(file))
    assert (code, out) == (2, "")
    assert err.splitlines()[0].endswith("plan: error: 2 mistakes")
    assert [line.split(": ")[0] for line in err.splitlines()[1:]] == [f"{file}:4:11", f"{file}:5:11"]
    file.write_text(HEAD + "  - sink: discard\n")
    code, out, err = cli("keys", str(file), "--job", "j")
    assert (code, err) == (0, "")


NAMES = st.sampled_from(
    ["source", "operator", "sink", "with", "name", "nodes", "from", "value", "key", "a", "parameters", "retries"]
)
LEAVES = st.sampled_from(
    ["synthetic", "map", "discard", "bars", "${a}", "${env:X}", "a:b", "builtins:len", "1s", ""]
) | (st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=25
)
ARGUMENTS = st.sampled_from(["interval", "fn", "windows", "path", "fields", "rules"])
NODE = {
    "source": st.just("synthetic"),
    "operator": st.sampled_from(["bars", "map", "window", "router", "batch", "dedupe"]),
    "sink": st.sampled_from(["discard", "csv", "kafka"]),
    "with": st.dictionaries(ARGUMENTS, VALUES, max_size=3),
    **dict.fromkeys(("from", "key", "channel", "feedback"), VALUES),
    "name": LEAVES,
}
NODES = st.lists(st.fixed_dictionaries({}, optional=NODE) | VALUES, max_size=4)
DOCUMENTS = st.fixed_dictionaries({"name": LEAVES, "nodes": NODES}, optional={"parameters": VALUES})


@given(VALUES | DOCUMENTS, st.dictionaries(NAMES, st.text()))
def test_any_data_is_a_dag_or_a_list_of_mistakes(document: Any, values: dict[str, str]) -> None:
    mistakes: tuple[str, ...] = ()
    try:
        assert isinstance(dag_of(document, values, environment={"X": "abcdef"}), Dag)
    except DocumentError as error:
        mistakes = error.mistakes or ("it says nothing\n",)
    assert not any("\n" in line or "abcdef" in line for line in mistakes)


LINES = [
    "name: x", "nodes:", "  - source: synthetic", "  - sink: discard", "    with: {", "}", "\t", "a: &a", "  - *a",
    "    key: [", "]", "${", "'", "\x00", "---", "  - operator: bars", "é",
]  # fmt: skip


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_any_file_is_a_dag_or_an_error_for_people(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text("\n".join(lines))
    said = str(file)
    try:
        assert isinstance(load_file(file), Dag)
    except ConfigError as error:
        said = str(error)
    assert said.startswith(str(file))


@pytest.mark.parametrize("secret", ["tiger\\1 'x\"y", "tiger" * 30, "tiger\n2"], ids=["quotes", "long", "lines"])
def test_secrets_are_hidden_however_a_message_writes_them(secret: str) -> None:
    nodes = [
        {"source": "${env:PW}"},
        {"operator": "batch", "from": "${env:PW}"},
        {"coroutine": "${env:PW}"},
        {"sink": "discard", "output": "${env:PW}"},
    ]
    with pytest.raises(DocumentError) as caught:
        dag_of({"name": "x", "nodes": nodes}, environment={"PW": secret})
    assert "tiger" not in str(caught.value)
    assert str(caught.value).count("***") >= 2


def test_of_many_wrong_names_only_some_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest name is looked for as often as it is told."""
    parameters = {f"parameter_{number}": 1 for number in range(3000)}
    wrong = [f"${{parametre_{number}}}" for number in range(3000)]
    looked: list[str] = []
    monkeypatch.setattr(filling, "nearest", lambda name, among: looked.append(name) or "")
    with pytest.raises(DocumentError) as caught:
        dag_of({"name": "x", "parameters": parameters, "nodes": [{"source": "synthetic", "with": {"symbols": wrong}}]})
    assert len(looked) == len(caught.value.mistakes) == 101


def test_validate_looks_at_the_name_of_the_job_as_a_run_does(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("name: My Bars\nnodes: [{source: synthetic}, {sink: discard}]\n")
    said = "name: 'My Bars' is no name for a job, which must match [a-z0-9-]{1,40}; change it, or give --job"
    assert cli("validate", str(file)) == (2, "", f"{file}: {said}\n")
    assert cli("run", str(file)) == (2, "", f"main run: error: {said}\n")
    assert cli("validate", str(file), "--job", "bars")[0] == 0


def test_validate_looks_at_channels_with_the_settings_as_a_run_does(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(HEAD + "  - {sink: discard, key: symbol, channel: {capacity: 4}}\n")
    said = "edge source -> discard: capacity=4 must be at least twice commit_frames=16, or a commit could wait for ever"
    assert cli("validate", str(file)) == (2, "", f"{file}: {said}\n")
    settings = tmp_path / "mdp.yaml"
    settings.write_text("commit_frames: 2")
    assert cli("validate", str(file), "--config", str(settings))[0] == 0


def test_of_types_that_are_not_there_it_is_the_right_argument_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typed_apart.py").write_text(
        textwrap.dedent("""
            from __future__ import annotations
            from typing import TYPE_CHECKING
            from market_data_pipeline import Discard
            if TYPE_CHECKING:
                from a_package_of_nobody import Thing

            class Mine(Discard):
                def __init__(self, n: int, thing: Thing | None = None) -> None: ...

            def made(n: int, thing: Thing | None = None) -> Discard: ...
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Mine", "made"):
        with pytest.raises(DocumentError, match=rf"the argument thing of typed_apart:{name} .*: Thing \| None; import"):
            dag_of({"name": "x", "nodes": [{"source": "synthetic"}, {"sink": f"typed_apart:{name}", "with": {"n": 1}}]})
