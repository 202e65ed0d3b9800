"""`auricle train --nproc N`: the processes of one training on one machine, started and watched as `torchrun` does.

In: how many, and the command's arguments. Out: the exit code. Each process runs the same command; it finds its rank in
its environment. Nothing of the training is imported here.
"""

import logging
import os
import sys
from collections.abc import Sequence

from auricle.errors import RunError
from auricle.parallel import cores


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run an auricle command in so many processes on this machine, as `torchrun` does; returns the exit code."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="auricle",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "auricle", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(
                f"Process {rank} of {processes} was killed by signal {-failure.exitcode}. Completed epochs are saved: "
                "run the same command again with --resume."
            ) from error
        return int(failure.exitcode)
    return 0
