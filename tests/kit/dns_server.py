"""A small DNS server on loopback, over UDP and TCP, that says what it is told, or nothing, or nonsense."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal, cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Mood = Literal["answer", "silent", "servfail", "refused", "garbage", "truncated"]
_UDP_BYTES: Final = 512


class DnsServer:
    """Set `records` and `mood` at any time; `asked` has every question, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.mood: Mood = "answer"
        self.moods: dict[str, Mood] = {}  # by record type, over `mood`
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.asked: list[tuple[str, str, str]] = []  # name, type, "udp" or "tcp"

    def say(self, name: str, kind: str, *values: str, ttl_s: int = 60) -> None:
        """Let *name* have these records of *kind*; without values none."""
        self.records.pop((name, kind), None)
        if values:
            self.records[name, kind] = (ttl_s, list(values))

    def answer(self, query: bytes, over: str) -> bytes | None:
        """Return what to send back for *query*."""
        try:
            asked = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return None
        question = asked.question[0]
        name = question.name.to_text().rstrip(".").lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, over))
        mood = self.moods.get(kind, self.mood)
        if mood == "silent":
            return None
        if mood == "garbage":
            return query[:2] + b"\x84\x00\x00\x01\xff\xff\x00\x00" + b"\xc0" * 40
        reply = dns.message.make_response(asked)
        reply.flags |= dns.flags.AA | dns.flags.RA
        if mood in ("servfail", "refused"):
            reply.set_rcode(dns.rcode.SERVFAIL if mood == "servfail" else dns.rcode.REFUSED)
            return reply.to_wire()
        if over == "udp" and mood == "truncated":
            reply.flags |= dns.flags.TC
            return reply.to_wire()
        self._fill(reply, name, kind)
        wire = reply.to_wire()
        if over == "udp" and len(wire) > _UDP_BYTES:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            return reply.to_wire()
        return wire

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(20):  # as long as it leads on, but not round in circles
            if (name, "CNAME") not in self.records:
                break
            ttl_s, (target,) = self.records[name, "CNAME"]
            reply.answer.append(dns.rrset.from_text(f"{name}.", ttl_s, "IN", "CNAME", f"{target}."))
            name = target.lower()
        if (name, kind) in self.records:
            ttl_s, values = self.records[name, kind]
            reply.answer.append(dns.rrset.from_text(f"{name}.", ttl_s, "IN", kind, *values))
        elif not any(known == name for known, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.answer(data, "udp")
        if reply is not None:
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def dns_server(port: int = 0) -> AsyncIterator[DnsServer]:
    """Yield a server on 127.0.0.1 and one port for both."""
    server = DnsServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                reply = server.answer(await reader.readexactly(size), "tcp")
                if reply is not None:
                    writer.write(len(reply).to_bytes(2, "big") + reply)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    tcp, udp_socket = _pair(port)
    server.port = udp_socket.getsockname()[1]
    listening = await asyncio.start_server(serve, sock=tcp)
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), sock=udp_socket)
    try:
        yield server
    finally:
        transport.close()
        listening.close()
        await listening.wait_closed()


def _pair(port: int) -> tuple[socket.socket, socket.socket]:
    """Return a TCP and a UDP socket of one port, which no other test has."""
    for _ in range(100):
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", port))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            continue
        return tcp, udp
    raise AssertionError("no port is free for both")
