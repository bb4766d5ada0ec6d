"""A run on several devices of a Ray cluster: a task for each, placed together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ferbal.crew import Crew, meeting_point

MOMENT = 10  # seconds in which the tasks of a run that is over end by themselves


def started(
    act: Any, devices: int, room: dict[str, float], given: tuple[Any, ...]
) -> tuple[list[Any], Callable[[bool], None]]:
    """The streams of so many tasks, the first device's first, and how to end them: as over, or as given up.

    act: the remote function `task.run_as_rank`. room: what Ray sets aside for each task, by the name of the resource.
    """
    import ray
    from ray.util import get_node_ip_address, placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    # Ray gives this function no types
    host = get_node_ip_address()  # type: ignore[no-untyped-call]
    store = meeting_point(host)
    group = placement_group([{name: much for name, much in room.items() if much}] * devices, strategy="PACK")
    streams = [
        act.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        ).remote(Crew(rank, devices), (host, store.port), *given)
        for rank in range(devices)
    ]

    def end(over: bool) -> None:
        nonlocal store
        if over:
            ends = [stream.completed() for stream in streams]
            ray.wait(ends, num_returns=len(ends), timeout=MOMENT)
        remove_placement_group(group)  # which ends what still runs there
        store = None

    return streams, end
