"""Facts of a ledger as JSON, for the disk and for the other proxies of the fleet. Pure.

What leaves is what `discovery.ecs.shapes` has a place for, and that has none for environment variables or
secrets. Nothing that comes in is believed: every type, length, address and port is checked, and one that
is wrong refuses the whole. Fields that are not known here are left out, so that a newer proxy can say more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Final, get_args, get_origin, get_type_hints

import orjson

from discovery.ecs.ledger.ledger import Ledger
from discovery.ecs.shapes import Binding, Container, ContainerInstance, PortMapping, Task, TaskDefinition

VERSION: Final = 1

_TEXT_CHARACTERS: Final = 2048
_LABEL_CHARACTERS: Final = 65536
_ITEMS: Final = 1_000_000
_GONE: Final = 10_000  # the newest; one that was gone before is not news to anybody
_AT_ONCE: Final = 250  # tasks told before others get the loop
_ARN: Final = re.compile(r"arn:[!-~]{1,2044}")
_EC2_ID: Final = re.compile(r"m?i-[0-9a-zA-Z]{1,64}")


class RecordError(ValueError):
    """What came in is not a record, or not one that can be used. The text shows no value of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The private address of an EC2 instance."""

    ec2_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What EC2 has announced of an instance; "" for one that was taken back."""

    ec2_id: str
    notice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Things a ledger knows: all of them, or those that have changed since some revision."""

    definitions: tuple[TaskDefinition, ...] = ()
    instances: tuple[ContainerInstance, ...] = ()
    addresses: tuple[Address, ...] = ()
    notices: tuple[Notice, ...] = ()
    gone: tuple[str, ...] = ()  # ARNs of tasks that have stopped
    tasks: tuple[Task, ...] = ()

    def __len__(self) -> int:
        return sum(len(getattr(self, item.name)) for item in fields(self))


def facts_since(ledger: Ledger, revision: int) -> Facts:
    """Return what *ledger* knows and did not at *revision*; all of it since 0."""
    by_kind: dict[str, list[str]] = {}
    for change in ledger.since(revision):
        by_kind.setdefault(change.kind, []).append(change.key)

    def known(kind: str, there: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(there[key] for key in by_kind.get(kind, ()) if key in there)

    # A task that its agent no longer lists cannot be seen and may yet be there: nothing is said of it.
    # What is only presumed is nothing to pass on: an agent has seen it, and nobody has described it.
    presumed = ledger.undescribed
    seen = (ledger.task(arn) for arn in by_kind.get("task", ()) if arn not in presumed)
    return Facts(
        definitions=known("definition", ledger.definitions),
        instances=known("instance", ledger.instances),
        addresses=tuple(
            Address(ec2_id=key, address=ledger.addresses[key])
            for key in by_kind.get("address", ())
            if key in ledger.addresses
        ),
        notices=tuple(
            Notice(ec2_id=key, notice=ledger.notices.get(key, "")) for key in by_kind.get("notice", ())
        ),
        gone=tuple(by_kind.get("gone", ())[-_GONE:]),
        tasks=tuple(task for task in seen if task is not None),
    )


def hear(ledger: Ledger, facts: Facts, *, by: str) -> Iterator[None]:
    """Tell *ledger* all *facts*; yields now and then, so that the caller can let others have the loop."""
    for definition in facts.definitions:
        ledger.hear_definition(definition)
    for instance in facts.instances:
        ledger.hear_instance(instance)
    for known in facts.addresses:
        ledger.hear_address(known.ec2_id, known.address)
    for said in facts.notices:
        ledger.hear_notice(said.ec2_id, said.notice)
    for number, arn in enumerate(facts.gone):
        ledger.hear_gone(arn, by=by)
        if number % _AT_ONCE == _AT_ONCE - 1:
            yield
    for number, task in enumerate(facts.tasks):
        ledger.hear_task(task, by=by)
        if number % _AT_ONCE == _AT_ONCE - 1:
            yield
    yield


def read_notice(text: str) -> Notice | None:
    """Return the notice that "<EC2 id> <text>" is, None if that makes no sense."""
    ec2_id, _, said = text.partition(" ")
    if not _EC2_ID.fullmatch(ec2_id) or len(said) > _TEXT_CHARACTERS:
        return None
    return Notice(ec2_id=ec2_id, notice=said)


# --- JSON -----------------------------------------------------------------------------------------


def encode(facts: Facts, **more: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Return *facts*, and whatever else is said with them, as one JSON object."""
    return orjson.dumps({"version": VERSION, **more, "facts": facts})


def decode(body: bytes) -> tuple[Facts, Mapping[str, Any]]:
    """Return the facts of *body*, checked, and all it says, unchecked. Raises `RecordError`."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RecordError(f"not JSON: {exc}") from None
    if not isinstance(raw, Mapping):
        raise RecordError("not an object")
    if raw.get("version") != VERSION:
        raise RecordError(f"of version {str(raw.get('version'))[:20]}; this anyport reads {VERSION}")
    facts: Facts = _reader(Facts)(raw.get("facts"), "facts")
    return facts, raw


Reader = Callable[[Any, str], Any]


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_CHARACTERS:
        raise RecordError(f"{where} is no text of at most {_TEXT_CHARACTERS} characters")
    return value


def _long_text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _LABEL_CHARACTERS:
        raise RecordError(f"{where} is no text of at most {_LABEL_CHARACTERS} characters")
    return value


def _matching(pattern: re.Pattern[str], what: str, *, optional: bool = False) -> Reader:
    def read(value: object, where: str) -> str:
        if isinstance(value, str) and ((optional and not value) or pattern.fullmatch(value)):
            return value
        raise RecordError(f"{where} is no {what}")

    return read


def _whole(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise RecordError(f"{where} is no whole number")
    return value


def _port(value: object, where: str, *, lowest: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= 65535:
        raise RecordError(f"{where} is no port")
    return value


def _instant(value: object, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e11:
        raise RecordError(f"{where} is no time")
    return float(value)


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise RecordError(f"{where} is neither true nor false")
    return value


def _ip(value: object, where: str) -> str:
    try:
        return str(ipaddress.ip_address(_text(value, where)))
    except ValueError:
        raise RecordError(f"{where} is no address") from None


def _each(read: Reader) -> Reader:
    def items(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > _ITEMS:
            raise RecordError(f"{where} is no list")
        return tuple(read(item, where) for item in value)

    return items


def _label(value: object, where: str) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise RecordError(f"{where} is no pair")
    return _text(value[0], where), _long_text(value[1], where)


_ARN_TEXT: Final = _matching(_ARN, "ARN")
# What a type alone does not say.
_SPECIAL: Final[Mapping[tuple[type, str], Reader]] = {
    (Facts, "gone"): _each(_ARN_TEXT),
    (Task, "arn"): _ARN_TEXT,
    (Task, "definition_arn"): _ARN_TEXT,
    (Task, "instance_arn"): _matching(_ARN, "ARN", optional=True),
    (Task, "interfaces"): _each(_ip),
    (Container, "ipv4"): _each(_ip),
    (Container, "ipv6"): _each(_ip),
    (Binding, "first"): _port,
    (Binding, "last"): _port,
    (Binding, "host_first"): _port,
    (PortMapping, "first"): _port,
    (PortMapping, "last"): _port,
    (PortMapping, "host_port"): lambda value, where: _port(value, where, lowest=0),
    (TaskDefinition, "arn"): _ARN_TEXT,
    (ContainerInstance, "arn"): _ARN_TEXT,
    (ContainerInstance, "ec2_id"): _matching(_EC2_ID, "EC2 instance id", optional=True),
    (Address, "ec2_id"): _matching(_EC2_ID, "EC2 instance id"),
    (Address, "address"): _ip,
    (Notice, "ec2_id"): _matching(_EC2_ID, "EC2 instance id"),
}
_PLAIN: Final[Mapping[object, Reader]] = {str: _text, int: _whole, float: _instant, bool: _flag}


@cache
def _reader(kind: type) -> Reader:
    """Return what reads a *kind*, field by field as declared: a new field of a shape comes by itself."""
    hints = get_type_hints(kind)
    readers = [
        (
            item.name,
            f"{kind.__name__}.{item.name}",
            _SPECIAL.get((kind, item.name)) or _of_hint(hints[item.name]),
            item.default is MISSING and item.default_factory is MISSING,
        )
        for item in fields(kind)
    ]

    def read(raw: object, where: str) -> Any:  # noqa: ANN401 - a `kind`
        if not isinstance(raw, Mapping):
            raise RecordError(f"{where} is no object")
        values = {}
        for name, path, reader, required in readers:
            if name in raw:
                values[name] = reader(raw[name], path)
            elif required:
                raise RecordError(f"{path} is missing")
        result = kind(**values)
        _whole_spans(result)
        return result

    return read


def _of_hint(hint: Any) -> Reader:  # noqa: ANN401 - a type hint
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return _each(_label if inner == tuple[str, str] else _of_hint(inner))
    return _reader(hint)


def _whole_spans(read: object) -> None:
    if isinstance(read, (Binding, PortMapping)) and read.first > read.last:
        raise RecordError(f"{type(read).__name__} ends before it begins")
    if isinstance(read, Binding) and read.host_first + read.last - read.first > 65535:
        raise RecordError("Binding leads beyond the last port")
