# An example of how a cluster that `kubekiln export terraform` wrote is booted on OpenStack: change
# it as you like, kubekiln writes it once. What it writes anew is in kubekiln.auto.tfvars.json.

terraform {
  required_version = ">= 1.6"

  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = "~> 3.4"
    }
  }
}

provider "openstack" {}

resource "openstack_images_image_v2" "image" {
  name             = "kubekiln-${substr(var.image_sha256, 0, 12)}"
  local_file_path  = "${path.module}/${var.image_path}"
  container_format = "bare"
  disk_format      = var.image_format
  min_disk_gb      = ceil(var.image_virtual_size_bytes / 1024 / 1024 / 1024)

  properties = {
    hw_disk_bus = "virtio"
    # For the config drive, a CD: Debian 12's cloud kernel has no driver for SATA, Nova's default on
    # q35.
    hw_scsi_model    = "virtio-scsi"
    hw_cdrom_bus     = "scsi"
    hw_vif_model     = "virtio"
    hw_rng_model     = "virtio"
    os_distro        = "debian"
    kubekiln_sha256  = var.image_sha256
    kubekiln_cluster = var.cluster
  }
}

locals {
  # A port for each card of each node: node/number => what it is.
  ports = merge([
    for name, node in var.nodes : {
      for index, mac in node.macs : "${name}/${index}" => {
        node  = name
        index = index
        mac   = mac
      }
    }
  ]...)
}

resource "openstack_networking_port_v2" "card" {
  for_each = local.ports

  name               = "${var.cluster}-${each.value.node}-${each.value.index}"
  network_id         = var.network_ids[each.value.index]
  mac_address        = each.value.mac
  admin_state_up     = true
  security_group_ids = each.value.index == 0 ? var.security_group_ids : null

  dynamic "fixed_ip" {
    for_each = each.value.index == 0 ? var.nodes[each.value.node].addresses : []

    content {
      subnet_id  = var.subnet_id
      ip_address = fixed_ip.value
    }
  }

  dynamic "allowed_address_pairs" {
    for_each = each.value.index == 0 ? var.pod_networks : []

    content {
      ip_address = allowed_address_pairs.value
    }
  }
}

resource "openstack_compute_instance_v2" "node" {
  for_each = var.nodes

  name        = "${var.cluster}-${each.key}"
  image_id    = openstack_images_image_v2.image.id
  flavor_name = lookup(var.flavors, each.value.role, var.flavors["worker"])

  # gzip in base64: Nova takes 65,535 bytes of base64. The state holds its SHA-1, plan files hold
  # all of it.
  user_data    = trimspace(file("${path.module}/${each.value.user_data_gzip_b64_path}"))
  config_drive = true

  # The disk of the node's database. Beside another one that of the image has to be listed as well.
  dynamic "block_device" {
    for_each = each.value.etcd_disk_gib == 0 ? [] : [
      { index = 0, source = "image", destination = "local", gib = null },
      { index = -1, source = "blank", destination = "volume", gib = each.value.etcd_disk_gib },
    ]

    content {
      boot_index            = block_device.value.index
      uuid                  = block_device.value.index == 0 ? openstack_images_image_v2.image.id : null
      source_type           = block_device.value.source
      destination_type      = block_device.value.destination
      volume_size           = block_device.value.gib
      delete_on_termination = true
    }
  }

  metadata = {
    kubekiln-cluster = var.cluster
    kubekiln-node    = each.key
    kubekiln-payload = each.value.payload
  }

  dynamic "network" {
    for_each = each.value.macs

    content {
      port = openstack_networking_port_v2.card["${each.key}/${network.key}"].id
    }
  }
}
