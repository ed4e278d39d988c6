"""Rates per client as token buckets: a burst up to the bucket's size, then as fast as it fills."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

from synchuman.serving.jobs import ServiceError

MAX_CLIENTS = 50_000  # buckets kept; beyond, the one used longest ago is forgotten, and is full again


class TooMany(ServiceError):
    """A client asks for more than its share."""

    status, code = 429, "too_many_requests"

    def __init__(self, message: str, retry_after: float) -> None:
        """Say when it may go on, in seconds."""
        super().__init__(message)
        self.retry_after = retry_after


class Rate:
    """One kind of use, counted for every client."""

    def __init__(self, amount: float, seconds: float, message: str) -> None:
        """Allow `amount` per `seconds`, all of it at once; 0 for no limit."""
        self._amount = amount
        self._per_second = amount / seconds
        self._message = message
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._guard = threading.Lock()

    def take(self, client: str, cost: float = 1.0) -> None:
        """Count a use.

        Raises:
            TooMany: The client's bucket does not hold that much; nothing is counted then.
        """
        if not self._amount:
            return
        now = time.monotonic()
        with self._guard:
            left, at = self._left.pop(client, (self._amount, now))
            left = min(left + (now - at) * self._per_second, self._amount)
            enough = left >= min(cost, self._amount)
            self._left[client] = (left - cost if enough else left, now)
            if len(self._left) > MAX_CLIENTS:
                self._left.popitem(last=False)
        if not enough:
            raise TooMany(self._message, (min(cost, self._amount) - left) / self._per_second)


def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 that one IPv6 customer gets."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return address
