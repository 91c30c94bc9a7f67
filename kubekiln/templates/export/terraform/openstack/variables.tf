# From kubekiln.auto.tfvars.json.

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "image_path" {
  description = "The image, below this directory."
  type        = string
}

variable "image_format" {
  description = "Format of the image."
  type        = string
}

variable "image_sha256" {
  description = "Checksum of the image."
  type        = string
}

variable "image_virtual_size_bytes" {
  description = "Size of the disk that is in the image."
  type        = number
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

# Yours. Credentials come from where the provider looks: OS_CLOUD and clouds.yaml, or OS_*.

variable "flavors" {
  description = "Flavor by role; nodes of other roles get that of `worker`."
  type        = map(string)
}

variable "network_ids" {
  description = "Networks for the machines' cards, that of the node network first."
  type        = list(string)
}

variable "subnet_id" {
  description = "Subnet of the node network that the nodes' addresses are of."
  type        = string
}

variable "security_group_ids" {
  description = "Security groups of the node network's ports; they must let the nodes reach each other."
  type        = list(string)
}

variable "pod_networks" {
  description = "Networks that nodes also send from: the pods', where pods are routed without a tunnel."
  type        = list(string)
  default     = []
}
