"""The number of domains, from the stability of clusterings."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sagefm._logging import logger


def stability_table(ari: Mapping[int, float]) -> pd.DataFrame:
    """Return a table of stability by number of domains: `ari`, and how far it lies above its linear trend.

    With one or two numbers there is no trend, and it is the distance from the mean.
    """
    table = pd.DataFrame({"n_domains": list(ari), "ari": list(ari.values())})
    degree = 1 if len(table) > 2 else 0
    trend = np.polyval(np.polyfit(table["n_domains"], table["ari"], degree), table["n_domains"])
    return table.assign(above_trend=table["ari"] - trend)


def most_stable(stability: pd.DataFrame) -> int:
    """Return the number of domains that is most stable above the trend; log it with the runner-up."""
    first, second = stability.sort_values("above_trend", ascending=False, kind="stable")["n_domains"].iloc[:2]
    logger.info(
        "%d domains are the most stable above the trend, then %d; sagefm.pl.stability shows all.", first, second
    )
    return int(first)
