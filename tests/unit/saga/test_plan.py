"""Dry runs. The chain and the claims here only return facts; they know no rule."""

from collections.abc import Sequence

import msgspec
import pytest

from saga.errors import ChainError, ChainUnavailableError, HeldError
from saga.facts import (
    Absent,
    Call,
    Cancelled,
    EntryExists,
    Mined,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    Unmined,
)
from saga.messages import ModelReadyToDeployMessage
from saga.model import Intent, Saga, State, Step
from saga.plan import Plan, outlook, plan
from saga.ports import Asked, Found, Lane, Watched
from states.table import TABLE
from tests.support.sagas import (
    CALL,
    LATER,
    OTHER,
    OWN,
    POLICY,
    RECEIPT,
    REGISTRATION,
    TOKEN,
    TOKEN_EXISTS,
    intent,
    make,
    message,
)


class Told:
    """A chain that answers questions as told, and fails the test when it is to do anything."""

    head_number = 0
    lanes: Sequence[Lane] = ()

    def __init__(self, found: Found | Exception, asked: Asked | Exception | None = None) -> None:
        self._found = found
        self._asked = asked
        self.questions: list[str] = []

    async def look_up(self, saga: Saga, step: Step, message: ModelReadyToDeployMessage) -> Found:
        assert saga.intent(step) is None
        assert message.model_id == "model_123"
        self.questions.append(f"look up {step}")
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    async def ask(self, intent: Intent) -> Asked:
        self.questions.append(f"ask {intent.step}")
        if isinstance(self._asked, Exception):
            raise self._asked
        assert self._asked is not None
        return self._asked

    async def priced(self, call: Call) -> Call:
        raise AssertionError

    async def send(self, saga: Saga, step: Step) -> Sent | Refused:
        raise AssertionError

    async def watch(self, intent: Intent, seconds: float) -> Watched:
        raise AssertionError

    async def next_block(self) -> None:
        raise AssertionError

    def release(self, saga: Saga) -> None:
        raise AssertionError


class Claimed:
    """Claims that one saga holds."""

    def __init__(self, holder: str = OWN, *, same: bool = True) -> None:
        self._holder = holder
        self._same = same

    async def claimed(self, saga: Saga, model_id: str, content: str) -> Saga:
        return msgspec.structs.replace(saga, claim=self._holder, claim_same=self._same)


async def planned(saga: Saga, chain: Told, claims: Claimed | None = None) -> Plan:
    return await plan(saga, TABLE, chain, claims or Claimed(), POLICY)


OUT = make(State.VALIDATED, deploy=intent())
ENTERING = make(State.TOKEN_DEPLOYED, register=intent(Step.REGISTER))


async def test_would_deploy() -> None:
    """A model without a token would be deployed: the plan says so and names the address."""
    found = await planned(make(State.VALIDATED), Told(Absent(CALL)))
    assert found == Plan(f"would sign and send: deploy token {TOKEN}", sends=True)


async def test_would_deploy_both() -> None:
    """A registration right behind is no other plan: the deployment is what would be sent first."""
    found = await planned(make(State.VALIDATED), Told(Absent(CALL, CALL)))
    assert found == Plan(f"would sign and send: deploy token {TOKEN}", sends=True)


async def test_from_received() -> None:
    """A saga not yet judged is planned through to its first transaction, without claiming."""
    found = await planned(make(State.RECEIVED), Told(Absent(CALL)))
    assert found.sends


async def test_duplicate() -> None:
    """A saga of a model that another owns would end again, and the chain is not asked."""
    for same in (True, False):
        chain = Told(Absent(CALL))
        found = await planned(make(State.RECEIVED), chain, Claimed(OTHER, same=same))
        assert found.what.startswith(f"would end again: saga {OTHER}")
        assert not found.sends
        assert chain.questions == []


async def test_invalid() -> None:
    """A message that is refused would be refused again, in whatever state it is."""
    for state in (State.RECEIVED, State.VALIDATED, State.REGISTERED):
        found = await planned(make(state, message=message(model_id=None)), Told(Absent(CALL)))
        assert found.what.startswith("would end again: ")
        assert "model_id" in found.what
        assert not found.sends


async def test_adopt_token() -> None:
    """A token that the chain holds would be adopted."""
    found = await planned(make(State.VALIDATED), Told(TOKEN_EXISTS))
    assert found.what.startswith(f"would adopt token {TOKEN} of block 7")
    assert not found.sends


async def test_adopt_entry() -> None:
    """An entry that the registry holds would be adopted."""
    adopted = msgspec.structs.replace(REGISTRATION, adopted=True)
    found = await planned(make(State.TOKEN_DEPLOYED), Told(EntryExists(adopted)))
    assert found == Plan("would adopt the registry entry of block 8", sends=False)


async def test_own_mined() -> None:
    """A transaction of our own that is mined would be recorded, not adopted or sent."""
    found = await planned(OUT, Told(Absent(CALL), Mined(RECEIPT)))
    assert found.what.startswith(f"would record token {TOKEN}")
    entered = await planned(ENTERING, Told(Absent(CALL), Mined(LATER)))
    assert entered == Plan("would record the registry entry of block 8", sends=False)


async def test_conflict() -> None:
    """A registry that holds another token would end the saga again."""
    found = await planned(make(State.TOKEN_DEPLOYED), Told(RegistryConflict("why")))
    assert found == Plan("would end again: why", sends=False)


async def test_refused() -> None:
    """A call that the chain refuses would end the saga again."""
    found = await planned(make(State.VALIDATED), Told(Refused("why")))
    assert found == Plan("would end again: why", sends=False)


async def test_stored_bytes() -> None:
    """Stored bytes that no block holds would be sent again, not signed again."""
    found = await planned(OUT, Told(Absent(CALL), Unmined()))
    assert found == Plan("would send the stored deploy transaction again", sends=True)


async def test_in_flight() -> None:
    """A transaction that is not deep enough would be watched."""
    found = await planned(OUT, Told(Absent(CALL), Sent()))
    assert found == Plan("would watch the deploy transaction", sends=False)


@pytest.mark.parametrize("saga", [OUT, ENTERING])
async def test_reverted(saga: Saga) -> None:
    """Behind a reverted transaction the plan shows the new one that would be sent."""
    chain = Told(Absent(CALL), Reverted("0x12", 9))
    found = await planned(saga, chain)
    assert found.what.startswith("would sign and send")
    assert found.sends
    assert [question.split()[0] for question in chain.questions] == ["ask", "look"]


@pytest.mark.parametrize("saga", [OUT, ENTERING])
async def test_cancelled(saga: Saga) -> None:
    """What an operator has cancelled would end so: nothing is sent in its place."""
    chain = Told(Absent(CALL), Cancelled("0x12"))
    found = await planned(saga, chain)
    assert found.what == "would end again: cancelled by an operator's transaction 0x12"
    assert not found.sends
    assert [question.split()[0] for question in chain.questions] == ["ask"]


async def test_held() -> None:
    """While fees or funds hold a saga, the plan says so and promises nothing."""
    held = HeldError("max_fee", "base fee 130 gwei is above MAX_FEE_GWEI 100")
    found = await planned(make(State.VALIDATED), Told(held))
    assert found == Plan(f"would wait and ask the chain again: {held}", sends=False)


async def test_reverted_but_there() -> None:
    """Behind a reverted transaction the plan adopts what another has made."""
    found = await planned(OUT, Told(TOKEN_EXISTS, Reverted("0x12", 9)))
    assert found.what.startswith("would adopt token")
    assert not found.sends


@pytest.mark.parametrize("error", [ChainError("busy"), ChainUnavailableError("gone")])
async def test_no_answer(error: Exception) -> None:
    """Without an answer of the chain the plan promises nothing, and says why."""
    for chain, saga in ((Told(error), make(State.VALIDATED)), (Told(Absent(CALL), error), OUT)):
        found = await planned(saga, chain)
        assert found == Plan(f"would wait and ask the chain again: {error}", sends=False)


async def test_publish() -> None:
    """A registered saga would publish, a published one would acknowledge."""
    chain = Told(Absent(CALL))
    published = await planned(make(State.REGISTERED), chain)
    acknowledged = await planned(make(State.PUBLISHED), chain)
    assert published == Plan("would publish the event and acknowledge", sends=False)
    assert acknowledged == Plan("would acknowledge the message", sends=False)
    assert chain.questions == []


async def foreseen(saga: Saga, chain: Told) -> Plan:
    return await outlook(saga, TABLE, chain, Claimed(), POLICY)


@pytest.mark.parametrize("state", [State.REGISTERED, State.PUBLISHED])
async def test_outlook_complete(state: State) -> None:
    """A saga whose token stands in the registry is complete on the chain: the outlook says so."""
    found = await foreseen(make(state), Told(ChainError("asked for nothing")))
    assert (found.complete, found.sends) == (True, False)
    assert found.what.startswith(
        f"complete on the chain: token {TOKEN}, registered in block {LATER.block_number}; would "
    )


async def test_outlook_adopts_all() -> None:
    """An entry that is found completes the work: what remains is to publish."""
    found = await foreseen(make(State.TOKEN_DEPLOYED), Told(EntryExists(REGISTRATION)))
    assert (found.complete, found.sends) == (True, False)
    assert found.what.endswith("would publish the event and acknowledge")


async def test_outlook_goes_on() -> None:
    """Past what is there, the outlook says what would be sent."""

    class Half(Told):
        async def look_up(
            self, saga: Saga, step: Step, message: ModelReadyToDeployMessage
        ) -> Found:
            return TOKEN_EXISTS if step is Step.DEPLOY else Absent(CALL)

    found = await foreseen(make(State.RECEIVED), Half(ChainError("")))
    assert (found.complete, found.sends) == (False, True)
    assert f"would adopt token {TOKEN}" in found.what
    assert "; would sign and send: register" in found.what


@pytest.mark.parametrize(
    "found", [Absent(CALL), ChainUnavailableError("away"), RegistryConflict("x")]
)
async def test_outlook_is_plan(found: Found | Exception) -> None:
    """Where nothing is there, an outlook is a plan."""
    saga = make(State.TOKEN_DEPLOYED)
    assert await foreseen(saga, Told(found)) == await planned(saga, Told(found))
