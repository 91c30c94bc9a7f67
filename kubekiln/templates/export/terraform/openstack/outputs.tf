output "nodes" {
  description = "Identities of the servers and the addresses of the nodes."
  value = {
    for name, node in var.nodes : name => {
      server    = openstack_compute_instance_v2.node[name].id
      addresses = node.addresses
    }
  }
}
