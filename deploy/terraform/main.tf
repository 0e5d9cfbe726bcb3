data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_region" "this" {}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.region
  suffix    = data.aws_partition.this.dns_suffix

  acts      = var.mode == "act"
  on_ecs    = var.compute == "ECS"
  has_table = local.on_ecs || var.fleet
  orphans   = local.on_ecs && var.orphans_schedule != null
  # One for each instance of this module: no other one's polls keep this one's alarm green.
  namespace = "Stagesweep/${var.name}"
  key_arn   = var.customer_key ? aws_kms_key.this[0].arn : null
  # Where other partitions have theirs is not known here.
  console = local.partition != "aws" ? null : "https://${local.region}.console.aws.amazon.com/cloudwatch/home?region=${local.region}"

  catch_up_interval = var.catch_up_interval == null ? "0s" : var.catch_up_interval

  # A capture stands for anything in a rule and in a policy.
  capture        = "/\\{[A-Za-z][A-Za-z0-9_]*\\}/"
  parameters     = "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter"
  production_arn = distinct([for it in var.targets : "${local.parameters}${replace(it.production_parameter, local.capture, "*")}"])
  staging_arn    = distinct([for it in var.targets : "${local.parameters}${replace(it.staging_parameter, local.capture, "*")}"])

  # A target may name a pipeline by its ARN; the name is what follows the last colon.
  pipeline_arn = distinct([for it in var.targets : "arn:${local.partition}:codepipeline:${local.region}:${local.account}:${replace(reverse(split(":", it.pipeline))[0], local.capture, "*")}"])

  targets_toml = join("\n", [for it in var.targets : join("\n", concat(
    ["[[targets]]"],
    [for key, value in it : "${key} = ${jsonencode(value)}" if value != null],
    [""],
  ))])
}

resource "aws_kms_key" "this" {
  count = var.customer_key ? 1 : 0

  description         = "Queues, logs and ledger of ${var.name}"
  enable_key_rotation = true
  policy              = data.aws_iam_policy_document.key.json
  tags                = var.tags
}

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:a key's policy; without the account as its administrator nobody could change it any more
  #checkov:skip=CKV_AWS_111:a key's policy; it is about the one key, whatever stands for the resource
  #checkov:skip=CKV_AWS_356:a key's policy; the key itself is written as * in it
  statement {
    sid       = "TheAccountDecides"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }

  statement {
    sid       = "RulesSendToEncryptedQueues"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }

  statement {
    sid       = "LogsAreWritten"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${local.region}.${local.suffix}"]
    }

    condition {
      test     = "ArnEquals"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/stagesweep/${var.name}"]
    }
  }

  statement {
    sid       = "TheTableIsUsedFromThisAccount"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey", "kms:CreateGrant"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "StringEquals"
      variable = "kms:CallerAccount"
      values   = [local.account]
    }

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["dynamodb.${local.region}.${local.suffix}"]
    }
  }
}

resource "aws_dynamodb_table" "ledger" {
  #checkov:skip=CKV_AWS_119:encrypted with the module's own key where customer_key is chosen, with a key of AWS otherwise
  count = local.has_table ? 1 : 0

  name         = "${var.name}-ledger"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  tags         = var.tags

  attribute {
    name = "pk"
    type = "S"
  }

  ttl {
    attribute_name = "expires"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled     = var.customer_key
    kms_key_arn = local.key_arn
  }
}
