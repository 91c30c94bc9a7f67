# An example of how a cluster that `kubekiln export terraform` wrote is booted on libvirt: change it
# as you like, kubekiln writes it once. What it writes anew is in kubekiln.auto.tfvars.json.

terraform {
  required_version = ">= 1.6"

  required_providers {
    libvirt = {
      source = "dmacvicar/libvirt"
      # 0.9 has another schema: `--provider libvirt`.
      version = "~> 0.8.3"
    }
  }
}

provider "libvirt" {
  uri = var.libvirt_uri
}

resource "libvirt_volume" "image" {
  name   = "kubekiln-${substr(var.image_sha256, 0, 12)}.${var.image_format}"
  pool   = var.pool
  format = var.image_format
  source = "${path.module}/${var.image_path}"
}

# A layer on the image for each node. AppArmor's profile of QEMU doesn't see what is below a volume of
# a pool: where it is in force, let it read the pool (`/var/lib/libvirt/images/** rk,` in
# /etc/apparmor.d/abstractions/libvirt-qemu).
resource "libvirt_volume" "root" {
  for_each = var.nodes

  name           = "${var.cluster}-${each.key}.qcow2"
  pool           = var.pool
  format         = "qcow2"
  size           = max(each.value.disk_gib * 1024 * 1024 * 1024, var.image_virtual_size_bytes)
  base_volume_id = libvirt_volume.image.id

  # Another payload is another machine: a disk that has its role takes no user-data any more.
  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key]]
  }
}

# An empty disk for each node that has the database.
resource "libvirt_volume" "etcd" {
  for_each = { for name, node in var.nodes : name => node if node.etcd_disk_gib > 0 }

  name   = "${var.cluster}-${each.key}-etcd.qcow2"
  pool   = var.pool
  format = "qcow2"
  size   = each.value.etcd_disk_gib * 1024 * 1024 * 1024
}

# The disk with the node's user-data, found by its label. Only its path gets into Terraform's state.
resource "libvirt_volume" "seed" {
  for_each = var.nodes

  name = "${var.cluster}-${each.key}-seed.iso"
  pool = var.pool
  # As libvirt itself calls it; by another name each plan would make it anew.
  format = "iso"
  source = "${path.module}/${each.value.seed_iso_path}"

  # Another seed is another machine.
  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key]]
  }
}

resource "terraform_data" "seed" {
  for_each = var.nodes

  input = each.value.payload
}

resource "libvirt_domain" "node" {
  for_each = var.nodes

  name    = "${var.cluster}-${each.key}"
  type    = var.domain_type
  machine = "q35"
  vcpu    = each.value.cpus
  memory  = each.value.memory_mib
  running = true

  cpu {
    mode = var.domain_type == "kvm" ? "host-passthrough" : "maximum"
  }

  disk {
    volume_id = libvirt_volume.root[each.key].id
  }

  dynamic "disk" {
    for_each = [for name, volume in libvirt_volume.etcd : volume.id if name == each.key]
    content {
      volume_id = disk.value
    }
  }

  # Not a CD-ROM, which 0.8 puts on an IDE controller; Debian's cloud kernel has no driver for that.
  disk {
    volume_id = libvirt_volume.seed[each.key].id
    scsi      = true
  }

  dynamic "network_interface" {
    for_each = each.value.macs
    content {
      mac    = network_interface.value
      bridge = var.bridges[network_interface.key]
    }
  }

  console {
    type        = "pty"
    target_type = "serial"
    target_port = "0"
  }

  # Else there is a SPICE server, which not every QEMU has.
  graphics {
    type = "vnc"
  }

  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key]]
  }
}
