"""Secrets as files that the pod mounts: read when a call needs them, read again when kubelet has put new ones there."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marty_msf.core.errors import MartyError
from marty_msf.core.saga.calling import SecretFile

#: How soon a rotated secret is used.
LOOK_SECONDS: Final = 1.0
_LIMIT_BYTES: Final = 1024 * 1024
#: What stands in a header goes over the wire as it is; nothing may end the line.
_LONGEST_HEADER: Final = 8192


class SecretUnreadable(MartyError):
    """A secret that a step needs is missing, or is not what it is used for. Never holds the secret's value."""

    retryable = True


@dataclass(slots=True)
class _Kept:
    looked: float
    stamp: tuple[int, int, int]
    value: object


class SecretFiles:
    """The Secrets under one directory: `<directory>/<name of the Secret>/<key>`."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._kept: dict[tuple[SecretFile, str], _Kept] = {}

    def header(self, secret: SecretFile) -> str:
        """A header's value: the file's text without the newline at its end. Raises SecretUnreadable."""
        return str(self._value(secret, "header", self._read_header))

    def redis_url(self, secret: SecretFile) -> str:
        """The address of a Redis. Raises SecretUnreadable."""
        return str(self._value(secret, "redis", self._read_redis_url))

    def trust(self, secret: SecretFile) -> ssl.SSLContext:
        """A TLS client that trusts exactly the certificates of the file. Raises SecretUnreadable."""
        value = self._value(secret, "ca", self._read_trust)
        assert isinstance(value, ssl.SSLContext)
        return value

    def _value(self, secret: SecretFile, use: str, read: Callable[[SecretFile, Path], object]) -> object:
        kept = self._kept.get((secret, use))
        now = self._clock()
        if kept is not None and now - kept.looked < LOOK_SECONDS:
            return kept.value
        path = self._directory / secret.name / secret.key
        try:
            found = path.stat()
            # kubelet swaps whole directories, so that a new file is another inode even within one tick of the clock.
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if kept is not None and kept.stamp == stamp:
                kept.looked = now
                return kept.value
            if found.st_size > _LIMIT_BYTES:
                raise SecretUnreadable(f"{_name(secret)} has {found.st_size} bytes: put only what is needed there")
            value = read(secret, path)
        except OSError as error:
            raise SecretUnreadable(
                f"{_name(secret)} cannot be read ({error.strerror}): create the Secret with this key in the saga's namespace"
            ) from None
        self._kept[secret, use] = _Kept(now, stamp, value)
        return value

    @staticmethod
    def _read_header(secret: SecretFile, path: Path) -> str:
        try:
            text = path.read_bytes().decode("ascii").rstrip("\r\n")
        except UnicodeDecodeError:
            text = ""
        if not 1 <= len(text) <= _LONGEST_HEADER or not text.isprintable():
            raise SecretUnreadable(
                f"{_name(secret)} is no header value: put 1 to {_LONGEST_HEADER} printable ASCII characters there"
            )
        return text

    @staticmethod
    def _read_redis_url(secret: SecretFile, path: Path) -> str:
        try:
            text = path.read_bytes().decode("ascii").strip()
        except UnicodeDecodeError:
            text = ""
        if not text.startswith(("redis://", "rediss://")):
            raise SecretUnreadable(f"{_name(secret)} is no URL of a Redis: put redis://host:6379/0 or rediss://… there")
        return text

    @staticmethod
    def _read_trust(secret: SecretFile, path: Path) -> ssl.SSLContext:
        try:
            text = path.read_text("ascii")
            if not text.strip():  # the system's certificates would be trusted
                raise ValueError("empty")  # noqa: TRY301
            return ssl.create_default_context(cadata=text)
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise SecretUnreadable(f"{_name(secret)} holds no certificates: put them there in PEM form") from None


def _name(secret: SecretFile) -> str:
    return f"key {secret.key!r} of Secret {secret.name!r}"
