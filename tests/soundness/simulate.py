# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the verdict with generated windows of known truth and counts where it is wrong.

  python tests/soundness/simulate.py 1000000        from the root of a checkout, in its virtual environment

A window is wrong if it is C(passed) although a session moved, the balancer ignores the key, or a client can't choose
all ready pods; or if it is C(failed) although every request went where the rule in force dictates, whatever
happened to the backends. Where requests leave their pod so seldom that a window can miss it, C(passed) without a move is
no error as long as it stays below the 5 % that its bound grants.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    from ansible.plugins.loader import init_plugin_loader

    ROOT = Path(__file__).resolve().parents[2]
    init_plugin_loader([str(ROOT / "collections")])
    sys.path.insert(0, str(ROOT / "tests"))

from ansible_collections.meshops.istio.plugins.module_utils._envoy import prediction
from ansible_collections.meshops.istio.plugins.module_utils._model import FAILED, PASSED
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Verdict
from simulation import CLUSTER, ROUTE, Balancer, Hosts, Truth, address, at_random, chooser, constant, flipping, ring, weighted, window

PODS = tuple(f"pod-{number}" for number in range(8))
CHUNK = 500
# Profile, rounds (None: the plan of the profile, which grows where the verdict needs it) and the bound asked for.
SIZES = (("default", None, 0.02),) * 3 + (("quick", None, 0.08), ("default", 3, 0.08), ("default", 20, 0.02))

# Some hundred different rings are judged over and over, so each is computed once, and before the work is shared out.
prediction.chooser_of = chooser


@dataclass(frozen=True)
class Kind:
    """A kind of mesh: how it makes a truth, and what must never be said of it."""

    make: Callable[[random.Random], Truth]
    sticks: bool = False
    proves: bool = False
    rare: bool = False
    caught: bool = False

    def is_wrong(self, truth: Truth, found: Verdict) -> bool:
        """C(sticks): never failed. C(proves) or C(rare): may pass, if nothing moved. C(caught): always failed with the plan of the
        default profile, or of its former length."""
        moved = any(fate.moved for fate in found.fates)
        if found.verdict == PASSED:
            return moved or not (self.proves or self.rare)
        if found.verdict == FAILED:
            return self.sticks
        return self.caught and truth.profile == "default" and truth.rounds != SHORT


SHORT = 3
# A plan of the default profile has 2 to 7 rounds, and more where pods come and go.
LONG = 7


def quiet(chance: random.Random, balancer: Balancer, clients: int | None = None, lost: float = 0.0) -> Truth:
    """Some pods throughout, and a size: small ones, as wrong verdicts are likelier there."""
    profile, rounds, bound = chance.choice(SIZES)
    hosts = tuple(sorted(chance.sample(PODS, chance.randint(2, 6))))
    sessions = chance.choice((20, 30)) if rounds else None
    number = clients or chance.choice((1, 1, 2))
    return Truth(balancer, ((0, hosts),), sessions, rounds, profile, lost, number, chance.randrange(2**31), max_flip_rate=bound)


def stirred(chance: random.Random, balancer: Balancer, most: int, least: int = 1, lost: float = 0.0) -> Truth:
    """The same with changes of the pods: one comes or goes at a time, from shortly before the first look to the end, and
    Envoy learns of each up to a second later."""
    truth = quiet(chance, balancer, lost=lost)
    pace = chance.choice((0.05, 0.2, 1.0))
    lag = chance.randint(0, int(1 / pace))
    hosts = truth.history[0][1]
    history = [(-1_000_000, hosts)]
    moments = range(-lag, (truth.rounds or LONG) + chance.choice((0, lag)))
    for at in sorted(chance.sample(moments, min(len(moments), chance.randint(least, most)))):
        hosts = _stirred(hosts, chance)
        history.append((at, hosts))
    return replace(truth, history=tuple(history), pace=pace, lag=lag)


def _stirred(hosts: Hosts, chance: random.Random) -> Hosts:
    if len(hosts) > 2 and (chance.random() < 0.5 or len(hosts) == len(PODS)):
        gone = chance.choice(hosts)
        return tuple(pod for pod in hosts if pod != gone)
    return tuple(sorted((*hosts, chance.choice([pod for pod in PODS if pod not in hosts]))))


def locality(chance: random.Random, clients: int) -> Truth:
    """Each client's Envoy chooses from the pods of its own zone only."""
    truth = quiet(chance, ring, clients)
    hosts = truth.history[0][1]
    here = chance.randint(1, len(hosts) - 1)
    return replace(truth, seen_by={0: hosts[:here], 1: hosts[here:]})


def split(chance: random.Random, rate: float) -> Truth:
    """Weights as the client's Envoy shows them: two clusters with different hosts."""
    truth = quiet(chance, weighted(rate))
    share = round(100 * rate)
    return replace(truth, route=replace(ROUTE, clusters=((CLUSTER.name, 100 - share), (f"{CLUSTER.name}-canary", share))), alike=False)


def any_loss(chance: random.Random) -> float:
    return chance.choice((0.0005, 0.002, 0.01, 0.05, 0.3, 1.0))


KINDS = {
    "healthy": Kind(lambda chance: quiet(chance, ring), sticks=True, proves=True),
    "healthy, answers lost": Kind(lambda chance: quiet(chance, ring, lost=any_loss(chance)), sticks=True, proves=True),
    "healthy, one change of pods": Kind(lambda chance: stirred(chance, ring, 1), sticks=True, proves=True),
    "healthy, pods come and go": Kind(lambda chance: stirred(chance, ring, 6, 2), sticks=True, proves=True),
    "healthy, both": Kind(lambda chance: stirred(chance, ring, 4, lost=any_loss(chance)), sticks=True, proves=True),
    "no rule": Kind(lambda chance: quiet(chance, at_random), caught=True),
    "no rule, answers lost": Kind(lambda chance: quiet(chance, at_random, lost=any_loss(chance))),
    "no rule, pods come and go": Kind(lambda chance: stirred(chance, at_random, 6), caught=True),
    "part of requests elsewhere": Kind(lambda chance: quiet(chance, flipping(chance.uniform(0.02, 0.5))), rare=True),
    "weights 90/10": Kind(lambda chance: split(chance, 0.1)),
    "weights 99/1": Kind(lambda chance: split(chance, 0.01)),
    "weights 90/10, out of Envoy's sight": Kind(lambda chance: quiet(chance, weighted(0.1)), rare=True),
    "weights 99/1, out of Envoy's sight": Kind(lambda chance: quiet(chance, weighted(0.01)), rare=True),
    "the same, pods come and go": Kind(lambda chance: stirred(chance, weighted(0.1), 4), rare=True),
    "locality, one client": Kind(lambda chance: locality(chance, 1), sticks=True),
    "locality, two zones": Kind(lambda chance: locality(chance, 2), caught=True),
    "key set to a constant": Kind(lambda chance: quiet(chance, constant), sticks=True),
    "constant, pods come and go": Kind(lambda chance: stirred(chance, constant, 3), sticks=True),
}
NAMES = tuple(KINDS)


def random_truth(chance: random.Random) -> tuple[str, Truth]:
    name = chance.choice(NAMES)
    return name, KINDS[name].make(chance)


def one_window(seed: int) -> tuple[str, str, bool]:
    """Kind, verdict, and whether the verdict is wrong."""
    name, truth = random_truth(random.Random(seed))
    found = judge(window(truth))
    return name, found.verdict, KINDS[name].is_wrong(truth, found)


def chunk(first: int, last: int) -> tuple[Counter[tuple[str, str]], list[int]]:
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for seed in range(first, last):
        name, verdict, bad = one_window(seed)
        counts[name, verdict] += 1
        if bad:
            wrong.append(seed)
    return counts, wrong


def main() -> int:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[int] = []
    start = time.monotonic()
    for pods in itertools.chain.from_iterable(itertools.combinations(PODS, number) for number in range(1, len(PODS) + 1)):
        chooser(CLUSTER, [address(pod) for pod in pods])
    with multiprocessing.Pool() as pool:
        jobs = [pool.apply_async(chunk, (first, min(first + CHUNK, total))) for first in range(0, total, CHUNK)]
        for number, job in enumerate(jobs, 1):
            found, bad = job.get()
            counts.update(found)
            wrong += bad
            if number % 100 == 0:
                print(f"{counts.total()} windows, {len(wrong)} wrong, {time.monotonic() - start:.0f} s", flush=True)
    report(counts)
    print(f"{counts.total()} windows, {len(wrong)} wrong{': seeds ' + str(wrong[:10]) if wrong else ''}")
    return 1 if wrong else 0


def report(counts: Counter[tuple[str, str]]) -> None:
    """A table in Markdown, as docs/verdict.md has it."""
    verdicts = ("passed", "failed", "inconclusive", "not_proven")
    print(f"| truth | windows | {' | '.join(verdicts)} |\n|---|---|{'---|' * len(verdicts)}")
    for name in NAMES:
        row = [counts[name, verdict] for verdict in verdicts]
        print(f"| {name} | {' | '.join(str(number) for number in (sum(row), *row))} |")


if __name__ == "__main__":
    sys.exit(main())
