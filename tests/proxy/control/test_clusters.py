"""Who tells whom in the sources of clusters, as the configuration makes them."""

from __future__ import annotations

from discovery.ecs.cluster import EcsCluster
from discovery.ecs.fleet.follow import Follower
from discovery.ecs.instance.agent import AgentFeed
from discovery.ecs.instance.spot import SpotFeed
from proxy.config import Config, Ecs
from proxy.config.model import Fleet
from proxy.control import sources
from tests.kit import ecs_json as ecs


def test_what_our_machine_tells_goes_to_our_leader() -> None:
    settings = Config(ecs=Ecs(clusters=("prod",), region="eu-west-1"), fleet=Fleet(key="k" * 32))
    (cluster,) = sources.build(settings)
    assert isinstance(cluster, EcsCluster)
    feeds = {type(feed): feed for feed in cluster.feeds}
    agent, spot, follower = feeds[AgentFeed], feeds[SpotFeed], feeds[Follower]
    assert isinstance(agent, AgentFeed)
    assert isinstance(spot, SpotFeed)
    assert isinstance(follower, Follower)
    follower._role = ecs.task_arn(9)

    agent._tell([ecs.task_arn(1)])
    spot._tell("i-1", "Spot interruption: stop")

    assert follower._news == {("seen", ecs.task_arn(1)), ("notice", "i-1 Spot interruption: stop")}
    follower.share.notice("i-2", "Spot interruption: stop")
    assert cluster.ledger.notices["i-2"]
    assert ("notice", "i-2 Spot interruption: stop") in follower._news
    follower.share.seen([ecs.task_arn(2)])
    assert ("seen", ecs.task_arn(2)) in follower._news
