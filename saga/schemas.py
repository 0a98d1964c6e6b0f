"""JSON Schemas of the messages, generated from their structs.

`python -m saga.schemas [--check] [DIR]` writes them, or with --check fails when they differ.

SIDE EFFECTS: main() reads and writes files in DIR; the rest none.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from saga.events import TokenDeployedMessage
from saga.failure_event import TokenDeployFailedMessage
from saga.messages import MESSAGE_TYPE, ModelReadyToDeployMessage
from saga.model import State

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
DIRECTORY: Final = Path("docs/schemas")
INBOUND: Final = "model_ready_to_deploy.schema.json"
OUTBOUND: Final = "token_deployed.schema.json"
FAILURE: Final = "token_deploy_failed.schema.json"

Schema = dict[str, Any]


def schemas() -> dict[str, Schema]:
    """The schemas by file name."""
    return {INBOUND: _inbound(), OUTBOUND: _outbound(), FAILURE: _failure()}


def _inbound() -> Schema:
    """What `parse` accepts, short of the rules that compare fields."""
    message = _of(ModelReadyToDeployMessage)
    fields = message["properties"]
    # Always there once parsed, but a producer may leave it out where it can be computed.
    message["required"].remove("improvement_percentage")
    fields["improvement_percentage"] = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    fields["message_version"] = {"anyOf": [fields["message_version"], {"type": "null"}]}
    for name, kind in {"experiment_name": "text", "status": "text", "tags": "an object"}.items():
        fields[name] = {"description": f"Ignored unless it is {kind}."}
    envelope = {
        "title": "Envelope",
        "description": "What the producers put around a message.",
        "type": "object",
        "properties": {
            "message_id": {"description": "Names the message in every redelivery."},
            "message_type": {"enum": [MESSAGE_TYPE]},
            "payload": {"$ref": "#/$defs/ModelReadyToDeployMessage"},
        },
        "required": ["message_type", "payload"],
        "additionalProperties": True,
    }
    return {
        **_head(
            INBOUND, "model_ready_to_deploy", "A model ready for its token, bare or enveloped."
        ),
        "if": {"type": "object", "required": ["payload"]},
        "then": {"$ref": "#/$defs/Envelope"},
        "else": {"$ref": "#/$defs/ModelReadyToDeployMessage"},
        "$defs": {
            "Envelope": envelope,
            "ModelReadyToDeployMessage": {**message, "additionalProperties": True},
        },
    }


def _outbound() -> Schema:
    message = _of(TokenDeployedMessage)
    fields = message["properties"]
    # Left out rather than null, and its two constants are always there.
    optional = {"contributor_address", "deployment_cost_wei", "deployment_cost_usd"}
    for name in optional:
        (fields[name],) = [kind for kind in fields[name]["anyOf"] if kind != {"type": "null"}]
    return {
        **_head(OUTBOUND, "token_deployed", message["description"]),
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
        "additionalProperties": False,
    }


def _failure() -> Schema:
    message = _of(TokenDeployFailedMessage)
    fields = message["properties"]
    return {
        **_head(FAILURE, "token_deploy_failed", message["description"]),
        "type": "object",
        "properties": {**fields, "failed_in": _failed_in(fields["failed_in"])},
        "required": list(fields),
        "additionalProperties": False,
    }


def _failed_in(field: Schema) -> Schema:
    """The states that have an outcome; msgspec gives an enum's values in a definition apart."""
    states = [state.value for state in State if not state.terminal]
    return {"description": field["description"], "enum": states}


def _head(name: str, title: str, description: str) -> Schema:
    return {"$schema": DRAFT, "$id": name, "title": title, "description": description}


def _of(struct: type[msgspec.Struct]) -> Schema:
    definition: Schema = msgspec.json.schema(struct)["$defs"][struct.__name__]
    return definition


def main(arguments: list[str] | None = None) -> int:
    """Write the schema files, or compare them; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m saga.schemas", description=__doc__)
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=DIRECTORY)
    parser.add_argument("--check", action="store_true", help="fail on a difference, write nothing")
    options = parser.parse_args(arguments)
    stale = []
    for name, schema in schemas().items():
        path: Path = options.directory / name
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        verb = "is not what the structs say; run: make schemas" if options.check else "written"
        sys.stderr.write(f"{path} {verb}\n")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
