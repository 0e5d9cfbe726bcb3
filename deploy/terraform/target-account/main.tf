data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_region" "this" {}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.region

  # The default bus of the daemon's account, in this region.
  bus_arn = "arn:${local.partition}:events:${local.region}:${split(":", var.daemon_role_arn)[4]}:event-bus/default"

  # A capture stands for anything in a rule and in a policy.
  capture        = "/\\{[A-Za-z][A-Za-z0-9_]*\\}/"
  parameters     = "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter"
  production_arn = "${local.parameters}${replace(var.target.production_parameter, local.capture, "*")}"
  pipeline_arn   = "arn:${local.partition}:codepipeline:${local.region}:${local.account}:${replace(reverse(split(":", var.target.pipeline))[0], local.capture, "*")}"
  staging_arn    = "${local.parameters}${replace(var.target.staging_parameter, local.capture, "*")}"
}

resource "aws_iam_role" "this" {
  name                 = var.role_name
  description          = "What the stagesweep daemon of another account may do here"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
  assume_role_policy   = data.aws_iam_policy_document.trust.json
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = compact([var.daemon_role_arn, var.operator_role_arn])
    }

    condition {
      test     = "StringEquals"
      variable = "sts:ExternalId"
      values   = [var.external_id]
    }
  }
}

resource "aws_iam_role_policy" "cleanup" {
  name   = "cleanup"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.cleanup.json
}

data "aws_iam_policy_document" "cleanup" {
  statement {
    sid       = "BothParameters"
    actions   = ["ssm:GetParameter"]
    resources = [local.production_arn, local.staging_arn]
  }

  statement {
    sid       = "StagingParameter"
    actions   = ["ssm:GetParameterHistory"]
    resources = [local.staging_arn]
  }

  statement {
    sid       = "Distributions"
    actions   = ["cloudfront:GetDistribution", "cloudfront:GetDistributionConfig"]
    resources = ["arn:${local.partition}:cloudfront::${local.account}:distribution/*"]
  }

  statement {
    sid       = "Policies"
    actions   = ["cloudfront:GetContinuousDeploymentPolicy"]
    resources = ["arn:${local.partition}:cloudfront::${local.account}:continuous-deployment-policy/*"]
  }

  statement {
    sid       = "Lists"
    actions   = ["cloudfront:ListContinuousDeploymentPolicies", "cloudfront:ListDistributions"]
    resources = ["*"]
  }

  # What the rejected execution did, whether the rejection still stands, and who else is at work.
  statement {
    sid = "Pipelines"
    actions = [
      "codepipeline:GetPipelineState",
      "codepipeline:ListActionExecutions",
      "codepipeline:ListPipelineExecutions",
    ]
    resources = [local.pipeline_arn]
  }
}

# All that changes something of a deployment.
resource "aws_iam_role_policy" "acting" {
  count = var.mode == "act" ? 1 : 0

  name   = "acting"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.acting.json
}

data "aws_iam_policy_document" "acting" {
  statement {
    sid       = "Record"
    actions   = ["ssm:PutParameter"]
    resources = [local.staging_arn]
  }

  statement {
    sid       = "DetachAndDisable"
    actions   = ["cloudfront:UpdateDistribution"]
    resources = ["arn:${local.partition}:cloudfront::${local.account}:distribution/*"]
  }

  statement {
    sid       = "DeleteStaging"
    actions   = ["cloudfront:DeleteDistribution"]
    resources = ["arn:${local.partition}:cloudfront::${local.account}:distribution/*"]

    # IAM knows no condition on what is a staging distribution. It can tell by a tag, if there is one.
    dynamic "condition" {
      for_each = var.delete_only_tagged ? ["staging"] : []

      content {
        test     = "StringEquals"
        variable = "aws:ResourceTag/stagesweep"
        values   = [condition.value]
      }
    }
  }

  statement {
    sid       = "DeletePolicies"
    actions   = ["cloudfront:DeleteContinuousDeploymentPolicy"]
    resources = ["arn:${local.partition}:cloudfront::${local.account}:continuous-deployment-policy/*"]
  }

  dynamic "statement" {
    for_each = var.log_bucket_arn[*]

    content {
      sid       = "LegacyLogBucket"
      actions   = ["s3:GetBucketAcl", "s3:PutBucketAcl"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = var.web_acl_arn[*]

    content {
      sid       = "WebAcl"
      actions   = ["wafv2:GetWebACL"]
      resources = [statement.value]
    }
  }
}

# What `doctor` reads beyond what the daemon does.
resource "aws_iam_role_policy" "doctor" {
  name   = "doctor"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.doctor.json
}

data "aws_iam_policy_document" "doctor" {
  statement {
    sid       = "OwnPermissions"
    actions   = ["iam:SimulatePrincipalPolicy"]
    resources = [aws_iam_role.this.arn]
  }
}

# The event keeps the account that it is from; the daemon checks it against its configuration.
resource "aws_cloudwatch_event_rule" "rejected" {
  name        = var.role_name
  description = "Rejected manual approvals, for stagesweep in another account"
  tags        = var.tags

  event_pattern = jsonencode({
    source      = ["aws.codepipeline"]
    detail-type = ["CodePipeline Action Execution State Change"]
    detail = {
      # A target may name a pipeline by its ARN; the name is what follows the last colon.
      pipeline = [{ wildcard = replace(reverse(split(":", var.target.pipeline))[0], local.capture, "*") }]
      stage    = [var.target.stage]
      action   = [var.target.action]
      state    = ["FAILED"]
      type = {
        category = ["Approval"]
        provider = ["Manual"]
      }
    }
  })
}

resource "aws_cloudwatch_event_target" "daemon_account" {
  rule      = aws_cloudwatch_event_rule.rejected.name
  target_id = "daemon-account"
  arn       = local.bus_arn
  role_arn  = aws_iam_role.forwarding.arn

  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.undelivered_events.arn
  }
}

resource "aws_iam_role" "forwarding" {
  name                 = "${var.role_name}-forwarding"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "forwarding" {
  name = "forward"
  role = aws_iam_role.forwarding.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Forward"
      Effect   = "Allow"
      Action   = "events:PutEvents"
      Resource = local.bus_arn
    }]
  })
}

resource "aws_sqs_queue" "undelivered_events" {
  name                      = "${var.role_name}-undelivered-events"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = var.tags
}

resource "aws_sqs_queue_policy" "undelivered_events" {
  queue_url = aws_sqs_queue.undelivered_events.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyTheRule"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = aws_sqs_queue.undelivered_events.arn
        Condition = {
          ArnEquals    = { "aws:SourceArn" = aws_cloudwatch_event_rule.rejected.arn }
          StringEquals = { "aws:SourceAccount" = local.account }
        }
      },
      {
        Sid       = "OnlyOverTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = aws_sqs_queue.undelivered_events.arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

output "role_arn" {
  description = "The role_arn of the target in the daemon's configuration."
  value       = aws_iam_role.this.arn
}
