"""Frame boundaries of a WebSocket, whatever the pieces it arrives in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.worker.http1.frames import FrameTracker

_LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([124, 125, 126, 127, 128, 65_535, 65_536, 70_000]))


def frame(size: int, opcode: int = 2, *, fin: bool = True, mask: bool = False) -> bytes:
    """Return a frame with *size* bytes of payload that look like headers."""
    head = bytes([opcode | 0x80 * fin])
    bit = 0x80 * mask
    if size < 126:
        head += bytes([size | bit])
    elif size < 65_536:
        head += bytes([126 | bit]) + size.to_bytes(2, "big")
    else:
        head += bytes([127 | bit]) + size.to_bytes(8, "big")
    return head + b"\x8a\x00\x85\x01" * mask + (b"\x88\x02\x03\xe9" * (size // 4 + 1))[:size]


@given(
    st.lists(st.tuples(_LENGTHS, st.sampled_from([0, 1, 2, 9, 10]), st.booleans()), min_size=1, max_size=5),
    st.data(),
)
def test_it_knows_every_boundary_however_the_stream_is_cut(
    frames: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    stream, boundaries = b"", {0}
    for size, opcode, mask in frames:
        stream += frame(size, opcode, mask=mask)
        boundaries.add(len(stream))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream)), max_size=12)) | boundaries - {0})
    tracker, at = FrameTracker(), 0
    for cut in cuts:
        tracker.feed(stream[at:cut])
        at = cut
        assert tracker.between_frames == (cut in boundaries)
    assert not tracker.closed


def test_it_sees_a_close_frame_go_by_in_any_pieces() -> None:
    for cut in range(1, 8):
        tracker = FrameTracker()
        stream = frame(2) + frame(2, 8)
        tracker.feed(stream[:cut])
        tracker.feed(stream[cut:])
        assert tracker.closed
        assert tracker.between_frames


def test_a_marker_of_a_longer_length_is_no_length() -> None:
    """126 and 127 say where the length is; a piece of just the size they would mean is not a whole frame."""
    for size, piece in ((200, 128), (70_000, 129)):
        tracker = FrameTracker()
        tracker.feed(frame(size)[:piece])
        assert not tracker.between_frames
