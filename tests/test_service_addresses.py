"""Addresses that users name: which are asked, and which never."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded_server import guarded
from service_server import Server, serving

from synchuman.serving.outbound import AddressRefused, Outbound, is_public


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
    "2002:7f00:1::", "2002:a00:1::", "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1", "192.0.2.1", "64:ff9b:1::1",
])  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", [
    "http://93.184.216.34/", "file:///etc/passwd", "ftp://93.184.216.34/x", "gopher://127.0.0.1/", "//127.0.0.1/",
    "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest/meta-data/", "https://0x7f.1/",
    "https://2130706433/", "https://127.1/", "https://localhost/", "https://user:pw@93.184.216.34/",
    "https://93.184.216.34:22/", "https://[::ffff:7f00:1]/", "https:///x", "https://", "x" * 3000,
    "https://\u2460\u2461\u2466.0.0.1/", "https://exa mple/", "https://no-such-name.invalid/", "https://127.0.0.1\\@x/",
])  # fmt: skip
def test_addresses_that_are_not_asked(server: Server, url: str) -> None:
    told = server.submit(expect=422, image=None, image_url=url)
    assert told["code"] in ("address_refused", "invalid"), told


def test_addresses_are_off_by_default(tmp_path: Path) -> None:
    with serving(tmp_path / "data", works=False) as server:
        told = server.submit(expect=422, image=None, image_url="https://93.184.216.34/x.png")
        assert "--allow-image-url" in told["detail"]
        assert "--allow-webhooks" in server.submit(expect=422, webhook_url="https://93.184.216.34/")["detail"]


def test_a_name_server_that_changes_its_mind_gains_nothing() -> None:
    """The name is resolved once; an answer that has one private address among public ones is refused."""
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])
    asked = []

    async def fickle(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async def mixed(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "10.0.0.1"]

    async def scenario() -> None:
        reached: list[str] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reached.append(writer.get_extra_info("sockname")[0])
            writer.close()

        inner = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = inner.sockets[0].getsockname()[1]
        outer = await asyncio.start_server(listen, "127.0.0.2", port)
        async with inner, outer:
            fetcher = Outbound(("127.0.0.2/32",), 5, fickle)
            with pytest.raises(AddressRefused):
                await fetcher.fetch(f"https://photos.example:{port}/x.png", 1000)
        assert reached == ["127.0.0.2"] and asked == ["photos.example"]
        with pytest.raises(AddressRefused, match="public"):
            await Outbound(resolve=mixed).fetch("https://photos.example/x.png", 1000)

    asyncio.run(scenario())
