output "nodes" {
  description = "Identities of the instances and the addresses of the nodes."
  value = {
    for name, node in var.nodes : name => {
      instance  = aws_instance.node[name].id
      addresses = node.addresses
    }
  }
}
