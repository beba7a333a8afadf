"""At home in other people's training loops.

Each module here needs the library that it is named after, and is imported by whoever has it::

    from dni.integrations.lightning import DNICallback
    from dni.integrations.transformers import DNICallback
    from dni.integrations.torchmetrics import GradientCosine, RelativeError
"""
