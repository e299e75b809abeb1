"""Services in a file of their own: what may stand there, and how a slip is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.config import Config, ConfigError, Ecs, Health, Service
from proxy.config.model import File, ServiceTls
from proxy.config.service_files import read_services

CONFIG = Config(
    ecs=Ecs(domain="internal"),
    file=File(path="/etc/anyport/services.toml"),
    health=Health(path="/up", interval_s=9.0),
    service=(Service(name="shop", hosts=("shop.test",), path="/api", tls=ServiceTls(name="shop.internal")),),
)


def read(text: str, file: str = "services.toml", config: Config = CONFIG) -> tuple[Service, ...]:
    return read_services(text.encode(), file, config)


def issues(text: str | bytes, file: str = "services.toml") -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_services(text if isinstance(text, bytes) else text.encode(), file, CONFIG)
    return [f"{i.source}:{i.line}: {i.message} ({i.hint})" for i in error.value.issues]


TOML = """
[[service]]
name = "web"
hosts = ["Web.test"]
static = ["10.0.0.1:80", "[::1]:81"]

[service.health]
interval_s = 2.0

[[service]]
name = "shop"
static = ["10.0.0.2:80"]
"""


def test_a_service_is_described_as_in_the_configuration() -> None:
    web, shop = read(TOML)
    assert (web.name, web.hosts, web.static) == ("web", ("web.test",), ("10.0.0.1:80", "[::1]:81"))
    assert web.health is not None
    assert (web.health.path, web.health.interval_s) == ("/up", 2.0)
    known = CONFIG.service[0]
    assert (shop.hosts, shop.path, shop.tls) == (known.hosts, known.path, known.tls)
    assert shop.static == ("10.0.0.2:80",)


def test_json_says_the_same() -> None:
    document: dict[str, Any] = {
        "service": [
            {
                "name": "web", "hosts": ["Web.test"], "static": ["10.0.0.1:80", "[::1]:81"],
                "health": {"interval_s": 2.0},
            },
            {"name": "shop", "static": ["10.0.0.2:80"]},
        ]
    }  # fmt: skip
    assert read(json.dumps(document), "services.JSON") == read(TOML)


def test_a_domain_gives_a_host_and_an_empty_list_is_an_answer() -> None:
    (web,) = read('[[service]]\nname = "web"\nstatic = []')
    assert (web.hosts, web.static) == (("web.internal",), ())
    assert read("service = []") == ()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[[service]\n", 1, "is not TOML"),
        ("\n \n", 0, "is empty (write `service = []`"),
        ("[admin]\ntoken = 'x'\n", 1, "`admin` has no place here"),
        ('[[service]]\nname = "a"\nhosts = ["a"]\n', 1, "it has no addresses"),
        ('[[service]]\nname = "a"\nhosts = ["a"]\nstatic = ["x"]\n', 4, "an address is"),
        ('[[service]]\nname = "a"\nhosts = ["a"]\nstatic = ["0.0.0.0:0"]\n', 4, "nothing can be reached"),
        ('[[service]]\nname = "a"\nhots = ["a"]\nstatic = []\n', 3, "unknown key `hots`"),
        (
            '[[service]]\nname = "a"\nhosts = ["a"]\nstatic = []\ndns = ["a:1"]\n',
            5,
            "`dns` has no place",
        ),
        (
            '[[service]]\nname = "shop"\nhosts = ["b"]\nstatic = []\n',
            3,
            "`hosts` of this service is",
        ),
        ('[[service]]\nname = "a"\nhosts = ["a"]\nstatic = []\n' * 2, 6, "two services are named"),
        (
            '[[service]]\nname = "a"\nhosts = ["a"]\nstatic = []\n'
            '[[service]]\nname = "b"\nhosts = ["a"]\nstatic = []\n',
            7,
            "both answer to host",
        ),
        (
            '[[service]]\nname = "a"\nhosts = ["a"]\nstatic = []\nhealth = { timeout_s = 10.0 }\n',
            5,
            "longer than `interval_s`",
        ),
    ],
)
def test_a_slip_is_shown_where_it_stands(text: str, line: int, message: str) -> None:
    found = issues(text)
    assert any(i.startswith(f"services.toml:{line}: ") and message in i for i in found), found


def test_every_slip_comes_at_once() -> None:
    found = issues('x = 1\n[[service]]\nname = "a"\nhosts = ["a b"]\nstatic = []\n[[service]]\nstatic = 3\n')
    assert [i.partition(": ")[0] for i in found] == [
        "services.toml:1", "services.toml:4", "services.toml:6", "services.toml:7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b'{"service": [\n{"name" "a"}]}', 2, "is not JSON"),
        (b"[]", 1, "is not a JSON object"),
        (b"{", 1, "is not JSON"),
        (b'{"service": [{"name": "a", "hosts": ["a"], "static": NaN}]}', 0, "static"),
        (b'{"service": {"name": "a"}}', 0, "must be an array of tables"),
        (b'{"service": [3]}', 0, "must be a table"),
        (b"[" * 100_000, 0, "is not JSON"),
        (b'{"service": ' + b"9" * 10_000 + b"}", 0, "is not JSON"),
        (b'\n{"service": "\xff"}', 2, "is not UTF-8"),
    ],
)
def test_json_that_makes_no_sense(data: bytes, line: int, message: str) -> None:
    found = issues(data, "services.json")
    assert any(i.startswith(f"services.json:{line}: ") and message in i for i in found), found
