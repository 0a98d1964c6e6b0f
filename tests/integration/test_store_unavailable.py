import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from adapters.embedded import EmbeddedValkey
from adapters.redis_client import connect
from adapters.redis_journal import RedisJournal
from adapters.redis_queue import RedisQueue
from saga.errors import StoreUnavailableError
from saga.messages import identify
from saga.model import Saga, State, Step
from saga.ports import Change
from tests.integration.lua.store import EVENT, Corner, Worker, intent, message, opened

RIGHT, WRONG = "right-5ecret", "wrong-5ecret"


@pytest.fixture(scope="module")
def mortal() -> Iterator[EmbeddedValkey]:
    """A Valkey of this module's own, to be killed."""
    with EmbeddedValkey() as server:
        yield server


Call = Callable[[RedisJournal, Saga], Awaitable[object]]
CALLS: dict[str, Call] = {
    "admit": lambda journal, saga: journal.admit(saga.message, identify(saga.message)),
    "take_due": lambda journal, _: journal.take_due(1),
    "states": lambda journal, saga: journal.states([saga.id]),
    "renew": lambda journal, saga: journal.renew([saga]),
    "release": lambda journal, saga: journal.release([saga]),
    "claim_model": lambda journal, saga: journal.claim_model(saga, "model_1", "c"),
    "intend": lambda journal, saga: journal.intend(saga, [intent(0)], cost_gas=0, spent=0, known=0),
    "abandon": lambda journal, saga: journal.abandon(saga, [Step.DEPLOY], attempts=1, note="no"),
    "postpone": lambda journal, saga: journal.postpone(saga, seconds=1, attempts=1, error="no"),
    "move": lambda journal, saga: journal.move(saga, State.VALIDATED, Change(saga=saga)),
}


async def outcome(call: Awaitable[object]) -> object:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - which one is what the tests ask
        return error


async def refused(worker: Worker, saga: Saga) -> None:
    """Every call of the journal raises StoreUnavailableError and nothing else."""
    answers = await asyncio.gather(*(outcome(call(worker, saga)) for call in CALLS.values()))
    kinds = {name: type(answer) for name, answer in zip(CALLS, answers, strict=True)}
    assert kinds == dict.fromkeys(CALLS, StoreUnavailableError)


async def test_killed(mortal: EmbeddedValkey) -> None:
    """A journal whose server was killed says so, and goes on where it was when it is back."""
    async with opened(mortal.url) as corner:
        worker = corner.worker()
        saga = await corner.begin(worker)
        before = await corner.contents()
        mortal.kill()
        try:
            await refused(worker, saga)
            for read in (corner.views.find("x"), corner.views.counts(), corner.views.depths()):
                assert isinstance(await outcome(read), StoreUnavailableError)
        finally:
            mortal.start()
        assert await corner.contents() == before
        after = await worker.move(saga, State.VALIDATED, Change(saga=saga))
        assert (await corner.read(saga)).version == after.version


async def test_killed_while_taking(mortal: EmbeddedValkey) -> None:
    """A take that the server dies under says so; the queue works when the server is back."""
    async with opened(mortal.url) as corner:
        queue = RedisQueue(mortal.url, corner.client, corner.keys)
        try:
            taking = asyncio.create_task(outcome(queue.take()))
            async with asyncio.timeout(10):
                while not await blocked(corner):
                    pass
            mortal.kill()
            try:
                assert isinstance(await taking, StoreUnavailableError)
                assert isinstance(await outcome(queue.unfinished()), StoreUnavailableError)
            finally:
                mortal.start()
            await queue.send([b"back"])
            assert await queue.take() == b"back"
        finally:
            await queue.close()


async def blocked(corner: Corner) -> bool:
    return bool((await corner.client.info("clients"))["blocked_clients"])


@pytest.mark.parametrize("trouble", ["full", "read-only"])
async def test_refusing(mortal: EmbeddedValkey, trouble: str) -> None:
    """A server that takes no writes is unavailable, and a write that it refused was not made."""
    async with opened(mortal.url) as corner:
        worker = corner.worker()
        saga = await corner.begin(worker)
        before = await corner.contents()
        if trouble == "full":
            await corner.client.config_set("maxmemory", 1)
        else:
            await corner.client.config_set("replica-serve-stale-data", "yes")
            await corner.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            answer = await outcome(worker.move(saga, State.VALIDATED, Change(saga=saga)))
            assert isinstance(answer, StoreUnavailableError)
            assert await corner.contents() == before
        finally:
            await corner.client.execute_command("REPLICAOF", "NO", "ONE")
            await corner.client.config_set("maxmemory", 0)
        await worker.move(saga, State.VALIDATED, Change(saga=saga))


async def test_busy(mortal: EmbeddedValkey) -> None:
    """A server that is busy with somebody's endless script is unavailable until that is killed."""
    async with opened(mortal.url) as corner:
        worker = corner.worker()
        saga = await corner.begin(worker)
        await corner.client.config_set("busy-reply-threshold", 1)
        other = connect(mortal.url)
        endless = asyncio.create_task(outcome(other.eval("while true do end", 0)))
        try:
            async with asyncio.timeout(10):
                while "BUSY" not in str(await outcome(corner.client.ping())):
                    pass
            answer = await outcome(worker.renew([saga]))
            assert isinstance(answer, StoreUnavailableError)
        finally:
            await corner.client.script_kill()
            await endless
            await other.aclose()
            await corner.client.config_set("busy-reply-threshold", 5000)
        assert await worker.renew([saga]) == set()


async def test_wrong_password(mortal: EmbeddedValkey) -> None:
    """A wrong password makes the store unavailable; no error text holds it, nor the right one."""
    async with client_corner(mortal.url) as operator:
        await operator.client.config_set("requirepass", RIGHT)
        try:
            for password in (f":{WRONG}@", ""):
                async with client_corner(mortal.url.replace("://", f"://{password}")) as corner:
                    error = await outcome(corner.worker().take_due(1))
                assert isinstance(error, StoreUnavailableError)
                assert "REDIS_URL" in str(error)
                assert "5ecret" not in "".join(traceback.format_exception(error))
            async with client_corner(mortal.url.replace("://", f"://:{RIGHT}@")) as corner:
                assert await corner.worker().take_due(1) == []
        finally:
            await operator.client.config_set("requirepass", "")


async def test_nobody_there() -> None:
    """A server that is not there gives an error with its address and without the password."""
    async with client_corner(f"redis://:{WRONG}@127.0.0.1:1/0") as corner:
        error = await outcome(corner.views.counts())
        assert isinstance(error, StoreUnavailableError)
        assert "127.0.0.1:1" in str(error)
        assert "5ecret" not in "".join(traceback.format_exception(error))


@asynccontextmanager
async def client_corner(url: str) -> AsyncIterator[Corner]:
    """A corner that is not cleared: its server may not be usable."""
    client = connect(url)
    try:
        yield Corner(client)
    finally:
        await client.aclose()


class LossyProxy:
    """Between a client and the server: on request, one reply is lost with its connection."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.lose_reply = False
        self.lost = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, out = await asyncio.open_connection("127.0.0.1", self._server_port)
        there = asyncio.create_task(self._pass_on(reader, out))
        while data := await upstream.read(65536):
            if self.lose_reply:
                self.lose_reply = False
                self.lost += 1
                break
            writer.write(data)
        writer.close()
        out.close()
        await there

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                out.write(data)
        except ConnectionError:
            pass
        out.close()


@pytest.mark.parametrize("state", [State.PUBLISHED, State.ACKED, State.DEAD_LETTERED])
async def test_reply_lost(mortal: EmbeddedValkey, state: State) -> None:
    """A write whose reply was lost is made once: one event, one acknowledgement, one letter."""
    proxy = LossyProxy(mortal.port)
    async with proxy.listening() as url, opened(url) as corner:
        worker = corner.worker()
        saga = await corner.begin_in(worker, State.REGISTERED)
        await corner.deliver(saga.message)
        before = len(await corner.views.history(saga.id))
        after = Change(
            saga=saga,
            event=EVENT if state is State.PUBLISHED else None,
            ack=state.terminal,
            dead_letter=state is State.DEAD_LETTERED,
        )
        proxy.lose_reply = True
        moved = await worker.move(saga, state, after)
        assert proxy.lost == 1
        assert worker.outcome == b"DUPLICATE"
        stored = await corner.read(saga)
        assert (stored.state, stored.version) == (state, moved.version)
        assert await corner.views.depths() == {
            "inbound": 0,
            "processing": 1 if state.terminal else 2,
            "outbound": int(state is State.PUBLISHED),
            "dead_letters": int(state is State.DEAD_LETTERED),
        }
        assert len(await corner.views.history(saga.id)) == before + 1


async def test_admission_reply_lost(mortal: EmbeddedValkey) -> None:
    """An admission, a claim and an intent whose replies were lost are the caller's nonetheless."""
    proxy = LossyProxy(mortal.port)
    async with proxy.listening() as url, opened(url) as corner:
        worker = corner.worker()
        await worker.take_due(1)
        await corner.deliver(message())
        proxy.lose_reply = True
        saga = (await corner.admit(worker, message())).saga
        assert saga is not None
        proxy.lose_reply = True
        saga = await worker.claim_model(saga, "model_1", "c")
        assert saga.claim == saga.id
        proxy.lose_reply = True
        saga = (await worker.intend(saga, [intent(0)], cost_gas=0, spent=0, known=0)).saga
        assert saga is not None
        assert proxy.lost == 3
        stored = await corner.read(saga)
        assert (stored.version, stored.lease, stored.deploy) == (3, saga.lease, intent(0))
