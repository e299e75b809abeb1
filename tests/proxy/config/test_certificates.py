"""Certificates are tried before they are relied on, and every mistake has its words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.config import ConfigError, load
from proxy.config.certificates import PairError, inspect
from tests.kit.certificates import Authority

SERVICE = '[[service]]\nname = "web"\nhosts = ["*"]\nstatic = ["127.0.0.1:1"]\n'


def openssl(folder: Path, name: str, key: str, *options: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "3", "-subj", "/CN=web.test", "-newkey", *key.split(),
         "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem", *options],
        check=True, capture_output=True,
    )  # fmt: skip


def look(folder: Path, cert: str = "w.pem", key: str = "w.key") -> None:
    inspect(str(folder / cert), str(folder / key))


def test_what_a_good_pair_says(tmp_path: Path) -> None:
    Authority(tmp_path).issue("w", "Web.test", "*.shop.test", "127.0.0.1")

    pair = inspect(str(tmp_path / "w.pem"), str(tmp_path / "w.key"))

    assert set(pair.names) == {"web.test", "*.shop.test"}
    assert len(pair.fingerprint) == 64
    assert pair.warning(1.8e9) == ""


@pytest.mark.parametrize(
    "key", ["rsa:2048 -nodes", "ec -pkeyopt ec_paramgen_curve:P-256 -nodes", "ed25519 -nodes"]
)
def test_kinds_of_keys_that_can_serve(tmp_path: Path, key: str) -> None:
    openssl(tmp_path, "w", key)
    look(tmp_path)


def test_what_has_expired_serves_with_a_warning(tmp_path: Path) -> None:
    pair = Authority(tmp_path).expired("w", "web.test")
    found = inspect(pair.cert, pair.key)

    assert found.warning(1.8e9) == "expired 2021-01-01 00:00 UTC"
    assert found.warning(1.5e9) == "is not valid before 2020-01-01 00:00 UTC"
    assert found.warning(1.6e9) == ""


def test_two_files_of_two_pairs(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("w", "web.test")
    authority.issue("x", "web.test")
    with pytest.raises(
        PairError, match=r"the key in .*x.key does not belong to the certificate in .*w.pem"
    ) as caught:
        look(tmp_path, key="x.key")
    assert caught.value.which == "key"


@pytest.mark.parametrize(
    ("key", "options", "which", "message"),
    [
        ("rsa:1024 -nodes", (), "cert", "too weak: ee key too small"),
        ("rsa:2048 -passout pass:abcd", (), "key", "is encrypted"),
        (
            "rsa:2048 -nodes",
            ("-addext", "extendedKeyUsage=clientAuth"),
            "cert",
            "clients would refuse .* purpose",
        ),
    ],
)
def test_pairs_that_cannot_serve(
    tmp_path: Path, key: str, options: tuple[str, ...], which: str, message: str
) -> None:
    openssl(tmp_path, "w", key, *options)
    with pytest.raises(PairError, match=message) as caught:
        look(tmp_path)
    assert caught.value.which == which
    assert caught.value.hint


@pytest.mark.parametrize(
    ("spoilt", "content", "message"),
    [
        ("w.pem", None, "there is no file"),
        ("w.key", None, "there is no file"),
        ("w.pem", "", "holds no certificate"),
        ("w.key", "", "holds no private key"),
        ("w.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read as PEM"),
        ("w.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read as PEM"),
        ("w.pem", "x" * 1_100_000, "larger than 1 MiB"),
    ],
)
def test_files_that_are_not_what_they_should_be(
    tmp_path: Path, spoilt: str, content: str | None, message: str
) -> None:
    Authority(tmp_path).issue("w", "web.test")
    path = tmp_path / spoilt
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(PairError, match=message):
        look(tmp_path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="cannot be read: Is a directory"):
        look(tmp_path, cert=".")


# In the configuration


def write(folder: Path, *pairs: tuple[str, str]) -> Path:
    text = "[[listener]]\n" + "".join(f'[[listener.tls]]\ncert = "{c}"\nkey = "{k}"\n' for c, k in pairs)
    (folder / "config.toml").write_text(text + SERVICE)
    return folder / "config.toml"


def test_relative_files_begin_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    Authority(tmp_path).issue("w", "web.test")
    config = load(write(tmp_path, ("w.pem", "./w.key")), {}, files=True)

    (pair,) = config.listener[0].settings().tls
    assert pair.cert == str(tmp_path / "w.pem")
    assert Path(pair.key).samefile(tmp_path / "w.key")
    assert Path(pair.key).is_absolute()


def test_every_bad_file_is_shown_where_it_is_named(tmp_path: Path) -> None:
    Authority(tmp_path).issue("w", "web.test")
    path = write(tmp_path, ("w.pem", "w.key"), ("gone.pem", "w.key"), ("w.pem", "w.pem"))
    with pytest.raises(ConfigError) as caught:
        load(path, {}, files=True)

    first, second = caught.value.issues
    assert (first.line, first.key) == (6, "listener[0].tls[1].cert")
    assert "there is no file" in first.message
    assert "holds no private key" in second.message
    assert str(first).splitlines()[0].startswith(f"{path}:6: [[listener.tls]]")


def test_files_are_not_looked_at_unless_asked(tmp_path: Path) -> None:
    load(write(tmp_path, ("gone.pem", "gone.key")), {})


def test_variables_can_name_them(tmp_path: Path) -> None:
    Authority(tmp_path).issue("w", "web.test")
    environ = {
        "ANYPORT_LISTENER__0__TLS__0__CERT": str(tmp_path / "w.pem"),
        "ANYPORT_LISTENER__0__TLS__0__KEY": str(tmp_path / "w.key"),
    }
    (tmp_path / "config.toml").write_text(SERVICE)
    config = load(tmp_path / "config.toml", environ, files=True)
    assert config.listener[0].tls[0].cert == str(tmp_path / "w.pem")


@pytest.mark.parametrize(
    ("line", "hint"),
    [('certificate = "x"', "`cert`"), ('private_key = "x"', "`key`"), ('keys = "x"', "`key`")],
)
def test_other_names_for_the_keys_are_known(tmp_path: Path, line: str, hint: str) -> None:
    (tmp_path / "config.toml").write_text(f"[[listener]]\n[[listener.tls]]\n{line}\n" + SERVICE)
    with pytest.raises(ConfigError, match=f"did you mean {hint}"):
        load(tmp_path / "config.toml", {})


def test_a_key_where_its_file_should_be_named_is_not_shown(tmp_path: Path) -> None:
    secret = "MIIEvQIBADANBgkqhkiG9w0BAQ"
    for text in (
        f'key = "-----BEGIN PRIVATE KEY-----\\n{secret}"',
        f'key = """-----BEGIN PRIVATE KEY-----\n{secret}\n"""',
    ):
        (tmp_path / "config.toml").write_text(
            f'[[listener]]\n[[listener.tls]]\ncert = "a"\n{text}\n' + SERVICE
        )
        with pytest.raises(ConfigError, match="write the path of the file") as caught:
            load(tmp_path / "config.toml", {})
        assert secret not in str(caught.value)
    with pytest.raises(ConfigError, match="write the path of the file") as caught:
        load(None, {"ANYPORT_LISTENER__0__TLS__0__KEY": f"-----BEGIN PRIVATE KEY-----\n{secret}"})
    assert secret not in str(caught.value)


# anyport check


def test_check_tries_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    authority.issue("w", "web.test")
    path = write(tmp_path, ("w.pem", "w.key"))
    assert main(["check", "--config", str(path)]) == 0
    assert "warning" not in capsys.readouterr().err

    authority.expired("w", "web.test")
    assert main(["check", "--config", str(path)]) == 0
    assert f"the certificate {tmp_path}/w.pem of 0.0.0.0:8080 expired 2021-01-01" in capsys.readouterr().err
    assert main(["check", "--json", "--config", str(path)]) == 0
    assert "expired" in json.loads(capsys.readouterr().out)["warnings"][0]

    (tmp_path / "w.key").unlink()
    assert main(["check", "--config", str(path)]) == 1
    assert "there is no file" in capsys.readouterr().err
