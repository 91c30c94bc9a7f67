"""Runs on a master: writes as fast as it is acknowledged, through the balancer of this machine.

Arguments: seconds. Prints how many writes were acknowledged and the longest time without one.
"""

import http.client
import json
import ssl
import sys
import time

context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
context.load_cert_chain("/etc/kubernetes/pki/admin.crt", "/etc/kubernetes/pki/admin.key")
connection = http.client.HTTPSConnection("127.0.0.1", 7443, timeout=2, context=context)
PATH = "/api/v1/namespaces/default/configmaps"
HEADERS = {"Content-Type": "application/json"}

acknowledged, longest, refused = 0, 0.0, []
last = time.monotonic()
end = last + float(sys.argv[1])
while time.monotonic() < end:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"load-{acknowledged}"}}
    try:
        connection.request("POST", PATH, json.dumps(body), HEADERS)
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        status = 0
        refused.append(repr(error)[:80])
    # 409: written by an attempt whose answer was lost.
    if status in (201, 409):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
        acknowledged += 1
    else:
        refused.append(str(status))
        time.sleep(0.1)
print(json.dumps({"acknowledged": acknowledged, "longest_s": longest, "refused": refused[:20]}))
