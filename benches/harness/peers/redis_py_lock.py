"""The locks of redis-py under load: pairs of acquire and release for a given time.

    echo '{"url": "redis://127.0.0.1", "prefix": "bench:", "keys": 1000, "tasks": 64,
           "length_ms": 1000, "ttl_ms": 10000}' | redis_py_lock.py

The input is one line, because everybody can read a command line; so is the output,
in JSON. One task is a plain loop of the blocking client; several are tasks of
asyncio, which are faster than threads. Each task draws from its own keys, so that
none waits for another unless there are fewer keys than tasks. Every grant is
checked against the holders known here.
"""

import asyncio
import json
import random
import sys
import time

import redis
import redis.asyncio
from redis.exceptions import LockError


class Log:
    """The results, and the one holder that each key may have."""

    def __init__(self, task):
        self.prefix, self.keys, self.tasks = task["prefix"], task["keys"], task["tasks"]
        self.samples = []
        self.holders = {}
        self.failures = self.overlaps = self.late_releases = 0
        self.processor_time = time.process_time()
        self.begin = time.perf_counter()
        self.end = self.begin + task["length_ms"] / 1e3

    def draw(self, index):
        own = self.keys // self.tasks
        if own:
            number = index + self.tasks * random.randrange(own)
        else:
            number = random.randrange(self.keys)
        return f"{self.prefix}{number:08}"

    def enter(self, key, index):
        if key in self.holders:
            self.overlaps += 1
        self.holders[key] = index

    def leave(self, key, index):
        if self.holders.pop(key, None) != index:
            self.overlaps += 1

    def done(self, asked, granted):
        done = time.perf_counter() - self.begin
        self.samples.append((round(done * 1e6), round((granted - asked) * 1e6)))

    def report(self):
        acquires = sorted(acquire for _, acquire in self.samples) or [0]
        return {
            "pairs": len(self.samples),
            "p50_us": acquires[len(acquires) // 2],
            "p99_us": acquires[len(acquires) * 99 // 100],
            "failures": self.failures,
            "overlaps": self.overlaps,
            "late_releases": self.late_releases,
            "processor_us": round((time.process_time() - self.processor_time) * 1e6),
            # When each pair was over, and how long its acquire took.
            "samples_us": self.samples,
        }


def blocking(task):
    client = redis.Redis.from_url(task["url"])
    client.ping()
    log = Log(task)
    while (asked := time.perf_counter()) < log.end:
        key = log.draw(0)
        lock = client.lock(key, timeout=task["ttl_ms"] / 1e3, thread_local=False)
        if not lock.acquire():
            log.failures += 1
            continue
        granted = time.perf_counter()
        try:
            lock.release()
            log.done(asked, granted)
        except LockError:
            log.late_releases += 1
    return log


async def pairs(client, index, log, ttl):
    while (asked := time.perf_counter()) < log.end:
        key = log.draw(index)
        lock = client.lock(key, timeout=ttl, thread_local=False)
        if not await lock.acquire():
            log.failures += 1
            continue
        granted = time.perf_counter()
        log.enter(key, index)
        # Lets the others run: one that holds the same lock is seen.
        await asyncio.sleep(0)
        log.leave(key, index)
        try:
            await lock.release()
            log.done(asked, granted)
        except LockError:
            log.late_releases += 1


async def concurrent(task):
    tasks, ttl = task["tasks"], task["ttl_ms"] / 1e3
    pool = redis.asyncio.BlockingConnectionPool.from_url(task["url"], max_connections=tasks)
    client = redis.asyncio.Redis(connection_pool=pool)
    await asyncio.gather(*(client.ping() for _ in range(tasks)))
    log = Log(task)
    await asyncio.gather(*(pairs(client, index, log, ttl) for index in range(tasks)))
    await client.aclose()
    return log


def main():
    task = json.loads(sys.stdin.readline())
    log = blocking(task) if task["tasks"] == 1 else asyncio.run(concurrent(task))
    print(json.dumps(log.report()))


main()
