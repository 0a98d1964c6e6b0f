"""The dozen messages of the demo: what really comes in, good and bad."""

import json
import uuid
from typing import Any

SAMPLE: dict[str, Any] = {
    "model_id": "model_123",
    "token_symbol": "HKAI-123",
    "metric_name": "accuracy",
    "baseline_value": 0.854,
    "current_value": 0.884,
    "model_name": "enhanced_classifier_v1",
    "model_version": "1.1.0",
    "mlflow_run_id": "run_abc123",
    "improvement_percentage": 3.51,
    "contributor_address": "0x742d35Cc6634C0532925a3b844Bc9e7595f82b3d",
    "experiment_name": "iris_classification",
    "tags": {"framework": "tensorflow", "dataset": "iris"},
    "timestamp": "2024-01-27T10:00:00Z",
    "message_version": "1.0",
}


def demo_messages() -> list[bytes]:
    """Seven models to deploy, two invalid ones, one below the criterion, one exact duplicate, and
    one that wants another token for a model that has one. In the order of sending."""
    names = ("lead-scoring/12/hlead", "sales-reply/3/hrep", "churn_v2", "fraud-net/7/hfrd")
    good = [_enveloped(_payload(name)) for name in (*names, "vision-small", "router/1/hrt")]
    again = _enveloped(_payload("churn_v2") | {"token_symbol": "CHURN-B"})
    return [
        json.dumps(SAMPLE).encode(),
        *good,
        b'{"model_id": "cut off in the mid',
        _enveloped(_payload("bad-symbol") | {"token_symbol": "HKAI 123 $$"}),
        _enveloped(_payload("no-better") | {"current_value": 0.80}),
        good[1],
        again,
    ]


def _payload(model_id: str) -> dict[str, Any]:
    name = model_id.split("/", maxsplit=1)[0]
    return {
        "model_id": model_id,
        "token_symbol": name.upper()[:10].replace("_", "-"),
        "metric_name": "reply_rate",
        "baseline_value": 0.8,
        "current_value": 0.9,
        "model_name": name,
        "model_version": "1",
        "mlflow_run_id": uuid.uuid4().hex,
        "status": "registered",
        "improvement_percentage": None,
        "contributor_address": None,
        "tags": {"framework": "sklearn"},
        "timestamp": "2026-11-23T15:48:53.457856",
        "message_version": "1.0",
    }


def _enveloped(payload: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "message_id": str(uuid.uuid4()),
            "message_type": "model_ready_to_deploy",
            "payload": payload,
            "timestamp": payload["timestamp"],
            "retry_count": 0,
            "max_retries": 3,
        }
    ).encode()
