variable "name" {
  description = "The name of the queue, and the beginning of all other names."
  type        = string
  default     = "stagesweep"
}

variable "targets" {
  description = "What is taken down for which approval, with the keys of the daemon's configuration. Names may have captures."
  type = list(object({
    pipeline             = string
    stage                = string
    action               = string
    production_parameter = string
    staging_parameter    = string
    deploy_stage         = optional(string)
    mode                 = optional(string)
    delay                = optional(string)
    role_arn             = optional(string)
    pipeline_role_arn    = optional(string)
    external_id          = optional(string)
    region               = optional(string)
  }))
  default = [{
    pipeline             = "{service}-frontend-pipeline"
    stage                = "Approve"
    action               = "Approve"
    production_parameter = "/{service}/cloudfront/cfcd-production"
    staging_parameter    = "/{service}/cloudfront/cfcd-staging"
  }]

  validation {
    condition     = length(var.targets) > 0
    error_message = "At least one target is needed."
  }
}

variable "mode" {
  description = "observe changes nothing, and the role may not change anything: what a rejection would do is in the log; act takes rejected deployments down. A target's own mode comes first, and needs act here to act."
  type        = string
  default     = "observe"

  validation {
    condition     = contains(["observe", "act"], var.mode)
    error_message = "mode is observe or act."
  }
}

variable "compute" {
  description = "ECS runs the daemon as a Fargate service; EC2 makes a role and an instance profile for your instance."
  type        = string
  default     = "ECS"

  validation {
    condition     = contains(["ECS", "EC2"], var.compute)
    error_message = "compute is ECS or EC2."
  }
}

variable "ecs" {
  description = "Where the daemon runs on ECS: the image, best by digest; the VPC and subnets from which AWS is reached."
  type = object({
    image            = string
    vpc_id           = string
    subnet_ids       = list(string)
    assign_public_ip = optional(bool, false)
    cluster_arn      = optional(string)
    architecture     = optional(string, "ARM64")
    instances        = optional(number, 1)
  })
  default = null

  validation {
    condition     = var.compute != "ECS" || var.ecs != null
    error_message = "On ECS, `ecs` is needed."
  }
}

variable "fleet" {
  description = "Whether several instances share the queue on EC2; the ledger is then a DynamoDB table. On ECS it always is."
  type        = bool
  default     = false
}

variable "delete_only_tagged" {
  description = "Whether only distributions with the tag stagesweep = staging can be deleted."
  type        = bool
  default     = false
}

variable "verify_pipelines" {
  description = "Whether CodePipeline is asked what a rejected execution did, whether the rejection stands, and who else is at work; false is for who cannot ask."
  type        = bool
  default     = true
}

variable "catch_up_interval" {
  description = "How often CodePipeline is searched for rejections whose events were lost, such as 15m."
  type        = string
  default     = null
}

variable "notify_event_bus_arn" {
  description = "The event bus that is notified of what became of each rejection, if any; docs/NOTIFY.md."
  type        = string
  default     = null
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

variable "target_role_arns" {
  description = "Roles of ./target-account in other accounts, which the daemon may assume."
  type        = list(string)
  default     = []
}

variable "target_accounts" {
  description = "Other accounts whose rejections are accepted, from their rule on this account's default bus."
  type        = list(string)
  default     = []
}

variable "customer_key" {
  description = "Whether queues, logs and ledger are encrypted with a KMS key made here instead of keys of AWS."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 90
}

variable "alarm_topic_arn" {
  description = "The SNS topic that alarms notify; without one, they only change colour."
  type        = string
  default     = null
}

variable "runbook_url" {
  description = "Where your people read docs/RUNBOOK.md; alarms lead there, with the part of the page."
  type        = string
  default     = "docs/RUNBOOK.md"
}

variable "orphans_schedule" {
  description = "When a task on ECS looks for staging distributions that nobody will take down; null: never. On EC2 a timer does."
  type        = string
  default     = "rate(1 day)"
}

variable "oldest_message_seconds" {
  description = "How old a message may become. A cleanup may wait for CloudFront for up to 90 minutes."
  type        = number
  default     = 7200
}

variable "dashboard" {
  description = "Whether a dashboard is made. Beyond the account's first three it costs 3 USD a month."
  type        = bool
  default     = false
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
