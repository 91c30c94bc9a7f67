# SPDX-License-Identifier: Apache-2.0
"""What does this machine's cloud-init make of network-configs? Run there; asked by stdin, in JSON.

Answers, by name: what its schema finds wrong, and the files it would write for networkd.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import yaml

# Upstream's, which on the machine has the name that our own package has elsewhere.
schema = import_module("cloudinit.config.schema")
network_state = import_module("cloudinit.net.network_state")
networkd = import_module("cloudinit.net.networkd")

answers = {}
for name, text in json.load(sys.stdin).items():
    config, wrong = yaml.safe_load(text), ""
    try:
        schema.validate_cloudconfig_schema(
            config,
            schema_type=schema.SchemaType.NETWORK_CONFIG_V2,
            strict=True,
            log_details=False,
        )
    except schema.SchemaValidationError as error:
        wrong = str(error)
    state = network_state.parse_net_config_data(config, skip_broken=False)
    files = networkd.Renderer({})._render_content(state)
    answers[name] = {"wrong": wrong, "files": files}
json.dump(answers, sys.stdout)
