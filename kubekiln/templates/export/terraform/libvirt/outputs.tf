output "nodes" {
  description = "Names of the domains and the addresses of the nodes."
  value = {
    for name, node in var.nodes : name => {
      domain    = libvirt_domain.node[name].name
      addresses = node.addresses
    }
  }
}
