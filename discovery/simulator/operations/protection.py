"""Task scale-in protection."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import make, service_of, short
from discovery.simulator.failures import missing
from discovery.simulator.operations.request import count, references, text
from discovery.simulator.state import Cluster, Task
from discovery.simulator.wire import Json, protection_json

DEFAULT_MINUTES = 120
MOST_MINUTES = 2880


def get(account: Account, request: Json) -> Json:
    cluster = account.cluster(text(request, "cluster"))
    wanted = request.get("tasks") or [
        task.arn for task in cluster.tasks.values() if task.protected_until > account.clock()
    ]
    tasks, failures = _protectable(account, cluster, wanted)
    return {
        "protectedTasks": [protection_json(task, account.clock()) for task in tasks],
        "failures": failures,
    }


def update(account: Account, request: Json) -> Json:
    cluster = account.cluster(text(request, "cluster"))
    tasks, failures = _protectable(account, cluster, references(request, "tasks", 10))
    minutes = count(request, "expiresInMinutes", DEFAULT_MINUTES, 1, MOST_MINUTES)
    for task in tasks:
        protect(account, task, minutes if request.get("protectionEnabled") else 0)
    return {
        "protectedTasks": [protection_json(task, account.clock()) for task in tasks],
        "failures": failures,
    }


def protect(account: Account, task: Task, minutes: int) -> None:
    """Shield *task* from scale-in and deployments for so many minutes; 0 ends it."""
    task.protected_until = account.clock() + 60 * minutes if minutes else 0.0
    account.task_changed(task)


def _protectable(account: Account, cluster: Cluster, wanted: list[str]) -> tuple[list[Task], list[Json]]:
    tasks, failures = [], []
    for reference in wanted:
        task = account.find_task(cluster, reference)
        if task is None:
            failures.append(missing(make(account.state, f"task/{cluster.name}/{short(reference)}")))
        elif not service_of(task.group) or task.desired_status != "RUNNING":
            failures.append({"arn": task.arn, "reason": "TASK_NOT_VALID"})
        else:
            tasks.append(task)
    return tasks, failures


OPERATIONS = {"GetTaskProtection": get, "UpdateTaskProtection": update}
