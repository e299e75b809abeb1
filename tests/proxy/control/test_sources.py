"""Which sources a configuration asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import Config, Ecs, EcsCluster, EcsTarget, Health, Service
from proxy.config.model import Dns, File
from proxy.control import sources
from tests.kit.dns_server import dns_server


def test_static_addresses_first_then_each_cluster() -> None:
    settings = Config(
        ecs=Ecs(clusters=("prod", "arn:aws:ecs:eu-west-1:123456789012:cluster/other"), region="eu-west-1"),
        service=(
            Service(name="web", hosts=("*",), static=("127.0.0.1:1",)),
            Service(name="api", hosts=("api.test",), ecs=EcsTarget(service="api", cluster="prod")),
        ),
    )

    built = sources.build(settings)

    assert [source.name for source in built] == ["static", "ecs:prod", "ecs:other"]


@pytest.mark.asyncio
async def test_names_are_asked_about_at_the_servers_of_the_configuration() -> None:
    async with dns_server() as server:
        server.say("elb.test", "A", "127.0.0.1", "127.0.0.2")
        web = Service(
            name="web", hosts=("web.test",), dns=("elb.test:8080", "elb.test:8081"), health=Health(path="/up")
        )
        dns = Dns(servers=(f"127.0.0.1:{server.port}",))
        (source,) = sources.build(Config(dns=dns, service=(web,)))
        watching = source.watch()
        async for snapshot in watching:
            if snapshot.complete:
                break
        await watching.aclose()  # type: ignore[attr-defined]

    assert source.name == "dns"
    assert snapshot.services["web"].health.path == "/up"
    # The listener of this proxy is 0.0.0.0:8080.
    assert [e.address for e in snapshot.endpoints] == ["127.0.0.1:8081", "127.0.0.2:8081"]
    assert len(snapshot.problems) == 2


@pytest.mark.asyncio
async def test_a_file_is_read_as_the_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[[service]]\nname = "web"\nstatic = ["10.0.0.1:80", "[::1]:80"]\n')
    (tmp_path / "b.toml").write_text('[[service]]\nname = "api"\nhosts = "api.test"\nstatic = []\n')
    web = Service(name="web", hosts=("web.test",), health=Health(path="/up"))
    (source,) = sources.build(Config(file=File(path=str(tmp_path)), service=(web,)))
    watching = source.watch()
    snapshot = await anext(watching)
    await watching.aclose()  # type: ignore[attr-defined]

    assert source.name == "file"
    assert snapshot.services.keys() == {"web"}
    assert snapshot.services["web"].health.path == "/up"
    assert [e.address for e in snapshot.endpoints] == ["10.0.0.1:80", "[::1]:80"]
    assert not snapshot.complete
    (problem,) = snapshot.problems
    assert problem.where == f"file {tmp_path}/b.toml, line 3"
    assert problem.what.endswith('must be an array of strings, not a string: write hosts = ["api.test"]')


def test_nothing_configured_is_no_source() -> None:
    assert sources.build(Config()) == ()


def test_only_what_sources_read_starts_them_anew() -> None:
    old = Config()

    assert sources.same(old, Config(trusted_proxies=("10.0.0.0/8",)))
    assert not sources.same(old, Config(health=Health(path="/up")))
    assert not sources.same(old, Config(ecs=Ecs(clusters=("prod",))))
    assert not sources.same(old, Config(dns=Dns(ttl_max_s=5.0)))


def test_every_key_of_a_check_arrives() -> None:
    section = Health(
        kind="tcp",
        path="/up",
        interval_s=1,
        timeout_s=0.5,
        healthy_threshold=2,
        unhealthy_threshold=4,
        host="h",
        identity_header="x-service",
        identity_body=True,
    )

    made = sources.health_check(section)

    assert {key: getattr(made, key) for key in Health.model_fields} == section.model_dump()


def test_static_addresses_alone_do_not_load_boto3() -> None:
    """A second of start and 30 MB on every instance."""
    code = (
        "import sys; from proxy.control import __main__, sources; from proxy.config import Config, Service; "
        "sources.build(Config(service=(Service(name='a', hosts=('*',), static=('127.0.0.1:1',)),))); "
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules or 'dns' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clusters_of_one_name_in_two_regions_and_a_budget_for_each() -> None:
    settings = Config(
        ecs=Ecs(
            clusters=("prod", "shop"),
            region="eu-west-1",
            api_share=0.25,
            cluster=(EcsCluster(name="prod", region="us-east-1"),),
        ),
        service=(
            Service(name="api", hosts=("api.test",), ecs=EcsTarget(service="api", cluster="prod@us-east-1")),
        ),
    )

    built = {source.name: source for source in sources.build(settings)}

    assert list(built) == ["ecs:prod@eu-west-1", "ecs:shop", "ecs:prod@us-east-1"]
    budgets = {name: source._budget for name, source in built.items()}  # type: ignore[attr-defined]
    assert budgets["ecs:prod@eu-west-1"] is budgets["ecs:shop"], "AWS counts by account and Region"
    assert budgets["ecs:prod@us-east-1"] is not budgets["ecs:shop"]
    assert budgets["ecs:shop"].share == 0.25
    ruled = {
        name: set(source._translator()._ruled)  # type: ignore[attr-defined]
        for name, source in built.items()
    }
    assert ruled == {"ecs:prod@eu-west-1": set(), "ecs:shop": set(), "ecs:prod@us-east-1": {"api"}}
