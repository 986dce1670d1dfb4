"""The part of ``ais_bench.infer.interface`` that the scripts use, with the signatures of its guide."""

import os

import onnxruntime


class InferSession:
    """``AIS_BENCH_REVERSED`` in the environment: inputs are declared in the reverse order."""

    def __init__(self, device_id, model_path, acl_json_path=None, debug=False, loop=1):
        if device_id != 0:
            raise RuntimeError(f"device {device_id} is not there")
        self._session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
        self._inputs = list(self._session.get_inputs())
        if os.environ.get("AIS_BENCH_REVERSED"):
            self._inputs.reverse()

    def get_inputs(self):
        """Descriptions with ``name``, ``shape`` and ``datatype``."""
        return self._inputs

    def infer(self, feeds, mode="static"):
        """Arrays in the order of ``get_inputs``, of exactly the shapes of the model."""
        if mode != "static":
            raise ValueError(mode)
        for given, declared in zip(feeds, self._inputs, strict=True):
            if list(given.shape) != list(declared.shape):
                raise ValueError(f"{declared.name} has shape {declared.shape}, and {given.shape} is given")
        return self._session.run(None, {each.name: given for given, each in zip(feeds, self._inputs, strict=True)})
