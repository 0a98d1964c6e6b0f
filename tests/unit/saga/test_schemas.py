import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from saga.schemas import FAILURE, INBOUND, OUTBOUND, main, schemas

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "messages"
IN = json.loads((GOLDEN / "model_ready_to_deploy.json").read_bytes())
HASHES = {"transaction_hash": "0x" + "1a" * 32, "registry_transaction_hash": "0x" + "2b" * 32}
OUT = {**json.loads((GOLDEN / "token_deployed.json").read_bytes()), **HASHES}
REAL = {
    case["case"]: json.loads(case["raw"])
    for case in map(json.loads, (GOLDEN / "real_messages.jsonl").read_text().splitlines())
}
DROP = object()


def accepts(name: str, instance: object) -> bool:
    return Draft202012Validator(schemas()[name]).is_valid(instance)


def changed(sample: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    return {k: v for k, v in {**sample, **changes}.items() if v is not DROP}


@pytest.mark.parametrize("name", [INBOUND, OUTBOUND, FAILURE])
def test_valid_schema(name: str) -> None:
    """Each schema is valid by its own draft and names itself without a host."""
    schema = schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == name
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize(
    "case", ["normal", "lower_is_better", "hook_normal", "hook_rmse_higher", "hook_rich"]
)
def test_real_messages(case: str) -> None:
    """The inbound schema accepts the real messages that the parser accepts, bare or enveloped."""
    assert accepts(INBOUND, REAL[case])
    assert accepts(INBOUND, REAL[case]["payload"])


@pytest.mark.parametrize("case", ["no_mlflow_run_id", "nulls", "unicode"])
def test_real_refusals(case: str) -> None:
    """The inbound schema refuses the real messages that lack a run id or have no usable symbol."""
    assert not accepts(INBOUND, REAL[case])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"improvement_percentage": None},
        {"improvement_percentage": DROP},
        {"contributor_address": None},
        {"timestamp": None},
        {"message_version": DROP},
        {"message_version": None},
        {"tags": ["odd"], "experiment_name": 7, "status": None},
        {"new_field": 1},
    ],
)
def test_inbound_accepts(changes: dict[str, object]) -> None:
    """The inbound schema accepts the sample, and what the parser forgives."""
    assert accepts(INBOUND, changed(IN, changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": DROP},
        {"model_id": None},
        {"model_id": ""},
        {"model_id": " \u3000"},
        {"model_id": "a\x1bb"},
        {"model_id": "m" * 257},
        {"token_symbol": "HKAI 123"},
        {"baseline_value": "0.85"},
        {"current_value": True},
        {"improvement_percentage": "3.51"},
        {"contributor_address": "vitalik.eth"},
        {"timestamp": "yesterday"},
        {"message_version": "2.0"},
    ],
)
def test_inbound_refuses(changes: dict[str, object]) -> None:
    """The inbound schema refuses what the parser refuses field by field."""
    assert not accepts(INBOUND, changed(IN, changes))


@pytest.mark.parametrize(
    "instance", [None, [], "x", {}, {"payload": IN}, {"message_type": "other", "payload": IN}]
)
def test_inbound_refuses_others(instance: object) -> None:
    """The inbound schema refuses what is no message."""
    assert not accepts(INBOUND, instance)


COST = json.loads((GOLDEN / "token_deployed_cost.json").read_bytes())
OPTIONAL = {name: COST[name] for name in ("deployment_cost_wei", "deployment_cost_usd")}


@pytest.mark.parametrize(
    "changes",
    [{}, {"contributor_address": DROP}, OPTIONAL, {**OPTIONAL, "deployment_cost_usd": DROP}],
)
def test_outbound_accepts(changes: dict[str, object]) -> None:
    """The outbound schema accepts the sample, with or without a contributor and a cost."""
    assert accepts(OUTBOUND, changed(OUT, changes))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: DROP} for name in OUT if name != "contributor_address"),
        {"contributor_address": None},
        {"event_type": "other"},
        {"message_version": "1.1"},
        {"transaction_hash": "0x12"},
        {"gas_used": 2845632},
        {"gas_price": "3.5"},
        {"block_number": "12345678"},
        {"deployment_timestamp": "2024-01-27T10:01:30"},
        {"deployment_cost_wei": None},
        {"deployment_cost_wei": 5},
        {"deployment_cost_wei": "0.5"},
        {"deployment_cost_usd": None},
        {"deployment_cost_usd": "38.12"},
        {"deployment_cost_usd": 38.12},
        {"extra": 1},
    ],
)
def test_outbound_refuses(changes: dict[str, object]) -> None:
    """The outbound schema knows every field and allows no other."""
    assert not accepts(OUTBOUND, changed(OUT, changes))


FAILED = json.loads((GOLDEN / "token_deploy_failed.json").read_bytes())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_id": None, "message_id": None, "trace_id": None},
        {"transaction_hashes": [], "attempts": 0, "error": ""},
    ],
)
def test_failure_accepts(changes: dict[str, object]) -> None:
    """The schema of failures accepts the sample, also of a message that names no model."""
    assert accepts(FAILURE, changed(FAILED, changes))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: DROP} for name in FAILED),
        {"event_type": "token_deployed"},
        {"message_version": "1.1"},
        {"failed_in": "ACKED"},
        {"saga_id": "x"},
        {"attempts": -1},
        {"transaction_hashes": ["0x12"]},
        {"failed_at": "2024-01-27T10:01:30Z"},
        {"trace_id": "4bf9"},
        {"original_message": "{}"},
    ],
)
def test_failure_refuses(changes: dict[str, object]) -> None:
    """The schema of failures knows every field and allows no other: no message, no secret."""
    assert not accepts(FAILURE, changed(FAILED, changes))


def test_committed() -> None:
    """The schemas in the documentation are those of the structs."""
    for name, schema in schemas().items():
        assert json.loads((ROOT / "docs" / "schemas" / name).read_text()) == schema


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check fails on a missing or altered file and writes nothing; a written one passes."""
    target = str(tmp_path / "schemas")
    assert main(["--check", target]) == 1
    assert not Path(target).exists()
    assert main([target]) == 0
    assert main(["--check", target]) == 0
    (tmp_path / "schemas" / INBOUND).write_text("{}")
    capsys.readouterr()
    assert main(["--check", target]) == 1
    reason = "is not what the structs say; run: make schemas"
    assert capsys.readouterr().err == f"{Path(target) / INBOUND} {reason}\n"
