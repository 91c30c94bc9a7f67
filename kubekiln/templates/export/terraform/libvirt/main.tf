# An example of how a cluster that `kubekiln export terraform` wrote is booted on libvirt: change it
# as you like, kubekiln writes it once. What it writes anew is in kubekiln.auto.tfvars.json.

terraform {
  required_version = ">= 1.6"

  required_providers {
    libvirt = {
      source = "dmacvicar/libvirt"
      # 0.9 has another schema than 0.8 had, and 0.10 may have another one again.
      version = "~> 0.9.7"
    }
  }
}

provider "libvirt" {
  uri = var.libvirt_uri
}

resource "libvirt_volume" "image" {
  name = "kubekiln-${substr(var.image_sha256, 0, 12)}.${var.image_format}"
  pool = var.pool

  target = {
    format = {
      type = var.image_format
    }
  }

  create = {
    content = {
      url = "${path.module}/${var.image_path}"
    }
  }
}

# A layer on the image for each node.
resource "libvirt_volume" "root" {
  for_each = var.nodes

  name     = "${var.cluster}-${each.key}.qcow2"
  pool     = var.pool
  capacity = max(each.value.disk_gib * 1024 * 1024 * 1024, var.image_virtual_size_bytes)

  target = {
    format = {
      type = "qcow2"
    }
  }

  backing_store = {
    path = libvirt_volume.image.path
    format = {
      type = var.image_format
    }
  }

  # Another payload is another machine: a disk that has its role takes no user-data any more.
  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key]]
  }
}

# An empty disk for each node that has the database.
resource "libvirt_volume" "etcd" {
  for_each = { for name, node in var.nodes : name => node if node.etcd_disk_gib > 0 }

  name     = "${var.cluster}-${each.key}-etcd.qcow2"
  pool     = var.pool
  capacity = each.value.etcd_disk_gib * 1024 * 1024 * 1024

  target = {
    format = {
      type = "qcow2"
    }
  }
}

# The CD with the node's user-data. Only its path gets into Terraform's state.
resource "libvirt_volume" "seed" {
  for_each = var.nodes

  name = "${var.cluster}-${each.key}-seed.iso"
  pool = var.pool

  create = {
    content = {
      url = "${path.module}/${each.value.seed_iso_path}"
    }
  }

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

  name        = "${var.cluster}-${each.key}"
  type        = var.domain_type
  vcpu        = each.value.cpus
  memory      = each.value.memory_mib
  memory_unit = "MiB"
  running     = true

  os = {
    type         = "hvm"
    type_arch    = "x86_64"
    type_machine = "q35"
  }

  features = {
    acpi = true
  }

  cpu = {
    mode = var.domain_type == "kvm" ? "host-passthrough" : "maximum"
  }

  devices = {
    # Debian 12's cloud kernel has no driver for the SATA controller of this machine type.
    controllers = [
      {
        type  = "scsi"
        model = "virtio-scsi"
      }
    ]

    # By path, not as volume of a pool: AppArmor's profile lets QEMU open the image below a layer
    # only if the layer is a file.
    disks = concat(
      [
        {
          source = {
            file = {
              file = libvirt_volume.root[each.key].path
            }
          }
          target = {
            dev = "vda"
            bus = "virtio"
          }
          driver = {
            type = "qcow2"
          }
        }
      ],
      [
        for name, volume in libvirt_volume.etcd : {
          source = {
            file = {
              file = volume.path
            }
          }
          target = {
            dev = "vdb"
            bus = "virtio"
          }
          driver = {
            type = "qcow2"
          }
        } if name == each.key
      ],
      [
        {
          device = "cdrom"
          source = {
            file = {
              file = libvirt_volume.seed[each.key].path
            }
          }
          target = {
            dev = "sda"
            bus = "scsi"
          }
        }
      ]
    )

    interfaces = [
      for index, mac in each.value.macs : {
        model = {
          type = "virtio"
        }
        mac = {
          address = mac
        }
        source = {
          bridge = {
            bridge = var.bridges[index]
          }
        }
      }
    ]

    consoles = [
      {
        target = {
          type = "serial"
          port = 0
        }
      }
    ]
  }

  lifecycle {
    replace_triggered_by = [terraform_data.seed[each.key]]
  }
}
