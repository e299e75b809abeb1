"""The soak of `make soak`, shorter: one minute where everything is checked, some seconds elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.soak.evidence import breaches, table
from tests.soak.run import Soak

FOR_S: Final = 60.0 if os.environ.get("ANYPORT_REQUIRE_ALL") == "1" else 15.0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    seen = Soak(tmp_path, FOR_S).run()
    assert not breaches(seen), table(seen)
