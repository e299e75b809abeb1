"""A file is whole, ours and of this format, or it is not believed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from discovery import keep

PAYLOAD = b'{"tasks": []}' * 100
MOST = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "ecs-prod.kept"
    keep.save(path, PAYLOAD)
    return path


def test_what_was_saved_is_loaded(path: Path) -> None:
    assert keep.load(path, most_bytes=MOST) == PAYLOAD
    keep.save(path, b"")
    assert keep.load(path, most_bytes=MOST) == b""


def test_nobody_else_can_read_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_saved_is_nothing_wrong(tmp_path: Path) -> None:
    assert keep.load(tmp_path / "none" / "x.kept", most_bytes=MOST) is None


def _write(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(change(path.read_bytes())), None)[1]


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to(path.with_name("other"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_write(lambda c: c[:-1]), "bytes"),
        (_write(lambda c: c[:20]), "ends within"),
        (_write(lambda c: c + b"x"), "bytes"),
        (_write(lambda c: c[:100] + bytes([c[100] ^ 1]) + c[101:]), "checksum"),
        (_write(lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:]), "checksum"),
        (_write(lambda _: b""), "not written by anyport"),
        (_write(lambda _: b"\x7fELF" + bytes(100)), "not written by anyport"),
        (_write(lambda c: c.replace(b"kept\n\x00\x01", b"kept\n\x00\x02", 1)), "format is 2"),
        (_write(lambda c: c + bytes(MOST)), "more than"),
        (lambda path: path.chmod(0o640), "mode is 0640"),
        (_link, "symbolic link"),
        (_fifo, "regular file"),
    ],
)
def test_what_is_not_as_it_was_written_is_not_believed(
    path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(path)

    with pytest.raises(keep.UnusableError, match=why):
        keep.load(path, most_bytes=MOST)


def test_another_users_file_is_not_believed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)

    with pytest.raises(keep.UnusableError, match="belongs to user"):
        keep.load(path, most_bytes=MOST)


def test_a_failed_write_leaves_the_last_one(path: Path) -> None:
    """The disk is full: here, a file of this process may not grow beyond a few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            keep.save(path, PAYLOAD * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    assert keep.load(path, most_bytes=MOST) == PAYLOAD
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(path: Path) -> None:
    code = (
        "import sys, pathlib; from discovery import keep\n"
        "print('go', flush=True)\n"
        "while True: keep.save(pathlib.Path(sys.argv[1]), b'x' * 300_000)\n"
    )
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert writer.stdout is not None
        with writer.stdout as said:
            said.readline()
            keep.load(path, most_bytes=MOST)
            writer.kill()
            writer.wait(20)

        assert keep.load(path, most_bytes=MOST) in (PAYLOAD, b"x" * 300_000)


def test_leftovers_of_those_who_were_killed_are_removed_in_time(path: Path) -> None:
    old, young = (path.with_name(f"{path.name}.new-{pid}") for pid in (1, 2))
    for left in (old, young):
        left.touch()
    os.utime(old, (1, 1))

    keep.load(path, most_bytes=MOST)

    assert (old.exists(), young.exists()) == (False, True)


def test_what_is_set_aside_is_kept_for_a_look_but_not_for_ever(path: Path) -> None:
    for number in range(8):
        keep.save(path, PAYLOAD)
        aside = keep.set_aside(path, now_s=1_800_000_000.0 + number)

    assert aside.name == "ecs-prod.kept.bad-20270115T080007Z"
    assert len(list(path.parent.iterdir())) == 5
    assert keep.load(path, most_bytes=MOST) is None
