"""How the listening sockets go from a running anyport to its successor, over a unix socket.

The running one offers them for as long as it serves and notices nothing. The successor starts its own
processes on them and says "ready" when those accept; only then does the running one stop accepting.
The sockets themselves are never closed, so nobody is refused, and whoever waits in an accept queue is
accepted by one or the other. A successor that fails changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_GREETING: Final = b"anyport handoff 1"  # changes with the messages
_SOCKETS: Final = b"sockets"
_SNAPSHOT: Final = b"snapshot"
_HELD: Final = b"held"
_END: Final = b"end"
_READY: Final = b"ready"
_BUSY: Final = b"busy"
_FDS_MAX: Final = 64  # in one message; the kernel takes 253
_BYTES_MAX: Final = 64
_WAIT_S: Final = 5.0  # for one message
_ROOT: Final = 0


class HandoffError(Exception):
    """There is another anyport, and it does not hand over. Arguments: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a successor gets: descriptors that stay the giver's own as well."""

    sockets: Sequence[int]  # all that listen, in any order: their addresses say what they are
    snapshot: int  # the newest table, or -1
    held: bool  # somebody outside keeps the sockets (see `Sockets.held`)


class Giver:
    """The running anyport's end. Nothing here waits for a successor longer than a moment."""

    def __init__(self, path: str, *, say: Callable[[str], None]) -> None:
        """Listen at *path*, mode 0600, in place of a socket that is left there; else `OSError`."""
        self._path = path
        self._say = say
        self._channel: socket.socket | None = None
        self._listener = _listen(path)
        self._inode = os.stat(path).st_ino

    def filenos(self) -> list[int]:
        """Return the descriptors that `serve` wants to be woken for."""
        return [sock.fileno() for sock in (self._listener, self._channel) if sock is not None]

    def serve(self, readable: Sequence[int], offer: Callable[[], Offer]) -> bool:
        """Answer who has come; return True when a successor serves and it is time to go."""
        if self._channel is not None and self._channel.fileno() in readable:
            message = _receive(self._channel)
            self._channel.close()
            self._channel = None
            if message == _READY:
                return True
            self._say("the successor did not take over; going on as before")
        if self._listener.fileno() in readable:
            self._welcome(offer)
        return False

    def close(self) -> None:
        """Offer nothing any more. The path is removed unless a successor has it already."""
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        self._listener.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _welcome(self, offer: Callable[[], Offer]) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return
        channel.settimeout(_WAIT_S)
        try:
            if not _same_user(channel):
                self._say("another user asked for the listening sockets and did not get them")
                channel.close()
            elif self._channel is not None:
                channel.send(_BUSY)
                channel.close()
            else:
                _send(channel, offer())
                self._channel = channel
                self._say("a successor has asked for the listening sockets")
        except OSError:
            channel.close()


class Predecessor:
    """The successor's end: what it was given, and how it says that it serves."""

    def __init__(self, channel: socket.socket) -> None:
        """Receive everything over *channel*; raise `HandoffError` or `OSError` if that does not work."""
        self.sockets: list[socket.socket] = []
        self.snapshot = -1
        self.held = False
        self._channel = channel
        if not _same_user(channel):
            raise HandoffError("another user's process answers there", "check who owns the folder")
        channel.settimeout(_WAIT_S)
        greeting, _ = _receive_fds(channel)
        if greeting == _BUSY:
            raise HandoffError("another successor is taking over right now", "wait for it, then try again")
        if greeting != _GREETING:
            raise HandoffError(
                "what answers there is no anyport of a version that can hand over to this one",
                "stop it, then start this one",
            )
        while (received := _receive_fds(channel))[0] != _END:
            message, fds = received
            if message == _SOCKETS:
                self.sockets += [socket.socket(fileno=fd) for fd in fds]
            elif message == _SNAPSHOT and fds:
                self.snapshot = fds[0]
            elif message == _HELD:
                self.held = True
            elif not message:
                raise HandoffError("the running anyport ended in the middle of it", "start this one again")

    def gone(self) -> bool:
        """Return whether it has ended, or been told to end, without us."""
        return bool(select.select([self._channel], [], [], 0)[0])

    def release(self) -> None:
        """Tell it, if it is still there, that its work is done."""
        with contextlib.suppress(OSError):
            self._channel.send(_READY)
        self._channel.close()

    def abandon(self) -> None:
        """Leave it as it is."""
        self._channel.close()


def take(path: str) -> Predecessor | None:
    """Return what the anyport that listens at *path* hands over, or None if none does."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.settimeout(_WAIT_S)
    try:
        channel.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        channel.close()
        return None
    except OSError as exc:
        channel.close()
        raise HandoffError(exc.strerror or str(exc), "name another path, or mend its permissions") from exc
    try:
        return Predecessor(channel)
    except OSError as exc:
        channel.close()
        raise HandoffError(
            f"the anyport there does not answer ({exc})", "stop it, then start this one"
        ) from exc
    except BaseException:
        channel.close()
        raise


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(17, "this is no socket, and not removed")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = f"{path}.{os.getpid()}"  # renamed when it listens: whoever connects finds one end or the other
    umask = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own)
        listener.bind(own)
        listener.listen(4)
        listener.setblocking(False)
        os.rename(own, path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _send(channel: socket.socket, offer: Offer) -> None:
    channel.send(_GREETING)
    for at in range(0, len(offer.sockets), _FDS_MAX):
        socket.send_fds(channel, [_SOCKETS], list(offer.sockets[at : at + _FDS_MAX]))
    if offer.snapshot >= 0:
        socket.send_fds(channel, [_SNAPSHOT], [offer.snapshot])
    if offer.held:
        channel.send(_HELD)
    channel.send(_END)


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(_BYTES_MAX)
    except OSError:
        return b""


def _receive_fds(channel: socket.socket) -> tuple[bytes, list[int]]:
    message, fds, _, _ = socket.recv_fds(channel, _BYTES_MAX, _FDS_MAX)
    for fd in fds:
        os.set_inheritable(fd, False)
    return message, list(fds)


def _same_user(channel: socket.socket) -> bool:
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (os.geteuid(), _ROOT)
