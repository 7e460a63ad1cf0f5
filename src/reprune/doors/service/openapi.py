"""What the service answers, as OpenAPI 3.1: written by hand, compared with the routes by a test."""

from __future__ import annotations

from typing import Any

from reprune import __version__

_RESULT = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"result": {"type": "string"}},
            "required": ["result"],
            "additionalProperties": False,
        }
    }
}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_REFUSALS = {
    "400": "malformed headers, or a body that is no event",
    "401": "unsigned, wrongly signed, or outside the time window",
    "408": "the body took too long",
    "409": "this delivery was accepted before",
    "413": "the body is too large",
    "415": "the body is not declared as JSON",
    "503": "no secret can be read, or too many deliveries are remembered; try again",
}


def _header(name: str, about: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": about,
        "schema": {"type": "string", "pattern": pattern},
    }


def _delivery(summary: str, headers: list[dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
    answers = {"202": "accepted: it woke the service, or is about nothing that is watched"}
    return {
        "post": {
            "summary": summary,
            "parameters": headers,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                code: {"description": about, "content": _RESULT}
                for code, about in (answers | _REFUSALS).items()
            },
        }
    }


def _state(summary: str) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "responses": {
                "200": {"description": "yes", "content": _TEXT},
                "503": {"description": "no", "content": _TEXT},
            },
        }
    }


def _page(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "responses": {"200": {"description": "the page", "content": content}},
        }
    }


_TIMESTAMP = "^[0-9]{1,12}$"
_SIGNED = '"v1," and the base64 of HMAC-SHA256 over id "." timestamp "." body'
_NAMED = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "workspace": {"type": "string"}},
    "required": ["name"],
}

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "reprune serve",
        "version": __version__,
        "description": "Deliveries wake the reconciler; what they say beyond a model's name is not read.",
    },
    "paths": {
        "/webhooks/mlflow": _delivery(
            "A webhook of MLflow's model registry",
            [
                _header("X-MLflow-Delivery-Id", "once accepted, never again", "^[!-~]{1,200}$"),
                _header("X-MLflow-Timestamp", "Unix seconds", _TIMESTAMP),
                _header("X-MLflow-Signature", _SIGNED, "^v1,"),
            ],
            {
                "type": "object",
                "properties": {
                    "entity": {"type": "string"},
                    "action": {"type": "string"},
                    "data": _NAMED,
                    "workspace": {"type": "string"},
                },
                "required": ["entity", "action", "data"],
            },
        ),
        "/webhooks/cloudevents": _delivery(
            "A CloudEvent in binary mode about a model's new version",
            [
                _header("ce-specversion", "of CloudEvents", "^1\\.0$"),
                _header("ce-type", "not signed, and not read", "."),
                _header("ce-source", "not signed, and not read", "."),
                _header("ce-id", "once accepted, never again", "^[!-~]{1,200}$"),
                _header("X-Reprune-Timestamp", "Unix seconds", _TIMESTAMP),
                _header("X-Reprune-Signature", _SIGNED, "^v1,"),
            ],
            _NAMED,
        ),
        "/healthz": _state("Whether the sweeps go on"),
        "/readyz": _state("Whether every watch was looked at once"),
        "/metrics": _page("Numbers for Prometheus", _TEXT),
        "/openapi.json": _page(
            "This description", {"application/json": {"schema": {"type": "object"}}}
        ),
    },
}
