"""Machines of a network on one machine: network namespaces, joined by a bridge (iproute2). Needs root."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SUBNET = "10.203.0"
"""Inside the namespaces only: nothing of it is seen outside."""
_BRIDGE = "bridge"


class NoNamespaces(Exception):
    """Why this machine cannot make any."""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")


class Network:
    """The first machine has the bridge, the others hang on it with a cable each. Made by :func:`network`."""

    def __init__(self, prefix: str, names: Sequence[str]) -> None:
        self._prefix, self._names = prefix, list(names)

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        """IP address of a machine."""
        return f"{_SUBNET}.{self._names.index(name) + 1}"

    def inside(self, name: str) -> list[str]:
        """What stands before a command that runs there. ``ip`` becomes the command, so that its process id is the command's."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def cut(self, name: str) -> None:
        """Pull the cable: nobody is told, what is sent is lost."""
        _ip("-n", self.namespace(self._names[0]), "link", "set", f"to-{name}", "down")

    def restore(self, name: str) -> None:
        """Plug it in again."""
        _ip("-n", self.namespace(self._names[0]), "link", "set", f"to-{name}", "up")

    def make(self) -> None:
        """Raises ``NoNamespaces``, with some of it perhaps made."""
        hub = self.namespace(self._names[0])
        for name in self._names:
            _ip("netns", "add", self.namespace(name))
            _ip("-n", self.namespace(name), "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", _BRIDGE, "type", "bridge")
        _ip("-n", hub, "address", "add", f"{self.address(self._names[0])}/24", "dev", _BRIDGE)
        _ip("-n", hub, "link", "set", _BRIDGE, "up")
        for name in self._names[1:]:
            far = self.namespace(name)
            _ip("-n", hub, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", far)
            _ip("-n", hub, "link", "set", f"to-{name}", "master", _BRIDGE)
            _ip("-n", far, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", far, "link", "set", "eth0", "up")
            _ip("-n", hub, "link", "set", f"to-{name}", "up")

    def delete(self) -> None:
        """All namespaces that there are; devices go with them."""
        for name in self._names:
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], capture_output=True, check=False)


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Machines of these names (at most 8 letters). Raises ``NoNamespaces`` where that cannot be."""
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no ip command (iproute2)")
    if os.geteuid() != 0:
        raise NoNamespaces("only root can make network namespaces")
    made = Network(f"mdp{secrets.token_hex(3)}", names)
    try:
        made.make()
        yield made
    finally:
        made.delete()
