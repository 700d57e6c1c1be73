"""Times as a user types them ('10ep', '500it', 0.5), turned into steps."""

import logging
import math
import sys

from midstate.common.numbers import floor

log = logging.getLogger(__name__)
FINE = 10**9  # steps of an epoch in which any part of it that a user types has a step


def steps_of(name: str, time: object, steps_per_epoch: int, total_steps: int) -> int:
    """Turn a time into a step: a share of the run (0..1), epochs ('10ep') or steps ('500it').

    Raises:
        ValueError: anything else; for a bare number above 1 the message says how to write epochs and steps.
    """
    allowed = "a share of the run from 0 to 1, epochs such as '30ep' or steps such as '500it'"
    if isinstance(time, str):
        for unit, scale in (("ep", steps_per_epoch), ("it", 1)):
            amount = time.strip().removesuffix(unit)
            if amount != time.strip():
                try:
                    steps = float(amount) * scale
                except ValueError:
                    break
                if math.isfinite(steps) and steps >= 0:
                    return floor(steps)
        raise ValueError(f"{name}={time!r}: must be {allowed}")
    if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time <= sys.float_info.max:
        raise ValueError(f"{name}={time!r}: must be {allowed}")
    if time > 1:
        raise ValueError(
            f"{name}={time!r}: a bare number is a share of the run from 0 to 1; "
            f"for epochs write {time:g}ep, for steps {time:g}it"
        )
    return floor(time * total_steps)


def check_interval(name: str, value: object, allowed: str = "steps such as '1it' or epochs such as '1ep'") -> None:
    """Raise ValueError unless `value` is an interval as text: one step or more, or epochs, which may be part of one."""
    if not isinstance(value, str) or steps_of(name, value, FINE, 1) < 1:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


def warn_if_longer(name: str, time: object, steps: int, total_steps: int, then: str) -> None:
    """Warn of a time that is longer than the run; `then` tells the consequence."""
    if steps > total_steps:
        log.warning(f"warning: {name}={time} is longer than the run ({steps} steps, and it has {total_steps}): {then}")
