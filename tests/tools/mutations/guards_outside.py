"""What is checked of objects of other packages."""

from __future__ import annotations

from tools.mutations.mutation import Mutation

SINK = "market_data_pipeline/sinks/outside.py"
KILLED = "tests/unit/sinks/test_sinks_outside_killed.py::test_nothing_is_missing_when_writers_are_killed"


def _outside() -> list[Mutation]:
    return [
        Mutation(
            "outside: nothing is committed that a coordinator's workers hold",
            SINK,
            'if self.settle == "restart":',
            "if False:",
            ("tests/unit/sinks/test_sinks_outside.py", KILLED),
        ),
        Mutation(
            "outside: nothing is committed that was not flushed",
            SINK,
            'if callable(getattr(self._object, "flush", None)):',
            "if False:",
            (KILLED,),
        ),
        Mutation(
            "outside: a time without a zone is none",
            "market_data_pipeline/adapters/outside.py",
            "if value.utcoffset() is None:",
            "if False:",
            ("tests/unit/adapters/test_outside_records.py::test_what_is_missing_or_wrong_is_named_with_its_object",),
        ),
        Mutation(
            "outside: a stream's instruments have names of their own",
            "market_data_pipeline/sources/outside_streams.py",
            "if len(set(names)) < len(names):",
            "if False:",
            ("tests/unit/sources/test_sources_outside.py",),
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_outside(),)
