"""The agent's list of tasks: its quirks, and what must not be believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.ecs.instance.sightings import Reader
from discovery.ecs.shapes import Binding
from discovery.model import DiscoveryError

INSTANCE = "arn:aws:ecs:eu-west-1:111122223333:container-instance/prod/1f73d099b914411c9a9ff81633b7741d"
TASK = "arn:aws:ecs:eu-west-1:111122223333:task/prod/4d590253bb114126b7afa7b58eea9221"
OTHER = "arn:aws:ecs:eu-west-1:111122223333:task/prod/00000000000000000000000000000001"

PORT = {"ContainerPort": 8080, "Protocol": "tcp", "HostPort": 32771}


def app(**changes: Any) -> dict[str, Any]:
    return {"DockerId": "9125", "Name": "app", "Image": "x", "Ports": [PORT], **changes}


def task(**changes: Any) -> dict[str, Any]:
    return {
        "Arn": TASK,
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Family": "web",
        "Version": "42",
        "Containers": [app()],
        **changes,
    }


def body(*tasks: object) -> bytes:
    return json.dumps({"Tasks": tasks}).encode()


def read_one(**changes: Any) -> Any:
    (sighting,) = Reader(INSTANCE).read(body(task(**changes)))
    return sighting


def test_a_running_task() -> None:
    sighting = read_one()

    assert (sighting.arn, sighting.definition) == (TASK, "web:42")
    assert (sighting.known_status, sighting.desired_status) == ("RUNNING", "RUNNING")
    (container,) = sighting.containers
    assert (container.name, container.last_status, container.runtime_id) == ("app", "RUNNING", "9125")
    assert container.bindings == (Binding(first=8080, last=8080, host_first=32771),)


def test_a_port_without_a_host_port_is_not_bound_yet() -> None:
    ports = [{"ContainerPort": 8080, "Protocol": "tcp"}, {"ContainerPort": 81, "HostPort": 0}]

    assert read_one(Containers=[app(Ports=ports)]).containers[0].bindings == ()


def test_a_port_bound_for_ipv4_and_ipv6_is_one() -> None:
    sighting = read_one(Containers=[app(Ports=[PORT, {**PORT, "HostPort": 32772, "Protocol": "udp"}, PORT])])

    assert [b.host_first for b in sighting.containers[0].bindings] == [32771, 32772]


def test_in_awsvpc_mode_the_networks_are_told_instead() -> None:
    networks = [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.5"], "IPv6Addresses": ["2001:DB8::5"]}]
    (container,) = read_one(Containers=[app(Networks=networks)]).containers

    assert (container.ipv4, container.ipv6, container.bindings) == (("10.0.1.5",), ("2001:db8::5",), ())


def test_what_it_leaves_out_it_leaves_out() -> None:
    bare = task(Containers=[{"Name": "app"}])
    del bare["DesiredStatus"]
    (sighting,) = Reader(INSTANCE).read(body(bare))

    assert sighting.desired_status == ""
    assert sighting.containers[0].bindings == ()


def test_order_means_nothing() -> None:
    reader = Reader(INSTANCE)
    sidecar, other = app(Name="sidecar"), task(Arn=OTHER)
    one = {s.arn: s for s in reader.read(body(task(Containers=[app(), sidecar]), other))}
    two = {s.arn: s for s in reader.read(body(other, task(Containers=[sidecar, app()])))}

    assert one == two
    assert two[OTHER] is one[OTHER], "what is as before is not read again"


@pytest.mark.parametrize("empty", [b'{"Tasks": null}', b'{"Tasks": []}'])
def test_an_agent_without_tasks(empty: bytes) -> None:
    assert list(Reader(INSTANCE).read(empty)) == []


def test_tasks_of_a_cluster_the_instance_has_left_are_passed_over() -> None:
    assert list(Reader(INSTANCE).read(body(task(Arn=TASK.replace("/prod/", "/old/"))))) == []


def test_task_arns_of_the_old_format() -> None:
    arn = "arn:aws:ecs:eu-west-1:111122223333:task/4d590253-bb11-4126-b7af-a7b58eea9221"
    assert read_one(Arn=arn).arn == arn


def test_containers_of_a_stopped_task_are_not_looked_at() -> None:
    assert read_one(KnownStatus="STOPPED", Containers=[{"Name": 7}]).containers == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"Arn": TASK.replace("111122223333", "999999999999")},
        {"Arn": TASK.replace("eu-west-1", "us-east-1")},
        {"Arn": INSTANCE},
        {"Arn": None},
        {"KnownStatus": "HAPPY"},
        {"DesiredStatus": "HAPPY"},
        {"Version": "42a"},
        {"Version": 42},
        {"Version": "1" * 10},
        {"Family": ""},
        {"Family": "w" * 301},
        {"Containers": {}},
        {"Containers": ["app"]},
        {"Containers": [app(Name=None)]},
        {"Containers": [app(Ports=[{**PORT, "HostPort": 65536}])]},
        {"Containers": [app(Ports=[{**PORT, "HostPort": "32771"}])]},
        {"Containers": [app(Ports=[{**PORT, "HostPort": True}])]},
        {"Containers": [app(Networks=[{"IPv4Addresses": ["10.0.1.555"]}])]},
        {"Containers": [app(Networks=[{"IPv4Addresses": "10.0.1.5"}])]},
    ],
)
def test_a_list_that_makes_no_sense_is_no_list(wrong: dict[str, Any]) -> None:
    reader = Reader(INSTANCE)
    before = list(reader.read(body(task())))
    with pytest.raises(DiscoveryError) as caught:
        reader.read(body(task(Arn=OTHER), task(**wrong)))

    assert caught.value.kind == "malformed"
    assert list(reader.read(body(task()))) == before


def test_one_task_twice_is_no_list() -> None:
    with pytest.raises(DiscoveryError):
        Reader(INSTANCE).read(body(task(), task()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*task(), "x"]), st.sampled_from([*app(), "Networks", "x"]), JSON)
def test_nonsense_ends_in_one_error(in_task: str, in_container: str, value: object) -> None:
    for odd in (task(**{in_task: value}), task(Containers=[app(**{in_container: value})]), value):
        try:
            Reader(INSTANCE).read(body(odd))
        except DiscoveryError as error:
            assert error.kind == "malformed"  # noqa: PT017 - either outcome will do


@given(st.binary(max_size=50))
def test_bytes_that_are_no_list(garbage: bytes) -> None:
    with pytest.raises(DiscoveryError):
        Reader(INSTANCE).read(b"x" + garbage)
