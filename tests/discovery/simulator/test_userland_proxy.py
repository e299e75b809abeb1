"""The relay in front of users' commands, in this process and over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from discovery.simulator.userland_proxy import Relay, Route, is_listening, parse_listening
from tests.kit.eventually import eventually

HEADING = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)
LISTENING = (
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 46 1 0\n"
)
WAITING = (
    b"   1: 03015C7F:0050 0100007F:987A 06 00000000:00000000 03:0000088A 00000000     0        0 0 3 0\n"
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def relayed(handler: Handler) -> AsyncIterator[tuple[str, int, Relay, asyncio.Server]]:
    """A program that does *handler*, and the address of a relay in front of it."""
    program = await asyncio.start_server(handler, "127.0.0.1", 0)
    route = Route("127.0.61.2", _free_port(), program.sockets[0].getsockname()[1])
    relay = Relay([route])
    running = asyncio.create_task(relay.run())
    try:
        await eventually(lambda: is_listening(route.port))
        yield route.host, route.port, relay, program
    finally:
        program.close()
        relay.finish()
        await running


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.61.2", 0))
        return int(probe.getsockname()[1])


def test_listening_ports_are_read_up_to_the_first_other_line() -> None:
    assert parse_listening(HEADING + LISTENING + LISTENING[:20]) == ({0x1F90}, False)
    assert parse_listening(HEADING + WAITING + LISTENING) == (set(), True)


def test_is_listening_sees_both_families() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.bind((address, 0))
            port = sock.getsockname()[1]
            assert not is_listening(port)
            sock.listen()
            assert is_listening(port)


@pytest.mark.asyncio
async def test_bytes_pass_both_ways_and_a_half_close_too() -> None:
    async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async with relayed(reverse) as (host, port, _, _):
        reader, writer = await asyncio.open_connection(host, port)
        body = bytes(range(256)) * 4096
        writer.write(body)
        writer.write_eof()
        assert await reader.read() == body[::-1]
        writer.close()
        await writer.wait_closed()


@pytest.mark.asyncio
async def test_what_is_cut_short_looks_cut_short() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with relayed(break_off) as (host, port, _, _):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"hello")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.asyncio
async def test_a_program_that_stops_listening_refuses_connections_but_keeps_those_it_has() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with relayed(echo) as (host, port, relay, program):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"1")
        assert await reader.read(1) == b"1"
        relay.stop_soon()
        program.close()
        await eventually(lambda: not is_listening(port))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        writer.write(b"2")
        assert await reader.read(1) == b"2"
        writer.close()
        await writer.wait_closed()


@pytest.mark.asyncio
async def test_finish_flushes_what_the_program_wrote() -> None:
    body = b"x" * 3_000_000

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        await writer.drain()
        writer.close()

    async with relayed(answer) as (host, port, relay, program):
        reader, writer = await asyncio.open_connection(host, port)
        first = await reader.readexactly(1)
        program.close()
        relay.finish()
        assert len(first + await reader.read()) == len(body)
        writer.close()
        await writer.wait_closed()


def test_bytes_that_come_before_the_relay_has_dialled_are_kept() -> None:
    """uvloop, on which the relay runs, reads on although `connection_made` paused it."""

    async def scenario() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(5))
            writer.close()

        async with relayed(echo) as (host, port, _, _):
            for _ in range(50):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"hello")
                async with asyncio.timeout(5):
                    assert await reader.read() == b"hello"
                writer.close()
                await writer.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
