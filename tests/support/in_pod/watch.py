# SPDX-License-Identifier: Apache-2.0
"""Runs on a machine: holds silent watches through one way until they end by themselves.

Arguments: seconds, host:port of the API, how many API servers there are, a file with certificate
and key. Opens watches until every API server serves one. Prints for each to whom it was connected
and when it ended (seconds since the epoch), none if it didn't.
"""

import http.client
import json
import select
import ssl
import sys
import time

seconds, way, servers, credential = sys.argv[1:]
host, _, port = way.rpartition(":")
context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
context.load_cert_chain(credential)
# Nobody writes such objects there.
PATH = "/api/v1/namespaces/default/podtemplates?watch=1&timeoutSeconds=600"
MOST = 40


def watch():
    made = http.client.HTTPSConnection(host, int(port), timeout=5, context=context)
    made.request("GET", PATH)
    assert made.getresponse().status == 200
    made.sock.settimeout(0.1)
    # The first name of an API server's certificate is that of its machine.
    return made, made.sock.getpeercert()["subjectAltName"][0][1]


def has_ended(sock):
    try:
        return sock.recv(65536) == b""
    except TimeoutError:  # something of TLS
        return False
    except OSError:
        return True


end = time.monotonic() + float(seconds)
watches = []
while len({peer for _, peer in watches}) < int(servers) and len(watches) < MOST:
    watches.append(watch())
ended = {}
while (left := end - time.monotonic()) > 0 and len(ended) < len(watches):
    open_ones = [made.sock for made, _ in watches if made.sock not in ended]
    for sock in select.select(open_ones, [], [], left)[0]:
        if has_ended(sock):
            ended[sock] = time.time()
print(json.dumps([[peer, ended.get(made.sock)] for made, peer in watches]))
