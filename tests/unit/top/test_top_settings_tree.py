"""One tree: defaults, environment, file, flags, in this order of strength; and errors that say where a value comes from."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mdp_coordinator.cli import main as coordinator
from mdp_worker.cli import main as worker

from market_data_pipeline.catalog.text import MOST_BYTES
from market_data_pipeline.cli import main
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher import settings_table
from market_data_pipeline.launcher.access import rules
from market_data_pipeline.launcher.services import child_environment
from market_data_pipeline.runtime_settings import OrchestratorSettings
from market_data_pipeline.settings import Settings, load_settings, server_address
from market_data_pipeline.settings_file import read_settings_file
from market_data_pipeline.settings_tree import leaves, value_at

YAML = """\
# a comment
partitions: 4
redis_url: "redis://user:hunter2@host:1/2"

orchestrator:
  mode: pipeline
  max_concurrency: 7
"""
TOML = """\
# a comment
partitions = 4
redis_url = "redis://user:hunter2@host:1/2"

[orchestrator]
mode = "pipeline"
max_concurrency = 7
"""
JSON = """\
{
\t"partitions": 4,
\t"redis_url": "redis://user:hunter2@host:1/2",

\t"orchestrator": {
\t\t"mode": "pipeline",
\t\t"max_concurrency": 7}}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MDP_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str, name: str = "mdp.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_a_file_in_each_format_says_the_same_on_the_same_lines(tmp_path: Path, suffix: str) -> None:
    text = {"yaml": YAML, "toml": TOML, "json": JSON}[suffix]
    path = written(tmp_path, text, f"mdp.{suffix}")
    settings = load_settings(config=path)
    assert (settings.partitions, settings.config) == (4, Path(path))
    assert settings.orchestrator == OrchestratorSettings(mode="pipeline", max_concurrency=7)
    names = ("partitions", "redis_url", "orchestrator.mode", "orchestrator.max_concurrency", "job", "config")
    lines = [settings.origin(name).removeprefix(f"{path}:") for name in names]
    assert lines == ["2", "3", "6", "7", "default", "--config"]


def test_each_source_is_stronger_than_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_CONFIG", written(tmp_path, "frame_items: 3\nlinger_ms: 3\n"))
    for name in ("FRAME_ITEMS", "LINGER_MS", "COMMIT_ITEMS"):
        monkeypatch.setenv(f"MDP_{name}", "2")
    settings = load_settings(linger_ms=4)
    found = (settings.partitions, settings.commit_items, settings.frame_items, settings.linger_ms)
    assert found == (8, 2, 3, 4)
    origins = [settings.origin(name) for name in ("partitions", "commit_items", "frame_items", "linger_ms", "config")]
    assert origins == ["default", "MDP_COMMIT_ITEMS", f"{tmp_path}/mdp.yaml:1", "--linger-ms", "MDP_CONFIG"]


def test_a_group_is_put_together_from_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_ORCHESTRATOR__MODE", "distributed")
    monkeypatch.setenv("MDP_ORCHESTRATOR__MAX_CONCURRENCY", "5")
    path = written(tmp_path, "orchestrator: {max_concurrency: 6}")
    settings = load_settings(config=path, orchestrator={"channel_capacity": 7})
    expected = OrchestratorSettings(mode="distributed", max_concurrency=6, channel_capacity=7)
    assert settings.orchestrator == expected
    assert settings.origin("orchestrator.mode") == "MDP_ORCHESTRATOR__MODE"


def test_nothing_in_the_file_is_stronger_than_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_JOB", "bars")
    settings = load_settings(config=written(tmp_path, "job:\n"))
    assert (settings.job, settings.origin("job")) == (None, f"{tmp_path}/mdp.yaml:1")


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "PARTITIONS", "ORCHESTRATOR__MODE"):
        monkeypatch.setenv(f"MDP_{name}", "")
    settings = load_settings()
    assert (settings.partitions, settings.config, settings.orchestrator.mode) == (8, None, "dag")
    assert settings.origin("partitions") == "default"


@pytest.mark.parametrize("name", ["orchestrator__mood", "orchestrator", "orchestrator__mode__more"])
def test_names_of_other_programs_stop_nobody(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"MDP_{name.upper()}", "{")
    assert load_settings().orchestrator == OrchestratorSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job: x\npartitons: 4\n", ":2: partitons: there is no such setting; did you mean 'partitions'?"),
        ("orchestrator:\n  mood: dag\n", ":2: orchestrator.mood: there is no such setting; did you mean 'mode'?"),
        (
            "orchestrator.mode: dag\n",
            ":1: orchestrator.mode: a setting of a group stands below it: write orchestrator: {mode: ...}",
        ),
        ("orchestrator: 5\n", ":1: orchestrator: is a group: write its settings below it (mode, "),
        ("config: other.yaml\n", ":1: config: a file of settings names no other"),
        ("partitions: 1\npartitions: 2\n", ":2:1: the key 'partitions' is there twice; the first is in line 1"),
        ("job: x\n---\njob: y\n", ":2:1: a second document begins here"),
        ("- job\n", ":1:1: settings are a mapping, name: value"),
        ("? [a]\n: b\n", ":1:3: a key must be text"),
        ("job: {a\n", ":2:1: while parsing a flow mapping: expected ',' or '}', but got '<stream end>'"),
        (
            "redis_password: *hunter2\n",
            ":1:17: no anchor ... stands before ...; text that begins with & * ! stands in quotes",
        ),
        ("redis_password: !hunter2!x y\n", ":1:17: while parsing a node: found undefined tag handle ..."),
        ("redis_password: !hunter2 x\n", ":1:17: the tag ... is not allowed; write plain data, and text in quotes"),
        ("job: " + "[" * 5000 + "]" * 5000, ":1:69: lists and mappings may be 64 deep at most"),
    ],
)
def test_what_a_file_must_not_say(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match="^" + re.escape(path + message)) as caught:
        load_settings(config=path)
    assert "hunter2" not in str(caught.value)


def test_all_wrong_values_are_told_with_their_lines_and_secrets_are_not(tmp_path: Path) -> None:
    path = written(tmp_path, "partitions: 0\nredis_password: [hunter2]\norchestrator: {mode: fast}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(config=path)
    problems = sorted(str(caught.value).split("; "))
    assert [problem.removeprefix(path) for problem in problems] == [
        ":1: partitions: 0: must be at least 1",
        ":2: redis_password: ***: must be text",
        ":3: orchestrator.mode: 'fast': must be one of 'dag', 'pipeline' or 'distributed'",
    ]


def test_values_that_do_not_fit_together_say_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDP_COMMIT_FRAMES", "20")
    path = written(tmp_path, "\nchannel_capacity: 39\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(config=path)
    assert str(caught.value).endswith(f"(channel_capacity: {path}:2, commit_frames: MDP_COMMIT_FRAMES)")
    with pytest.raises(ConfigError, match=r"\(orchestrator.low_watermark_pct: --orchestrator\)"):
        load_settings(orchestrator={"low_watermark_pct": 0.9})


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x{70,80}\.\.\.: must be a whole number"):
        load_settings(config=written(tmp_path, f"partitions: {'x' * 5000}"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.yaml", None, "--config: .*none.yaml: no such file"),
        ("mdp.ini", b"", "--config: .*mdp.ini: a file of settings ends in .yaml, .yml, .json, .toml"),
        ("mdp.yaml", b"job: x\njob2: \xff", "^/.*mdp.yaml:2:7: the byte 0xff is no UTF-8 text"),
        ("mdp.yaml", b"#" * (MOST_BYTES + 1), "mdp.yaml: the file is larger than 1048576 bytes"),
        ("mdp.toml", b"job = 'x'\npartitions 4\n", "mdp.toml:2: Expected '=' after a key"),
        ("mdp.toml", b"job = " + b"[" * 50_000, "mdp.toml: is nested too deeply"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        load_settings(config=str(tmp_path / name))


@given(
    st.sampled_from(["yaml", "json", "toml"]), st.text(max_size=60) | st.text("a:[]{}=\"'\n -&*!%#0,.?|>", max_size=60)
)
def test_any_text_is_a_file_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, suffix: str, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-text.{suffix}"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    with contextlib.suppress(ConfigError):
        file = read_settings_file(str(path), "--config")
        assert all(file.where((key,)) is not None for key in file.values)


@pytest.mark.parametrize(
    "text",
    [
        'orchestrator = {mode = "pipeline"}\n',
        'orchestrator.mode = "pipeline"\n',
        '[orchestrator]\n"mode" = "pipeline"\n',
    ],
)
def test_the_line_of_a_nested_setting_in_toml(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text, "mdp.toml")
    line = text.count("\n")
    assert load_settings(config=path).origin("orchestrator.mode") == f"{path}:{line}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("redis_password: 0123", "redis_password: ***: must be text; write it in quotes"),
        ("job: 1_0", "job: 10: must be text; write it in quotes"),
        ("partitions: true", "partitions: must be a number"),
        ("orchestrator: {max_concurrency: true}", "orchestrator.max_concurrency: must be a number"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_not_bent(tmp_path: Path, line: str, told: str) -> None:
    """``0123`` without quotes is the number 123, and ``true`` would be the number 1."""
    path = written(tmp_path, line)
    with pytest.raises(ConfigError) as caught:
        load_settings(config=path)
    assert str(caught.value) == f"{path}:1: {told}"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"job = 'x'\njob2 = '\xff'", ":2: is not UTF-8"),
        (b"#" * (MOST_BYTES + 1), ": the file is larger than 1048576 bytes"),
    ],
)
def test_a_toml_file_is_text_of_a_bounded_size(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "mdp.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=f"mdp.toml{told}$"):
        load_settings(config=str(tmp_path / "mdp.toml"))


def again(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a child reads that is given ``environment`` and inherits the rest."""
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    return load_settings()


def test_children_have_the_effective_values_whatever_they_inherit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited = {"REDIS_PASSWORD": "hunter2", "PARTITIONS": "2", "FRAME_ITEMS": "5", "HTTP_PORT": "8000"}
    for name, text in inherited.items():
        monkeypatch.setenv(f"MDP_{name}", text)
    monkeypatch.setenv(
        "MDP_CONFIG", written(tmp_path, "redis_password:\npartitions: 3\norchestrator: {mode: pipeline}")
    )
    settings = load_settings(partitions=4, redis_url="redis://127.0.0.1:1")
    child = again(child_environment(settings, server_address(settings), False, 2), monkeypatch)
    assert (child.config, child.redis_password, child.http_port) == (None, None, 0)
    assert (child.partitions, child.frame_items, child.orchestrator.mode) == (4, 5, "pipeline")
    own = child_environment(settings, server_address(settings), False, 2, http_port=8080)
    assert own["MDP_HTTP_PORT"] == "8080", "of the one child that is told"
    left_out = {"config", "http_port", "min_workers"}
    for leaf in leaves(Settings):
        if leaf.name not in left_out:
            assert value_at(child, leaf.path) == value_at(settings, leaf.path), leaf.name


def test_every_command_that_has_settings_takes_a_file_of_them() -> None:
    commands = [*main.commands.values(), worker, coordinator]
    names = {leaf.name for leaf in leaves(Settings)} - {"config"}
    taking = {command.name: {parameter.name for parameter in command.params} for command in commands}
    assert [name for name, options in taking.items() if names & options and "config" not in options] == []
    assert sum("config" in options for options in taking.values()) >= 10


def test_commands_read_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "job: from-the-file\npartitions: 3\n")
    assert all("mdp:{from-the-file" in rule or "from-the-file" in rule for rule in rules((), None, path))
    app = Path(__file__).parents[3] / "examples" / "bars.py"
    shown = CliRunner().invoke(main, ["keys", str(app), "--set", f"output={tmp_path}", "--config", path])
    assert shown.exit_code == 0
    assert "from-the-file" in shown.output


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["settings", *arguments])


def test_mdp_settings_shows_values_and_origins_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_REDIS_PASSWORD", "redis://hunter3")
    shown = invoke("--config", written(tmp_path, YAML), "--job", "bars", "--json")
    document = json.loads(shown.stdout)
    assert "hunter" not in shown.output
    assert list(document) == [leaf.name for leaf in leaves(Settings)]
    found = {name: (row["value"], row["origin"]) for name, row in document.items() if row["origin"] != "default"}
    assert found == {
        "config": (f"{tmp_path}/mdp.yaml", "--config"),
        "redis_url": ("redis://user:***@host:1/2", f"{tmp_path}/mdp.yaml:3"),
        "redis_password": ("***", "MDP_REDIS_PASSWORD"),
        "job": ("bars", "--job"),
        "partitions": (4, f"{tmp_path}/mdp.yaml:2"),
        "orchestrator.mode": ("pipeline", f"{tmp_path}/mdp.yaml:6"),
        "orchestrator.max_concurrency": (7, f"{tmp_path}/mdp.yaml:7"),
    }
    assert document["http_host"]["description"] == Settings.model_fields["http_host"].description


def test_mdp_settings_in_a_pipe_is_a_line_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_JOB", "a\x1b[31mb")
    lines = invoke().stdout.splitlines()
    assert len(lines) == len(list(leaves(Settings)))
    assert next(line for line in lines if line.startswith("job ")).split()[:3] == ["job", r"a\u001b[31mb", "MDP_JOB"]


def test_mdp_settings_on_a_terminal_fits_into_100_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    settings_table.show(settings_table.rows(load_settings(redis_url=f"redis://{'h' * 90}:6379/0")))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 100
    for leaf in leaves(Settings):
        assert sum(line.split(" ")[0] == leaf.name for line in lines) == 1


def test_mdp_settings_warns_of_names_that_look_like_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MDP_PARTITONS", "MDP_ORCHESTRATOR__MOOD", "MDP_QQQ", "MDP_ORDINAL", "MDP_JOB"):
        monkeypatch.setenv(name, "1")
    assert invoke().stderr.splitlines() == [
        "warning: MDP_ORCHESTRATOR__MOOD is no setting; did you mean MDP_ORCHESTRATOR__MODE?",
        "warning: MDP_PARTITONS is no setting; did you mean MDP_PARTITIONS?",
        "warning: MDP_QQQ is no setting",
    ]


def test_a_url_that_cannot_be_taken_apart_is_not_shown() -> None:
    shown = invoke("--redis-url", "hunter2")
    assert "hunter2" not in shown.output
    assert re.search(r"^redis_url +\*\*\* +--redis-url ", shown.stdout, re.M)


def test_what_only_a_job_would_refuse_is_told_behind_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_JOB", "My Job")
    monkeypatch.setenv("MDP_REDIS_URL", "hunter2")
    shown = invoke()
    assert shown.exit_code == 2
    assert re.search("^job +My Job +MDP_JOB ", shown.stdout, re.M)
    assert "error: MDP_REDIS_URL (--redis-url): does not begin with a known scheme" in shown.stderr
    assert shown.stderr.endswith("; MDP_JOB: 'My Job' is not allowed; it must match [a-z0-9-]{1,40}\n")
    assert "hunter2" not in shown.output


def test_all_mistakes_of_a_file_are_told_together_and_each_once(tmp_path: Path) -> None:
    text = "partitons: 4\npartitions: fast\nallow_volatile: [1]\norchestrator:\n  mood: dag\n  channel_capacity: 0\n"
    with pytest.raises(ConfigError) as caught:
        load_settings(config=written(tmp_path, text))
    told = [one.removeprefix(f"{tmp_path}/mdp.yaml:") for one in str(caught.value).split("; ") if "mdp.yaml:" in one]
    assert [one.split(": ")[:2] for one in told] == [
        ["1", "partitons"], ["5", "orchestrator.mood"], ["2", "partitions"], ["3", "allow_volatile"],
        ["6", "orchestrator.channel_capacity"],
    ]  # fmt: skip
    assert "Extra inputs" not in str(caught.value)


def test_wrong_settings_exit_2_before_anything_is_shown(tmp_path: Path) -> None:
    shown = invoke("--config", written(tmp_path, "partitions: many"))
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert f"{tmp_path}/mdp.yaml:1: partitions: 'many': must be a whole number" in shown.stderr


def test_every_setting_says_what_it_is() -> None:
    assert [leaf.name for leaf in leaves(Settings) if not leaf.field.description] == []
    assert isinstance(main, click.Group)


@pytest.mark.parametrize("last", [True, False])
def test_a_child_gets_what_is_its_own_in_whichever_case_it_inherits_it(
    monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """Names of the environment are settings in any case, and of two the last one counts."""
    monkeypatch.setenv("mdp_redis_url", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("mdp_http_port", "5555")
    settings = load_settings(redis_url="redis://127.0.0.1:2/0")
    child = {**os.environ, **child_environment(settings, server_address(settings), False, 2)}
    inherited = sorted((name for name in child if name.upper() in ("MDP_REDIS_URL", "MDP_HTTP_PORT")), reverse=last)
    assert len(inherited) == 4
    for name in inherited:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, child[name])
    seen = load_settings()
    assert seen.http_port == 0
    assert seen.redis_url is not None
    assert seen.redis_url.get_secret_value() == "redis://127.0.0.1:2/0"
