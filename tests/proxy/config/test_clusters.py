"""Clusters of several Regions and accounts, and the names that tell them apart."""

from __future__ import annotations

import pytest

from proxy.config import ClusterAt, Ecs, EcsCluster, clusters_of

ROLE = "arn:aws:iam::210987654321:role/anyport"
OTHER = "arn:aws:iam::310987654321:role/anyport"


def ids(*sections: EcsCluster, clusters: tuple[str, ...] = (), region: str = "eu-west-1") -> list[str]:
    return [at.id for at in clusters_of(Ecs(clusters=clusters, cluster=sections, region=region))]


def test_the_short_form_is_asked_as_ecs_says() -> None:
    ecs = Ecs(clusters=("prod",), region="eu-west-1", endpoint_url="http://127.0.0.1:4566")

    assert clusters_of(ecs) == (
        ClusterAt(cluster="prod", region="eu-west-1", endpoint_url="http://127.0.0.1:4566", id="prod"),
    )


def test_what_a_table_leaves_out_is_as_ecs_says() -> None:
    section = EcsCluster(name="shop", role_arn=ROLE, external_id="4711")
    (at,) = clusters_of(Ecs(cluster=(section,), region="eu-west-1"))

    assert (at.id, at.region, at.role_arn, at.external_id) == ("shop", "eu-west-1", ROLE, "4711")


def test_an_arn_says_its_region_and_account() -> None:
    arn = "arn:aws:ecs:us-east-1:111122223333:cluster/prod"
    (at,) = clusters_of(Ecs(clusters=(arn,), region="eu-west-1"))

    assert (at.region, at.account, at.name, at.id) == ("us-east-1", "111122223333", "prod", "prod")


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ((EcsCluster(name="prod", region="us-east-1"),), ["prod@eu-west-1", "prod@us-east-1"]),
        ((EcsCluster(name="prod", role_arn=ROLE),), ["prod@eu-west-1", "prod@210987654321"]),
        ((EcsCluster(name="shop", region="us-east-1"),), ["prod", "shop"]),
        ((EcsCluster(name="prod"),), ["prod@eu-west-1", "prod@eu-west-1"]),
        (
            (
                EcsCluster(name="prod", role_arn=ROLE, region="us-east-1"),
                EcsCluster(name="prod", role_arn=OTHER, region="us-east-1"),
                EcsCluster(name="prod", role_arn=OTHER, region="us-west-2"),
            ),
            ["prod@eu-west-1", "prod@210987654321", "prod@310987654321/us-east-1", "prod@us-west-2"],
        ),
    ],
)
def test_clusters_of_one_name_are_told_apart(sections: tuple[EcsCluster, ...], names: list[str]) -> None:
    assert ids(*sections, clusters=("prod",)) == names


def test_without_a_region_it_is_the_default_one() -> None:
    assert ids(EcsCluster(name="prod", role_arn=ROLE), clusters=("prod",), region="") == [
        "prod@default",
        "prod@210987654321",
    ]


def test_what_may_be_the_same_cluster_is_not_told_apart() -> None:
    """The default Region may be that very one."""
    assert ids(EcsCluster(name="prod", region="us-east-1"), clusters=("prod",), region="") == ["prod", "prod"]


def test_which_cluster_a_service_means() -> None:
    sections = (EcsCluster(name="prod", region="us-east-1"), EcsCluster(name="shop"))
    among = clusters_of(Ecs(clusters=("prod",), cluster=sections, region="eu-west-1"))

    def meant(reference: str) -> list[str]:
        return [at.id for at in among if at.is_meant_by(reference, among)]

    assert meant("shop") == ["shop"]
    assert meant("prod@us-east-1") == ["prod@us-east-1"]
    assert meant("prod") == [], "it could be either"
    assert meant("arn:aws:ecs:eu-west-1:111122223333:cluster/shop") == ["shop"]
    assert meant("other") == []
