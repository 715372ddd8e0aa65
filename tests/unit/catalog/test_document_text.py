"""YAML and JSON -> plain data with places, and what is refused, where."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.catalog.text import DEEPEST, MOST_BYTES, MOST_VALUES, Position, parse_text, read_text
from market_data_pipeline.errors import ConfigError

SCALARS: list[tuple[str, Any]] = [
    ("1", 1), ("-1_000", -1000), ("007", 7), ("0x1F", 31), ("0o17", 15), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0),
    ("-.inf", -math.inf), ("true", True), ("False", False), ("~", None), ("", None), ("null", None),
    ("yes", "yes"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("12:30:45", "12:30:45"), ("1.2.3", "1.2.3"),
    ("1__0", "1__0"), ("0b1", "0b1"), ("٣", "٣"), ("'1'", "1"), ('"true"', "true"), ("|\n  a\n  b\n", "a\nb\n"),
    ("<<", "<<"), ("=", "="),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_text(f"a: {text}", "x.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_every_value_and_key_has_its_place() -> None:
    text = parse_text("a:\n  - {b: 1, c: x}\n  - &d [2]\ne: *d\n", "x.yaml")
    assert text.data == {"a": [{"b": 1, "c": "x"}, [2]], "e": [2]}
    assert text.position(("a", 0, "c")) == Position(2, 15)
    assert text.position(("a", 0, "c"), key=True) == Position(2, 12)
    assert text.position(("a", 0, "not there", 7)) == Position(2, 5)
    assert text.where(("e", 0)) == "x.yaml:3:9"  # where an alias stands for something, the something


@pytest.mark.parametrize(
    "text", ["a:\n  b:\n\n# c\n  c: 1", "a:\n  b:\nc: 1", "a:\n  b: # c", "a:\n  b: ~\n", "a:\n  b: &x\n\nc: 1"]
)
def test_what_is_empty_stands_in_the_line_of_its_key(text: str) -> None:
    read = parse_text(text, "x.yaml")
    assert read.at(("a", "b")) is None
    assert read.where(("a", "b")).startswith("x.yaml:2:")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=50), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from([None, 2, "\t"]), st.booleans())
def test_json_is_yaml_here(value: Any, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if ascii_only or not any(
        "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029\ufeff\ufffe\uffff" for letter in text
    ):
        assert parse_text(text, "x.json").data == value


BILLION = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
WRONG: list[tuple[str, str | bytes, str]] = [
    ("key twice", "a: 1\nb: 2\na: 3", "3:1: the key 'a' is there twice; the first is in line 1"),
    ("tab", "a:\n\t- 1", "2:1: a tab cannot indent; use spaces"),
    ("tag", "a: !!python/name:os.system x", "1:4: the tag '!!python/name:os.system' is not allowed"),
    ("own tag", "a: !secret x", "1:4: the tag '!secret' is not allowed"),
    ("number as key", "1: x", "1:1: a key must be text, not a number; write it in quotes"),
    ("list as key", "? [a]\n: x", "1:3: a key must be text, not a list"),
    ("null as key", "{a: 1, : 2}", "1:9: a key must be text, not null"),
    ("two documents", "a: 1\n---\nb: 2", "2:1: a second document begins here; a file holds one"),
    ("YAML 1.1", "%YAML 1.1\n---\na: yes", "2:1: this is written as YAML 1.2"),
    ("no anchor", "a: *b", "1:4: no anchor &b stands before *b"),
    ("inside itself", "a: &a [*a]", "1:8: no anchor &a stands before *a"),
    ("billion laughs", BILLION, f"5:45: the document has more than {MOST_VALUES} values, those that aliases repeat"),
    ("deep", "[" * 1000, f"1:{DEEPEST + 1}: lists and mappings may be {DEEPEST} deep at most"),
    ("deep by aliases", "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40, "2:44: lists and mappings may"),
    ("not closed", 'a: "x', "1:6: while scanning a quoted scalar: found unexpected end of stream"),
    ("further in", "a:\n  b: 1\n    c: 2", "3:6: no key can stand here: it is not in the column of the others, or"),
    ("between", "a:\n    b: 1\n  c: 2", "3:3: this does not belong to what is above it: parts of one list or mapping begin in"),
    ("two colons", "a: b: c", "1:5: no key can stand here: it is not in the column of the others, or"),
    ("no UTF-8", b"a: 1\nb: \xff", "2:4: the byte 0xff is no UTF-8 text"),
    ("binary", b"\x7fELF\x01\x00", "1:1: the character U+007F is not allowed in a file"),
    ("half a pair", '"\\ud83d"', "1:1: half of a surrogate pair is no character"),
    ("no character", '"\\UFFFFFFFF"', "1:1: this is no YAML"),
    ("merge key", "a: &a {b: 1}\nc:\n  <<: *a", "3:3: there are no merge keys in YAML 1.2; write out what should stand"),
    ("too large", "a: 1e400", "1:4: this number is too large; one without end is .inf"),
    ("long number", "9" * 5000, "1:1: a number has 1000 digits at most"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_refused_says_where_and_why(text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text, "x.yaml")
    assert str(caught.value).startswith(f"x.yaml:{said}")
    assert "\n" not in str(caught.value)


def test_a_merge_key_in_quotes_is_a_key() -> None:
    assert parse_text("'<<': 1", "x.yaml").data == parse_text('{"<<": 1}', "x.json").data == {"<<": 1}


def test_what_is_no_regular_file_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is no regular file"):
        read_text(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        read_text(tmp_path / "x.yaml")


def test_a_file_is_read_up_to_its_size(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match=r"x\.yaml: no such file"):
        read_text(file)
    file.write_bytes(b"\xef\xbb\xbfa: " + b"x" * (MOST_BYTES - 6))
    assert len(read_text(file).data["a"]) == MOST_BYTES - 6
    file.write_bytes(b"a: " + b"x" * (MOST_BYTES - 2))
    with pytest.raises(ConfigError, match=r"x\.yaml: the file is larger than 1048576 bytes"):
        read_text(file)
    assert parse_text("", "x").data is None


@given(st.text() | st.binary())
def test_any_text_is_data_or_one_sentence(text: str | bytes) -> None:
    try:
        parse_text(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml:")  # noqa: PT017 - what it says is what is tested
