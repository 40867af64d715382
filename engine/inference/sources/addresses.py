"""Addresses of cameras and network streams: which there are, and how they are shown without their secrets."""

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443, "tcp": 0, "udp": 0, "rtp": 0,
         "srt": 0}  # by scheme that OpenCV's FFmpeg opens: the usual port, 0 where there is none


def is_camera(source: str) -> bool:
    """Whether a source is the number of a camera, and not a file of that name."""
    return source.isdecimal() and not Path(source).exists()


def is_url(source: str) -> bool:
    """Also a URL that lacks a slash, which would otherwise be taken for a path and printed with its password."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", source) is not None


def scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def without_secrets(source: str) -> str:
    """A source for messages: without user, password and query of a URL."""
    return re.sub(r"\?\S*$", "?...", re.sub(r"(?<=:/)(/?)\S*@", r"\1***@", source)) if ":/" in source else source


def shown_names(addresses: list[str]) -> list[str]:
    """A name for each camera or stream, without secrets; equal ones are numbered."""
    names: list[str] = []
    for address in addresses:
        name = wanted = f"camera {address}" if address.isdecimal() else without_secrets(address)
        number = 1
        while name in names:
            number += 1
            name = f"{wanted} ({number})"
        names.append(name)
    return names


def why_unreachable(address: str, timeout: float) -> str:
    """Why a camera or stream cannot be opened, as far as a connection to its host tells."""
    if address.isdecimal():
        return "no such camera, or another program uses it"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        return "not a valid address"
    if not host:
        return "its address names no host"
    if not port or parts.scheme in ("udp", "rtp", "srt"):
        return f"nothing arrived within {timeout:g} s"
    try:
        socket.create_connection((host, port), timeout).close()
    except socket.gaierror:
        return "its host is not known here"
    except TimeoutError:
        return f"its host did not answer within {timeout:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ("its host answers, but not with a video that can be read; check path, user and password, and that nobody "
            "else holds the only connection")
