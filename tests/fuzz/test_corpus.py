"""What the fuzzer has found worth keeping is tried in every run; so is what has ever broken an invariant."""

from __future__ import annotations

import pytest

from tests.fuzz.http1 import CORPUS
from tests.kit.fuzz_targets import TARGETS, check

INPUTS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_the_invariants_hold_for_the_corpus(target: bytes) -> None:
    chosen = [data for file in INPUTS if (data := file.read_bytes())[:1] == target]
    assert chosen
    for data in chosen:
        check(data)


def test_the_corpus_stays_small() -> None:
    assert len(INPUTS) <= 200
    assert sum(file.stat().st_size for file in INPUTS) <= 200_000
