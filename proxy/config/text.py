"""What a piece of text in the config must look like. Each function returns it in its one spelling.

The message of a `ValueError` ends up before an operator: it says what is right, not only what is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_ROLE_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_PATH: Final = re.compile(r"/[!-~]*")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token (RFC 9110 section 5.6.2)


def split_address(text: str) -> tuple[str, int]:
    """Return (ip, port) of "10.0.0.1:80" or "[::1]:80"."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ValueError('an address is "ip:port", such as "0.0.0.0:8080" or "[::]:8080"')
    return host.removeprefix("[").removesuffix("]"), int(port)


def address(text: str) -> str:
    """Return *text* if it is "ip:port"; names are not resolved, an IP must be written."""
    host, port = split_address(text)
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise ValueError(
            f'"{host}" is not an IP address; an address is "ip:port", such as "0.0.0.0:8080"'
        ) from None
    if (version == 6) != text.startswith("["):
        raise ValueError('an IPv6 address is written in brackets, such as "[::1]:8080", IPv4 without')
    if port > 65535:
        raise ValueError(f"port {port} is not between 0 and 65535")
    return text


def host_pattern(text: str) -> str:
    """Return *text* in lower case if it is a host name, "*.name" or "*"."""
    if text == "*":
        return text
    if "://" in text:
        raise ValueError(f'a host is written without scheme and path: "{_bare(text)}"')
    if "/" in text:
        raise ValueError(f'a host has no path: "{_bare(text)}" here, and the rest in `path`')
    if not text.isascii():
        raise ValueError(f"a host is written as browsers send it: {_punycode(text)}")
    lowered = text.lower().removesuffix(".")
    if _is_ip(lowered):
        return f"[{lowered}]" if lowered[0] != "[" and ":" in lowered else lowered
    name, colon, port = lowered.partition(":")
    if colon:
        raise ValueError(f'a host has no port: "{name}" (port {port} is the listener\'s)')
    return domain(lowered, wildcard=True)


def domain(text: str, *, wildcard: bool = False) -> str:
    """Return *text* in lower case if it is a host name, with *wildcard* also "*.name"."""
    lowered = text.lower().removesuffix(".")
    name = lowered.removeprefix("*.") if wildcard else lowered
    if "*" in name:
        raise ValueError('"*" stands alone or for the first label only: "*" or "*.example.com"')
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f'"{text}" is not a host name such as "web.example.com"')
    return lowered


def optional_domain(text: str) -> str:
    """Return *text* as `domain` does, or "" as it is."""
    return domain(text) if text else text


def dns_name(text: str) -> str:
    """Return *text* in lower case if it is "name:port", or the name of SRV records: "_http._tcp.name"."""
    if "/" in text:
        raise ValueError(f'"{text}" is a URL: write its host and port, such as "internal-elb.example.com:80"')
    name, colon, port = text.rpartition(":")
    if not colon:
        if text.startswith("_") and re.match(r"_[^.]+\._[^.]+\..", text):
            return domain(text)
        raise ValueError(
            'a DNS name is written with its port, such as "internal-elb.example.com:80"; without one it is '
            'the name of SRV records: "_http._tcp.backend.local"'
        )
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 0 < int(port) <= 65535:
        raise ValueError(f'"{port}" is not a port between 1 and 65535')
    if _is_ip(name):
        raise ValueError(f"{name} is an address and not a name: write it in `static`")
    return f"{domain(name)}:{int(port)}"


def dns_server(text: str) -> str:
    """Return *text* if it is the address of a DNS server, with a port or without."""
    if _is_ip(text) and not text.startswith("["):
        return text
    try:
        checked = address(text)
    except ValueError:
        raise ValueError(f'"{text}" is neither an IP address nor "ip:port"') from None
    if not split_address(checked)[1]:
        raise ValueError(f'nobody can be asked at "{text}": leave the port out for 53')
    return checked


def optional_header(text: str) -> str:
    """Return *text* in lower case if it is the name of a header, or "" as it is."""
    if text and not _HEADER.fullmatch(text):
        raise ValueError(f'"{text[:100]}" is not the name of a header such as "X-Service"')
    return text.lower()


def optional_path(text: str) -> str:
    """Return *text* if it can be the path of a file or a folder, or "" as it is."""
    if text and (not text.strip() or "\0" in text):
        raise ValueError('it is named by its path, such as "/etc/anyport/services.toml"')
    return text


def role_arn(text: str) -> str:
    """Return *text* if it is the ARN of an IAM role, or ""."""
    if text and not _ROLE_ARN.fullmatch(text):
        raise ValueError(
            f'"{text}" is not the ARN of a role, such as "arn:aws:iam::123456789012:role/anyport"'
        )
    return text


def network(text: str) -> str:
    """Return *text* if it is a CIDR block, or a single address."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            wide = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f'"{text}" is not a CIDR block such as "10.0.0.0/8"') from None
        raise ValueError(f'"{text}" is one address inside a block; the block is "{wide}"') from None
    return text


def path(text: str) -> str:
    """Return *text* if it is an absolute path as it stands in a request line."""
    if not _PATH.fullmatch(text):
        raise ValueError('a path begins with "/" and has no space, such as "/" or "/api/"')
    return text


def prefix(text: str) -> str:
    """Return *text* if it is a path without query and fragment."""
    if "?" in text or "#" in text:
        raise ValueError("requests are told apart by path only: leave out `?` or `#` and what follows")
    return path(text)


def name(text: str) -> str:
    """Return *text* if it can name a service in metrics, logs and commands."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            "a name has 1 to 128 letters, digits, `_`, `.` and `-`, and begins with a letter or digit"
        )
    return text


def file(text: str) -> str:
    """Return *text* if it can be the path of a file."""
    if "-----BEGIN" in text:
        raise ValueError("write the path of the file, not what is in it")
    if not text.strip() or "\0" in text:
        raise ValueError('a file is named by its path, such as "/etc/anyport/tls/web.pem"')
    return text


def optional_file(text: str) -> str:
    """Return *text* as `file` does, or "" as it is."""
    return file(text) if text else text


def endpoint_url(text: str) -> str:
    """Return *text* if it is "" or an http(s) address."""
    if text and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text):
        raise ValueError('an endpoint is an address such as "http://127.0.0.1:4566", or "" for AWS itself')
    return text


def agent(text: str) -> str:
    """Return *text* if it is "auto", "off" or the address of an ECS agent."""
    if text not in ("auto", "off") and not re.fullmatch(r"http://[^\s/]+/?", text):
        raise ValueError('write "auto", "off", or an address such as "http://172.17.0.1:51678"')
    return text


def queue(text: str) -> str:
    """Return *text* if it is "", "auto" or an SQS queue by its URL or ARN."""
    if text in ("", "auto"):
        return text
    if re.fullmatch(r"https?://[^\s/?#]+/\S+", text) or re.fullmatch(r"arn:[a-z-]+:sqs(:[^\s:]+){3}", text):
        if text.endswith(".fifo"):
            raise ValueError("EventBridge events need a standard queue: a FIFO queue drops what it has seen")
        return text
    raise ValueError(
        'write "auto", or a queue such as "https://sqs.eu-west-1.amazonaws.com/111122223333/anyport" '
        'or "arn:aws:sqs:eu-west-1:111122223333:anyport"'
    )


def topic(text: str) -> str:
    """Return *text* if it is "" or an SNS topic by its name or ARN."""
    if not re.fullmatch(r"|[A-Za-z0-9_-]{1,256}|arn:[a-z-]+:sns(:[^\s:]+){3}", text):
        raise ValueError(
            'write the name of a topic, such as "anyport-events", or its ARN, such as '
            '"arn:aws:sns:eu-west-1:111122223333:anyport-events"'
        )
    return text


def _bare(text: str) -> str:
    return text.partition("://")[2].partition("/")[0] if "://" in text else text.partition("/")[0]


def _punycode(text: str) -> str:
    try:
        return f'"{text.encode("idna").decode()}"'
    except UnicodeError:
        return "in ASCII (punycode)"


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
