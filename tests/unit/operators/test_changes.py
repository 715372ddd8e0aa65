"""Which parts of a state a commit must write."""

from market_data_pipeline.operators.changes import Changes


def test_changes_tell_what_to_write_and_what_to_delete_once() -> None:
    changes, blobs = Changes(), {1: b"a", 2: b"b"}
    changes.touch([1, 2, 3])
    assert changes.take(blobs.get) == {"1": b"a", "2": b"b"}
    assert changes.take(blobs.get) == {}
    del blobs[1]
    changes.touch([1])
    assert changes.take(blobs.get) == {"1": None}
    changes.touch([1])
    assert changes.take(blobs.get) == {}
    changes.restored([9])
    changes.touch([9])
    assert changes.take(blobs.get) == {"9": None}
