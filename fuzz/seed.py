#!/usr/bin/env python3
"""Writes the first inputs of every corpus: one file each, named by its content.

What the fuzzer found since lies beside them; this adds and deletes nothing else.
"""

import hashlib
import json
import pathlib

CORPUS = pathlib.Path(__file__).parent / "corpus"
RECORDINGS = pathlib.Path(__file__).parent.parent / "tests/redis/upgrade/recordings"
VIEW = "1:00000000000000000000000000000007"


def put(target, *inputs):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        data = data.encode() if isinstance(data, str) else data
        (folder / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


def bulk(text):
    text = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%s\r\n" % (len(text), text)


def many(*parts):
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def num(n):
    return b":%d\r\n" % n


NIL = b"$-1\r\n"


def marked(answer, mark=1):
    return many(bulk(str(mark)), answer)


def replies(kinds, said, cut=3):
    return bytes([len(kinds) - 1, *kinds, cut]) + said


TWO = 128  # a section for two keys
put(
    "replies",
    # Commands: granted, held, own, stale, damaged, refused.
    *(
        replies([0], found + num(1) + bulk(view))
        for found in (NIL, bulk("0" * 32 + " me"), bulk("0" * 31 + "1 me:1"), b"-WRONGTYPE x\r\n")
        for view in (VIEW, "2:" + "0" * 32)
    ),
    replies([0 | TWO], NIL + NIL + num(1) + num(9) + bulk(VIEW)),
    replies([1 | TWO], num(1) + num(1) + num(9) + bulk(VIEW)),
    replies([1 | TWO], num(0) + num(1) + num(9) + bulk(VIEW)),
    replies([1], num(1) + b"-WRONGTYPE no hash\r\n" + bulk(VIEW)),
    replies([0], b"-NOPERM no\r\n" + num(1) + bulk(VIEW)),
    # Scripts.
    replies([2], marked(many(num(7)))),
    replies([2], marked(many(num(7)), 9)),
    replies([2 | TWO], marked(many(many(num(5), bulk("x\x1b[31m")), bulk("WRONGTYPE")))),
    replies([2], marked(bulk(""))),
    replies([3 | TWO], marked(many(many(bulk("kept"), num(9)), many(bulk("lost"))))),
    replies([3], marked(many(many(bulk("made"), num(1 << 44))))),
    replies([3], marked(many(many(bulk("lost"), num(-1), bulk("other"))))),
    replies([4 | TWO], marked(many(num(1), num(-1)))),
    replies([5 | TWO, 7 | TWO], num(1) + num(0) + NIL + bulk("x"), 1),
    replies([6], b"-WRONGTYPE no\r\n"),
    replies([8 | TWO], num(-1) + num(-2)),
    replies([9, 11], marked(many(bulk(VIEW), bulk("n"), bulk("i"))) + marked(many(bulk(""), bulk(""), bulk("")), 2)),
    replies([10], bulk("a" * 40)),
    replies([12], bulk("{}")),
    replies([13], marked(num(1))),
    replies([14], marked(many(bulk("0000000001.00000000000000000002"), bulk(VIEW), bulk("{}"), bulk("accepted")))),
    replies([15], marked(bulk("0000000002.00000000000000000002"))),
    replies([16], marked(many(bulk(VIEW), bulk("n"), bulk("i")))),
    replies([17, 17], marked(num(1)) + marked(num(1), 2), 255),
    # What is none.
    *(
        replies([0, 2, 11], said, 1)
        for said in (
            b"",
            b"HTTP/1.1 400\r\n\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
            b"%1\r\n+a\r\n_\r\n",
            b"$1000000000\r\nx",
            b"*65537\r\n",
            b"*1\r\n" * 9,
            b":99999999999999999999\r\n",
            b"-ERR \x1b[31mred\x07\xff\r\n" * 9,
            b"$3\r\nabcd\r\n",
        )
    ),
)

INFO = (
    "# Server\r\nredis_version:{}\r\nredis_mode:{}\r\nrun_id:0123\r\n# Replication\r\nrole:{}\r\n"
    "master_replid:4567\r\nmaster_replid2:0000\r\nmaxmemory_policy:{}\r\naof_enabled:1\r\n"
)
put(
    "facts",
    *(
        INFO.format(*facts)
        for facts in (
            ("7.0.15", "standalone", "master", "noeviction"),
            ("6.0.16", "standalone", "master", "noeviction"),
            ("8", "cluster", "slave", "allkeys-lru"),
            ("x.y", "\x1b[31m", "", "\x07" * 400),
        )
    ),
    "valkey_version:9.1.2\r\nserver_mode:standalone\r\n",
    "a:b:c\n:\n\r\n" * 20,
    many(bulk("5"), bulk("7")),
    many(bulk("0"), many(bulk("ringlock:k"), bulk("ringlock:l"))),
    many(bulk("1"), NIL) + bulk(VIEW),
    bulk("0" * 32) + num(5),
    b"-WRONGTYPE no\r\n" + num(-1),
    b"-NOPERM no\r\n",
)
put(
    "stored",
    VIEW,
    "7:f00d",
    "0000000001.00000000000000000002",
    "4294967296.00000000000000000000",
    "0" * 32,
    "0" * 32 + " web-1:42",
    "0" * 32 + " \x1b]0;title\x07\r\n",
    "0" * 32 + " " + "\u202e" * 40,
    b"\xff" * 70,
    "00000000-0000-0000-0000-0000000000ab",
    "ERR \x1b[31m" + "x" * 400,
    "WRONGTYPE Operation against a key",
    "ERR Error running script: attempt to perform arithmetic on a nil value",
    "",
    "9" * 300,
    "17592186044416",
    "1e3",
    "inf",
)
put(
    "keys",
    *(
        bytes([prefix, namespace, kind]) + key
        for prefix, namespace in ((0, 0), (1, 0), (2, 0), (3, 1), (1, 2), (5, 0))
        for kind, key in ((0, b"!m"), (2, b"ringlock!c"), (5, b"\r\n$3\r\n\xfeb"), (7, b"other!id\xfe\x00"))
    ),
    *(bytes([0, 0, kind]) + b"a\xfeb" for kind in range(9)),
    bytes([1, 0, 3]) + b"k" * 1024,
)
put(
    "urls",
    *(
        url
        for host in ("h", "127.0.0.1:7000", "[::1]:6379", "h:port", "")
        for url in (f"redis://me:pa55W0Rdpa55@{host}/2", f"rediss://:pa55W0Rdpa55@{host}")
    ),
    "redis://:${PW}@h",
    "redis://:${NOT SET}@h",
    "redis://:pa55W0Rdpa55${x@h",
    "unix:///run/redis.sock?db=1&pass=pa55W0Rdpa55",
    "unix:///run/redis.sock?user=u&pass=pa55W0Rdpa55#x",
    "redis+unix:///p",
    "memory://a",
    "me:pa55W0Rdpa55@h:1",
    "me:pa55W0Rdpa55@h://x",
    "redis://%zz:%70%61@h/%",
    "http://:pa55W0Rdpa55@h",
    "redis://h/9999999999999999999",
    "valkey://h?protocol=resp3",
)
NODE = '[[node]]\nname = "a"\nurl = "memory://a"\n'
put(
    "config",
    NODE,
    NODE + 'weight = 0\nzone = "z"\nhost = "h"\nanchor = "b"\ndurable = true\n',
    NODE * 2,
    '[router]\nreplicas = 3\nttl = "1s"\nmax_ttl = "24h"\nview_lease = "1h 30m"\n' + NODE,
    '[router]\nttl = "ten"\n',
    '[router]\nkey_prefix = "ringlock!"\nnamespace = "a b"\ninit = "now"\non_mismatch = "refuse"\n' + NODE,
    '[ring]\nformat = "md5"\nvnodes = 3\n' + NODE,
    '[ring]\nformat = "ketama"\nvnodes = 4294967295\n' + NODE,
    NODE + '[[override]]\nprefix = ""\nreplicas = 2\n',
    '[tls]\nca = "x"\n[rooter]\n',
    "[router\n",
    'label = "\\u001b"\n',
    "\ufeff[router]\r\nwait=\"99999999999999999999y\"\r\n",
)


def view(epoch=1, **more):
    def topology(*names, **more):
        node = lambda name: {"name": name, "address": f"memory://{name}", "weight": 1}
        base = {"cluster": "c", "nodes": [node(n) for n in names], "format": "xxh3", "vnodes": 16}
        return base | {"replicas": 1, "max_ttl_ms": 30000, "view_lease_ms": 10000} | more

    sheet = {"ringlock": 1, "epoch": epoch, "stable": topology("a", "b", "c")}
    if more.pop("joint", False):
        sheet["joint"] = {"to": topology("b", "c", "d"), "since": epoch}
        names = "abcd"
    else:
        names = "abc"
    sheet["nonces"] = {name: f"nonce-{name}" for name in names}
    sheet["stable"] |= more.pop("stable", {})
    return bytes([epoch]) + json.dumps(sheet | more, separators=(",", ":")).encode()


put(
    "view",
    view(),
    view(7, joint=True),
    view(stable={"replicas": 3}),
    view(stable={"replicas": 2}),
    view(stable={"overrides": [{"prefix": "billing/", "replicas": 3}]}),
    view(stable={"max_ttl_ms": (1 << 64) - 1}),
    view(stable={"format": "ketama"}),
    view(stable={"cluster": "\x1b[31m"}),
    view(ringlock=2, shards={"a": 1}),
    view(unknown="\x1b[31m" * 99),
    view(nonces={}),
    b"\x00{}",
    b"\x01[1,2]",
)
put(
    "plan",
    '{"ringlock_plan":2}',
    '{"ringlock_plan":1}',
    "[]",
    '{"ringlock_plan":1,"parent":"' + VIEW + '","from":{},"to":{},"moves":[]}',
    '{"ringlock_plan":-1}',
    '{"ringlock_plan":1,"ringlock_plan":1}',
    '{"ringlock_plan":1,"\\u001b":1}',
    "{",
)
for file in sorted(RECORDINGS.glob("*.json")):
    if file.name.startswith("plan"):
        put("plan", file.read_bytes())
    if file.name.startswith("view"):
        text = file.read_bytes().rstrip(b"\n")
        put("view", bytes([json.loads(text)["epoch"] % 256]) + text)
