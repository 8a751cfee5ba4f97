"""Rows' differences from DAPO in words; row: a line of `ablations_frame`."""

from __future__ import annotations

from math import isnan

import pandas as pd

from foodseg.ablations.rows import SUPERVISED, UNTRAINED
from foodseg.common.number_text import NOTHING, number_text, signed_interval
from foodseg.report.seeds import is_difference

NOT_SHOWN = "not shown"


def difference_word(row) -> str:
    """above, below, or "not shown" where the interval does not exclude 0; "–" without one."""
    if not is_difference(row.gain_low, row.gain_high):
        return NOTHING if isnan(row.gain_low) else NOT_SHOWN
    return "above" if row.gain > 0 else "below"


def gain_text(row) -> str:
    """+0.020 (+0.010 to +0.030); without an interval +0.020 (one seed); "–" without a gain."""
    if isnan(row.gain_low):
        return number_text("{:+.3f} (one seed)", row.gain)
    return signed_interval(row.gain, row.gain_low, row.gain_high)


def differences_sentence(frame: pd.DataFrame) -> str:
    """Which trained rows differ from DAPO, and by how much; "" if none can be compared."""
    compared = frame[(frame["family"] != UNTRAINED) & frame["gain_low"].notna()]
    compared = compared[~compared.index.str.endswith("-teacher-forced")]  # the same models
    if compared.empty:
        return ""
    groups: dict[str, list[str]] = {"above": [], "below": [], NOT_SHOWN: []}
    for row in compared.itertuples():
        word = difference_word(row)
        groups[word].append(f"{row.title} {gain_text(row)}")
    differ = len(groups["above"]) + len(groups["below"])
    texts = [f"{differ} of {len(compared)} trained rows differ from DAPO over plates and seeds."]
    titles = {"above": "Above", "below": "Below"}
    texts += [f"{titles[w]}: {'; '.join(groups[w])}." for w in titles if groups[w]]
    if groups[NOT_SHOWN]:
        texts.append(f"Of the other {len(groups[NOT_SHOWN])} no difference is shown.")
    return " ".join(texts)


def modes_sentence(frame: pd.DataFrame) -> str:
    """How trainings by rewards score that end going step by step, and those that conclude at once.

    "" if there are not both.
    """
    rows = frame[~frame["family"].isin((UNTRAINED, SUPERVISED)) & frame["giou"].notna()]
    counts = rows["stepwise"], rows["seeds"] - rows["stepwise"]
    stepwise, hasty = (int(count.sum()) for count in counts)
    if not (stepwise and hasty):
        return ""
    means = [
        (count * giou.fillna(0)).sum() / count.sum()
        for count, giou in zip(counts, (rows["stepwise_giou"], rows["hasty_giou"]), strict=True)
    ]
    return (
        f"Of {stepwise + hasty} trainings by rewards {stepwise} end with answers that mostly go "
        f"through the foods on the plate before they conclude (mean gIoU {means[0]:.3f}), {hasty} "
        f"with answers that mostly conclude at once ({means[1]:.3f})."
    )
