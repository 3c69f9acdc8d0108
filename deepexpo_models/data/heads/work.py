"""Shard after shard in processes of their own, with a bar that tells pictures a second."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm


def work_off(
    write: Callable[[Any], Any], left: Sequence, total: int, pictures: float, workers: int, start: Callable, *given
) -> None:
    """write(each of left) in `workers` processes, each of which has called start(*given) once; both are functions of a module.

    total: shards with those that are done; pictures: of a shard, for the bar.
    """
    context, began = multiprocessing.get_context("spawn"), time.monotonic()
    with context.Pool(min(workers, len(left)) or 1, start, given) as pool:
        bar = tqdm(pool.imap(write, left), total=total, initial=total - len(left), unit="shard")
        for done, _ in enumerate(bar, start=1):
            bar.set_postfix_str(f"{done * pictures / (time.monotonic() - began):.1f} pictures/s")
