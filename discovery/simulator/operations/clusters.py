"""ListClusters, DescribeClusters, CreateCluster, DeleteCluster."""

from __future__ import annotations

from discovery.simulator.account import Account
from discovery.simulator.arns import make, short
from discovery.simulator.failures import ApiError, missing
from discovery.simulator.operations.request import references, text, with_token
from discovery.simulator.paging import page_of
from discovery.simulator.state import Cluster
from discovery.simulator.wire import Json, cluster_json, live_tasks


def list_clusters(account: Account, request: Json) -> Json:
    active = [c.arn for c in account.state.clusters.values() if c.status == "ACTIVE"]
    page = page_of(active, request.get("nextToken"), request.get("maxResults"))
    return with_token({"clusterArns": page.items}, page.next_token)


def describe_clusters(account: Account, request: Json) -> Json:
    wanted = references(request, "clusters", 100) if request.get("clusters") else ["default"]
    found, failures = [], []
    for reference in wanted:
        cluster = account.state.clusters.get(short(reference))
        if cluster is None:
            failures.append(missing(make(account.state, f"cluster/{short(reference)}")))
        else:
            found.append(cluster_json(cluster, request.get("include") or ()))
    return {"clusters": found, "failures": failures}


def create_cluster(account: Account, request: Json) -> Json:
    name = request.get("clusterName") or "default"
    cluster = account.state.clusters.get(name)
    if cluster is None or cluster.status != "ACTIVE":
        cluster = Cluster(
            arn=make(account.state, f"cluster/{name}"), name=name, tags=request.get("tags") or []
        )
        account.state.clusters[name] = cluster
    return {"cluster": cluster_json(cluster, ("TAGS",))}


def delete_cluster(account: Account, request: Json) -> Json:
    cluster = account.cluster(text(request, "cluster"))
    if any(instance.status != "INACTIVE" for instance in cluster.instances.values()):
        raise ApiError(
            "ClusterContainsContainerInstancesException",
            "The Cluster cannot be deleted while Container Instances are active or draining.",
        )
    if any(service.status == "ACTIVE" for service in cluster.services.values()):
        raise ApiError(
            "ClusterContainsServicesException", "The Cluster cannot be deleted while Services are active."
        )
    if live_tasks(cluster):
        raise ApiError(
            "ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active."
        )
    cluster.status = "INACTIVE"
    return {"cluster": cluster_json(cluster)}


OPERATIONS = {
    "ListClusters": list_clusters,
    "DescribeClusters": describe_clusters,
    "CreateCluster": create_cluster,
    "DeleteCluster": delete_cluster,
}
