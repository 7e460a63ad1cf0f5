"""The fields of a compiled pipeline, compared with Kubeflow's schemas at each level.

One parse is not enough: the deployment and the executors of a platform are free-form to the message
around them, which therefore accepts any spelling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reprune.core.errors import MissingExtra
from reprune.doors.kfp.findings import Finding

INSTALL = "pip install 'reprune[kfp]'"


def missing_kfp(error: ImportError) -> MissingExtra:
    """The error that an import of kfp's which failed means to a user."""
    return MissingExtra(
        f"Kubeflow Pipelines' SDK is not installed ({error.name or error})", fix=INSTALL
    )


def check_schema(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> list[Finding]:
    """Unknown fields and values of a wrong kind. Raises MissingExtra."""
    try:
        from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes
        from kfp.pipeline_spec import pipeline_spec_pb2 as pipeline
    except ImportError as error:
        raise missing_kfp(error) from error
    if not spec.get("root", {}).get("dag"):
        return [Finding("pipeline", "is no compiled pipeline: it has no root DAG")]
    found = [*_parsed("pipeline", spec, pipeline.PipelineSpec())]
    found += _parsed(
        "deploymentSpec", spec.get("deploymentSpec", {}), pipeline.PipelineDeploymentConfig()
    )
    if platform:
        found += _parsed("platforms", platform, pipeline.PlatformSpec())
        for label, executor in platform_executors(platform).items():
            message = kubernetes.KubernetesExecutorConfig()
            found += _parsed(f"platform executor {label}", executor, message)
    return found


def platform_executors(platform: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Kubernetes is told about each executor."""
    settings = platform.get("platforms", {}).get("kubernetes", {})
    executors: Mapping[str, Any] = settings.get("deploymentSpec", {}).get("executors", {})
    return executors


def _parsed(where: str, value: Mapping[str, Any], message: Any) -> Iterator[Finding]:
    from google.protobuf import json_format

    try:
        json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        yield Finding(where, f"does not fit its schema: {error}")
