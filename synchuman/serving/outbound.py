"""Requests to addresses that users give: https, public machines only, resolved once, small and short.

The name is resolved once and the connection goes to exactly that address, so a name server that answers
differently the second time (DNS rebinding) gains nothing; every redirect is checked in the same way.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import anyio
import httpx

from synchuman.serving.jobs import ServiceError

MAX_REDIRECTS = 3
MAX_URL = 2048
HTTPS = 443
IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
NAT64 = ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[list[str]]]


class AddressRefused(ServiceError):
    """An address that will not be asked, or whose answer is of no use."""

    status, code = 422, "address_refused"


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the system's order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(text: str) -> bool:
    """Whether an IP address belongs to the public internet, also when IPv4 is wrapped in IPv6."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = _wrapped(address)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


@dataclass(frozen=True)
class Outbound:
    """Asks other machines on a user's behalf.

    Attributes:
        private_networks: Networks that may be asked although they are not public, at any port.
        seconds: Time for everything together, redirects too.
        resolve: Returns a host's addresses.
    """

    private_networks: Sequence[str] = ()
    seconds: float = 20.0
    resolve: Resolve = resolve

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Return the image at an address.

        Raises:
            AddressRefused: The address is not allowed, or no image of that size came in time.
        """
        try:
            with anyio.fail_after(self.seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self._get(url, max_bytes)
                    if isinstance(answer, bytes):
                        return answer
                    url = answer
        except TimeoutError:
            raise AddressRefused(f"image_url: nothing useful came within {self.seconds:.0f} s.") from None
        except httpx.HTTPError as error:
            raise AddressRefused(f"image_url: the request failed ({type(error).__name__}).") from None
        raise AddressRefused(f"image_url: more than {MAX_REDIRECTS} redirects.")

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """Send a body and return the status; redirects are not followed.

        Raises:
            AddressRefused: The address is not allowed.
            OSError, httpx.HTTPError: No answer came.
        """
        with anyio.fail_after(self.seconds):
            async with self._client() as client:
                request = await self._pinned(client, "POST", url, headers, body)
                response = await client.send(request, stream=True)
                await response.aclose()
                return response.status_code

    async def check(self, url: str) -> None:
        """Raise AddressRefused unless an address may be asked."""
        await self._pin(url)

    async def _get(self, url: str, max_bytes: int) -> bytes | str:
        """Return the body, or the address that a redirect names."""
        async with self._client() as client:
            # Unpacking somebody's compressed answer could fill the memory.
            headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
            response = await client.send(await self._pinned(client, "GET", url, headers), stream=True)
            try:
                if response.has_redirect_location:
                    return str(httpx.URL(url).join(response.headers["location"]))
                _require_image(response, max_bytes)
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > max_bytes:
                        raise _too_large(max_bytes)
                return bytes(data)
            finally:
                await response.aclose()

    async def _pinned(
        self, client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], body: bytes = b""
    ) -> httpx.Request:
        """Build the request to the address that the host's name was resolved to, just now and only once."""
        target, address = await self._pin(url)
        return client.build_request(
            method,
            target.copy_with(host=address),
            headers={**headers, "Host": target.netloc.decode("ascii")},
            content=body or None,
            # The certificate must be the name's, not the number's.
            extensions={"sni_hostname": target.host},
        )

    async def _pin(self, url: str) -> tuple[httpx.URL, str]:
        if len(url) > MAX_URL:
            raise AddressRefused(f"Addresses may have at most {MAX_URL} characters.")
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise AddressRefused("That is not a web address.") from None
        if target.scheme != "https" or not target.host or target.userinfo:
            raise AddressRefused("Only https addresses without user and password are allowed.")
        port = target.port or HTTPS
        try:
            addresses = await self.resolve(target.host, port)
        except (OSError, UnicodeError):
            raise AddressRefused("The host of that address is not known.") from None
        # One bad address among them is enough: which one is used must not depend on luck.
        if not addresses or not all(self._allowed(address, port) for address in addresses):
            raise AddressRefused("Only public web servers (https, port 443) may be named.")
        return target.copy_with(fragment=None), addresses[0]

    def _allowed(self, address: str, port: int) -> bool:
        plain = ip_address(address.partition("%")[0])
        if any(plain in ip_network(network) for network in self.private_networks):
            return True
        return port == HTTPS and is_public(address)

    def _client(self) -> httpx.AsyncClient:
        # trust_env=False: a proxy of the environment would resolve the name again, out of our sight.
        return httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, timeout=self.seconds
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


def _require_image(response: httpx.Response, max_bytes: int) -> None:
    if response.status_code != httpx.codes.OK:
        raise AddressRefused(f"image_url: the server answered {response.status_code}.")
    kind = response.headers.get("content-type", "").lower()
    if not kind.startswith(IMAGE_TYPES):
        raise AddressRefused("image_url: that address is not an image.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise AddressRefused("image_url: the server sent compressed data, which is not accepted.")
    length = response.headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> AddressRefused:
    return AddressRefused(f"image_url: the image has more than {max_bytes // 2**20} MiB.")
