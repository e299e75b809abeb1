"""Which service a request means: precedence of hosts, longest path prefix, and closed when in doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.routing import AmbiguousPath, Router, compile_routes, normalise_host, normalise_path


def router(*rules: tuple[str, str, str]) -> Router[str]:
    return compile_routes(((host,), path, name) for host, path, name in rules)


HOSTS = router(
    ("web.test", "/", "exact"),
    ("*.test", "/", "wild"),
    ("*.deep.test", "/", "deeper"),
    ("*", "/", "any"),
    ("[::1]", "/", "v6"),
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"web.test", "exact"),
        (b"WEB.Test", "exact"),
        (b"web.test:8080", "exact"),
        (b"web.test.", "exact"),
        (b"a.test", "wild"),
        (b"a.b.test", "wild"),
        (b"x.deep.test", "deeper"),
        (b"deep.test", "wild"),
        (b"test", "any"),
        (b"xtest", "any"),
        (b"web.test.evil", "any"),
        (b"", "any"),
        (b"[::1]:80", "v6"),
    ],
)
def test_the_most_specific_host_wins(host: bytes, expected: str) -> None:
    """Exact before the longest wildcard before any; a wildcard stands for one label or more."""
    assert HOSTS.find(host, b"/") == expected


PATHS = router(("h", "/", "root"), ("h", "/api", "api"), ("h", "/api/v2/", "v2"), ("g", "/only", "only"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", "root"), (b"/api", "api"), (b"/api/", "api"), (b"/api/x/y", "api"), (b"/apifoo", "root"),
        (b"/api/v2", "v2"), (b"/api/v2/x", "v2"), (b"/api/v20", "api"), (b"/API", "root"),
        (b"/x/api", "root"),
    ],
)  # fmt: skip
def test_the_longest_prefix_wins_on_segment_boundaries(path: bytes, expected: str) -> None:
    """ "/api" means /api and /api/..., never /apifoo."""
    assert PATHS.find(b"h", path) == expected


def test_without_a_fitting_rule_there_is_no_service() -> None:
    assert PATHS.find(b"g", b"/other") is None
    assert PATHS.find(b"unknown", b"/") is None
    assert router().find(b"h", b"/") is None


def test_a_path_nobody_has_on_the_exact_host_falls_to_the_wildcard() -> None:
    """Specific rules carve pieces out of general ones; the rest stays where it was."""
    found = router(("a.test", "/api", "api"), ("*.test", "/", "wild"))
    assert found.find(b"a.test", b"/api/x") == "api"
    assert found.find(b"a.test", b"/x") == "wild"


@pytest.mark.parametrize(
    "path",
    [
        b"/x/../api", b"/./api", b"//api", b"/%61pi", b"/x%2f..%2fapi", b"/%2e/api", b"/x\\..\\api",
        b"/\\api", b"/api/../x", b"/api/%2e%2e/x", b"/api%2fx", b"/api/..",
    ],
)  # fmt: skip
def test_a_path_that_means_two_services_is_refused(path: bytes) -> None:
    """S36: rules that guard a path must not be walked around; which server normalises how is unknown."""
    with pytest.raises(AmbiguousPath):
        PATHS.find(b"h", path)


@pytest.mark.parametrize(
    "path", [b"/a/../b", b"//x", b"/%20", b"/api/a%2fb", b"/api//x", b"/api/./x", b"/a;b"]
)
def test_a_doubtful_path_of_one_meaning_passes(path: bytes) -> None:
    """Only a changed decision is a reason to refuse; user paths are full of escapes."""
    PATHS.find(b"h", path)


def test_without_path_rules_no_path_is_doubtful() -> None:
    assert HOSTS.find(b"web.test", b"/x/../%2e//y") == "exact"


def test_on_a_double_claim_the_first_rule_stays() -> None:
    """A newcomer must not take a running service's traffic."""
    assert router(("h", "/", "first"), ("h", "/", "second")).find(b"h", b"/") == "first"


_names = st.sampled_from([b"a", b"b", b"api", b"apix", b""])


@given(
    segments=st.lists(_names, max_size=5), rules=st.sets(st.sampled_from(["/", "/a", "/a/b", "/api", "/b/a"]))
)
def test_the_answer_is_the_one_of_the_plain_definition(segments: list[bytes], rules: set[str]) -> None:
    """The dict walk is an optimisation of: the longest rule that is the path or a parent of it."""
    path = b"/" + b"/".join(segments)
    fits = [r for r in rules if r == "/" or path == r.encode() or path.startswith(r.encode() + b"/")]
    expected = max(fits, key=len, default=None)
    try:
        found = compile_routes([(("h",), rule, rule) for rule in rules]).find(b"h", path)
    except AmbiguousPath:
        assert b"//" in path
        return
    assert found == expected


@given(st.binary(max_size=30))
def test_normalising_is_idempotent_and_stays_inside(path: bytes) -> None:
    """A second look must not see a third path. Escapes of escapes are somebody else's second look."""
    once = normalise_path(b"/" + path.replace(b"%", b""))
    assert normalise_path(once) == once
    assert b"/../" not in once + b"/"
    assert once.startswith(b"/")
    assert not once.startswith(b"//")


@given(st.binary(max_size=20))
def test_any_host_bytes_have_a_normal_form(host: bytes) -> None:
    """Nothing a client sends as Host may raise on the way to a 404."""
    normalise_host(host)
    HOSTS.find(host, b"/")


def test_many_spellings_of_hosts_do_not_fill_the_memory() -> None:
    """Clients choose them, so what is remembered of them is bounded."""
    found = router(("*", "/", "any"))
    for number in range(20_000):
        found.find(b"h%d" % number, b"/")
    assert len(found._cache) <= 4096
