variable "daemon_role_arn" {
  description = "The daemon's role; role_arn of the daemon's module."
  type        = string
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
