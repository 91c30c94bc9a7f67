# An example of how a cluster that `kubekiln export terraform` wrote is booted on AWS: change it as
# you like, kubekiln writes it once. What it writes anew is in kubekiln.auto.tfvars.json.
#
# The image is not here: `kubekiln upload` brings it to AWS and prints its `ami_id`.

terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.10"
    }
  }
}

provider "aws" {
  default_tags {
    tags = {
      kubekiln-cluster = var.cluster
    }
  }
}

# AWS chooses MAC addresses; a node's own network configuration isn't used there.
resource "aws_network_interface" "node" {
  for_each = var.nodes

  subnet_id       = var.subnet_id
  private_ips     = [for address in each.value.addresses : address if !strcontains(address, ":")]
  security_groups = var.security_group_ids

  # Pods, and services that a balancer announces, have addresses that AWS knows nothing of.
  source_dest_check = false
}

resource "aws_instance" "node" {
  for_each = var.nodes

  ami           = var.ami_id
  instance_type = lookup(var.instance_types, each.value.role, var.instance_types["worker"])

  # All of it gets into Terraform's state, with the keys that are in it: keep the state encrypted,
  # and to as few people as the cluster's keys.
  user_data_base64            = trimspace(file("${path.module}/${each.value.user_data_gzip_b64_path}"))
  user_data_replace_on_change = true

  primary_network_interface {
    network_interface_id = aws_network_interface.node[each.key].id
  }

  metadata_options {
    http_tokens = "required"
    # One hop: pods don't reach it.
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = each.value.disk_gib
    encrypted   = true
  }

  # Of the node's database alone.
  dynamic "ebs_block_device" {
    for_each = each.value.etcd_disk_gib > 0 ? [each.value.etcd_disk_gib] : []

    content {
      device_name = "/dev/sdf"
      volume_type = "gp3"
      volume_size = ebs_block_device.value
      encrypted   = true
    }
  }

  tags = {
    Name             = "${var.cluster}-${each.key}"
    kubekiln-node    = each.key
    kubekiln-payload = each.value.payload
  }
}
