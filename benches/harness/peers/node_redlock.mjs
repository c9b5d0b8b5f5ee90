// The locks of node-redlock under load: pairs of acquire and release for a given
// time. Run in the folder that has node_modules:
//
//     echo '{"url": "redis://127.0.0.1", "prefix": "bench:", "keys": 1000, "tasks": 64,
//            "length_ms": 1000, "ttl_ms": 10000}' | node node_redlock.mjs
//
// The input is one line, because everybody can read a command line; so is the output,
// in JSON. Each task draws from its own keys, so that none waits for another unless
// there are fewer keys than tasks. Every grant is checked against the holders known
// here.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Packages are looked up beside this file otherwise.
const home = join(process.cwd(), "node_modules");
const { default: Redlock } = await import(
  pathToFileURL(join(home, "redlock/dist/esm/index.js"))
);
const Redis = createRequire(join(home, "none.js"))("ioredis");

const task = JSON.parse(readFileSync(0, "utf8"));
const log = { samples: [], failures: 0, overlaps: 0, lateReleases: 0 };
const holders = new Map();

function draw(index) {
  const own = Math.floor(task.keys / task.tasks);
  const random = (below) => Math.floor(Math.random() * below);
  const number = own ? index + task.tasks * random(own) : random(task.keys);
  return task.prefix + String(number).padStart(8, "0");
}

async function pairs(redlock, index, begin) {
  for (;;) {
    const asked = performance.now();
    if (asked >= begin + task.length_ms) return;
    const key = draw(index);
    let lock;
    try {
      lock = await redlock.acquire([key], task.ttl_ms);
    } catch {
      log.failures += 1;
      continue;
    }
    const granted = performance.now();
    if (holders.has(key)) log.overlaps += 1;
    holders.set(key, index);
    // Lets the others run: one that holds the same lock is seen.
    await null;
    if (holders.get(key) !== index) log.overlaps += 1;
    holders.delete(key);
    try {
      await lock.release();
    } catch {
      log.lateReleases += 1;
      continue;
    }
    const micros = [performance.now() - begin, granted - asked];
    log.samples.push(micros.map((millis) => Math.round(millis * 1e3)));
  }
}

const client = new Redis(task.url, { enableAutoPipelining: true });
await client.ping();
const redlock = new Redlock([client]);
// Errors reach the caller as well; without a listener they end the process.
redlock.on("error", () => {});
const before = process.cpuUsage();
const begin = performance.now();
await Promise.all(Array.from({ length: task.tasks }, (_, index) => pairs(redlock, index, begin)));
const used = process.cpuUsage(before);
await client.quit();

const acquires = Float64Array.from(log.samples, ([, acquire]) => acquire).sort();
console.log(JSON.stringify({
  pairs: acquires.length,
  p50_us: acquires[Math.floor(acquires.length / 2)] ?? 0,
  p99_us: acquires[Math.floor(acquires.length * 0.99)] ?? 0,
  failures: log.failures,
  overlaps: log.overlaps,
  late_releases: log.lateReleases,
  processor_us: used.user + used.system,
  // When each pair was over, and how long its acquire took.
  samples_us: log.samples,
}));
