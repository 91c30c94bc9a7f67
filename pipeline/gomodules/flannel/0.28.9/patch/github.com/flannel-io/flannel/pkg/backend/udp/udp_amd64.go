// SPDX-License-Identifier: Apache-2.0

// Package udp on amd64 is here what flannel's own is on every other architecture: its packet loop
// is C, and a flanneld without C is one that every host builds to the same bytes.
package udp

import (
	"errors"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/subnet"
)

func init() {
	backend.Register("udp", New)
}

// New says that the backend is not there.
func New(subnet.Manager, *backend.ExternalInterface) (backend.Backend, error) {
	return nil, errors.New("the udp backend is not in this build: use vxlan or host-gw")
}
