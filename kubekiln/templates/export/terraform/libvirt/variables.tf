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

# Yours.

variable "libvirt_uri" {
  description = "Which libvirt."
  type        = string
  default     = "qemu:///system"
}

variable "domain_type" {
  description = "kvm, or qemu where KVM doesn't work."
  type        = string
  default     = "kvm"
}

variable "pool" {
  description = "Storage pool for the image, the disks and the seeds."
  type        = string
  default     = "default"
}

variable "bridges" {
  description = "Bridges of the host for the machines' cards, that of the node network first. They are on the networks that the cluster's configuration describes."
  type        = list(string)
}
