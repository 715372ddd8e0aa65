"""What the three commands share: options, settings, logging, and errors as one clear line."""

from __future__ import annotations

import functools
import logging
import ssl
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from market_data_pipeline.errors import DocumentError, MdpError
from market_data_pipeline.terminal import visible

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""The exit code after Ctrl-C."""
_STARTING = ("run", "mdp-coordinator", "mdp-worker")
"""Commands that take the signal themselves once they have started something."""
SERVER = ("redis_url", "redis_ca", "redis_cert", "redis_key")
"""Options that say where the server is."""
SERVICE = ("allow_volatile", "http_host", "http_port", "lease_ttl_ms", "log_level", "config", "debug")
"""Options of the services, and of ``mdp run``, which starts them."""

_OPTIONS: dict[str, Any] = {
    "config": click.option("--config", metavar="FILE", help="Settings from this file (MDP_CONFIG)."),
    "redis_url": click.option("--redis-url", metavar="URL", help="Server to use (MDP_REDIS_URL)."),
    "redis_ca": click.option("--redis-ca", metavar="FILE", help="Authority to trust for TLS (MDP_REDIS_CA)."),
    "redis_cert": click.option("--redis-cert", metavar="FILE", help="Client certificate (MDP_REDIS_CERT)."),
    "redis_key": click.option("--redis-key", metavar="FILE", help="Its key (MDP_REDIS_KEY)."),
    "job": click.option("--job", metavar="NAME", help="Job name (MDP_JOB); default: the name of the Dag."),
    "await_plan": click.option(
        "--await-plan", is_flag=True, default=None, help="Wait while the job has another plan (MDP_AWAIT_PLAN)."
    ),
    "partitions": click.option("--partitions", type=int, metavar="P", help="Hash partitions (MDP_PARTITIONS) [8]."),
    "sets": click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Fill a parameter of the app."),
    "allow_volatile": click.option(
        "--allow-volatile", is_flag=True, default=None, help="Accept a server without append-only file."
    ),
    "http_host": click.option("--http-host", metavar="HOST", help="Address of /metrics (MDP_HTTP_HOST) [127.0.0.1]."),
    "http_port": click.option("--http-port", type=int, metavar="PORT", help="Port of /metrics (MDP_HTTP_PORT) [any]."),
    "lease_ttl_ms": click.option("--lease-ttl-ms", type=int, metavar="MS", help="When a silent worker is dead [3000]."),
    "log_level": click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR (MDP_LOG_LEVEL)."),
    "debug": click.option("--debug", is_flag=True, help="Show tracebacks."),
}


def options(*names: str) -> Callable[[F], F]:
    """The named shared options, in order."""

    def decorate(fn: F) -> F:
        for name in reversed(names):
            fn = _OPTIONS[name](fn)
        return fn

    return decorate


class _ToldAlready(logging.Filter):
    """When the remains of a broken connection are collected, asyncio reports its end once more, with a traceback. Whoever
    used the connection has been told."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, ConnectionError | ssl.SSLError) and "never retrieved" in record.getMessage())


_TOLD_ALREADY = _ToldAlready()


def _told(error: MdpError) -> str:
    """The message; several mistakes of a document are a line each."""
    if isinstance(error, DocumentError) and len(error.mistakes) > 1:
        return "\n".join([f"{len(error.mistakes)} mistakes", *map(visible, error.mistakes)])
    return visible(str(error))


def one_line_errors(fn: F) -> F:
    """Errors meant for people become one line and an exit code; with ``--debug`` the traceback comes first."""

    @functools.wraps(fn)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        logging.getLogger("asyncio").addFilter(_TOLD_ALREADY)
        debug = bool(kwargs.get("debug"))
        try:
            return fn(*args, **kwargs)
        except KeyboardInterrupt:
            context = click.get_current_context()
            early = " before anything was started" if context.info_name in _STARTING else ""
            click.echo(f"{context.command_path}: interrupted{early}", err=True)
            sys.exit(INTERRUPTED)
        except MdpError as error:
            if debug:
                click.echo(visible(traceback.format_exc(), lines=True), err=True)
            click.echo(f"{click.get_current_context().command_path}: error: {_told(error)}", err=True)
            sys.exit(error.exit_code)

    return guarded  # type: ignore[return-value]


class _VisibleFormatter(logging.Formatter):
    """One line per message, whatever it quotes; only tracebacks have more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return visible(super().formatException(ei), lines=True)


def set_up_logging(level: str) -> None:
    """Lines on standard error: time, level, where, message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_VisibleFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
