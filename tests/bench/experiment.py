"""Whether the test of an experiment keeps what it states, by simulation: false alarms, and users until a lift is found.

    python tests/bench/experiment.py [--tests 1000] [--alpha 0.05]

Users come, the same number every day, and are divided by a share. Those who convert do so some days later, in each
version alike. Every day there is a look. First both versions are the same, for 60 days: how many tests are ever
decided, by conversions and by how the users are divided. Then the other version converts 5 % more, over twice the users
that users_needed() states for a power of 0.8: how many are found within the stated number, and after how many users.
JSON last. It exits with 1 where more false alarms than stated are seen than chance explains, or fewer than 0.75 found.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from service.experiment.sequential import Counts, is_excluded, users_needed

SHARES, RATES = (0.05, 0.5), (0.02, 0.1, 0.4)
LIFT, POWER, LEAST_FOUND = 0.05, 0.8, 0.75
DAYS, USERS_A_DAY = 60, 4000
DELAYS = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
"""The part of those who convert that does so in the first day, in the second, and so on."""
LOOKS = 40


@dataclass(frozen=True)
class Same:
    """What tests of two equal versions came to: the part that was ever decided."""

    share: float
    rate: float
    false_alarms: float
    sample_ratio_alarms: float


@dataclass(frozen=True)
class Better:
    """What tests of a better version came to. found: the part within the stated users. users: median until found."""

    share: float
    rate: float
    users_stated: int
    found: float
    wrong_way: float
    median_users: float


def main() -> int:
    """Run the simulation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance, alpha, n_tests = np.random.default_rng(arguments.seed), arguments.alpha, arguments.tests
    pairs = [(share, rate) for share in SHARES for rate in RATES]
    same = [look_at_same(chance, share, rate, alpha, n_tests) for share, rate in pairs]
    better = [look_at_better(chance, share, rate, alpha, n_tests) for share, rate in pairs]
    for line in same:
        print(f"A/A share {line.share:<5} rate {line.rate:<5} false alarms {line.false_alarms:.3f}, "
              f"sample ratio {line.sample_ratio_alarms:.3f}")  # fmt: skip
    for found in better:
        print(f"+5 % share {found.share:<5} rate {found.rate:<5} stated {found.users_stated:>10,} users: "
              f"{found.found:.3f} found; median {found.median_users:,.0f}")  # fmt: skip
    most = alpha + 3 * math.sqrt(alpha * (1 - alpha) / n_tests)
    are_kept = all(max(line.false_alarms, line.sample_ratio_alarms) <= most for line in same)
    are_found = all(line.found >= LEAST_FOUND for line in better)
    print(json.dumps({
        "alpha": alpha, "tests": n_tests, "days": DAYS, "lift": LIFT, "power": POWER,
        "same": [asdict(line) for line in same], "better": [asdict(line) for line in better],
    }))  # fmt: skip
    return 0 if are_kept and are_found else 1


def look_at_same(chance: np.random.Generator, share: float, rate: float, alpha: float, n_tests: int) -> Same:
    """Look daily at tests of two equal versions."""
    alarms = ratio_alarms = 0
    for _ in range(n_tests):
        users, converted = draw_days(chance, share, (rate, rate), DAYS, USERS_A_DAY)
        alarms += first_look(converted, share, alpha) is not None
        ratio_alarms += first_look(users, share, alpha) is not None
    return Same(share, rate, alarms / n_tests, ratio_alarms / n_tests)


def look_at_better(chance: np.random.Generator, share: float, rate: float, alpha: float, n_tests: int) -> Better:
    """Look at tests of a better version over twice the users that are stated."""
    stated = users_needed(rate, LIFT, share, alpha, POWER)
    a_look = math.ceil(stated / LOOKS)
    until, n_wrong = [], 0
    for _ in range(n_tests):
        _, converted = draw_days(chance, share, (rate * (1 + LIFT), rate), 2 * LOOKS, a_look)
        look = first_look(converted, share, alpha)
        until.append(math.inf if look is None else (look + 1) * a_look)
        n_wrong += look is not None and bool(converted[look, 0] < share * converted[look].sum())
    found = np.array(until)
    is_in_time = found <= stated + a_look
    return Better(share, rate, stated, float(is_in_time.mean()), n_wrong / n_tests, float(np.median(found)))


def draw_days(
    chance: np.random.Generator, share: float, rates: tuple[float, float], n_days: int, a_day: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw how many users of each version, the other one first, have come and have converted by each day: [days, 2]."""
    others = chance.binomial(a_day, share, n_days)
    users = np.stack([others, a_day - others], axis=1)
    converted = np.zeros((n_days + len(DELAYS), 2), dtype=np.int64)
    for version, rate in enumerate(rates):
        spread = chance.multinomial(chance.binomial(users[:, version], rate), DELAYS)
        for delay in range(len(DELAYS)):
            converted[delay : delay + n_days, version] += spread[:, delay]
    return users.cumsum(axis=0), converted[:n_days].cumsum(axis=0)


def first_look(counts: np.ndarray, share: float, alpha: float) -> int | None:
    """Return the first look at which a test is decided; None where it never is."""
    for look, (other, live) in enumerate(counts.tolist()):
        if is_excluded(Counts(other, live), share, alpha):
            return look
    return None


if __name__ == "__main__":
    sys.exit(main())
