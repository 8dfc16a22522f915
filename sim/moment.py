"""Events at one instant, in an order that is stated rather than accidental.

SimPy breaks ties by insertion. Here: arrivals first, then step ends, then the wake-ups of
idle engines, and among equals the lower replica. So a request that arrives exactly when a
step ends is seen by the next one, and a burst does not wake an engine after its first member.
"""

from __future__ import annotations

from collections.abc import Callable

import simpy

_REPLICAS = 1 << 20


class Kind:
    """What happens: its priority within an instant, on replica 0. Plain integers, because
    arithmetic with an enum's members is slow, and every event needs it."""

    ARRIVAL = 0 * _REPLICAS
    STEP_END = 1 * _REPLICAS
    WAKE_UP = 2 * _REPLICAS


class Moment(simpy.Event):
    """Calls `action` with itself in `delay_ns`, 0 or more; `priority` is a `Kind` + a replica."""

    # As in a simpy.Timeout: an event that has its value when it is scheduled.
    _value = None
    _ok = True
    _defused = False

    def __init__(
        self,
        env: simpy.Environment,
        delay_ns: int,
        action: Callable[[simpy.Event], None],
        priority: int,
    ) -> None:
        self.env = env
        self.callbacks = [action]
        # SimPy's type of a priority is an int by another name, which takes a call to make.
        env.schedule(self, priority, delay_ns)  # type: ignore[arg-type]
