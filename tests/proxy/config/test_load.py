"""A configuration is either used as a whole or refused with everything that is wrong with it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from proxy.config import Config, ConfigError, Issue, load

GOOD = """
[ecs]
clusters = ["prod"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def read(file: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file.write_text(text)
    return load(file, environ or {})


def issues(file: Path, text: str, environ: dict[str, str] | None = None) -> tuple[Issue, ...]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, environ)
    return caught.value.issues


def only(file: Path, text: str, environ: dict[str, str] | None = None) -> Issue:
    found = issues(file, text, environ)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def test_a_good_file_is_read(file: Path) -> None:
    config = read(
        file, GOOD + '[[service]]\nname = "api"\nhosts = ["API.Example.com."]\nstatic = ["10.0.0.1:80"]'
    )
    assert config.ecs.clusters == ("prod",)
    assert config.service[0].hosts == ("api.example.com",)
    assert config.listener[0].address == "0.0.0.0:8080"


def test_every_error_comes_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = """\
workers = "4"
[ecs]
clusters = "prod"
poll_interval = 5
[timeouts]
connect_s = 0
[[service]]
name = "a b"
hosts = ["x:80"]
static = ["10.0.0.1:80"]
[[service]]
name = "c"
hosts = ["c.example.com"]
"""
    found = issues(file, text, {"ANYPORT_LOG__LEVL": "info"})
    assert [issue.line for issue in found] == [1, 3, 4, 6, 8, 9, 11, 0]
    assert [issue.key for issue in found] == [
        "workers", "ecs.clusters", "ecs.poll_interval", "timeouts.connect_s",
        "service[0].name", "service[0].hosts[0]", "service[1]", "ANYPORT_LOG__LEVL",
    ]  # fmt: skip
    assert all(issue.hint or issue.message for issue in found)
    json.dumps([asdict(issue) for issue in found])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[ecs]\npoll_interval = 5", "unknown key `poll_interval`", "did you mean `poll_interval_s`?"),
        ("[timeouts]\nconect_s = 5", "unknown key `conect_s`", "did you mean `connect_s`?"),
        ("[limits]\npoll_interval_s = 5", "unknown key", "`poll_interval_s` belongs in [ecs]"),
        ("clusters = ['a']", "unknown key `clusters`", "`clusters` belongs in [ecs]"),
        ("[log]\nzzz = 5", "unknown key `zzz`", "[log] has `level`, `format`"),
        ("[servce]\nname = 1", "unknown key `servce`", "did you mean `service`?"),
        ("[[services]]\nname = 1", "unknown key `services`", "did you mean `service`?"),
        ("[health]\ninterval_s = '500ms'", "must be a number, not a string", "write interval_s = 0.5"),
        ("[health]\ninterval_s = '2m'", "must be a number, not a string", "write interval_s = 120"),
        ("[ecs.events]\nqueue = 'events'", "write \"auto\", or a queue such as", ""),
        ("[ecs.events]\nqueue = 'arn:aws:sqs:eu-west-1:1:a.fifo'", "a FIFO queue drops", ""),
        ("[ecs.events]\nqueue = 'auto'\ntopic = 'a b'", "write the name of a topic", ""),
        ("[health]\ninterval_s = '7'", "must be a number, not a string", "write interval_s = 7"),
        ("workers = 1.5", "must be a whole number, not a fraction", ""),
        ("workers = true", "must be a whole number, not true", ""),
        ("workers = 257", "`workers` must be at most 256", ""),
        ("workers = -1", "`workers` must be at least 0", ""),
        ("trusted_proxies = '10.0.0.0/8'", "an array of strings, not a string", "write trusted_proxies = ["),
        ("trusted_proxies = [1]", "must be a string in quotes, not a whole number", 'write "1"'),
        ("trusted_proxies = ['10.0.0.1/8']", "one address inside a block", ""),
        ("trusted_proxies = ['x']", "not a CIDR block", ""),
        ("[listener]\naddress = 'x'", "must be an array of tables, not a table", "write [[listener]]"),
        ("listener = 8080", "must be an array of tables, not a whole number", ""),
        ("[[health]]\npath = '/'", "must be a table, not an array", "write [health] with one pair"),
        ("[[timeouts]]\nconnect_s = 1", "must be a table, not an array", "write [timeouts] with one pair"),
        ("timeouts = 3", "must be a table, not a whole number", ""),
        ("[log]\nlevel = 'warn'", 'must be "debug", "info", "warning" or "error"', 'did you mean "warning"?'),
        ("[log]\nlevel = 3", "must be", ""),
        ("[ecs]\nregion = 2024-01-01", "is a date or time", ""),
        ("[health]\ninterval_s = inf", "must be a finite number", ""),
        ("[timeouts]\nconnect_s = nan", "must be a finite number", ""),
        ("[metrics]\naddress = 'localhost:80'", '"localhost" is not an IP address', ""),
        ("[metrics]\naddress = '::1:80'", "in brackets", ""),
        ("[metrics]\naddress = '1.2.3.4:70000'", "port 70000 is not between", ""),
        ("[metrics]\naddress = 9180", "must be a string in quotes", 'write address = "9180"'),
        ("[health]\npath = 'ok'", 'a path begins with "/"', ""),
        ("[ecs]\nendpoint_url = 'localhost:4566'", "an endpoint is an address", ""),
        ("[ecs]\nagent = '172.17.0.1:51678'", 'write "auto", "off", or an address', ""),
        ("[ecs]\nagent = 'https://172.17.0.1:51678'", 'write "auto", "off", or an address', ""),
        ("[ecs]\ndomain = '*.example.com'", '"*" stands alone', ""),
        ("[[service]]\nhosts = ['x']\nstatic = ['1.1.1.1:1']", "`name` is missing", "add `name"),
        ("[[service]]\nname = 'x'\nhosts = ['x']\necs = {}", "`service` is missing", "add `service"),
        ("[[service]]\nname = 'x'\nhosts = ['x']\nstatic = ['1.1.1.1']", "an address is", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['elb.test']", "is written with its port", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['elb.test:0']", "is not a port", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['http://elb.test/']", "is a URL: write", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['10.0.0.1:80']", "write it in `static`", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['a b:80']", "is not a host name", ""),
        ("[[service]]\nname = 'x'\nhosts = ['x']\ndns = ['_http.x']", "the name of SRV records", ""),
        ("[dns]\nservers = ['ns.test']", "neither an IP address nor", ""),
        ("[dns]\nservers = ['10.0.0.2:0']", "leave the port out", ""),
        ("[dns]\nttl_max_s = 0.5", "must be at least 1", ""),
        ("[file]\npath = ' '", "named by its path", ""),
        ("[health]\nidentity_header = 'X Service'", "is not the name of a header", ""),
        ("[health]\nidentity_header = 'X-Service:'", "is not the name of a header", ""),
    ],
)  # fmt: skip
def test_one_wrong_key(file: Path, text: str, message: str, hint: str) -> None:
    whole = text if "[ecs]" in text else text + "\n" + GOOD
    found = [issue for issue in issues(file, whole) if "nothing to route" not in issue.message]
    assert len(found) == 1, "\n".join(map(str, found))
    assert message in found[0].message
    assert hint in found[0].hint
    assert found[0].line > 0
    assert found[0].text in whole


A = '[[service]]\nname = "a"\nhosts = ["a.example.com"]\n'
B = '[[service]]\nname = "b"\nhosts = ["b.example.com"]\n'
STATIC = 'static = ["10.0.0.1:80"]\n'
TWO_LISTENERS = '[[listener]]\naddress = "0.0.0.0:80"\n[[listener]]\naddress = "10.0.0.1:80"\n'
TWICE = 'clusters = ["a",\n "arn:aws:ecs:eu-west-1:1:cluster/a"]\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("listener = []\n" + GOOD, 1, "there is no listener"),
        (TWO_LISTENERS + GOOD, 4, "cannot both"),
        ("[[listener]]\nproxy_protocol = true\n" + GOOD, 2, "`trusted_proxies` is empty"),
        ('[metrics]\naddress = "0.0.0.0:8080"\n' + GOOD, 2, "`metrics.address`"),
        ('[admin]\naddress = "0.0.0.0:9181"\n' + GOOD, 2, "open to the network"),
        ('[admin]\ntoken = "short"\n' + GOOD, 2, "16 or more"),
        ('[fleet]\nkey = "short"\n' + GOOD, 2, "16 or more"),
        (
            '[metrics]\naddress = "127.0.0.1:9180"\n[fleet]\nkey = "0123456789abcdef"\n' + GOOD,
            2,
            "cannot reach [metrics]",
        ),
        ('[fleet]\nalone = true\nkey = "0123456789abcdef"\n' + GOOD, 2, "a key is for several"),
        ("[ecs]\n" + TWICE, 3, "named twice"),
        ('[ecs]\nclusters = ["a"]\n[[ecs.cluster]]\nname = "a"', 4, "named twice"),
        ('[[ecs.cluster]]\nname = ""', 2, "needs a name"),
        ('[[ecs.cluster]]\nname = "a"\nexternal_id = "x"', 3, "of no use without `role_arn`"),
        ('[ecs.events]\ntopic = "t"\n' + GOOD, 2, "no queue of our own"),
        ("[health]\ntimeout_s = 9\n" + GOOD, 2, "longer than `interval_s`"),
        ('[health]\nkind = "tcp"\nidentity_body = true\n' + GOOD, 3, "needs an answer to look into"),
        (A + STATIC + 'health = { kind = "none", identity_header = "x" }', 5, "needs an answer to look into"),
        (
            A + STATIC + 'health = { identity_header = "x" }\n[health]\nkind = "tcp"',
            5,
            "needs an answer to look into",
        ),
        ("[limits]\nrequest_line_bytes = 99999\n" + GOOD, 2, "larger than `request_head_bytes`"),
        (A + STATIC + B.replace('"b"', '"a"') + STATIC, 6, "are named"),
        (A + STATIC + B.replace("b.ex", "a.ex") + STATIC, 7, "both answer"),
        (A + GOOD, 1, "runs nowhere"),
        ('[[service]]\nname = "a"\n' + STATIC, 1, "answers to no host"),
        (A + 'static = ["0.0.0.0:80"]', 4, "nothing can be reached"),
        (A + 'ecs = { service = "a" }', 4, "[ecs] names no cluster"),
        (A + 'ecs = { service = "a", cluster = "b" }' + GOOD, 4, "not one of [ecs] clusters"),
        (A + 'ecs = { service = "a" }\n[ecs]\nclusters = ["a", "b"]\n', 4, "in which cluster"),
        (A + 'ecs = { service = "a", port = 1, port_name = "b" }' + GOOD, 4, "`port` and `port_name`"),
        (A + 'ecs = { service = " " }' + GOOD, 4, "needs a name"),
        ("workers = 1", 0, "nothing to route to"),
        ("", 0, "nothing to route to"),
    ],
)
def test_keys_that_do_not_fit_together(file: Path, text: str, line: int, message: str) -> None:
    issue = only(file, text)
    assert message in issue.message
    assert issue.hint
    assert issue.line == line


def test_names_of_dns_have_one_spelling(file: Path) -> None:
    config = read(file, A + 'dns = ["Internal-ELB.example.com.:080", "_http._tcp.Backend.local."]')
    assert config.service[0].dns == ("internal-elb.example.com:80", "_http._tcp.backend.local")
    config = read(file, A + STATIC + '[dns]\nservers = ["10.0.0.2", "::1", "[::1]:5353", "10.0.0.2:53"]')
    assert config.dns.servers == ("10.0.0.2", "::1", "[::1]:5353", "10.0.0.2:53")


def test_services_may_be_all_in_another_file_whose_path_begins_at_this_one(file: Path) -> None:
    config = read(file, '[file]\npath = "services.toml"\n' + A)
    assert config.file.path == str(file.parent / "services.toml")
    assert config.service[0].static == ()
    assert read(file, '[file]\npath = "/etc/anyport"\n').service == ()


def test_a_check_that_sees_no_answer_inherits_no_proof(file: Path) -> None:
    """Whoever says tcp for one service has not asked for a proof there."""
    text = '[health]\nidentity_header = "X-Service"\n'
    config = read(file, A + STATIC + 'health = { kind = "tcp" }\n' + text)
    assert config.health.identity_header == "x-service"


def test_a_service_may_run_in_ecs_and_beside_it(file: Path) -> None:
    config = read(file, GOOD + A + STATIC + 'ecs = { service = "a" }')
    assert config.service[0].ecs is not None
    assert config.service[0].static == ("10.0.0.1:80",)


def test_what_is_wrong_already_is_not_reported_in_other_words(file: Path) -> None:
    """A misspelt `static` must not also be "runs nowhere" in a second line, nor a wrong cluster list."""
    issue = only(file, '[ecs]\nclusters = "prod"\n' + A + 'ecs = { service = "a" }')
    assert "array of strings" in issue.message
    issue = only(file, A + 'static = ["10.0.0.1"]')
    assert "an address is" in issue.message


def test_what_a_service_leaves_out_comes_from_the_general_sections(file: Path) -> None:
    config = read(
        file,
        '[health]\ninterval_s = 3\npath = "/up"\n[ecs]\nclusters = ["prod"]\ndomain = "Internal"\n'
        '[[service]]\nname = "Web"\nstatic = ["10.0.0.1:80"]\nhealth = { path = "/web" }',
    )
    service = config.service[0]
    assert service.hosts == ("web.internal",)
    assert service.health is not None
    assert (service.health.path, service.health.interval_s) == ("/web", 3)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("workers = 1\nregion = eu-west-1\n", 2, 'region = "eu-west-1"'),
        ("a = 1\na = 2\n", 2, "cannot overwrite a value"),
        ('x = "abc', 1, "is not TOML"),
        ("ecs: x\n", 1, "`key = value`"),
        ("[ecs\n", 1, "is not TOML"),
        ("x = [1,\n", 2, "is not TOML"),
    ],
)
def test_a_file_that_is_no_toml_says_where(file: Path, text: str, line: int, part: str) -> None:
    issue = only(file, text)
    assert issue.line == line
    assert part in str(issue)


def test_a_missing_file_says_how_to_make_one_and_that_way_works(tmp_path: Path) -> None:
    path = tmp_path / "nope.toml"
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(path, {})
    starter = re.search(r"printf '(.*)' > ", caught.value.issues[0].hint)
    assert starter is not None
    path.write_text(starter[1].replace("\\n", "\n").replace("<cluster>", "prod"))
    assert load(path, {}).ecs.clusters == ("prod",)


def test_files_that_cannot_be_read(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path, {})
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        load(file, {})
    file.write_bytes(b"\xef\xbb\xbf[ecs]\nclusters = ['a']\n")  # a byte order mark is harmless
    assert load(file, {}).ecs.clusters == ("a",)


@pytest.mark.parametrize(
    ("variables", "path", "value"),
    [
        ({"ANYPORT_ECS__REGION": "eu-west-1"}, "ecs.region", "eu-west-1"),
        ({"ANYPORT_ECS__REGION": "'eu-west-1'"}, "ecs.region", "eu-west-1"),
        ({"ANYPORT_ECS__REGION": "7"}, "ecs.region", "7"),
        ({"ANYPORT_ECS__CLUSTERS": "prod, staging"}, "ecs.clusters", ("prod", "staging")),
        ({"ANYPORT_ECS__CLUSTERS": '["a,b"]'}, "ecs.clusters", ("a,b",)),
        ({"ANYPORT_ECS__CLUSTERS": "123"}, "ecs.clusters", ("123",)),
        ({"ANYPORT_ECS__CLUSTERS__0": "x"}, "ecs.clusters", ("x",)),
        ({"ANYPORT_WORKERS": "4"}, "workers", 4),
        ({"ANYPORT_TIMEOUTS__CONNECT_S": "0.5"}, "timeouts.connect_s", 0.5),
        ({"ANYPORT_TIMEOUTS__CONNECT_S": "3"}, "timeouts.connect_s", 3),
        ({"ANYPORT_LISTENER__0__ADDRESS": "0.0.0.0:80"}, "listener.0.address", "0.0.0.0:80"),
        ({"ANYPORT_LISTENER": '[{address = "0.0.0.0:81"}]'}, "listener.0.address", "0.0.0.0:81"),
        ({"ANYPORT_CONFIG": "x", "ANYPORT_REQUIRE_ALL": "1", "OTHER": "y"}, "workers", 0),
    ],
)  # fmt: skip
def test_variables_are_laid_over_the_file(
    file: Path, variables: dict[str, str], path: str, value: object
) -> None:
    found: object = read(file, GOOD, variables)
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value


def test_variables_alone_are_enough() -> None:
    config = load(None, {"ANYPORT_ECS__CLUSTERS": "prod", "ANYPORT_ADMIN__TOKEN": "0123456789abcdef"})
    assert config.admin.token.get_secret_value() == "0123456789abcdef"
    assert "0123456789abcdef" not in repr(config)


@pytest.mark.parametrize(
    ("variable", "text", "message", "hint"),
    [
        ("ANYPORT_ECS_REGION", "x", "no key for the variable", "ANYPORT_ECS__REGION"),
        ("ANYPORT_ECS__REGON", "x", "no key for the variable", "ANYPORT_ECS__REGION"),
        ("ANYPORT_", "x", "no key", ""),
        ("ANYPORT_0", "x", "no key", ""),
        ("ANYPORT_WORKERS", "many", "must be a whole number", ""),
        ("ANYPORT_WORKERS__0", "1", "not an array", ""),
        ("ANYPORT_LISTENER__ADDRESS", "0.0.0.0:1", "is an array", ""),
        ("ANYPORT_LISTENER__5__ADDRESS", "0.0.0.0:1", "without gaps", ""),
        ("ANYPORT_HEALTH__INTERVAL_S", "5s", "must be a number", "interval_s = 5"),
        ("ANYPORT_ECS", "x", "must be a table", ""),
    ],
)
def test_a_wrong_variable_is_named(file: Path, variable: str, text: str, message: str, hint: str) -> None:
    found = [i for i in issues(file, GOOD, {variable: text}) if i.source == variable]
    assert len(found) == 1
    assert message in found[0].message
    assert hint in found[0].hint


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'[admin]\ntoken = "{SECRET}"',
        f'[admin]\ntokn = "{SECRET}"',
        f'[admin]\ntoken = ["{SECRET}"]',
        f'admin = {{ address = "x", token = "{SECRET}" }}',
        f'[admin]\ntoken = """\n{SECRET}"""\naddress = 3',
        f'admin_token = "{SECRET}"',
        f'[metrics]\nsecret = "{SECRET}"',
        f"[admin]\ntoken = {SECRET}",
        f'[fleet]\nkey = "{SECRET[:15]} {SECRET}"',
        f'[fleet]\nkey = "{SECRET}',
        f'[fleet]\nkye = "{SECRET}"',
        f'fleet_key = "{SECRET}"',
        f'[admin]\ntoken = "{SECRET}',
        f'[admin]\ntoken = """\n{SECRET}',
    ],
)
def test_a_secret_is_never_shown(file: Path, text: str) -> None:
    for issue in issues(file, text):
        assert SECRET not in str(issue)
        assert SECRET not in json.dumps(asdict(issue))


@pytest.mark.parametrize(
    "variable", ["ANYPORT_ADMIN__TOKEN", "ANYPORT_ADMIN__TOKN", "ANYPORT_ADMIN", "ANYPORT_FLEET"]
)
def test_a_secret_variable_is_never_shown(file: Path, variable: str) -> None:
    for issue in issues(file, GOOD, {variable: SECRET}):
        assert SECRET not in str(issue)
