// SPDX-License-Identifier: Apache-2.0

// Package tencentvpc replaces flannel's backend of the same name: kubekiln's flanneld is built
// without it, because the SDK it needs is not served by every Go module proxy.
package tencentvpc
