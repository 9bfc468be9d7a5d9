# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the verdict with generated windows of known truth and counts where it is wrong.

  python tests/soundness/simulate.py 1000000        from the root of a checkout, in its virtual environment

A window is wrong if it is C(passed) although a session moved, the balancer ignores the key, or a client can't choose
all ready pods; or if it is C(failed) although every request went where the rule in force dictates, whatever
happened to the backends.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    from ansible.plugins.loader import init_plugin_loader

    ROOT = Path(__file__).resolve().parents[2]
    init_plugin_loader([str(ROOT / "collections")])
    sys.path.insert(0, str(ROOT / "tests"))

from ansible_collections.meshops.istio.plugins.module_utils._verdict import FAILED, PASSED, judge
from simulation import Truth, at_random, first_host, flipping, ring, window

PODS = tuple(f"pod-{number}" for number in range(10))
CHUNK = 250


def random_truth(chance: random.Random) -> tuple[str, Truth]:
    """A kind of mesh and one of its windows: small ones, as wrong verdicts are likelier there."""
    pods = chance.randint(2, 6)
    history: list[tuple[int, tuple[str, ...]]] = [(0, tuple(chance.sample(PODS, pods)))]
    rounds = chance.choice((3, 5, 8, 20))
    for at in sorted(chance.sample(range(1, rounds), min(rounds - 1, chance.choice((0, 0, 1, 2, 4))))):
        hosts = list(history[-1][1])
        if chance.random() < 0.5 and len(hosts) > 2:
            hosts.remove(chance.choice(hosts))
        else:
            hosts.append(chance.choice([pod for pod in PODS if pod not in hosts]))
        history.append((at, tuple(hosts)))
    kinds = {"rule": ring, "no rule": at_random, "one pod": first_host, "90/10": flipping(0.1), "99/1": flipping(0.01)}
    kind = chance.choice((*kinds, "rule", "rule", "no rule", "locality"))
    seen_by = {0: history[0][1][: max(1, pods // 2)]} if kind == "locality" else {}
    if kind == "locality":
        history = history[:1]
    truth = Truth(
        balancer=kinds.get(kind, ring),
        history=tuple(history),
        rounds=rounds,
        sessions=chance.choice((20, 30)),
        lost=chance.choice((0.0, 0.0, 0.001, 0.02)),
        clients=chance.choice((1, 1, 2)) if kind != "locality" else 1,
        seed=chance.randrange(2**31),
        seen_by=seen_by,
    )
    return kind, truth


def one_window(seed: int) -> tuple[str, str, bool]:
    """Kind, verdict, and whether the verdict is wrong."""
    kind, truth = random_truth(random.Random(seed))
    found = judge(window(truth))
    moved = any(fate.moved for fate in found.fates)
    proven_wrongly = found.verdict == PASSED and (moved or kind in ("no rule", "one pod", "locality"))
    failed_wrongly = found.verdict == FAILED and kind in ("rule", "locality", "one pod")
    return kind, found.verdict, proven_wrongly or failed_wrongly


def chunk(first: int) -> tuple[Counter[tuple[str, str]], list[int]]:
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for seed in range(first, first + CHUNK):
        kind, verdict, bad = one_window(seed)
        counts[kind, verdict] += 1
        if bad:
            wrong.append(seed)
    return counts, wrong


def main() -> int:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[int] = []
    with multiprocessing.Pool() as pool:
        for number, (found, bad) in enumerate(pool.imap_unordered(chunk, range(0, total, CHUNK)), 1):
            counts.update(found)
            wrong += bad
            if number % 100 == 0:
                print(f"{number * CHUNK} windows, {len(wrong)} wrong", flush=True)
    for (kind, verdict), count in sorted(counts.items()):
        print(f"{kind:10} {verdict:13} {count}")
    print(f"{sum(counts.values())} windows, {len(wrong)} wrong{': seeds ' + str(wrong[:10]) if wrong else ''}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
