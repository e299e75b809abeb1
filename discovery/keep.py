"""One value kept in a file, so that it is whole or not there at all, and ours.

A file is written anew beside the old one, synced and renamed over it. What is read must be a regular file of
this user that nobody else can touch, of this program and format, of the length and with the sum it says. All
of it blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Final

_MAGIC: Final = b"anyport kept\n"
_FORMAT: Final = 1
_HEAD_BYTES: Final = len(_MAGIC) + 2 + 8 + 32
_BAD_FILES: Final = 5  # set aside and left for the operator; older ones are removed
_LEFTOVER_S: Final = 3600.0  # after this, a file half written belongs to nobody who still writes


class UnusableError(Exception):
    """A file that is there and must not be believed. The text says why."""


def save(path: Path, payload: bytes) -> None:
    """Write *payload* to *path*. Raises OSError; then what was there before is there still."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # With our id: a predecessor that is about to end may be writing too.
    beside = path.with_name(f"{path.name}.new-{os.getpid()}")
    head = (
        _MAGIC
        + _FORMAT.to_bytes(2, "big")
        + len(payload).to_bytes(8, "big")
        + hashlib.sha256(payload).digest()
    )
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(made, "wb") as file:
            file.write(head)
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(path.parent)


def load(path: Path, *, most_bytes: int) -> bytes | None:
    """Return what was saved last, None if nothing was. Raises `UnusableError`, and OSError from the disk."""
    _remove_leftovers(path)
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if path.is_symlink():
            raise UnusableError("it is a symbolic link") from exc
        raise
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UnusableError("it is no regular file")
        if found.st_uid != os.geteuid():
            raise UnusableError(f"it belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & 0o077:
            raise UnusableError(f"its mode is {stat.S_IMODE(found.st_mode):04o}: others can get at it")
        if found.st_size > _HEAD_BYTES + most_bytes:
            raise UnusableError(f"it has {found.st_size} bytes, more than {most_bytes}")
        content = file.read(_HEAD_BYTES + most_bytes + 1)
    return _payload(content)


def _payload(content: bytes) -> bytes:
    if not content.startswith(_MAGIC):
        raise UnusableError("it was not written by anyport")
    if len(content) < _HEAD_BYTES:
        raise UnusableError("it ends within its first bytes")
    at = len(_MAGIC)
    written = int.from_bytes(content[at : at + 2], "big")
    if written != _FORMAT:
        raise UnusableError(f"its format is {written}; this anyport reads {_FORMAT}")
    length = int.from_bytes(content[at + 2 : at + 10], "big")
    payload = content[_HEAD_BYTES:]
    if len(payload) != length:
        raise UnusableError(f"it has {len(payload)} of {length} bytes")
    if hashlib.sha256(payload).digest() != content[at + 10 : _HEAD_BYTES]:
        raise UnusableError("its content does not add up to its checksum")
    return payload


def set_aside(path: Path, *, now_s: float | None = None) -> Path:
    """Rename *path* to `<name>.bad-<time>`, so that an operator can look at it; return the new path."""
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    aside = path.with_name(f"{path.name}.bad-{at}")
    path.rename(aside)
    for old in sorted(path.parent.glob(f"{path.name}.bad-*"))[:-_BAD_FILES]:
        with contextlib.suppress(OSError):
            old.unlink()
    return aside


def _remove_leftovers(path: Path) -> None:
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f"{path.name}.new-*"):
            if time.time() - left.stat().st_mtime > _LEFTOVER_S:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
