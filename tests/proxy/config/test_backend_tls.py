"""TLS to the tasks in the configuration: what must be said, and which files must be usable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme

from proxy.config import Config, ConfigError, Issue, load
from tests.kit.pki import authority_file, pair_files

SERVICE = '[[service]]\nname = "pay"\nhosts = ["pay.test"]\nstatic = ["10.0.0.1:8443"]\n'


def read(folder: Path, text: str, *, files: bool = False) -> Config:
    (folder / "config.toml").write_text(text)
    return load(folder / "config.toml", {}, files=files)


def issues(folder: Path, text: str, *, files: bool = False) -> tuple[Issue, ...]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, files=files)
    return caught.value.issues


def test_a_service_takes_the_files_it_does_not_name_from_the_general_section(tmp_path: Path) -> None:
    text = '[backend_tls]\nca = "/a/ca.pem"\ncert = "c.pem"\nkey = "c.key"\n' + SERVICE
    tls = read(tmp_path, text + '[service.tls]\nname = "Pay.Internal"\nca = "own.pem"').service[0].tls
    assert tls is not None
    assert (tls.name, tls.verify, tls.ca) == ("pay.internal", True, str(tmp_path / "own.pem"))
    assert (tls.cert, tls.key) == (str(tmp_path / "c.pem"), str(tmp_path / "c.key"))


def test_the_general_section_alone_makes_nobody_speak_tls(tmp_path: Path) -> None:
    assert read(tmp_path, '[backend_tls]\nca = "/ca.pem"\n' + SERVICE).service[0].tls is None


def test_without_verification_no_authority_counts(tmp_path: Path) -> None:
    text = '[backend_tls]\nca = "/ca.pem"\n' + SERVICE + "[service.tls]\nverify = false"
    tls = read(tmp_path, text).service[0].tls
    assert tls is not None
    assert (tls.verify, tls.ca, tls.name) == (False, "", "")


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("[service.tls]", 5, '[service.tls] of "pay": it does not say which', "verify = false"),
        ('[service.tls]\nca = "/x"', 5, "it does not say which name", "add `name ="),
        ('[service.tls]\nverify = false\nca = "/x"', 7, "`ca` is of no use", "keep one"),
        ('[service.tls]\nname = "x"\ncert = "/x"', 7, "`cert` is of no use without `key`", "add `key`"),
        ('[backend_tls]\nkey = "/x"', 6, "`key` is of no use without `cert`", "add `cert`"),
        ('[service.tls]\nname = "*.x"', 6, '"*" stands alone', ""),
        ('[service.tls]\nname = "x"\nca = "-----BEGIN CERTIFICATE-----"', 7, "not what is in it", ""),
        ('[service.tls]\nname = "x"\nverfy = false', 7, "unknown key `verfy`", "`verify`"),
        ("tls = true", 5, "must be a table", ""),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_where_it_stands(
    tmp_path: Path, text: str, line: int, message: str, hint: str
) -> None:
    found = issues(tmp_path, SERVICE + text)
    assert len(found) == 1, found
    assert found[0].line == line
    assert message in found[0].message
    assert hint in found[0].hint


def test_files_are_judged_only_on_demand_and_then_all_at_once(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, _ = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    text = f"""
[backend_tls]
cert = "{cert}"
key = "{authority_file(tmp_path, authority)}"
{SERVICE}
[service.tls]
name = "x"
ca = "gone.pem"
"""
    read(tmp_path, text)
    found = issues(tmp_path, text, files=True)
    assert [(issue.line, issue.key) for issue in found] == [(4, "backend_tls.key"), (12, "service[0].tls.ca")]
    assert "holds no usable private key" in found[0].message
    assert f"there is no file {tmp_path}/gone.pem" in found[1].message


def test_usable_files_are_accepted(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = pair_files(tmp_path, authority.issue_cert("proxy.test"))
    text = f'[backend_tls]\ncert = "{os.path.basename(cert)}"\nkey = "{key}"\n{SERVICE}'
    ca = authority_file(tmp_path, authority)
    read(tmp_path, text + f'[service.tls]\nname = "x"\nca = "{ca}"', files=True)
