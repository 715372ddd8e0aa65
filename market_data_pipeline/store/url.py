"""The server's address: what a URL may say, what TLS needs, and how an address is shown. No connection is made here.

Nothing of a URL is ever repeated in an error: where it cannot be taken apart, nobody knows which part is the password.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from market_data_pipeline.errors import ConfigError

REDIS_PORT, SENTINEL_PORT = 6379, 26379
_SCHEMES = {"redis": False, "rediss": True, "unix": False, "redis+sentinel": False, "rediss+sentinel": True}
"""Scheme -> whether it means TLS."""
_FORMS = (
    "redis://[user:password@]host[:port][/db], unix://[user:password@]/path[?db=N], or"
    " redis+sentinel://[user:password@]host[:port],host[:port]/<master name>[/db]; with TLS rediss, rediss+sentinel"
)
_WHAT = "MDP_REDIS_URL (--redis-url)"


@dataclass(frozen=True)
class Tls:
    """Files for TLS, PEM. Without ``ca`` the system's authorities are trusted, with it this one as well."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def given(self) -> bool:
        """Whether any file is named."""
        return any((self.ca, self.cert, self.key))


@dataclass(frozen=True)
class Address:
    """Where the server is and who we are there. ``master`` is set when ``hosts`` are sentinels, ``path`` for a socket."""

    url: str = field(repr=False)
    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    db: int = 0
    master: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        """For people: without the password."""
        user = "" if self.username is None and self.password is None else (self.username or "") + "@"
        if self.password is not None:
            user = f"{self.username or ''}:***@"
        place = self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        master = f"/{self.master}" if self.master else ""
        db = f"/{self.db}" if not self.path else f"?db={self.db}" if self.db else ""
        return f"{self.scheme}://{user}{place}{master}{db}"

    def plaintext_hosts(self) -> list[str]:
        """Hosts that would be spoken to in plain text over a network."""
        return [] if self.tls is not None or self.path else [host for host, _ in self.hosts if not is_loopback(host)]


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an IP) is this machine for sure. Names are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in ("localhost", "ip6-localhost", "ip6-loopback")


def parse_address(url: str, tls: Tls | None = None, sentinel_password: str | None = None) -> Address:
    """``url`` taken apart. Raises ``ConfigError``, which never repeats any of it."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    tls = tls or Tls()
    if "cluster" in scheme:
        raise ConfigError(
            f"{_WHAT}: names a cluster; a commit touches several slots: use one primary, standalone or under Sentinel"
        )
    if scheme not in _SCHEMES:
        raise ConfigError(f"{_WHAT}: does not begin with a known scheme; write {_FORMS}")
    if tls.given() and not _SCHEMES[scheme]:
        raise ConfigError(
            f"MDP_REDIS_CA, MDP_REDIS_CERT and MDP_REDIS_KEY are for TLS, and the address is {scheme}://; write rediss://"
        )
    if sentinel_password is not None and not scheme.endswith("sentinel"):
        raise ConfigError(f"MDP_SENTINEL_PASSWORD is for sentinels, and the address is {scheme}://")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _malformed("it cannot be taken apart") from None
    if "@" not in parts.netloc and "@" in url and scheme != "unix":
        raise _malformed("a character such as / ? # in the user or password must be percent-encoded")
    if scheme.endswith("sentinel"):
        address = _sentinel(url, scheme, parts, sentinel_password)
    elif scheme == "unix":
        address = _socket(url, scheme, parts)
    else:
        address = _single(url, scheme, parts)
    if not _SCHEMES[scheme]:
        return address
    ssl_context(tls)
    return replace(address, tls=tls)


def with_credentials(address: Address, username: str | None, password: str | None) -> Address:
    """``address`` for this user, where it names none itself. Raises ``ConfigError`` where both do."""
    if username is None and password is None:
        return address
    if address.username is not None or address.password is not None:
        raise ConfigError(
            f"{_WHAT}: holds a user or password, and MDP_REDIS_USERNAME or MDP_REDIS_PASSWORD is set as well; give one of them"
        )
    return replace(address, username=username, password=password)


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Verifies certificate and host name. Raises ``ConfigError`` naming the file that does not do."""
    context = ssl.create_default_context()
    if tls.ca is not None:
        try:
            context.load_verify_locations(cafile=tls.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"MDP_REDIS_CA: {tls.ca}: {_why(error, 'certificates in PEM')}") from None
    if (tls.cert is None) != (tls.key is None):
        raise ConfigError("MDP_REDIS_CERT and MDP_REDIS_KEY go together: a client certificate needs its key")
    if tls.cert is not None and tls.key is not None:
        for name, path in (("MDP_REDIS_CERT", tls.cert), ("MDP_REDIS_KEY", tls.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{name}: {path}: {_why(error, '')}") from None
        try:
            # an encrypted key would make OpenSSL ask for its password on the terminal
            context.load_cert_chain(tls.cert, tls.key, password=b"")
        except (OSError, ssl.SSLError) as error:
            wanted = "a certificate and its own, unencrypted key in PEM"
            raise ConfigError(f"MDP_REDIS_CERT {tls.cert}, MDP_REDIS_KEY {tls.key}: {_why(error, wanted)}") from None
    return context


def _why(error: OSError, wanted: str) -> str:
    return f"not {wanted}" if isinstance(error, ssl.SSLError) else str(error.strerror or error)


def _malformed(reason: str) -> ConfigError:
    return ConfigError(f"{_WHAT}: {reason} (not shown, it may hold a password); write {_FORMS}")


def _single(url: str, scheme: str, parts: SplitResult) -> Address:
    username, password, rest = _credentials(parts)
    if parts.query or parts.fragment:
        raise _malformed("it has a '?' or '#' part; options are settings of their own")
    return Address(
        url, scheme, (_host(rest, REDIS_PORT),), db=_db(parts.path.strip("/")), username=username, password=password
    )


def _socket(url: str, scheme: str, parts: SplitResult) -> Address:
    username, password, rest = _credentials(parts)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if rest or not parts.path or query.keys() - {"db"} or parts.fragment:
        raise _malformed("a socket's path begins with a slash, and only ?db=N may follow")
    path = unquote(parts.path)
    return Address(url, scheme, path=path, db=_db(query.get("db", "")), username=username, password=password)


def _sentinel(url: str, scheme: str, parts: SplitResult, sentinel_password: str | None) -> Address:
    username, password, rest = _credentials(parts)
    master, _, db = parts.path.strip("/").partition("/")
    if not master or parts.query or parts.fragment:
        raise _malformed("the sentinels' hosts are followed by /<master name>")
    hosts = tuple(_host(host, SENTINEL_PORT) for host in rest.split(","))
    return Address(
        url, scheme, hosts, db=_db(db), master=unquote(master), username=username, password=password,
        sentinel_password=sentinel_password,
    )  # fmt: skip


def _credentials(parts: SplitResult) -> tuple[str | None, str | None, str]:
    """User, password (decoded), and what follows them."""
    given, _, rest = parts.netloc.rpartition("@")
    user, _, password = given.partition(":")
    return unquote(user) or None, unquote(password) or None, rest


def _host(text: str, default_port: int) -> tuple[str, int]:
    bracketed, bracket, after = text.partition("]")
    host, _, port = (bracketed[1:], *after.partition(":")[1:]) if bracket else text.partition(":")
    if not host or (bracket and (bracketed[0] != "[" or after[:1] not in ("", ":"))):
        raise _malformed("the host is missing, or is not one")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise _malformed("the port is not a number from 1 to 65535")
    return host, int(port or default_port)


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise _malformed("the database is not a number")
    return int(text or 0)


def address_of_argument(url: SecretStr | str, tls: Tls) -> Address:
    """The address that a connector got as its argument ``url``. Raises ``ConfigError``, which names the argument: what
    :func:`parse_address` says is about the job's own server."""
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        return parse_address(text, tls)
    except ConfigError as error:
        raise ConfigError(f"url: {str(error).partition(': ')[2] or error}") from None
