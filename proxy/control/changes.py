"""What changed between two tables, in lines an operator can read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.control.compose import address, check_id, state
from proxy.link.snapshots import BackendRow, ServiceRow, TableSnapshot


def changes(old: TableSnapshot, new: TableSnapshot) -> Iterator[str]:
    """Yield one line for each real change from *old* to *new*, services first."""
    if new.loaded and not old.loaded:
        yield f"table loaded: {len(new.services)} services, {len(new.backends)} backends"
    if new.services is not old.services:
        yield from _services(old.services, new.services)
    if new.by_service is old.by_service:
        return
    rows_before = old.by_service.get
    for name, rows in new.by_service.items():
        if rows_before(name) is not rows:
            yield from _service_changes(rows_before(name, ()), rows)
    for name in old.by_service.keys() - new.by_service.keys():
        yield from _service_changes(old.by_service[name], ())


def _services(old: Iterable[ServiceRow], new: Iterable[ServiceRow]) -> Iterator[str]:
    old_services = {row.name: row for row in old}
    new_services = {row.name: row for row in new}
    for name in old_services.keys() - new_services.keys():
        yield f"service {name} removed"
    for name, service in new_services.items():
        before = old_services.get(name)
        if before is None:
            yield f"service {name} added: {_asked_for(service.hosts, service.path)}"
        elif (before.hosts, before.path) != (service.hosts, service.path):
            yield f"service {name} now answers to {_asked_for(service.hosts, service.path)}"


def _service_changes(old: Iterable[BackendRow], new: Iterable[BackendRow]) -> Iterator[str]:
    old_rows = {check_id(row): row for row in old}
    new_rows = {check_id(row): row for row in new}
    for key in old_rows.keys() - new_rows.keys():
        row = old_rows[key]
        yield f"{_name(row)} removed from {address(row)}"
    for key, row in new_rows.items():
        before = old_rows.get(key)
        if before is not row:
            yield from _row_changes(before, row)


def _row_changes(old: BackendRow | None, new: BackendRow) -> Iterator[str]:
    why = f": {new.reason}" if new.reason else ""
    if old is None:
        where = f"at {address(new)}" + (f" in {new.zone}" if new.zone else "")
        yield f"{_name(new)} added {where}, {state(new)}{why}"
        return
    if address(old) != address(new):
        yield f"{_name(new)} moved from {address(old)} to {address(new)}"
    if new.suspended != old.suspended:
        yield f"{_name(new)} suspended{why}" if new.suspended else f"{_name(new)} no longer suspended"
    if new.draining != old.draining:
        yield f"{_name(new)} draining{why}" if new.draining else f"{_name(new)} no longer draining"
    if new.healthy != old.healthy:
        yield f"{_name(new)} healthy" if new.healthy else f"{_name(new)} unhealthy{why}"


def _name(row: BackendRow) -> str:
    return f"{row.service} task {short_task(row)} ({row.container}:{row.container_port})"


def short_task(row: BackendRow) -> str:
    """Return what tells tasks apart in a log line: the first 8 digits of the id, or the address."""
    if not row.task_arn.startswith("arn:"):
        return row.task_arn.partition(":")[2]
    return row.task_arn.rpartition("/")[2][:8]


def _asked_for(hosts: tuple[str, ...], path: str) -> str:
    names = ", ".join(hosts) if hosts else "no host"
    return names if path == "/" else f"{names}, path {path}"
