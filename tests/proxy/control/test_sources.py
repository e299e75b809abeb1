"""Which sources a configuration asks for."""

from __future__ import annotations

import subprocess
import sys

from proxy.config import Config, Ecs, EcsTarget, Health, Service
from proxy.control import sources


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


def test_nothing_configured_is_no_source() -> None:
    assert sources.build(Config()) == ()


def test_only_what_sources_read_starts_them_anew() -> None:
    old = Config()

    assert sources.same(old, Config(trusted_proxies=("10.0.0.0/8",)))
    assert not sources.same(old, Config(health=Health(path="/up")))
    assert not sources.same(old, Config(ecs=Ecs(clusters=("prod",))))


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
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
