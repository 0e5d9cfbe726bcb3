variable "daemon_role_arn" {
  description = "The daemon's role; role_arn of the daemon's module."
  type        = string
}

variable "operator_role_arn" {
  description = "The role of whoever is on call, with which verbs work here too; operator_role_arn of the daemon's module."
  type        = string
  default     = null
}

variable "external_id" {
  description = "The external_id of the target in the daemon's configuration. Choose one that nobody guesses."
  type        = string
  sensitive   = true
}

variable "role_name" {
  description = "The name of the role, the same in all accounts that one target covers."
  type        = string
  default     = "stagesweep"
}

variable "target" {
  description = "What is taken down for which approval, as in the daemon's configuration."
  type = object({
    pipeline             = optional(string, "{service}-frontend-pipeline")
    stage                = optional(string, "Approve")
    action               = optional(string, "Approve")
    production_parameter = optional(string, "/{service}/cloudfront/cfcd-production")
    staging_parameter    = optional(string, "/{service}/cloudfront/cfcd-staging")
  })
  default = {}
}

variable "mode" {
  description = "With observe the role may not change anything; the daemon's configuration must say observe for these targets too. With act it may do what takes rejected deployments down."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["observe", "act"], var.mode)
    error_message = "mode is observe or act."
  }
}

variable "delete_only_tagged" {
  description = "Whether only distributions with the tag stagesweep = staging can be deleted."
  type        = bool
  default     = false
}

variable "log_bucket_arn" {
  description = "The bucket of the distributions' legacy access logs, if there is one."
  type        = string
  default     = null
}

variable "web_acl_arn" {
  description = "The distributions' web ACL, if there is one; * stands for anything."
  type        = string
  default     = null
}

variable "permissions_boundary" {
  description = "The ARN of the policy that bounds every role made here, if your organization asks for one."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that takes some, beside the default_tags of your provider."
  type        = map(string)
  default     = {}
}
