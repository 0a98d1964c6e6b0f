import msgspec
import pytest

from saga.cli.render import cost_line, document
from saga.cli.stats import _print, stats_of
from saga.costs import Cost, Totals, charged, receipt_cost
from saga.model import Deployment, Registration, State
from tests.support.sagas import LATER, RECEIPT, TOKEN, make

COUNTS = dict.fromkeys(State, 0)
PRICED = msgspec.structs.replace(RECEIPT, native_usd="3000.25")
LATER_PRICED = msgspec.structs.replace(LATER, native_usd="3000")
LISTS = dict.fromkeys(("inbound", "processing", "outbound", "dead_letters"), 0)


def test_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    """Of nothing the sums are zero, and there is no average."""
    stats = stats_of(COUNTS, LISTS, Totals())
    assert (stats.deployments, stats.gas_used, stats.priced) == (0, 0, 0)
    assert (stats.fees_ether, stats.usd) == ("0.000000000", "0.000000")
    assert (stats.gas_used_average, stats.fees_ether_average, stats.usd_average) == (None,) * 3
    _print(stats)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "tokens   0 deployed, 0 adopted; 0 registered",
        "gas      0",
        "fees     0.000000 ether",
        "USD      no price was known for any deployment",
    ]


def test_averages(capsys: pytest.CaptureFixture[str]) -> None:
    """An average is per deployment; that in dollars per deployment with a price, and says so."""
    totals = Totals(
        deployments=3,
        adopted=2,
        registrations=4,
        gas=1_000_001,
        fees_gwei=12_345_678_901_234_567,
        usd_micro=25_000_001,
        priced=2,
    )
    stats = stats_of(COUNTS, LISTS, totals)
    assert (stats.gas_used_average, stats.fees_ether_average) == (333_334, "4115226.300411522")
    assert (stats.fees_ether, stats.usd) == ("12345678.901234567", "25.000001")
    assert stats.usd_average == "12.500000"
    _print(stats)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "tokens   3 deployed, 2 adopted; 4 registered",
        "gas      1000001, 333334 a deployment",
        "fees     12345678.901235 ether, 4115226.300412 a deployment",
        "USD      25.00, 12.50 a deployment; a price was known for 2 of 3 deployments",
    ]


def test_cost_of_nothing() -> None:
    """A saga that has paid nothing shows no cost."""
    assert cost_line(make(State.VALIDATED)) is None
    assert "cost" not in document(make(State.VALIDATED))


def test_cost_before_it_was_recorded() -> None:
    """Of a saga of a release that recorded no cost, the receipts tell what they can."""
    saga = make(State.ACKED)
    assert cost_line(saga) is None
    assert document(saga)["cost"]["deployment_cost_wei"] == "4000000000000000"


def test_cost() -> None:
    """A saga's cost is what it paid, exact in JSON; in dollars, of what did its work, where both
    transactions have a price."""
    saga = make(
        State.ACKED,
        deployment=Deployment(token=TOKEN, receipt=RECEIPT),
        registration=Registration(receipt=LATER, adopted=True),
    )
    saga = charged(saga, receipt_cost(RECEIPT))
    assert cost_line(saga) == "gas 1000000, 0.002000 ether"
    priced = make(
        State.ACKED,
        deployment=Deployment(token=TOKEN, receipt=PRICED),
        registration=Registration(receipt=LATER_PRICED),
    )
    priced = charged(charged(priced, receipt_cost(RECEIPT)), receipt_cost(LATER))
    assert cost_line(priced) == "gas 2000000, 0.004000 ether, 12.00 USD"
    again = charged(priced, Cost(50_000, 1))
    line = "gas 2050000, 0.004000 ether, 12.00 USD without what came to nothing"
    assert cost_line(again) == line
    assert document(again)["cost"] == {
        "gas_used": 2_050_000,
        "fees_wei": "4000000000000001",
        "fees_ether": "0.004000000000000001",
        "deployment_cost_wei": "4000000000000000",
        "deployment_cost_usd": "12.000500",
    }
