"""Exported models: ONNX graphs and torch's programs, what computes them, what checks them, and their cards.

Nothing here is imported before a command needs it: onnx and onnxruntime are in the extra ``export``.
"""

from ds2f.extras import import_extra


def require_packages() -> None:
    """Raises where onnx or onnxruntime is missing.

    Raises:
      InputError: says how to install both.
    """
    for module in ("onnx", "onnxruntime"):
        import_extra(module, need=f"ONNX models need {module}", remedy="pip install 'ds2f[export]'")
