"""Services: what ought to run. The scheduler does the rest."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import make, short
from discovery.simulator.events import service_event
from discovery.simulator.failures import ApiError, invalid, missing
from discovery.simulator.operations.request import count, references, text, with_token
from discovery.simulator.paging import page_of
from discovery.simulator.state import Service
from discovery.simulator.wire import Json, service_json

LAUNCH_TYPES = ("EC2", "FARGATE", "EXTERNAL")
STRATEGIES = ("REPLICA", "DAEMON")

# Accepted and shown again, without an effect here.
ECHOED = (
    "capacityProviderStrategy", "enableECSManagedTags", "enableExecuteCommand",
    "healthCheckGracePeriodSeconds", "loadBalancers", "networkConfiguration", "placementConstraints",
    "placementStrategy", "platformVersion", "propagateTags", "serviceRegistries",
)  # fmt: skip


def list_services(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    launch_type, strategy = request.get("launchType"), request.get("schedulingStrategy")
    arns = [
        service.arn
        for service in cluster.services.values()
        if service.status != "INACTIVE"
        and (not launch_type or service.launch_type == launch_type)
        and (not strategy or service.strategy == strategy)
    ]
    page = page_of(arns, request.get("nextToken"), request.get("maxResults"), default_size=10)
    return with_token({"serviceArns": page.items}, page.next_token)


def describe_services(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    found, failures = [], []
    for reference in references(request, "services", 10):
        service = cluster.services.get(short(reference))
        if service is None:
            failures.append(missing(make(account.state, f"service/{cluster.name}/{short(reference)}")))
        else:
            found.append(service_json(service, cluster, request.get("include") or ()))
    return {"services": found, "failures": failures}


def create_service(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    name = text(request, "serviceName")
    existing = cluster.services.get(name)
    if existing is not None and existing.status == "ACTIVE":
        raise invalid("Creation of service was not idempotent.")
    if existing is not None and existing.status == "DRAINING":
        raise invalid("Unable to Start a service that is still Draining.")
    strategy = request.get("schedulingStrategy") or "REPLICA"
    launch_type = request.get("launchType") or "EC2"
    if strategy not in STRATEGIES or launch_type not in LAUNCH_TYPES:
        raise invalid("Unknown schedulingStrategy or launchType.")
    if strategy == "DAEMON" and launch_type == "FARGATE":
        raise invalid("The daemon scheduling strategy is not supported by the Fargate launch type.")
    if strategy == "REPLICA" and request.get("desiredCount") is None:
        raise invalid("desiredCount can not be null.")
    definition = account.active_definition(text(request, "taskDefinition"))
    if definition.network_mode == "awsvpc" and not request.get("networkConfiguration"):
        raise invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
    daemon = strategy == "DAEMON"
    service = Service(
        arn=make(account.state, f"service/{cluster.name}/{name}"),
        name=name,
        cluster_arn=cluster.arn,
        desired_count=0 if daemon else count(request, "desiredCount", 0),
        deployments=[],
        created_at=account.clock(),
        strategy=strategy,
        minimum_healthy_percent=0 if daemon else 100,
        maximum_percent=100 if daemon else 200,
        launch_type=launch_type,
        tags=request.get("tags") or [],
        raw={key: request[key] for key in ECHOED if request.get(key) is not None},
    )
    _configure(service, request)
    cluster.services[name] = service
    account.deploy(service, definition)
    return {"service": service_json(service, cluster, ("TAGS",))}


def update_service(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    service = account.service(cluster, text(request, "service"))
    if service.status != "ACTIVE":
        raise ApiError("ServiceNotActiveException", "Service was not ACTIVE.")
    current = next(d.definition for d in service.deployments if d.status == "PRIMARY")
    wanted = request.get("taskDefinition")
    definition = account.active_definition(wanted) if wanted else current
    if service.strategy == "DAEMON" and request.get("desiredCount") is not None:
        raise invalid("The daemon scheduling strategy does not support a desired count for services.")
    desired = count(request, "desiredCount", service.desired_count)
    _configure(service, request)
    service.raw.update({key: request[key] for key in ECHOED if request.get(key) is not None})
    if definition is not current or request.get("forceNewDeployment"):
        account.deploy(service, definition)
    if desired != service.desired_count:
        text_line = f"service {service.name} is to run {desired} tasks instead of {service.desired_count}"
        service.desired_count = desired
        account.bulletin.publish(service_event(service, text_line, account.clock()))
    return {"service": service_json(service, cluster, ("TAGS",))}


def _configure(service: Service, request: Json) -> None:
    """Take over the deployment configuration. Raises ApiError for one that ECS refuses."""
    settings = request.get("deploymentConfiguration") or {}
    least = count(settings, "minimumHealthyPercent", service.minimum_healthy_percent, 0, 100)
    most = count(settings, "maximumPercent", service.maximum_percent, 0, 1000)
    if service.strategy == "DAEMON" and most != 100:
        raise invalid("The daemon scheduling strategy does not support values above 100 for maximumPercent.")
    if service.strategy == "REPLICA" and least == most == 100:
        raise invalid(
            "Both maximumPercent and minimumHealthyPercent cannot be 100 as this will block deployments."
        )
    if most < least:
        raise invalid("maximumPercent must not be less than minimumHealthyPercent.")
    service.minimum_healthy_percent, service.maximum_percent = least, most
    breaker = settings.get("deploymentCircuitBreaker")
    if breaker:
        service.circuit_breaker = {
            "enable": bool(breaker.get("enable")),
            "rollback": bool(breaker.get("rollback")),
        }


def delete_service(account: Account, request: Json) -> Json:
    cluster = account.cluster(request.get("cluster"))
    service = account.service(cluster, text(request, "service"))
    if service.status != "ACTIVE":
        raise ApiError("ServiceNotFoundException", "Service not found.")
    if service.strategy == "REPLICA" and service.desired_count and not request.get("force"):
        raise invalid("The service cannot be stopped while it is scaled above 0.")
    service.status, service.desired_count = "DRAINING", 0
    account.bulletin.publish(service_event(service, f"service {service.name} is deleted", account.clock()))
    return {"service": service_json(service, cluster)}


OPERATIONS = {
    "ListServices": list_services,
    "DescribeServices": describe_services,
    "CreateService": create_service,
    "UpdateService": update_service,
    "DeleteService": delete_service,
}
