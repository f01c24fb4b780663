"""A server for development that speaks TF-Serving's protocols, over gRPC and REST.

Production is tensorflow_model_server. This one is for a laptop and for tests: it loads version
directories by the same rules, answers the same requests with the same codes, and needs nothing but
Python. Where it differs from the original:

- it listens on 127.0.0.1 unless told otherwise, and caps requests (`Limits`);
- web pages of other sites may not ask it (`Origins`);
- one bad request never fails those that it was batched with;
- a version that failed to load is tried again when its files change;
- new labels may name versions that are not there yet, as with
  --allow_version_labels_for_unavailable_models;
- Regress and MultiInference answer UNIMPLEMENTED: no classifier has such signatures.
"""
