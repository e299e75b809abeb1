"""The files for TLS to backends, looked at before anybody relies on them."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.backend_tls import FilesError, build
from proxy.config import model
from proxy.config.model import Config
from proxy.config.positions import Path
from proxy.config.rules import Problem
from proxy.settings import BackendTls
from proxy.steps import finish


def check_files(config: Config) -> Iterator[Problem]:
    """Yield every file for TLS to backends that *config* names and that cannot be used."""
    sections: list[tuple[Path, model.BackendTls | None]] = [(("backend_tls",), config.backend_tls)]
    sections += [(("service", index, "tls"), service.tls) for index, service in enumerate(config.service)]
    for path, section in sections:
        if section is None or not (section.ca or (section.cert and section.key)):
            continue
        pair = (section.cert, section.key) if section.cert and section.key else ("", "")
        try:
            finish(build(BackendTls(verify=bool(section.ca), ca=section.ca, cert=pair[0], key=pair[1])))
        except FilesError as exc:
            yield Problem(((*path, exc.key),), str(exc), exc.hint)
