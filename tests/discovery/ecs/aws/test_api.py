"""boto3 against a scripted server on a real socket: every page, every batch, and every way to fail."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from discovery.ecs.aws.api import EcsApi
from discovery.ecs.aws.budget import Budget
from discovery.ecs.aws.queries import Json
from discovery.ecs.aws.sessions import Account
from discovery.model import DiscoveryError
from tests.kit import ecs_json as ecs
from tests.kit.scripted_aws import Answer, ScriptedAws, error, scripted_aws


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)


async def at_once(seconds: float) -> None:
    """Do not wait."""


@pytest_asyncio.fixture
async def aws() -> AsyncIterator[ScriptedAws]:
    async with scripted_aws() as scripted:
        yield scripted


@pytest.fixture
def api(aws: ScriptedAws) -> Iterator[EcsApi]:
    api = EcsApi(Account(region=ecs.REGION, endpoint_url=aws.url), call_timeout_s=5.0, sleep=at_once)
    yield api
    api.close()


def found(items: str, arn: str, *, without: frozenset[str] = frozenset()) -> Callable[[Json], Answer]:
    """Return an answer with one item for each ARN asked for; those of `without` are MISSING."""

    def answer(body: Json) -> Answer:
        assert len(body[items]) <= 100
        return {
            items: [
                {arn: one, "lastStatus": "RUNNING"} for one in reversed(body[items]) if one not in without
            ],
            "failures": [{"arn": one, "reason": "MISSING"} for one in body[items] if one in without],
        }

    return answer


@pytest.mark.asyncio
async def test_list_reads_every_page(aws: ScriptedAws, api: EcsApi) -> None:
    pages = [
        {"taskArns": ["a", "b"], "nextToken": "2"},
        {"taskArns": ["c"], "nextToken": "3"},
        {"taskArns": ["c"]},
    ]
    aws.answers["ListTasks"] = lambda body: pages[int(body.get("nextToken", "1")) - 1]

    assert await api.list_tasks("prod") == ["a", "b", "c"]
    assert [body.get("nextToken") for _, body in aws.asked] == [None, "2", "3"]
    assert aws.asked[0][1] == {"cluster": "prod", "maxResults": 100, "desiredStatus": "RUNNING"}
    assert api.calls == {"ListTasks": 3}


@pytest.mark.asyncio
async def test_describe_asks_in_batches_and_keeps_the_order(aws: ScriptedAws, api: EcsApi) -> None:
    arns = [ecs.task_arn(number) for number in range(250)]
    aws.answers["DescribeTasks"] = found("tasks", "taskArn", without=frozenset(arns[7:9]))

    described = await api.describe_tasks("prod", [*arns, arns[0]])

    assert [task["taskArn"] for task in described.found] == arns[:7] + arns[9:]
    assert described.missing == arns[7:9]
    assert sorted(len(body["tasks"]) for _, body in aws.asked) == [50, 100, 100]


@pytest.mark.asyncio
async def test_nothing_asked_costs_no_call(aws: ScriptedAws, api: EcsApi) -> None:
    assert await api.describe_tasks("prod", []) == ([], [])
    assert await api.instance_addresses([]) == {}
    assert aws.asked == []


@pytest.mark.asyncio
async def test_instances_are_described(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["DescribeContainerInstances"] = found("containerInstances", "containerInstanceArn")

    described = await api.describe_container_instances("prod", [ecs.instance_arn(1)])

    assert [item["containerInstanceArn"] for item in described.found] == [ecs.instance_arn(1)]


def reservations(*pairs: tuple[str, str]) -> web.Response:
    items = "".join(
        f"<item><instanceId>{ec2_id}</instanceId><privateIpAddress>{ip}</privateIpAddress></item>"
        for ec2_id, ip in pairs
    )
    token = "<nextToken>more</nextToken>" if pairs and pairs[0][0] == "i-1" else ""
    return web.Response(
        text='<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item>'
        f"<instancesSet>{items}</instancesSet></item></reservationSet>{token}</DescribeInstancesResponse>",
        content_type="text/xml",
    )


@pytest.mark.asyncio
async def test_addresses_are_asked_by_filter_on_every_page(aws: ScriptedAws, api: EcsApi) -> None:
    """With InstanceIds, one terminated instance would fail the question about all of them."""
    aws.answers["DescribeInstances"] = lambda body: reservations(
        ("i-2", "10.0.0.2") if "NextToken" in body else ("i-1", "10.0.0.1")
    )

    assert await api.instance_addresses(["i-1", "i-2", "i-3"]) == {"i-1": "10.0.0.1", "i-2": "10.0.0.2"}
    assert aws.asked[0][1]["Filter.1.Name"] == "instance-id"
    assert aws.asked[0][1]["Filter.1.Value.3"] == "i-3"


# --- partial answers ---------------------------------------------------------------------------------


async def refused(call: Any) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        await call
    assert "AKIASECRET" not in str(caught.value), "what AWS says of a request may hold keys"
    return caught.value


@pytest.mark.asyncio
async def test_one_failed_page_is_no_answer(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: (
        error("AccessDeniedException") if "nextToken" in body else {"taskArns": ["a"], "nextToken": "2"}
    )

    assert (await refused(api.list_tasks("prod"))).kind == "denied"


@pytest.mark.asyncio
async def test_one_failed_batch_is_no_answer(aws: ScriptedAws, api: EcsApi) -> None:
    arns = [ecs.task_arn(number) for number in range(150)]
    whole = found("tasks", "taskArn")
    aws.answers["DescribeTasks"] = lambda body: (
        error("ClientException") if arns[120] in body["tasks"] else whole(body)
    )

    assert (await refused(api.describe_tasks("prod", arns))).kind == "other"


@pytest.mark.asyncio
async def test_pages_that_go_round_are_no_answer(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: {"taskArns": ["a"], "nextToken": "again"}

    assert (await refused(api.list_tasks("prod"))).kind == "partial"
    assert len(aws.asked) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param({"tasks": [], "failures": []}, "partial", id="silently-shorter"),
        pytest.param(
            {"tasks": [], "failures": [{"arn": "x", "reason": "MISSING"}]}, "partial", id="other-missing"
        ),
        pytest.param(
            {"tasks": [], "failures": [{"arn": ecs.task_arn(1), "reason": "AGENT"}]}, "partial", id="failed"
        ),
        pytest.param({"failures": []}, "malformed", id="no-list"),
        pytest.param({"tasks": "all of them"}, "malformed", id="text"),
        pytest.param({"tasks": 7}, "malformed", id="number"),
        pytest.param(web.Response(text="<html>captive portal</html>"), "malformed", id="html"),
        pytest.param(web.Response(text='{"tasks": [{"taskArn"'), "malformed", id="cut-short"),
    ],
)
async def test_answer_that_is_not_whole_is_no_answer(
    aws: ScriptedAws, api: EcsApi, answer: Answer, kind: str
) -> None:
    aws.answers["DescribeTasks"] = lambda body: answer

    assert (await refused(api.describe_tasks("prod", [ecs.task_arn(1)]))).kind == kind


@pytest.mark.asyncio
async def test_another_revision_than_asked_is_no_answer(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["DescribeTaskDefinition"] = lambda body: {"taskDefinition": ecs.definition("web:41")}

    assert (await refused(api.describe_task_definition(ecs.definition_arn("web:42")))).kind == "malformed"


# --- errors say what to do ---------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (
            "AccessDeniedException",
            "denied",
            "ecs:ListTasks is not allowed: add it to the policy of the task role",
        ),
        ("ExpiredTokenException", "expired", "renew them"),
        ("UnrecognizedClientException", "denied", "check the keys, and the machine's clock"),
        ("InvalidSignatureException", "denied", "check the keys, and the machine's clock"),
        ("InvalidParameterException", "other", "InvalidParameterException (HTTP 400)"),
    ],
)
async def test_error_codes(aws: ScriptedAws, api: EcsApi, code: str, kind: str, text: str) -> None:
    aws.answers["ListTasks"] = lambda body: error(code)

    raised = await refused(api.list_tasks("prod"))

    assert raised.kind == kind
    assert text in str(raised)


@pytest.mark.asyncio
async def test_throttled_call_is_repeated_by_itself_and_slower(aws: ScriptedAws) -> None:
    slept: list[float] = []
    heard: list[str] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    api = EcsApi(
        Account(region=ecs.REGION, endpoint_url=aws.url),
        failed=lambda error: heard.append(error.kind),
        sleep=sleep,
        clock=lambda: 0.0,
    )
    answers = iter([{"taskArns": ["a"], "nextToken": "2"}, *(error("ThrottlingException") for _ in range(3))])
    aws.answers["ListTasks"] = lambda body: next(answers, {"taskArns": ["b"]})

    assert await api.list_tasks("prod") == ["a", "b"]
    api.close()

    assert [body.get("nextToken") for _, body in aws.asked] == [None, "2", "2", "2", "2"]
    assert api.calls["ListTasks"] == 5
    assert heard == ["throttled"] * 3
    back_off, budget = slept[::2], slept[1::2]
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(back_off))
    assert budget[0] == pytest.approx(1 / 5), "half of 10 per second"


@pytest.mark.asyncio
async def test_a_call_that_goes_on_failing_is_put_aside(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: error("ThrottlingException")

    raised = await refused(api.list_tasks("prod"))

    assert raised.kind == "throttled"
    assert "raise poll_interval_s" in str(raised)
    assert api.calls["ListTasks"] == len(aws.asked) == 6


@pytest.mark.asyncio
async def test_throttling_is_said_once_and_its_end_once(
    aws: ScriptedAws, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anyport.discovery.ecs")
    now_s = 0.0
    account = Account(region=ecs.REGION, endpoint_url=aws.url)
    api = EcsApi(account, clock=lambda: now_s, sleep=at_once)
    aws.answers["ListTasks"] = lambda body: error("ThrottlingException")
    for _ in range(2):
        await refused(api.list_tasks("prod"))
    aws.answers["ListTasks"] = lambda body: {"taskArns": []}
    now_s = 60.0
    for _ in range(2):
        await api.list_tasks("prod")
    api.close()

    assert [record.getMessage() for record in caplog.records] == [
        "AWS throttles our calls (cluster resource read): asking at half the rate, and less if it goes on",
        "AWS takes our calls (cluster resource read) at the full rate again; in 60 s it has refused 12",
    ]


@pytest.mark.asyncio
async def test_server_in_trouble_is_asked_again_and_a_refusal_is_not(aws: ScriptedAws, api: EcsApi) -> None:
    answers = iter([error("ServerException", 503), error("ServerException", 500)])
    aws.answers["ListTasks"] = lambda body: next(answers, {"taskArns": ["a"]})
    assert await api.list_tasks("prod") == ["a"]
    assert api.calls["ListTasks"] == 3

    aws.answers["ListTasks"] = lambda body: error("AccessDeniedException")
    await refused(api.list_tasks("prod"))
    assert api.calls["ListTasks"] == 4


@pytest.mark.asyncio
async def test_every_call_is_taken_from_the_budget(aws: ScriptedAws) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    account = Account(region=ecs.REGION, endpoint_url=aws.url)
    budget = Budget(0.1, clock=lambda: 0.0)
    apis = [EcsApi(account, budget=budget, clock=lambda: 0.0, sleep=sleep) for _ in range(2)]
    aws.answers["ListTasks"] = lambda body: {"taskArns": []}
    for _ in range(6):
        for api in apis:
            await api.list_tasks("prod")
    for api in apis:
        api.close()

    assert waited == pytest.approx([0.5, 1.0]), "10 at once, then 2 each second, for both together"


@pytest.mark.asyncio
async def test_lists_of_a_part(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: {"taskArns": []}
    aws.answers["ListContainerInstances"] = lambda body: {"containerInstanceArns": ["i1", "i1", "i2"]}

    async for _ in api.task_pages("prod", instance="i1"):
        pass
    async for _ in api.task_pages("prod", service="web"):
        pass
    async for _ in api.task_pages("prod", launch_type="FARGATE"):
        pass
    assert await api.list_container_instances("prod") == ["i1", "i2"]

    common = {"cluster": "prod", "maxResults": 100, "desiredStatus": "RUNNING"}
    assert [body for _, body in aws.asked[:3]] == [
        {**common, "containerInstance": "i1"},
        {**common, "serviceName": "web"},
        {**common, "launchType": "FARGATE"},
    ]


@pytest.mark.asyncio
async def test_services_are_described_in_tens(aws: ScriptedAws, api: EcsApi) -> None:
    names = [f"s{number}" for number in range(23)]
    aws.answers["DescribeServices"] = lambda body: {
        "services": [{"serviceName": name} for name in body["services"] if name != "s7"],
        "failures": [
            {"arn": ecs.arn("service", "prod/s7"), "reason": "MISSING"}
            for name in body["services"]
            if name == "s7"
        ],
    }

    described = await api.describe_services("prod", names)

    assert len(described.found) == 22
    assert described.missing == ["s7"]
    assert sorted(len(body["services"]) for _, body in aws.asked) == [3, 10, 10]


@pytest.mark.asyncio
async def test_missing_cluster_names_those_there_are(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: error("ClusterNotFoundException")
    aws.answers["ListClusters"] = lambda body: {
        "clusterArns": [ecs.arn("cluster", n) for n in ("staging", "prod")]
    }

    raised = await refused(api.list_tasks("prd"))

    assert raised.kind == "missing_cluster"
    assert str(raised) == (
        "there is no cluster 'prd', did you mean 'prod'?; there are: prod, staging; "
        "check clusters and region in [ecs]"
    )


@pytest.mark.asyncio
async def test_missing_cluster_without_the_right_to_list(aws: ScriptedAws, api: EcsApi) -> None:
    aws.answers["ListTasks"] = lambda body: error("ClusterNotFoundException")
    aws.answers["ListClusters"] = lambda body: error("AccessDeniedException")

    assert "check clusters and region in [ecs]" in str(await refused(api.list_tasks("prd")))


@pytest.mark.asyncio
async def test_hanging_endpoint_is_a_timeout(aws: ScriptedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.answers["ListTasks"] = lambda body: None
    api = EcsApi(Account(region=ecs.REGION, endpoint_url=aws.url), call_timeout_s=0.05, sleep=at_once)

    raised = await refused(api.list_tasks("prod"))
    api.close()

    assert raised.kind == "timeout"
    assert "call_timeout_s" in str(raised)


@pytest.mark.asyncio
async def test_closed_port_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and never listening
        api = EcsApi(
            Account(region=ecs.REGION, endpoint_url=f"http://127.0.0.1:{held.getsockname()[1]}"),
            sleep=at_once,
        )
        raised = await refused(api.list_tasks("prod"))
        api.close()

    assert raised.kind == "unreachable"
    assert "check endpoint_url and region" in str(raised)


@pytest.mark.asyncio
async def test_missing_credentials_are_looked_for_again(
    aws: ScriptedAws, api: EcsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.answers["ListTasks"] = lambda body: {"taskArns": ["a"]}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    raised = await refused(api.list_tasks("prod"))
    assert (raised.kind, aws.asked) == ("no_credentials", [])
    assert "taskRoleArn" in str(raised)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert await api.list_tasks("prod") == ["a"]


@pytest.mark.asyncio
async def test_missing_region_says_where_to_set_it(aws: ScriptedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)

    assert "set region in [ecs], or AWS_REGION" in str(
        await refused(EcsApi(Account(endpoint_url=aws.url)).list_tasks("p"))
    )


@pytest.mark.asyncio
async def test_senseless_endpoint_is_reported() -> None:
    raised = await refused(EcsApi(Account(region=ecs.REGION, endpoint_url="not a url")).list_tasks("prod"))

    assert "endpoint_url" in str(raised)


@pytest.mark.asyncio
async def test_debug_logging_shows_no_task_definition(
    aws: ScriptedAws, api: EcsApi, caplog: pytest.LogCaptureFixture
) -> None:
    """botocore prints whole answers at DEBUG, environment variables included."""
    caplog.set_level("DEBUG")
    aws.answers["DescribeTaskDefinition"] = lambda body: {"taskDefinition": ecs.definition()}

    await api.describe_task_definition(ecs.definition_arn("web:42"))

    assert "hunter2" not in caplog.text
