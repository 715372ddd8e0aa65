"""Every exception of the system, named by who is to blame.

The graph, the input, the caller, the peer, the outside, the configuration. A message says what was wrong, where, and what
is allowed. The command line prints the message alone (``--debug`` adds the traceback) and exits with ``exit_code``.
"""


class MdpError(Exception):
    """Base of all errors that a person is meant to read. ``exit_code`` is what a command exits with."""

    exit_code = 1


class ConfigError(MdpError):
    """A setting, flag or argument is wrong: says which, its value, and what is allowed. Nothing was started."""

    exit_code = 2


class DocumentError(ConfigError):
    """A document (a pipeline as a file) is wrong. ``mistakes``: all that were found, one line each: where, what, and what is
    allowed."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class DagValidationError(MdpError, ValueError):
    """The declared graph is wrong: a cycle (shown as a path), unknown node, duplicate, missing source, and so on."""

    exit_code = 2


class RecordError(MdpError, ValueError):
    """One record cannot be used. It goes to the dead letters; it never stops the job."""


class CodecError(MdpError, ValueError):
    """Bytes that are not a valid frame, or items that cannot be written as one."""


class ChannelClosed(MdpError):
    """``put`` on a closed channel, or ``get`` on one that is closed and drained."""


class SourceError(MdpError):
    """A source cannot go on: file missing, unreadable, truncated, column not there."""


class SinkError(MdpError):
    """A sink cannot write: permission denied, disk full, the outside refuses."""


class OperatorFailed(MdpError):
    """A node met an item that it cannot use, and its policy is ``fail``: a user's function or operator raised (that error is
    the cause), a source read a bad row, or a sink's store refuses the item."""


class PlanMismatch(MdpError):
    """This process compiled another plan than the one the job runs; names both fingerprints and a difference. ``advice`` is
    for whoever started it by hand; for a process that waits to be replaced, or for its plan, it would be wrong."""

    exit_code = 2

    def __init__(self, difference: str, advice: str = "") -> None:
        super().__init__(f"{difference}. {advice}" if advice else difference)
        self.difference = difference


class JobFailed(MdpError):
    """The job ended with an error that some task met."""


class NameTaken(MdpError):
    """A worker process that started later has this one's name: this one leaves."""


class StoreUnavailable(MdpError):
    """The server cannot be reached, refuses the credentials, or must not be used as it is configured."""

    exit_code = 3


class CorruptState(MdpError):
    """A state blob fails its checksum, or an output file is shorter than was committed. Never started from empty."""


class CommitRefused(MdpError):
    """Base of the commit's refusals. Nothing was written."""


class Fenced(CommitRefused):
    """Another worker owns the partition now (epoch or lease token differ). This task stops."""


class StaleTask(CommitRefused):
    """The stored commit id or stream head is not the one this task knows: it reloads from the server."""


class JobChanged(CommitRefused):
    """Job UID or plan fingerprint on the server differ from those this task was started with."""


class LostTask(CommitRefused):
    """The task's record is missing on the server: lost data, never "new"."""
