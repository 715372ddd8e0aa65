"""Ways in for users: one runtime for pipelines, Dags and files, and what it is used with.

The names below are loaded when first used. The in-process Dag layer is in :mod:`market_data_pipeline.orchestration.dag`.
"""

from market_data_pipeline.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
