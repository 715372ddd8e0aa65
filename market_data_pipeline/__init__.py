"""market-data-pipeline: a streaming runtime for market data.

Declare a DAG (sources -> operators -> sinks); run it in one process, or as hash partitions of symbols over many worker
processes that exchange frames over bounded Redis streams with an exactly-once commit.

The public names below are loaded when first used, so that ``import market_data_pipeline`` (and ``mdp --help``) is cheap.
"""

from market_data_pipeline.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
