# SPDX-License-Identifier: Apache-2.0
"""Runs on a machine: writes as fast as it is acknowledged.

Arguments: seconds, host:port of the API, what the objects are called, a file with certificate and
key, a file to note in whose API server it is connected to. Prints how many writes were
acknowledged, the longest time without one, what was refused, and to whom it was connected.
"""

import http.client
import json
import pathlib
import ssl
import sys
import time

seconds, way, name, credential, peer_file = sys.argv[1:]
host, _, port = way.rpartition(":")
context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
context.load_cert_chain(credential)
PATH = "/api/v1/namespaces/default/configmaps"
HEADERS = {"Content-Type": "application/json"}
peers = []


def connect():
    made = http.client.HTTPSConnection(host, int(port), timeout=2, context=context)
    made.connect()
    # The first name of an API server's certificate is that of its machine.
    peers.append(made.sock.getpeercert()["subjectAltName"][0][1])
    pathlib.Path(peer_file).write_text(peers[-1])
    return made


acknowledged, longest, refused = 0, 0.0, []
last = time.monotonic()
end = last + float(seconds)
connection = None
while time.monotonic() < end:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-{acknowledged}"}}
    try:
        connection = connection or connect()
        connection.request("POST", PATH, json.dumps(body), HEADERS)
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException) as error:
        if connection:
            connection.close()
        connection, status = None, 0
        refused.append(repr(error)[:80])
    # 409: written by an attempt whose answer was lost.
    if status in (201, 409):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        acknowledged += 1
    else:
        refused += [str(status)] if status else []
        time.sleep(0.1)
print(
    json.dumps(
        {
            "acknowledged": acknowledged,
            "longest_s": longest,
            "refused": refused[:20],
            "peers": peers,
        }
    )
)
