# SPDX-License-Identifier: Apache-2.0
"""Runs on a member of etcd: writes keys, or sums up those that are there (by etcd's HTTP gateway).

Arguments: how many keys to write; 0: none. Prints their number and a SHA-256 over names and values.
"""

import base64
import hashlib
import http.client
import json
import ssl
import sys

PREFIX = "restore-test/"
MOST_IN_ONE = 100

context = ssl.create_default_context(cafile="/etc/etcd/pki/ca.crt")
context.load_cert_chain("/etc/etcd/pki/etcd.crt", "/etc/etcd/pki/etcd.key")
connection = http.client.HTTPSConnection("127.0.0.1", 2379, timeout=30, context=context)


def ask(path: str, body: dict[str, object]) -> dict[str, object]:
    connection.request("POST", f"/v3/kv/{path}", json.dumps(body))
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {text[:200]!r}")
    found: dict[str, object] = json.loads(text)
    return found


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


wanted = int(sys.argv[1])
for start in range(0, wanted, MOST_IN_ONE):
    puts = [
        {"requestPut": {"key": coded(f"{PREFIX}{i:05d}"), "value": coded(f"value {i * i}")}}
        for i in range(start, min(start + MOST_IN_ONE, wanted))
    ]
    ask("txn", {"success": puts})

found = ask("range", {"key": coded(PREFIX), "range_end": coded(PREFIX[:-1] + "0")})
pairs = [(pair["key"], pair["value"]) for pair in found.get("kvs", [])]
print(json.dumps([len(pairs), hashlib.sha256(json.dumps(pairs).encode()).hexdigest()]))
