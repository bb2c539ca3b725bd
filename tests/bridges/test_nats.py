"""A NATS server that is killed, frozen, cut off, wiped, or does not know us; see test_transport.py for the rest."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from asynchub.bridges.failures import AccessRefusedError, BridgeError
from asynchub.bridges.nats import NatsTransport
from asynchub.bridges.nats_connection import MAX_PENDING
from asynchub.bridges.nats_messages import Pauses
from asynchub.bridges.nats_reading import filters_for
from asynchub.bridges.subjects import Subjects
from asynchub.bridges.transport import Stored
from asynchub.errors import ArgumentError
from tests.bridges.broker import Broker, free_port
from tests.bridges.certificates import make_certificate
from tests.bridges.proxy import Proxy
from tests.waiting import until_awaited

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

SUBJECTS = Subjects("run")
EVENTS = SUBJECTS.events(0, 1)
WAIT = 20.0


@asynccontextmanager
async def connected(url: str, *, log: bool = True, **options: Any) -> AsyncIterator[NatsTransport]:
    transport = NatsTransport(SUBJECTS, url, **options)
    try:
        await transport.connect(WAIT)
        if log:
            await transport.open_log(WAIT)
        yield transport
    finally:
        await transport.close(2)


@asynccontextmanager
async def reading(transport: NatsTransport, patterns: Sequence[str] = (EVENTS,)) -> AsyncIterator[list[Stored]]:
    got: list[Stored] = []

    async def read() -> None:
        async for batch in transport.read(patterns, 0):
            got.extend(batch)

    task = asyncio.create_task(read())
    try:
        yield got
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def stubbornly(transport: NatsTransport, texts: Sequence[str]) -> None:
    """Append messages whose ids are their texts, each until the broker has it."""
    for text in texts:
        while True:
            try:
                await transport.append(EVENTS, text.encode(), text, timeout=0.5)
            except BridgeError:
                await asyncio.sleep(0.02)
            else:
                break


def texts_of(got: Sequence[Stored]) -> list[str]:
    return [one.data.decode() for one in got]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a frozen broker be noticed soon."""
    monkeypatch.setattr("asynchub.bridges.nats_connection.PING_SECONDS", 0.3)
    monkeypatch.setattr("asynchub.bridges.nats_connection.PONG_SECONDS", 1)


async def test_what_is_appended_while_the_broker_is_killed_is_read_once_and_in_order(broker: Broker) -> None:
    wanted = [str(number) for number in range(600)]
    async with connected(broker.url) as writer, connected(broker.url) as reader, reading(reader) as got:
        task = asyncio.create_task(stubbornly(writer, wanted))
        for kill_at in (150, 400):
            await until_awaited(lambda at=kill_at: len(got) >= at)
            broker.kill()
            await asyncio.sleep(0.1)
            broker.start()
        await task
        await until_awaited(lambda: len(got) >= 600)
        await asyncio.sleep(0.1)
    assert texts_of(got) == wanted
    assert [one.position for one in got] == list(range(1, 601))


async def test_with_a_frozen_broker_nothing_waits_longer_than_it_may(broker: Broker) -> None:
    async def answer(_: str, data: bytes) -> bytes:
        return data

    async def read(transport: NatsTransport) -> None:
        async for _ in transport.read([EVENTS], 0):
            pass

    async def tell(transport: NatsTransport) -> None:
        for number in range(400):
            await transport.tell(SUBJECTS.heartbeat(number), bytes(60_000))
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    transport = NatsTransport(SUBJECTS, broker.url)
    fresh = NatsTransport(SUBJECTS, broker.url)
    await transport.connect(WAIT)
    await transport.open_log(WAIT)
    broker.freeze()
    try:
        waits = (
            fresh.connect(100),
            transport.open_log(100),
            transport.append(EVENTS, bytes(500_000), "a", timeout=100),
            transport.newest(EVENTS, 100),
            transport.subjects(EVENTS, 100),
            transport.last_position(100),
            read(transport),
            transport.ask(SUBJECTS.command("stop"), b"", 100),
            transport.hear(SUBJECTS.heartbeat(), lambda subject, data: None),
            transport.serve(SUBJECTS.command(), answer),
            tell(transport),
            transport.close(100),
        )
        for wait in waits:
            start = time.monotonic()
            with anyio.move_on_after(0.05) as scope:
                await wait
            assert scope.cancelled_caught, wait.__qualname__
            assert time.monotonic() - start < 0.6, wait.__qualname__
        for one in (transport, fresh):
            start = time.monotonic()
            await one.close(0.3)
            assert time.monotonic() - start < 0.9
    finally:
        broker.thaw()
    await until_awaited(lambda: asyncio.all_tasks() == before, 5)


async def test_in_time_outs_a_frozen_broker_is_an_error(broker: Broker) -> None:
    async with connected(broker.url) as transport:
        broker.freeze()
        try:
            start = time.monotonic()
            for wait in (
                transport.append(EVENTS, b"a", "a", timeout=0.1),
                transport.newest(EVENTS, 0.1),
                transport.ask(SUBJECTS.command("stop"), b"", 0.1),
            ):
                with pytest.raises(BridgeError, match="not answered"):
                    await wait
            assert time.monotonic() - start < 2
        finally:
            broker.thaw()
        await transport.append(EVENTS, b"a", "a", timeout=WAIT)
        assert await transport.last_position(WAIT) == 1


@pytest.mark.usefixtures("hasty")
async def test_a_frozen_broker_is_lost_and_found_again(broker: Broker) -> None:
    async with connected(broker.url) as transport, reading(transport) as got:
        await stubbornly(transport, ["a"])
        await until_awaited(lambda: got)
        broker.freeze()
        try:
            await until_awaited(lambda: not transport.connected, 5)
            with pytest.raises(BridgeError, match="not there"):
                await transport.append(EVENTS, b"b", "b", timeout=WAIT)
        finally:
            broker.thaw()
        await stubbornly(transport, ["b", "c"])
        await until_awaited(lambda: len(got) >= 3)
    assert texts_of(got) == ["a", "b", "c"]


async def test_a_broker_that_takes_nothing_fills_no_memory(broker: Broker) -> None:
    async with connected(broker.url) as transport:
        broker.freeze()
        try:
            for _ in range(1000):
                await transport.tell(SUBJECTS.heartbeat(0), bytes(100_000))
            inner = transport._connection
            assert inner is not None
            assert inner._client.pending_data_size < MAX_PENDING + 200_000
            with pytest.raises(BridgeError, match="takes nothing"):
                await transport.append(EVENTS, b"", "a", timeout=WAIT)
        finally:
            broker.kill()


async def test_a_message_that_is_cut_in_its_midst_is_stored_once(broker: Broker) -> None:
    async with Proxy(broker.port) as proxy, connected(f"nats://127.0.0.1:{proxy.port}") as transport:
        proxy.cut_after = 100_000
        task = asyncio.create_task(transport.append(EVENTS, bytes(500_000), "a", timeout=WAIT))
        with pytest.raises(BridgeError):
            await task
        await until_awaited(lambda: transport.connected)
        for _ in range(2):
            assert await transport.append(EVENTS, bytes(500_000), "a", timeout=WAIT) == 1


async def test_a_far_broker_takes_its_time_and_nothing_else(broker: Broker) -> None:
    async with Proxy(broker.port, latency=0.01) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        async with connected(url) as transport, reading(transport) as got:
            wanted = [str(number) for number in range(40)]
            async with anyio.create_task_group() as group:
                for start in range(4):
                    group.start_soon(stubbornly, transport, wanted[start::4])
            await until_awaited(lambda: len(got) >= 40)
            assert sorted(texts_of(got), key=int) == wanted
            assert [one.position for one in got] == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
async def test_a_way_that_carries_nothing_is_as_good_as_no_broker(broker: Broker) -> None:
    async with (
        Proxy(broker.port) as proxy,
        connected(f"nats://127.0.0.1:{proxy.port}") as transport,
        reading(transport) as got,
    ):
        await stubbornly(transport, ["a"])
        proxy.stall()
        await until_awaited(lambda: not transport.connected, 5)
        proxy.go()
        await stubbornly(transport, ["b"])
        await until_awaited(lambda: len(got) >= 2)
        assert texts_of(got) == ["a", "b"]


async def test_a_reader_whose_consumer_is_gone_goes_on(broker: Broker) -> None:
    async with connected(broker.url) as transport, reading(transport) as got:
        await stubbornly(transport, ["a", "b"])
        await until_awaited(lambda: len(got) == 2)
        inner = transport._connection
        assert inner is not None
        listed = await inner.request_json(f"$JS.API.CONSUMER.NAMES.{SUBJECTS.log}", b"", WAIT)
        for name in listed["consumers"]:
            await inner.request_json(f"$JS.API.CONSUMER.DELETE.{SUBJECTS.log}.{name}", b"", WAIT)
        await stubbornly(transport, ["c"])
        await until_awaited(lambda: len(got) >= 3)
    assert texts_of(got) == ["a", "b", "c"]


async def test_a_log_that_was_lost_and_made_anew_is_read_from_its_beginning(broker: Broker, tmp_path: Path) -> None:
    async with connected(broker.url) as transport, reading(transport) as got:
        await stubbornly(transport, ["a", "b", "c"])
        await until_awaited(lambda: len(got) == 3)
        broker.kill()
        await until_awaited(lambda: not transport.connected)
        shutil.rmtree(tmp_path / "broker" / "store")
        broker.start()
        await until_awaited(lambda: transport.connected)
        with pytest.raises(BridgeError, match="keeps no log"):
            await transport.append(EVENTS, b"d", "d", timeout=WAIT)
        await transport.open_log(WAIT)
        await stubbornly(transport, ["d", "e"])
        await until_awaited(lambda: len(got) >= 5)
    assert texts_of(got) == ["a", "b", "c", "d", "e"]
    assert [one.position for one in got] == [1, 2, 3, 1, 2]


async def test_a_full_log_lets_its_oldest_messages_go_and_readers_pass_over_them(broker: Broker) -> None:
    async with connected(broker.url, max_log_bytes=200_000, max_age=3600, storage="memory") as transport:
        for number in range(10):
            await transport.append(EVENTS, b"%d" % number * 50_000, f"{number}", timeout=WAIT)
        async with reading(transport) as got:
            await until_awaited(lambda: got and got[-1].position == 10)
        assert [one.position for one in got] == list(range(11 - len(got), 11))
        assert 1 < len(got) < 5
        async with connected(broker.url) as other:  # other wishes, the same log
            assert await other.last_position(WAIT) == 10


async def test_a_log_of_somebody_else_is_not_used(broker: Broker) -> None:
    async with connected(broker.url, log=False) as transport:
        inner = transport._connection
        assert inner is not None
        config = {"name": SUBJECTS.log, "subjects": ["else.>"], "storage": "memory"}
        await inner.request_json(f"$JS.API.STREAM.CREATE.{SUBJECTS.log}", json.dumps(config).encode(), WAIT)
        with pytest.raises(BridgeError, match="not one of asynchub"):
            await transport.open_log(WAIT)


async def test_a_server_without_logs_says_so(tmp_path: Path) -> None:
    broker = Broker(tmp_path, jetstream=False)
    broker.start()
    try:
        async with connected(broker.url, log=False) as transport:
            for wait in (transport.open_log(WAIT), transport.last_position(WAIT), transport.newest(EVENTS, WAIT)):
                with pytest.raises(BridgeError, match="start it with JetStream"):
                    await wait
    finally:
        broker.kill()


async def test_what_a_server_is_made_to_send_is_neither_asked_nor_heard(broker: Broker) -> None:
    served: list[str] = []
    heard: list[str] = []

    async def answer(subject: str, data: bytes) -> bytes:
        served.append(subject)
        return data

    async with connected(broker.url) as transport:
        await transport.append(EVENTS, b"a", "a", timeout=WAIT)
        await transport.serve(SUBJECTS.command(), answer)
        await transport.hear(SUBJECTS.heartbeat(), lambda subject, data: heard.append(subject))
        inner = transport._connection
        assert inner is not None
        for target in (SUBJECTS.command("stop"), SUBJECTS.heartbeat(0)):
            push = {"stream_name": SUBJECTS.log, "config": {"deliver_subject": target, "ack_policy": "explicit"}}
            made = await inner.request_json(f"$JS.API.CONSUMER.CREATE.{SUBJECTS.log}", json.dumps(push).encode(), WAIT)
            assert "error" not in made
        await inner.publish("$JS.API.INFO", b"", SUBJECTS.command("stop"))
        assert await transport.ask(SUBJECTS.command("set"), b"x", WAIT) == b"x"
        await transport.tell(SUBJECTS.heartbeat(1), b"")
        await until_awaited(lambda: heard)
    assert served == [SUBJECTS.command("set")]
    assert heard == [SUBJECTS.heartbeat(1)]


async def test_wrong_credentials_are_refused_at_once_and_not_tried_again_at_once(tmp_path: Path) -> None:
    broker = Broker(tmp_path, 'authorization { users: [{ user: "me", password: "secret" }] }')
    broker.start()
    try:
        url = f"nats://me:wrong@127.0.0.1:{broker.port}"
        transport = NatsTransport(SUBJECTS, url)
        for _ in range(2):
            with anyio.fail_after(5), pytest.raises(AccessRefusedError, match="refuses the credentials") as raised:
                await transport.connect(WAIT)
            assert "wrong" not in f"{raised.value} {raised.value.__cause__}"
        with pytest.raises(AccessRefusedError):
            await anext(aiter(transport.read([EVENTS], 0)))
        with pytest.raises(BridgeError, match="refuses the credentials"):
            await transport.append(EVENTS, b"", "a", timeout=WAIT)
        assert isinstance(transport.error, AccessRefusedError)
        await asyncio.sleep(0.5)
        assert broker.log().count("authentication error") == 1
        await transport.close(2)
        async with connected(f"nats://me:secret@127.0.0.1:{broker.port}") as transport:
            assert transport.connected
    finally:
        broker.kill()


async def test_a_token_is_shown(tmp_path: Path) -> None:
    broker = Broker(tmp_path, 'authorization { token: "secret" }')
    broker.start()
    try:
        async with connected(broker.url, token="secret") as transport:
            assert await transport.last_position(WAIT) == 0
        with pytest.raises(AccessRefusedError):
            async with connected(broker.url, token="wrong"):
                pass
    finally:
        broker.kill()


async def test_the_first_of_several_servers_that_is_there_is_used(broker: Broker) -> None:
    async with connected(f"nats://127.0.0.1:{free_port()}, {broker.url},nats://127.0.0.1:{free_port()}") as transport:
        assert await transport.append(EVENTS, b"", "a", timeout=WAIT) == 1


async def test_tls_is_spoken_and_the_certificate_checked(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    broker = Broker(tmp_path / "broker", f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}')
    broker.start()
    try:
        url = f"tls://127.0.0.1:{broker.port}"
        async with connected(url, tls=ssl.create_default_context(cafile=certificate)) as transport:
            assert await transport.append(EVENTS, bytes(300_000), "a", timeout=WAIT) == 1
        stranger = NatsTransport(SUBJECTS, url)
        with pytest.raises(BridgeError, match="certificate"):
            await stranger.connect(0.3)
        await stranger.close(2)
    finally:
        broker.kill()


async def test_no_password_is_told_to_a_server_without_tls_if_that_is_wanted(broker: Broker) -> None:
    async with Proxy(broker.port, keep=True) as proxy:
        transport = NatsTransport(SUBJECTS, f"tls://me:secret@127.0.0.1:{proxy.port}")
        with pytest.raises(BridgeError, match="TLS is wanted"):
            await transport.connect(0.3)
        await transport.close(2)
        nobody = NatsTransport(SUBJECTS, f"nats://127.0.0.1:{proxy.port}", tls=ssl.create_default_context())
        with pytest.raises(BridgeError, match="TLS is wanted"):
            await nobody.connect(0.3)
        await nobody.close(2)
        assert b"secret" not in proxy.received


async def test_something_else_that_listens_is_no_broker() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        transport = NatsTransport(SUBJECTS, f"nats://127.0.0.1:{port}")
        with pytest.raises(BridgeError, match="INFO"):
            await transport.connect(0.3)
        await transport.close(2)


async def test_a_closed_transport_leaves_no_task_behind(broker: Broker) -> None:
    async def answer(_: str, data: bytes) -> bytes:
        return data

    before = asyncio.all_tasks()
    async with connected(broker.url) as transport, reading(transport):
        await transport.hear(SUBJECTS.heartbeat(), lambda subject, data: None)
        await transport.serve(SUBJECTS.command(), answer)
        await transport.append(EVENTS, b"", "a", timeout=WAIT)
        broker.kill()
        await until_awaited(lambda: not transport.connected)
        broker.start()
        await until_awaited(lambda: transport.connected)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("patterns", "version", "wanted"),
    [
        (["ev.*.*"], (2, 10), ["ev.*.*"]),
        (["ev.1.*", "ev.0.*", "ev.1.*"], (2, 10), ["ev.0.*", "ev.1.*"]),
        (["ev.1.*", "ev.0.*"], (2, 9), []),
        (["ev.1.*"], (2, 9), ["ev.1.*"]),
        (["ev.1.*", "ev.*.2"], (2, 10), []),
        (["ev.>", "snap.0.0"], (2, 15), ["ev.>", "snap.0.0"]),
        (["ev.1.1", ">"], (2, 15), []),
        ([">"], (2, 15), []),
        (["*.1.1"], (2, 15), []),
    ],
)
async def test_a_server_chooses_by_the_patterns_that_it_can_take(
    patterns: list[str], version: tuple[int, int], wanted: list[str]
) -> None:
    assert filters_for(patterns, ("ev.>", "snap.>"), version) == wanted


async def test_the_connection_is_kept_up_whatever_is_done_about_its_changes(broker: Broker) -> None:
    transport = NatsTransport(SUBJECTS, broker.url)
    changes: list[bool] = []

    def change() -> None:
        changes.append(transport.connected)
        raise RuntimeError("cannot")

    transport.on_change = change
    await transport.connect(WAIT)
    broker.kill()
    await until_awaited(lambda: not transport.connected)
    broker.start()
    await until_awaited(lambda: transport.connected)
    await transport.close(2)
    assert (changes[0], changes[1], changes[-2], changes[-1]) == (True, False, True, False)


async def test_pauses_between_tries_grow_and_differ() -> None:
    for refused, first, longest in ((False, 0.25, 2.0), (True, 5.0, 60.0)):
        pauses = Pauses()
        got = [pauses.next(refused=refused) for _ in range(20)]
        assert first * 0.5 <= got[0] <= first * 1.5
        assert all(longest * 0.5 <= pause <= longest * 1.5 for pause in got[8:])
        assert len(set(got)) == 20


async def test_a_broker_that_is_not_there_is_said_by_its_address() -> None:
    transport = NatsTransport(SUBJECTS, f"nats://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(BridgeError, match="no broker at nats://127") as raised:
        await transport.connect(0.1)
    assert "secret" not in str(raised.value)
    await transport.close(2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://", "wanted nats://"),
        ("http://host", "wanted nats://"),
        ("host:4222", "wanted nats://"),
        ("nats://host:port", "wanted nats://"),
        ("nats://host:99999", "wanted nats://"),
        ("nats://host/path", "wanted nats://"),
        ("nats://host?x=1", "without"),
        ("nats://token@host", "token="),
        ("nats://a.b:secret@host", "name of a user"),
        ("nats://a:secret@host,nats://b:secret@host", "agree"),
        ("nats://host,tls://host", "agree"),
        ("nats://host,", "wanted nats://"),
        (b"nats://host", "must be a text"),
    ],
)
async def test_what_is_no_url_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as raised:
        NatsTransport(SUBJECTS, url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"storage": "disk"}, "storage"),
        ({"max_age": 0}, "max_age"),
        ({"max_log_bytes": -1}, "max_log_bytes"),
        ({"duplicate_window": float("nan")}, "duplicate_window"),
        ({"credentials": "nowhere.creds"}, "no file"),
        ({"inbox": "a b"}, "words"),
        ({"token": "a", "credentials": "b"}, "one of"),
    ],
    ids=["storage", "age", "bytes", "window", "credentials", "inbox", "two"],
)
async def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        NatsTransport(SUBJECTS, "nats://127.0.0.1", **options)


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
async def test_whatever_happens_to_the_broker_and_the_way_to_it_all_comes_once_and_in_order(
    broker: Broker, seed: int
) -> None:
    chance = random.Random(seed)
    ranks, count, size = 4, 250, 20_000
    async with Proxy(broker.port) as proxy, AsyncExitStack() as stack:
        url = f"nats://127.0.0.1:{proxy.port}"
        reader = await stack.enter_async_context(connected(url))
        got = await stack.enter_async_context(reading(reader, [SUBJECTS.events()]))
        writers = [await stack.enter_async_context(connected(url)) for _ in range(ranks)]

        async def write(rank: int) -> None:
            for number in range(count):
                data = f"{number} ".encode().ljust(size)
                while True:
                    try:
                        await writers[rank].append(SUBJECTS.events(rank, 1), data, f"{rank}/{number}", timeout=0.5)
                        break
                    except BridgeError:
                        await asyncio.sleep(0.02)
                await asyncio.sleep(0.005)

        async def disturb() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0.1, 0.6))
                what = chance.choice(["cut", "cut_after", "kill", "freeze", "stall"])
                if what == "cut":
                    proxy.cut()
                elif what == "cut_after":
                    proxy.cut_after = chance.randrange(1, 200_000)
                elif what == "kill":
                    broker.kill()
                    try:
                        await asyncio.sleep(chance.uniform(0, 0.3))
                    finally:
                        broker.start()
                elif what == "freeze":
                    broker.freeze()
                    try:
                        await asyncio.sleep(chance.uniform(0, 2))
                    finally:
                        broker.thaw()
                else:
                    proxy.stall()
                    await asyncio.sleep(chance.uniform(0, 2))
                    proxy.go()

        disturbing = asyncio.create_task(disturb())
        try:
            with anyio.fail_after(90):
                async with anyio.create_task_group() as group:
                    for rank in range(ranks):
                        group.start_soon(write, rank)
        finally:
            disturbing.cancel()
            await asyncio.wait((disturbing,))
        proxy.go()
        await until_awaited(lambda: len(got) >= ranks * count)
    assert [one.position for one in got] == list(range(1, ranks * count + 1))
    for rank in range(ranks):
        own = [int(one.data) for one in got if one.subject == SUBJECTS.events(rank, 1)]
        assert own == list(range(count))
