"""Plain data and records as bytes: what goes in comes out; what is broken, or has no bytes, is a CodecError."""

from typing import Any

import pytest

from market_data_pipeline.errors import CodecError
from market_data_pipeline.packing import crc32c, pack, seal, unpack, unseal
from market_data_pipeline.records import Trade

TRADE = Trade("A", 1, 2, 3.0, 4.0, "buy", 5)


def test_crc32c_is_that_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(memoryview(b"\xff" * 32)) == 0x62A8AB43


@pytest.mark.parametrize("value", [object(), 2**64, -(2**63) - 1, "\ud800", {"k": {1, object()}}, 1j])
def test_what_msgpack_has_no_word_for_is_a_codec_error(value: Any) -> None:
    with pytest.raises(CodecError):
        pack(value)


def test_pack_and_unpack_of_state() -> None:
    state = {"a": [1, b"x", None], "t": TRADE}
    assert unpack(pack(state)) == state
    with pytest.raises(CodecError, match="over the limit of 3"):
        unpack(pack("long text"), 3)


def test_seal_protects_every_bit() -> None:
    data = seal(b"state of a task")
    assert unseal(data, "here") == b"state of a task"
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError, match="window 7: checksum"):
            unseal(bytes(broken), "window 7")
    for short in (b"", b"\0\0\0"):
        with pytest.raises(CodecError, match="checksum"):
            unseal(short, "here")
    assert unseal(seal(b""), "here") == b""
