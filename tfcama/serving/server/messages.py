"""Protocol messages that no package here brings: grpc.health.v1, and batching parameters.

Both are small, public and stable; they are described here field by field, in a pool of their own so
that they never clash with a package that brings them after all.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_WRAPPERS = "google/protobuf/wrappers.proto"
_POOL = descriptor_pool.DescriptorPool()


def _define() -> None:
    health = descriptor_pb2.FileDescriptorProto(
        name="tfcama/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    request = health.message_type.add(name="HealthCheckRequest")
    request.field.add(
        name="service", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL
    )
    response = health.message_type.add(name="HealthCheckResponse")
    statuses = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        statuses.value.add(name=name, number=number)
    response.field.add(
        name="status",
        number=1,
        type=_Field.TYPE_ENUM,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
        label=_Field.LABEL_OPTIONAL,
    )
    _POOL.Add(health)

    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    _POOL.Add(wrappers)
    batching = descriptor_pb2.FileDescriptorProto(
        name="tfcama/batching.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[_WRAPPERS],
    )
    parameters = batching.message_type.add(name="BatchingParameters")
    for name, number, kind in (
        ("max_batch_size", 1, "Int64Value"),
        ("batch_timeout_micros", 2, "Int64Value"),
        ("max_enqueued_batches", 3, "Int64Value"),
        ("num_batch_threads", 4, "Int64Value"),
        ("thread_pool_name", 5, "StringValue"),
        ("enable_large_batch_splitting", 8, "BoolValue"),
        ("max_execution_batch_size", 9, "Int64Value"),
    ):
        parameters.field.add(
            name=name,
            number=number,
            type=_Field.TYPE_MESSAGE,
            type_name=f".google.protobuf.{kind}",
            label=_Field.LABEL_OPTIONAL,
        )
    parameters.field.add(
        name="allowed_batch_sizes",
        number=6,
        type=_Field.TYPE_INT64,
        label=_Field.LABEL_REPEATED,
    )
    _POOL.Add(batching)


_define()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


HealthCheckRequest = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _message("grpc.health.v1.HealthCheckResponse")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")
