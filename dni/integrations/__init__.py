"""Callbacks and metrics for other people's training loops.

Each module here needs the library that it is named after; import it if you have that library::

    from dni.integrations.lightning import DNICallback
    from dni.integrations.transformers import DNICallback
    from dni.integrations.torchmetrics import GradientCosine, RelativeError
"""
