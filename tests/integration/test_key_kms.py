"""Laws of a key in AWS KMS: what it signs any chain takes, and each bad day is one clear line."""

import asyncio
import base64
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
import structlog
from eth_account import Account
from eth_keys.constants import SECPK1_N

from adapters.der import ecdsa_numbers
from adapters.embedded import EmbeddedAnvil, free_port
from adapters.key_kms import THREADS, KmsKey, open_kms
from adapters.log_setup import configure_logging
from adapters.signer import SELF_SEND_GAS, Signer
from adapters.transaction import Transaction, decoded
from saga.errors import SignerError
from saga.fees import ETHER, GWEI, Fees
from saga.model import AttemptKind
from tests.support.kms import AWS_SECRETS, REGION, KmsServer, aws_environment, is_high

CHAIN_ID = 31337
SECONDS = 20.0
"""The time-out where it is not what is tested."""
SHORT = 0.3
"""The time-out where nothing is answered at all."""
FEES = Fees(max_fee=10 * GWEI, max_priority_fee=GWEI)
LEGACY = Fees(max_fee=10 * GWEI, max_priority_fee=10 * GWEI, legacy=True)
SECRET = AWS_SECRETS[0]

# --- The lines.

ENABLE = (
    "enable it with `aws kms enable-key`, after `aws kms cancel-key-deletion` where its deletion "
    "is scheduled"
)
DISABLED = f"the key is disabled (DisabledException): {ENABLE}"
PENDING = (
    "the key is pending deletion, or in another state without use (KMSInvalidStateException): "
    f"{ENABLE}"
)
THROTTLED = (
    "AWS throttles our requests, tried 3 times (ThrottlingException): wait, or ask AWS for a "
    "higher KMS quota of ECC requests per second"
)
EXPIRED = (
    "the AWS credentials have expired (ExpiredTokenException): renew them: AWS_SESSION_TOKEN and "
    "its keys, the SSO session, or the role"
)
NOT_ACCEPTED = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and this machine's clock"
NOT_FOUND = (
    f"there is no such key in {REGION} (NotFoundException): give the id, the ARN or the alias "
    "(alias/…) of a key of this account and region"
)
SLOW = (
    "AWS KMS took longer than 0.3 s (SIGNER_TIMEOUT): wait, check the network, and see "
    "https://health.aws.amazon.com"
)
NO_REGION = "AWS's region is not known (NoRegionError): set AWS_REGION, or give the key's ARN"
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine or pod a "
    "role"
)
NO_ANSWER = "the answer is not one of AWS KMS: check AWS_ENDPOINT_URL_KMS and proxies"


def denied(action: str) -> str:
    return (
        f"IAM does not allow {action} on the key (AccessDeniedException): allow kms:GetPublicKey "
        "and kms:Sign in the key's policy, or in that of the role"
    )


def unusable(error: str) -> str:
    return f"AWS's settings are unusable ({error}): check AWS_REGION and AWS_ENDPOINT_URL_KMS"


def another(key: KmsKey) -> str:
    return (
        f"AWS KMS does not sign with {key._key_id}: the signature is not one of {key.address}: "
        "another key answered; move a moved alias back, or restart to sign with its new key"
    )


# --- The tools.


@pytest.fixture
def kms() -> Iterator[KmsServer]:
    with KmsServer() as server:
        yield server


@asynccontextmanager
async def opened(
    kms: KmsServer, key_id: str | None = None, *, timeout: float = SECONDS
) -> AsyncIterator[KmsKey]:
    """A key, and in the end no thread of it. `timeout` is that of signatures: what opens a key
    takes boto3 longer."""
    key_id = key_id or kms.create_key()
    with aws_environment(kms.environment(key_id)):
        key = await open_kms(key_id, timeout=SECONDS)
    key._timeout = timeout
    yield key
    kms.go()
    await key.close()
    for thread in key._calls._threads:
        await asyncio.to_thread(thread.join, SECONDS)
        assert not thread.is_alive()


def transaction(nonce: int = 0, fees: Fees = FEES) -> Transaction:
    return Transaction(CHAIN_ID, nonce, SELF_SEND_GAS, bytes(20), b"", fees)


async def refused_to_open(
    key_id: str, environment: Mapping[str, str], *, timeout: float = SECONDS
) -> str:
    """The line, which is one, quotes nothing secret and hides its cause."""
    with aws_environment(environment), pytest.raises(ValueError) as caught:  # noqa: PT011 - told
        await open_kms(key_id, timeout=timeout)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return one_line(caught.value)


async def refused_to_sign(key: KmsKey) -> str:
    """The same of a signature."""
    with pytest.raises(SignerError) as caught:
        await key.sign(transaction())
    assert caught.value.hold == "signer"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return one_line(caught.value)


def one_line(error: Exception) -> str:
    text = str(error)
    assert "\n" not in text
    assert not [secret for secret in AWS_SECRETS if secret in text]
    return text


# --- What is signed.


@pytest.mark.parametrize("fees", [FEES, LEGACY], ids=["type 2", "type 0"])
async def test_low_s(kms: KmsServer, fees: Fees) -> None:
    """Of 50 signatures, half of them with the high s, each is given the low one and recovers."""
    async with opened(kms) as key:
        for nonce in range(50):
            kms.high_s = nonce % 2 == 0
            raw = await key.sign(transaction(nonce, fees))
            asked, signature = decoded(raw)
            assert asked == transaction(nonce, fees)
            assert not is_high(signature.s)
            assert Account.recover_transaction(raw) == key.address
            r, s = ecdsa_numbers(kms.signatures[-1])
            assert signature.r == r
            assert signature.s == (SECPK1_N - s if kms.high_s else s)
    assert sum(is_high(ecdsa_numbers(der)[1]) for der in kms.signatures) == 25


async def test_asks_for_the_digest(kms: KmsServer) -> None:
    """KMS is given the transaction's keccak hash as a digest, so that it makes no hash of it."""
    async with opened(kms) as key:
        await key.sign(transaction())
    (asked,) = kms.requests
    digest = base64.b64encode(transaction().digest()).decode()
    assert (asked["Message"], asked["MessageType"]) == (digest, "DIGEST")
    assert asked["SigningAlgorithm"] == "ECDSA_SHA_256"


@pytest.mark.parametrize("fees", [FEES, LEGACY], ids=["type 2", "type 0"])
async def test_mined(kms: KmsServer, anvil: EmbeddedAnvil, fees: Fees) -> None:
    """A real node takes the bytes as the address's own, and mines them."""
    async with opened(kms) as key:
        anvil.request("anvil_setBalance", key.address, hex(ETHER))
        sent = await Signer(key).self_send(0, CHAIN_ID, fees, AttemptKind.FILL)
    assert anvil.request("eth_sendRawTransaction", sent.raw) == sent.hash
    anvil.request("evm_mine")
    assert anvil.request("eth_getTransactionReceipt", sent.hash)["status"] == "0x1"
    mined = anvil.request("eth_getTransactionByHash", sent.hash)
    assert mined["from"] == key.address.lower()
    assert int(mined["type"], 16) == (0 if fees.legacy else 2)
    assert not is_high(int(mined["s"], 16))


async def test_names(kms: KmsServer) -> None:
    """Id, ARN, alias and the alias's ARN open the same key, by AWS's own region or the ARN's."""
    arn = kms.create_key()
    kms.create_key(alias="alias/team/deployer_1")
    kms.move_alias("alias/team/deployer_1", arn)
    owner, _, key_id = arn.rpartition(":key/")
    for name in (arn, key_id, "alias/team/deployer_1", f"{owner}:alias/team/deployer_1"):
        environment = kms.environment(name)
        if name.startswith("arn:"):
            del environment["AWS_REGION"]
        with aws_environment(environment):
            key = await open_kms(name, timeout=SECONDS)
        assert key.address == kms.address(arn)
        assert (key.kind, repr(key)) == ("aws kms", f"KmsKey({name} of {key.address})")
        await key.close()


# --- Threads and time.


async def test_side_by_side(kms: KmsServer) -> None:
    """As many signatures as there are threads are made at once; the others wait their turn."""
    kms.side_by_side = threading.Barrier(THREADS)
    async with opened(kms) as key:
        asked = [transaction(nonce) for nonce in range(3 * THREADS)]
        signed = await asyncio.gather(*map(key.sign, asked))
        assert [decoded(raw)[0] for raw in signed] == asked


async def test_the_loop_turns(kms: KmsServer) -> None:
    """While KMS keeps a signature waiting, everything else goes on."""
    async with opened(kms) as key:
        kms.hold()
        signing = asyncio.create_task(key.sign(transaction()))
        await asyncio.to_thread(kms.until_held)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not signing.done()
        kms.go()
        assert Account.recover_transaction(await signing) == key.address


async def test_takes_long(kms: KmsServer) -> None:
    """A KMS that takes long, but less than the time-out, still signs."""
    async with opened(kms) as key:
        kms.delay = 1.0
        assert Account.recover_transaction(await key.sign(transaction())) == key.address


async def test_takes_too_long(kms: KmsServer) -> None:
    """A KMS that hangs holds nobody for longer than the time-out, in more calls than there are
    threads; once it answers again, so does the key."""
    async with opened(kms, timeout=SHORT) as key:
        kms.hold()
        lines = await asyncio.gather(*(refused_to_sign(key) for _ in range(2 * THREADS)))
        assert set(lines) == {f"AWS KMS does not sign with {key._key_id}: {SLOW}"}
        kms.go()
        key._timeout = SECONDS
        assert Account.recover_transaction(await key.sign(transaction())) == key.address


async def test_given_up(kms: KmsServer) -> None:
    """What nobody waits for any more is not tried again, and what has not begun never is."""
    async with opened(kms) as key:
        kms.hold()
        signing = [asyncio.create_task(key.sign(transaction())) for _ in range(2 * THREADS)]
        for _ in range(THREADS):
            await asyncio.to_thread(kms.until_held)
        for task in signing:
            task.cancel()
        await asyncio.gather(*signing, return_exceptions=True)
        kms.refuse("ThrottlingException", times=THREADS)
    assert len(kms.requests) == THREADS


async def test_closed_while_it_hangs(kms: KmsServer) -> None:
    """Closing waits for no answer; who waited for one is told, and so is who comes later."""
    key_id = kms.create_key()
    async with opened(kms, key_id) as key:
        kms.hold()
        signing = asyncio.create_task(refused_to_sign(key))
        await asyncio.to_thread(kms.until_held)
        await key.close()
        line = f"AWS KMS does not sign with {key_id}: the key was closed: this replica is ending"
        assert await signing == line
        assert await refused_to_sign(key) == line


# --- Refused at the start.


async def test_wrong_curve(kms: KmsServer) -> None:
    """A key of another curve is refused by its name."""
    key_id = kms.create_key("ECC_NIST_P256")
    assert await refused_to_open(key_id, kms.environment(key_id)) == (
        "cannot be used: its KeySpec is ECC_NIST_P256, not ECC_SECG_P256K1: create one with "
        "KeySpec ECC_SECG_P256K1 and KeyUsage SIGN_VERIFY"
    )


async def test_wrong_usage(kms: KmsServer) -> None:
    """A key of the right curve that is not for signing is refused."""
    key_id = kms.create_key(usage="KEY_AGREEMENT")
    assert await refused_to_open(key_id, kms.environment(key_id)) == (
        "cannot be used: its KeyUsage is KEY_AGREEMENT, not SIGN_VERIFY: create one with KeySpec "
        "ECC_SECG_P256K1 and KeyUsage SIGN_VERIFY"
    )


async def test_symmetric(kms: KmsServer) -> None:
    """A key that has no public part is refused."""
    key_id = kms.create_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    assert await refused_to_open(key_id, kms.environment(key_id)) == (
        "cannot be used: the key is not made for signing (UnsupportedOperationException): use a "
        "key with KeySpec ECC_SECG_P256K1 and KeyUsage SIGN_VERIFY"
    )


@pytest.mark.parametrize("name", ["alias/none", f"arn:aws:kms:{REGION}:123456789012:key/none"])
async def test_not_found(kms: KmsServer, name: str) -> None:
    """A key that does not exist is looked for in a region that is named."""
    line = await refused_to_open(name, kms.environment(name))
    assert line == f"cannot be used: {NOT_FOUND}"


async def test_disabled(kms: KmsServer) -> None:
    """A key that is disabled, or about to be deleted, is told how to come back."""
    key_id = kms.create_key()
    kms.disable(key_id)
    assert await refused_to_open(key_id, kms.environment(key_id)) == f"cannot be used: {DISABLED}"
    kms.schedule_deletion(key_id)
    assert await refused_to_open(key_id, kms.environment(key_id)) == f"cannot be used: {PENDING}"


async def test_denied(kms: KmsServer) -> None:
    """The action that IAM does not allow is named, at the start and for a signature."""
    async with opened(kms) as key:
        kms.refuse("AccessDeniedException")
        line = await refused_to_open(key._key_id, kms.environment(key._key_id))
        assert line == f"cannot be used: {denied('kms:GetPublicKey')}"
        kms.refuse("AccessDeniedException")
        assert (await refused_to_sign(key)).endswith(f": {denied('kms:Sign')}")


async def test_throttled_at_the_start(kms: KmsServer) -> None:
    """A KMS that throttles three times refuses the start."""
    key_id = kms.create_key()
    kms.refuse("ThrottlingException", times=3)
    assert await refused_to_open(key_id, kms.environment(key_id)) == f"cannot be used: {THROTTLED}"


async def test_unreachable() -> None:
    """A KMS that nobody answers for is named by its host, without what else its URL holds."""
    with KmsServer() as kms:
        environment = kms.environment(kms.create_key())
    host = f"127.0.0.1:{free_port()}"
    environment["AWS_ENDPOINT_URL_KMS"] = f"http://{host}/{SECRET}"
    assert await refused_to_open("alias/deployer", environment) == (
        f"cannot be used: AWS KMS cannot be reached at http://{host} (EndpointConnectionError), "
        "tried 3 times: check the network, AWS_REGION and AWS_ENDPOINT_URL_KMS"
    )


async def test_slow_at_the_start(kms: KmsServer) -> None:
    """A KMS that does not answer in time refuses the start."""
    key_id = kms.create_key()
    kms.hold()
    line = await refused_to_open(key_id, kms.environment(key_id), timeout=SHORT)
    assert line == f"cannot be used: {SLOW}"
    kms.go()


LACKING = [
    ("AWS_REGION", NO_REGION),
    ("AWS_ACCESS_KEY_ID", f"AWS credentials are not found (NoCredentialsError): {CREDENTIALS}"),
    (
        "AWS_SECRET_ACCESS_KEY",
        f"AWS credentials are not found (PartialCredentialsError): {CREDENTIALS}",
    ),
]


@pytest.mark.parametrize(("name", "line"), LACKING)
async def test_lacking(kms: KmsServer, name: str, line: str) -> None:
    """What AWS's own environment lacks is named."""
    environment = kms.environment("alias/deployer")
    del environment[name]
    assert await refused_to_open("alias/deployer", environment) == f"cannot be used: {line}"


PROFILE = "AWS's own files are unusable (ProfileNotFound): check AWS_PROFILE and AWS_CONFIG_FILE"
UNUSABLE = [
    ("AWS_ENDPOINT_URL_KMS", SECRET, unusable("ValueError")),
    ("AWS_ENDPOINT_URL_KMS", f"http://user:{SECRET}@localhost:1", unusable("ValueError")),
    ("AWS_REGION", SECRET, unusable("InvalidRegionError")),
    ("AWS_PROFILE", "nobody", PROFILE),
]


@pytest.mark.parametrize(("name", "value", "line"), UNUSABLE)
async def test_unusable(kms: KmsServer, name: str, value: str, line: str) -> None:
    """An AWS setting that nothing can be made of is named, and not quoted."""
    environment = kms.environment("alias/deployer") | {name: value}
    assert await refused_to_open("alias/deployer", environment) == f"cannot be used: {line}"


@pytest.mark.parametrize("name", ["", "deployer", "4c08" * 16, "alias/", "alias/a b", "arn:aws:s3"])
async def test_no_name_of_a_key(name: str) -> None:
    """What can be no key's name is refused before AWS is asked, and not quoted: it may be a key."""
    line = await refused_to_open(name, {})
    assert line == "is no key of AWS KMS: give its id, its ARN, or its alias as alias/…"


async def test_without_the_extra(kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the line says what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert await refused_to_open("alias/deployer", kms.environment("alias/deployer")) == (
        "needs the extra [aws]: pip install 'contract-deploy-listener[aws]'"
    )


KIND = '"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"'
NO_PUBLIC_KEYS = [
    "{}",
    "<html>hello</html>",
    '{"PublicKey": "AAAA"}',
    f"{{{KIND}}}",
    f'{{{KIND}, "PublicKey": "AAAA"}}',
    f'{{{KIND}, "PublicKey": {{}}}}',
]


@pytest.mark.parametrize("answer", NO_PUBLIC_KEYS)
async def test_no_public_key(kms: KmsServer, answer: str) -> None:
    """A server that gives no public key is no KMS."""
    kms.answer = answer
    line = await refused_to_open("alias/deployer", kms.environment("alias/deployer"))
    assert line.startswith("cannot be used: the answer ")
    assert "is not one of AWS KMS" in line
    assert line.endswith(": check AWS_ENDPOINT_URL_KMS and proxies")


# --- Bad days in mid-run.

BAD_DAYS = [
    ("ExpiredTokenException", EXPIRED),
    ("NotFoundException", NOT_FOUND),
    (
        "InvalidSignatureException",
        f"AWS does not accept the credentials (InvalidSignatureException): {NOT_ACCEPTED}",
    ),
    (
        "SomethingNewException",
        "AWS KMS refuses kms:Sign (SomethingNewException): see this code in the KMS API reference",
    ),
    (
        f"Odd {SECRET}",
        "AWS KMS refuses kms:Sign (without a code): see this code in the KMS API reference",
    ),
]


@pytest.mark.parametrize(("code", "line"), BAD_DAYS)
async def test_bad_day(kms: KmsServer, code: str, line: str) -> None:
    """A refusal is one line with AWS's code and the fix, and never AWS's own words; the key signs
    again when the day is over."""
    async with opened(kms) as key:
        kms.refuse(code, message=f"x-amz-security-token:{SECRET}")
        assert await refused_to_sign(key) == f"AWS KMS does not sign with {key._key_id}: {line}"
        assert Account.recover_transaction(await key.sign(transaction())) == key.address


async def test_disabled_in_mid_run(kms: KmsServer) -> None:
    """A key that is disabled while we run signs again, without a restart, once it is enabled."""
    async with opened(kms) as key:
        kms.disable(key._key_id)
        assert (await refused_to_sign(key)).endswith(f": {DISABLED}")
        kms.schedule_deletion(key._key_id)
        assert (await refused_to_sign(key)).endswith(f": {PENDING}")
        kms.enable(key._key_id)
        assert Account.recover_transaction(await key.sign(transaction())) == key.address


async def test_throttled(kms: KmsServer) -> None:
    """Two throttled tries are made up for by a third; a third one is told."""
    async with opened(kms) as key:
        kms.refuse("ThrottlingException", times=2)
        assert Account.recover_transaction(await key.sign(transaction())) == key.address
        assert len(kms.requests) == 3
        kms.refuse("ThrottlingException", times=3)
        assert (await refused_to_sign(key)).endswith(f": {THROTTLED}")
        assert len(kms.requests) == 6


async def test_network_goes() -> None:
    """A KMS that cannot be reached any more is told by its host."""
    with KmsServer() as kms:
        async with opened(kms) as key:
            kms.stop()
            assert await refused_to_sign(key) == (
                f"AWS KMS does not sign with {key._key_id}: AWS KMS cannot be reached at {kms.url} "
                "(EndpointConnectionError), tried 3 times: check the network, AWS_REGION and "
                "AWS_ENDPOINT_URL_KMS"
            )


async def test_another_key_answers(kms: KmsServer) -> None:
    """A signature of another key is never used."""
    async with opened(kms) as key:
        kms.signed_by = kms.create_key()
        assert await refused_to_sign(key) == another(key)


async def test_alias_moves(kms: KmsServer) -> None:
    """An alias that is moved to another key in mid-run signs nothing any more."""
    async with opened(kms, kms.create_key(alias="alias/deployer")) as key:
        kms.move_alias("alias/deployer", kms.create_key())
        assert await refused_to_sign(key) == another(key)


NO_SIGNATURES = ["{}", '{"Signature": ""}', '{"Signature": "AAAA"}', "<html>hello</html>"]


@pytest.mark.parametrize("answer", NO_SIGNATURES)
async def test_no_signature(kms: KmsServer, answer: str) -> None:
    """What is no signature is never used."""
    async with opened(kms) as key:
        kms.answer = answer
        line = await refused_to_sign(key)
        assert line == f"AWS KMS does not sign with {key._key_id}: {NO_ANSWER}"


async def test_a_signature_of_nobody(kms: KmsServer) -> None:
    """Well-formed numbers that are no signature of the key are never used."""
    async with opened(kms) as key:
        kms.answer = '{"Signature": "MAYCAQECAQE="}'  # r = s = 1
        assert await refused_to_sign(key) == another(key)


# --- Secrets.


@pytest.fixture
def debug_logging() -> Iterator[None]:
    """As LOG_LEVEL=DEBUG; the process's logging is left as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG")
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("debug_logging")
async def test_debug_logs(kms: KmsServer, capfd: pytest.CaptureFixture[str]) -> None:
    """At DEBUG our own lines are written, and not one of boto3's, which hold headers and keys."""
    structlog.get_logger("test").debug("ours")
    async with opened(kms) as key:
        await key.sign(transaction())
        kms.refuse("ExpiredTokenException")
        await refused_to_sign(key)
    for name in ("botocore.auth", "botocore.endpoint", "botocore.parsers", "urllib3", "boto3"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert '"ours"' in line
    for secret in (*AWS_SECRETS, "Authorization", "AWS4-HMAC"):
        assert secret not in err
