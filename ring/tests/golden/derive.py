#!/usr/bin/env python3
"""Derives native.json from inputs.json: what the native formats must answer.

Written from the formulas alone (src/format.rs has them too), with other libraries: hashlib, zlib and
the package xxhash. The md5 ring is the textbook's, word for word: hex digests in a sorted list.

    pip install xxhash && python3 derive.py
"""

import bisect
import hashlib
import json
import pathlib
import struct
import zlib

import xxhash

HERE = pathlib.Path(__file__).parent
MASK = 2**64 - 1


def fmix64(k):
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & MASK
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return k ^ k >> 33


def le32(j):
    return struct.pack("<I", j)


# Each format: the hash of a key, the hash of a node's point j, and a hash's position out of 2**64.
FORMATS = {
    "xxh3": (
        lambda key: xxhash.xxh3_64_intdigest(key.encode()),
        lambda node, j: xxhash.xxh3_64_intdigest(node.encode() + b"\0" + le32(j)),
        lambda h: h,
    ),
    "md5": (
        lambda key: hashlib.md5(key.encode()).hexdigest(),
        lambda node, j: hashlib.md5(f"{node}:{j}".encode()).hexdigest(),
        lambda h: int(h[:16], 16),
    ),
    "crc32": (
        lambda key: fmix64(zlib.crc32(key.encode())),
        lambda node, j: fmix64(zlib.crc32(node.encode() + b"\0" + le32(j))),
        lambda h: h,
    ),
}


def text(s):
    return struct.pack("<Q", MASK) if s is None else struct.pack("<Q", len(s)) + s.encode()


def derive(name, nodes, weights, vnodes, keys):
    hash_key, hash_point, position = FORMATS[name]
    ring = sorted((hash_point(node, j), node) for node, w in zip(nodes, weights) for j in range(vnodes * w))
    hashes = [h for h, _ in ring]

    def walk(key):
        at = bisect.bisect_left(hashes, hash_key(key))
        met = dict.fromkeys(ring[(at + i) % len(ring)][1] for i in range(len(ring)))
        return [nodes.index(node) for node in met]

    def owner(key):
        return nodes.index(ring[bisect.bisect_left(hashes, hash_key(key)) % len(ring)][1])

    shares = dict.fromkeys(nodes, 0)
    for i, (h, node) in enumerate(ring):
        shares[node] += position(h) - position(ring[i - 1][0]) + (2**64 if i == 0 else 0)
    assert sum(shares.values()) == 2**64

    by_name = sorted(nodes, key=str.encode)
    canonical = text(name) + b"".join(text(node) + text(None) * 2 for node in by_name)
    canonical += struct.pack("<Q", len(ring))
    index = {node: i for i, node in enumerate(by_name)}
    canonical += b"".join(struct.pack("<QH", position(h), index[node]) for h, node in ring)

    width = 1 if len(nodes) <= 16 else 2
    number = lambda i: f"{i:0{width}x}"
    return {
        "points": len(ring),
        "digest": f"{xxhash.xxh3_64_intdigest(canonical):016x}",
        "owners": "".join(number(owner(key)) for key in keys),
        "walks_first60": " ".join("".join(map(number, walk(key)[:5])) for key in keys[:60]),
        "shares": [str(shares[node]) for node in nodes] if len(nodes) <= 10 else None,
    }


def main():
    inputs = json.loads((HERE / "inputs.json").read_text())
    keys = inputs["keys"] + inputs["utf8_keys"]
    sets = []
    for name in FORMATS:
        for given in inputs["sets"]:
            for vnodes in (160, 3) if len(given["nodes"]) <= 10 else (160,):
                derived = derive(name, given["nodes"], given["weights"], vnodes, keys)
                sets.append({"format": name, "id": given["id"], "vnodes": vnodes, **derived})
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in sets)
    (HERE / "native.json").write_text(f'{{"sets":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
