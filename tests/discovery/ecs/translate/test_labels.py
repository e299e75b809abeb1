"""Labels: what they may say, and how a slip is reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from discovery.ecs import shapes
from discovery.ecs.translate.labels import Labels, known_labels, read_labels
from discovery.model import HealthCheck, Tls
from tests.kit import ecs_json as ecs

DEFAULT = HealthCheck(path="/up", interval_s=5.0, timeout_s=2.0)
FILES = Tls(ca="/ca.pem", cert="/cert.pem", key="/key.pem")
PORTS = ({"containerPort": 8080, "name": "http"}, {"containerPort": 9000, "name": "admin"})


def read(
    labels: dict[str, str],
    *more: dict[str, Any],
    ports: tuple[dict[str, Any], ...] = PORTS[:1],
    ecs_service: str = "web",
    domain: str = "",
) -> Labels:
    app = ecs.container_definition("app", *ports, dockerLabels=labels)
    definition = shapes.task_definition(ecs.definition("web:42", app, *more))
    return read_labels(definition, ecs_service, domain=domain, default_health=DEFAULT, default_tls=FILES)


def test_host_alone_is_enough() -> None:
    (route,) = read({"anyport.host": "Web.Example.com, *.example.org"}).routes

    assert (route.service.name, route.container, route.port) == ("web", "app", 8080)
    assert route.service.hosts == ("web.example.com", "*.example.org")
    assert (route.service.path, route.service.health) == ("/", DEFAULT)
    assert route.service.origin == "task-definition/web:42 labels"


def test_everything_can_be_said() -> None:
    (route,) = read(
        {
            "anyport.enable": "true",
            "ANYPORT.Service": "shop",  # keys in any letter case
            "anyport.host": "shop.example.com",
            "anyport.path": "/api",
            "anyport.port": "admin",
            "anyport.health.kind": "TCP",
            "anyport.health.path": "/healthz?deep=1",
            "anyport.health.interval": "1m",
            "anyport.health.timeout": "500ms",
            "anyport.health.healthy": "2",
            "anyport.health.unhealthy": "4",
            "anyport.health.host": "internal.example.com",
            "com.example.other": "not ours",
        },
        ports=PORTS,
    ).routes

    assert (route.service.name, route.port, route.service.path) == ("shop", 9000, "/api")
    assert route.service.health == HealthCheck(
        kind="tcp",
        path="/healthz?deep=1",
        interval_s=60.0,
        timeout_s=0.5,
        healthy_threshold=2,
        unhealthy_threshold=4,
        host="internal.example.com",
    )


def test_a_check_may_ask_for_a_proof_of_identity() -> None:
    labels = {
        "anyport.host": "web.example.com",
        "anyport.health.identity-header": "X-Service",
        "anyport.health.identity-body": "true",
    }
    (route,) = read(labels).routes

    assert route.service.health == replace(DEFAULT, identity_header="x-service", identity_body=True)
    (problem,) = read({**labels, "anyport.health.kind": "tcp"}).problems
    assert problem.where.endswith("label anyport.health.identity-header")
    assert "needs an answer to look into" in problem.what


def test_one_container_may_serve_several_routes() -> None:
    labels = {
        "anyport.route.public.host": "www.example.com",
        "anyport.route.public.port": "http",
        "anyport.route.admin.host": "admin.example.com",
        "anyport.route.admin.port": "9000",
        "anyport.route.admin.service": "backoffice",
    }

    assert [(r.service.name, r.port) for r in read(labels, ports=PORTS).routes] == [
        ("backoffice", 9000),
        ("web-public", 8080),
    ]


def test_each_container_may_have_its_own_route() -> None:
    side = ecs.container_definition(
        "side", {"containerPort": 7000}, dockerLabels={"anyport.service": "side", "anyport.host": "side.io"}
    )

    assert [(r.service.name, r.container, r.port) for r in read({"anyport.host": "web.io"}, side).routes] == [
        ("web", "app", 8080),
        ("side", "side", 7000),
    ]


@pytest.mark.parametrize(
    ("labels", "tls"),
    [
        ({}, None),
        ({"tls": "off"}, None),
        ({"tls": "Verify", "tls.name": "Pay.Internal"}, replace(FILES, name="pay.internal")),
        ({"tls": "insecure"}, replace(FILES, verify=False, ca="")),
        ({"tls": "insecure", "tls.name": "a.io"}, replace(FILES, verify=False, ca="", name="a.io")),
    ],
)
def test_tls_is_asked_for_by_label_with_the_files_of_the_config(
    labels: dict[str, str], tls: Tls | None
) -> None:
    said = {f"anyport.{label}": value for label, value in labels.items()}
    (route,) = read({"anyport.host": "a.io", **said}).routes
    assert route.service.tls == tls


def test_verification_without_a_name_is_reported_where_the_name_is_missing() -> None:
    labels = read({"anyport.host": "a.io", "anyport.route.x.tls": "verify", "anyport.route.x.host": "b.io"})

    assert [route.service.name for route in labels.routes] == ["web"]
    (problem,) = labels.problems
    assert problem.where == "task-definition/web:42, container app, label anyport.route.x.tls.name"
    assert 'is needed with anyport.tls = "verify"' in problem.what


def test_enable_alone_takes_every_default() -> None:
    (route,) = read({"anyport.enable": "yes"}, domain="example.com").routes

    assert route.service.hosts == ("web.example.com",)


def test_disabled_container_is_not_read_further() -> None:
    labels = read({"anyport.enable": "false", "anyport.host": "::nonsense::"})

    assert (labels.routes, labels.problems, labels.spoken) == ((), (), False)
    assert labels.disabled == {"app"}


def test_interval_shorter_than_the_default_timeout_shortens_it() -> None:
    (route,) = read({"anyport.host": "a.io", "anyport.health.interval": "1"}).routes

    assert (route.service.health.interval_s, route.service.health.timeout_s) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("label", "value", "what"),
    [
        ("hots", "a.io", "is not a label of anyport, did you mean 'anyport.host'?"),
        ("health.pth", "/", "did you mean 'anyport.health.path'?"),
        ("zzz", "1", "known are service, host,"),
        ("route.admin.prt", "1", "did you mean 'anyport.route.admin.port'?"),
        ("route.a_b.port", "1", "letters, digits and hyphens"),
        ("host", "https://a.io", "write the host name alone"),
        ("host", "a.io:443", "write it without the port"),
        ("host", "a.io,,b.io", "'' is not a host name"),
        ("host", "a b.io", "is not a host name"),
        ("host", "*.*.io", "is not a host name"),
        ("path", "api", 'starts with "/"'),
        ("path", "/a?b", 'no "?"'),
        ("port", "0", "between 1 and 65535"),
        ("port", "99999", "between 1 and 65535"),
        ("port", "+80", "neither a container port nor"),
        ("port", "81", "no container maps TCP port 81; mapped: app 8080 (http)"),
        ("port", "htp", "did you mean 'http'?"),
        ("service", "a/b", "not a service name"),
        ("enable", "maybe", 'neither "true" nor "false"'),
        ("tls", "true", 'write "verify", "insecure" or "off"'),
        ("tls.name", "a.io", "says nothing without anyport.tls"),
        ("tls.name", "*.a.io", "is a pattern"),
        ("tls.ca", "/etc/shadow", "is not a label of anyport"),
        ("health.kind", "grpc", '"http", "tcp" or "none"'),
        ("health.interval", "soon", "not a duration"),
        ("health.interval", "0", "not a duration"),
        ("health.interval", "2h", "not a duration"),
        ("health.timeout", "6s", "longer than the interval of 5s"),
        ("health.healthy", "0", "between 1 and 100"),
        ("health.unhealthy", "-1", "between 1 and 100"),
        ("health.path", "up", "not a path"),
        ("health.host", "*.a.io", "is a pattern"),
        ("health.identity-header", "X Service", "not the name of a header"),
        ("health.identity-body", "maybe", 'neither "true" nor "false"'),
    ],
)
def test_label_that_makes_no_sense_is_reported_and_leaves_the_service_out(
    label: str, value: str, what: str
) -> None:
    labels = read({"anyport.host": "web.example.com", f"anyport.{label}": value})

    assert labels.routes == ()
    assert labels.spoken, "what was meant is unclear: nothing may be inferred instead"
    (problem,) = labels.problems
    assert problem.where == f"task-definition/web:42, container app, label anyport.{label}"
    assert what in problem.what


def test_one_bad_route_leaves_the_others() -> None:
    labels = read(
        {
            "anyport.route.a.host": "a.io",
            "anyport.route.a.port": "8080",
            "anyport.route.b.host": "b.io",
            "anyport.route.b.port": "nope",
        },
        ports=PORTS,
    )

    assert [r.service.name for r in labels.routes] == ["web-a"]
    assert len(labels.problems) == 1


def test_every_error_of_a_route_is_reported_at_once() -> None:
    labels = read({"anyport.host": "a:1", "anyport.path": "x", "anyport.health.kind": "icmp"})

    assert [p.where.rpartition(" ")[2] for p in labels.problems] == [
        "anyport.health.kind",
        "anyport.host",
        "anyport.path",
    ]


def test_no_host_and_no_domain_is_reported() -> None:
    (problem,) = read({"anyport.path": "/api"}).problems

    assert problem.where.endswith("label anyport.host")


def test_task_of_no_service_needs_a_name() -> None:
    (problem,) = read({"anyport.host": "a.io"}, ecs_service="").problems

    assert problem.where.endswith("label anyport.service")


def test_several_ports_and_none_chosen_is_reported() -> None:
    (problem,) = read({"anyport.host": "a.io"}, ports=PORTS).problems

    assert "several ports fit (app port 8080, app port 9000)" in problem.what


def test_two_containers_cannot_be_one_service() -> None:
    side = ecs.container_definition("side", {"containerPort": 7000}, dockerLabels={"anyport.host": "web.io"})
    labels = read({"anyport.host": "web.io"}, side)

    assert labels.routes == ()
    assert "claimed by container app port 8080 and container side port 7000" in labels.problems[0].what


def test_one_label_in_two_letter_cases() -> None:
    labels = read({"anyport.host": "a.io", "Anyport.Host": "b.io"})

    assert labels.routes == ()
    assert "given twice" in labels.problems[0].what


def test_known_labels_are_listed_for_the_manual() -> None:
    assert {"anyport.enable", "anyport.host", "anyport.health.path"} <= set(known_labels())
