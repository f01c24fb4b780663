"""What the server can be asked, whichever protocol asks."""

from __future__ import annotations

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from tfcama.serving.errors import invalid
from tfcama.serving.server import inference, json_tensors
from tfcama.serving.server.config import Limits
from tfcama.serving.server.manager import ModelManager
from tfcama.serving.server.request_log import RequestLog

_SIGNATURES = "signature_def"  # the one field of metadata that there is


class Service:
    """TF-Serving's APIs over a manager's models. All methods raise ServingError.

    Args:
      manager: of the models.
      limits: of requests.
      request_log: keeps requests that were answered; None: nobody does.
    """

    def __init__(
        self, manager: ModelManager, limits: Limits, *, request_log: RequestLog | None = None
    ):
        self.manager = manager
        self.limits = limits
        self._request_log = request_log

    def predict(
        self, request: predict_pb2.PredictRequest, *, deadline: float | None
    ) -> predict_pb2.PredictResponse:
        """PredictionService.Predict; deadline as time.monotonic tells it."""
        _check_spec(request)
        with self.manager.version(request.model_spec) as version:
            response = inference.predict(
                version, request, deadline=deadline, most_bytes=self.limits.request_bytes
            )
            if self._request_log is not None:
                name = response.model_spec.signature_name
                self._request_log.predicted(version, name, request.inputs)
        return response

    def classify(
        self, request: classification_pb2.ClassificationRequest, *, deadline: float | None
    ) -> classification_pb2.ClassificationResponse:
        """PredictionService.Classify."""
        _check_spec(request)
        with self.manager.version(request.model_spec) as version:
            response = inference.classify(version, request, deadline=deadline)
            if self._request_log is not None:
                name = response.model_spec.signature_name
                self._request_log.classified(version, name, request)
        return response

    def predict_json(self, spec, body: bytes, *, deadline: float | None) -> str:
        """REST's :predict.

        Args:
          spec: a ModelSpec from the path.
          body: JSON.
          deadline: as time.monotonic tells it.
        """
        request = json_tensors.parse(body)
        name = json_tensors.signature_name(request) or inference.DEFAULT_SIGNATURE
        with self.manager.version(spec) as version:
            definition = inference.definition_for_rest(version, name)
            inputs, rows = json_tensors.inputs_of(request, definition)
            del request  # as large as the inputs, many times over
            outputs = version.run(
                name, inputs, inference.wanted_outputs(definition, ()), deadline=deadline
            )
            if self._request_log is not None:
                self._request_log.predicted(version, name, inputs)
        return json_tensors.answer(outputs, rows=rows)

    def classify_json(self, spec, body: bytes, *, deadline: float | None) -> str:
        """REST's :classify; see `predict_json`."""
        request = json_tensors.classification_request(json_tensors.parse(body))
        spec.signature_name = request.model_spec.signature_name
        request.model_spec.CopyFrom(spec)
        return json_tensors.classification_answer(self.classify(request, deadline=deadline).result)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """PredictionService.GetModelMetadata: the signatures."""
        _check_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported; {_SIGNATURES} is.")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        found = get_model_metadata_pb2.SignatureDefMap()
        with self.manager.version(request.model_spec) as version:
            response.model_spec.name = version.name
            response.model_spec.version.value = version.number
            for name, definition in version.signatures.items():
                found.signature_def[name].CopyFrom(definition)
        response.metadata[_SIGNATURES].Pack(found)
        return response

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """ModelService.GetModelStatus."""
        _check_spec(request)
        response = get_model_status_pb2.GetModelStatusResponse()
        for found in self.manager.status(request.model_spec):
            status = response.model_version_status.add(version=found.number, state=found.state)
            if found.error is not None:
                status.status.error_code = found.error.code.value[0]
                status.status.error_message = found.error.sentence
            else:
                status.status.SetInParent()
        return response

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """ModelService.HandleReloadConfigRequest."""
        self.manager.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
