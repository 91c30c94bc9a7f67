# From kubekiln.auto.tfvars.json.

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "nodes" {
  description = "Machines by name; paths are below this directory."
  type = map(object({
    role                    = string
    payload                 = string
    mac                     = string
    macs                    = list(string)
    addresses               = list(string)
    cpus                    = number
    memory_mib              = number
    disk_gib                = number
    etcd_disk_gib           = number
    user_data_path          = string
    meta_data_path          = string
    network_config_path     = string
    user_data_gzip_b64_path = string
    seed_iso_path           = string
  }))
}

# Yours. Credentials come from where the provider looks: AWS_PROFILE, AWS_REGION and so on.

variable "ami_id" {
  description = "The image, as `kubekiln upload --target NAME` printed it."
  type        = string
}

variable "instance_types" {
  description = "Instance type by role; nodes of other roles get that of `worker`."
  type        = map(string)
}

variable "subnet_id" {
  description = "Subnet that the nodes' addresses are of."
  type        = string
}

variable "security_group_ids" {
  description = "Security groups of the nodes; they must let the nodes reach each other."
  type        = list(string)
}
