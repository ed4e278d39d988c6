"""Enters the root that chroot_build.py made, and tries the service in it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_steps import State, Step

READY_SECONDS = 300
USER = 1000


@dataclass
class Image:
    """A root folder with what its Dockerfile says of running it."""

    root: Path
    state: State
    said: dict[str, Step] = field(default_factory=dict)

    def command(
        self,
        words: list[str],
        env: dict[str, str],
        binds: dict[Path, str] | None = None,
        data: Path | None = None,
    ) -> list[str]:
        """Return the command that runs `words` in here, in mounts of its own that go with it.

        Args:
            words: What to run.
            env: All that it sees of the environment.
            binds: Files of the host, by the place where they are to be seen.
            data: The volume; then the root is read-only and the user the image's own.
        """
        root = shlex.quote(str(self.root))
        lines = ["set -e", f"mount --rbind /proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        for file, place in {Path("/etc/resolv.conf"): "/etc/resolv.conf", **(binds or {})}.items():
            inside = f"{root}{shlex.quote(place)}"
            lines += [f"mkdir -p $(dirname {inside})", f"touch {inside}", f"mount --bind {file} {inside}"]
        who = "0"
        if data is not None:
            volume = self.said["VOLUME"].words()[0]
            lines += [f"mount --bind {root} {root}", f"mount --bind {shlex.quote(str(data))} {root}{volume}"]
            lines += [f"mount -o remount,bind,ro {root}", f"mount --rbind /proc {root}/proc"]
            lines += [f"mount --rbind /dev {root}/dev"]
            who = self.state.user
        elif self.state.user != "0":
            who = self.state.user
        inner = f"cd {shlex.quote(self.state.folder)} && exec {shlex.join(words)}"
        clean = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in env.items())])
        setpriv = f"setpriv --reuid {who} --regid {who} --clear-groups --inh-caps=-all" if who != "0" else ""
        lines.append(f"exec {setpriv} {clean} chroot {root} /bin/sh -c {shlex.quote(inner)}")
        if setpriv:  # chroot needs root, so the user changes inside
            lines[-1] = f"exec chroot {root} {setpriv} {clean} /bin/sh -c {shlex.quote(inner)}"
        return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", "\n".join(lines)]

    def enter(self, words: list[str], env: dict[str, str], binds: dict[Path, str] | None = None) -> None:
        """Run a build step; end with its words when it fails."""
        if subprocess.run(self.command(words, env, binds)).returncode:
            raise SystemExit(f"failed: {shlex.join(words)[:300]}")


def try_out(image: Image, data: Path, photo: Path, port: int) -> int:
    """Run the image read-only as its user; return 0 when it is ready, healthy, and makes a model."""
    data.mkdir(exist_ok=True)
    os.chown(data, USER, USER)
    env = {**image.state.env, "PORT": str(port)}
    server = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    words = [*image.said["ENTRYPOINT"].words(), *(image.said["CMD"].words() if "CMD" in image.said else [])]
    process = subprocess.Popen(image.command(words, env, data=data))
    try:
        while (status := _get(f"{server}/ready")[0]) != 200:
            if process.poll() is not None or time.monotonic() - began > READY_SECONDS:
                raise SystemExit(f"the service did not become ready: {status}")
            time.sleep(0.5)
        _say(f"/ready 200 after {time.monotonic() - began:.1f} s")
        health = image.said["HEALTHCHECK"].text.partition("CMD ")[2]
        checked = subprocess.run(image.command(json.loads(health), env, data=data)).returncode
        _say(f"health check: exit code {checked}; page: {_get(server + '/')[0]}")
        info = json.loads(_get(f"{server}/info")[1])
        _say(json.dumps(info.get("workers")))
        began = time.monotonic()
        status, answer = _post_photo(f"{server}/generate", photo)
        job = json.loads(answer)
        if status != 200 or checked or job["state"] != "done":
            raise SystemExit(f"no model: {status} {answer[:500]!r}")
        glb = _get(f"{server}/jobs/{job['id']}/files/SecondStage/output.glb")[1]
        _say(f"{photo.name}: GLB of {len(glb)} bytes in {time.monotonic() - began:.1f} s, mode {job['mode']}")
        return 0 if glb[:4] == b"glTF" else 1
    finally:
        process.terminate()
        _say(f"ended: {process.wait(60)}")


def _get(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def _post_photo(address: str, photo: Path) -> tuple[int, bytes]:
    mark = uuid.uuid4().hex
    parts = [f'--{mark}\r\nContent-Disposition: form-data; name="preset"\r\n\r\nFast\r\n'.encode()]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{photo.name}"\r\n'
    parts += [head.encode(), b"Content-Type: image/jpeg\r\n\r\n", photo.read_bytes()]
    body = b"".join([*parts, f"\r\n--{mark}--\r\n".encode()])
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=900) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit("This is a part of chroot_build.py.")
