"""Who calls: API keys for programs, a login with a signed cookie for people."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from synchuman.serving.jobs import Job, NotFound, ServiceError
from synchuman.serving.options import ServiceOptions

COOKIE = "synchuman_session"
SESSION_SECONDS = 7 * 24 * 3600
LOCAL = "local"
ANONYMOUS = "anonymous:"  # names of people have no colon


class Unauthorized(ServiceError):
    """The caller has not said who they are, or wrongly."""

    status, code = 401, "unauthorized"


class Forbidden(ServiceError):
    """The caller may not do that."""

    status, code = 403, "forbidden"


@dataclass(frozen=True)
class Identity:
    """A caller.

    Attributes:
        name: Owner of the jobs they make.
        known: Whether they said who they are; strangers are told apart by address, for fair turns alone.
        unlimited: Whether rates do not count: the person at this machine.
    """

    name: str
    known: bool = True
    unlimited: bool = False

    def require(self, job: Job) -> Job:
        """Return a job that this caller may see.

        Raises:
            NotFound: It is somebody else's; that it exists is not said.
        """
        # A stranger's job is open to who knows its 128 random bits: addresses change, and are shared.
        stranger = not self.known and job.owner.startswith(ANONYMOUS)
        if job.owner != self.name and not stranger:
            raise NotFound("There is no such job.")
        return job


class Doorkeeper:
    """Recognises callers by what they bring."""

    def __init__(self, options: ServiceOptions, secret: bytes) -> None:
        """Know the keys and passwords of a service; `secret` signs cookies."""
        self._protected = options.protected
        self._public = options.public
        # Digests as dictionary keys: how long a look-up takes tells nothing about a key.
        self._keys = {_digest(key): name for key, name in options.keys.items()}
        self._passwords = {name: _digest(password) for name, password in options.passwords.items()}
        self._secret = secret

    def recognise(self, headers: dict[str, str], address: str) -> Identity | None:
        """Return who calls; None when they must say so first.

        Raises:
            Unauthorized: What they brought is wrong.
        """
        if not self._protected:
            if not self._public:
                return Identity(LOCAL, unlimited=True)
            tag = hmac.new(self._secret, f"address:{address}".encode(), hashlib.sha256).hexdigest()[:16]
            return Identity(ANONYMOUS + tag, known=False)
        key = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if key:
            name = self._keys.get(_digest(key))
            if name is None:
                raise Unauthorized("This API key is not known.")
            return Identity(name)
        name = self._read(_cookie(headers.get("cookie", "")))
        return None if name is None else Identity(name)

    def log_in(self, name: str, password: str) -> str:
        """Return the cookie's value for somebody who gives the right password.

        Raises:
            Unauthorized: Name or password is wrong; which one is not said.
        """
        expected = self._passwords.get(name)
        matches = hmac.compare_digest(expected or _digest(""), _digest(password))
        if expected is None or not matches:
            raise Unauthorized("Name or password is wrong.")
        expires = int(time.time()) + SESSION_SECONDS
        label = base64.urlsafe_b64encode(name.encode()).decode()
        return f"{label}.{expires}.{self._sign(name, expires)}"

    def _read(self, cookie: str) -> str | None:
        try:
            label, expires, signature = cookie.split(".")
            name = base64.urlsafe_b64decode(label.encode()).decode()
            end = int(expires)
        except ValueError:
            return None
        if name not in self._passwords or end < time.time():
            return None
        return name if hmac.compare_digest(self._sign(name, end), signature) else None

    def _sign(self, name: str, expires: int) -> str:
        # With the password in it, a changed password ends all sessions.
        text = b"|".join((b"session", name.encode(), str(expires).encode(), self._passwords[name]))
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
