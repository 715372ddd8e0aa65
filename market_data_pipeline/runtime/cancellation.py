"""What ends a task without being an error to those who look for errors.

A cancellation that nobody asked for: a node awaited something that was cancelled elsewhere. For asyncio that ends a task as if
it had been told to end, in silence. And what is no ``Exception``: extensions written in Rust raise a panic so. In both cases
what the node had still to do would be missing, and nobody would know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from market_data_pipeline.errors import OperatorFailed

_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""They end the process, or at least its loop; asyncio sees to that."""


@contextmanager
def told_apart(nodes: str) -> Iterator[None]:
    """Raises ``OperatorFailed`` naming ``nodes`` for a cancellation that this task was not told (one that it was told goes on),
    and for what is no ``Exception`` and ends no process."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise OperatorFailed(
            f"{nodes}: something that it waited for was cancelled, and nobody had stopped it"
        ) from error
    except (Exception, *_ENDS):
        raise
    except BaseException as error:
        raise OperatorFailed(f"{nodes}: {type(error).__name__}: {error}") from error


def cancel_once(task: asyncio.Future[Any]) -> None:
    """Cancel ``task`` unless that was done already, by whoever ends the whole loop: another time would reach it as it cleans
    up."""
    if not (isinstance(task, asyncio.Task) and task.cancelling()):
        task.cancel()
