resource "aws_iam_role" "daemon" {
  name                 = "${var.name}-${local.region}"
  description          = "What the stagesweep daemon may do"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
  assume_role_policy   = local.on_ecs ? data.aws_iam_policy_document.tasks.json : data.aws_iam_policy_document.instances.json
}

data "aws_iam_policy_document" "tasks" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "instances" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_instance_profile" "daemon" {
  count = local.on_ecs ? 0 : 1

  name = "${var.name}-${local.region}"
  role = aws_iam_role.daemon.name
  tags = var.tags
}

# What the operator's role has not.
resource "aws_iam_role_policy" "queue" {
  name   = "queue"
  role   = aws_iam_role.daemon.id
  policy = data.aws_iam_policy_document.queue.json
}

data "aws_iam_policy_document" "queue" {
  statement {
    sid = "Queue"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:DeleteMessage",
      "sqs:GetQueueAttributes",
    ]
    resources = [aws_sqs_queue.rejections.arn]
  }

  dynamic "statement" {
    for_each = var.notify_event_bus_arn[*]

    content {
      sid       = "Notification"
      actions   = ["events:PutEvents"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "events:source"
        values   = ["stagesweep"]
      }
    }
  }
}

resource "aws_iam_role_policy" "cleanup" {
  name   = "cleanup"
  role   = aws_iam_role.daemon.id
  policy = data.aws_iam_policy_document.cleanup.json
}

data "aws_iam_policy_document" "cleanup" {
  statement {
    sid       = "BothParameters"
    actions   = ["ssm:GetParameter"]
    resources = distinct(concat(local.production_arn, local.staging_arn))
  }

  statement {
    sid       = "StagingParameter"
    actions   = ["ssm:GetParameterHistory"]
    resources = local.staging_arn
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
    resources = local.pipeline_arn
  }

  dynamic "statement" {
    for_each = aws_dynamodb_table.ledger[*].arn

    content {
      sid       = "Ledger"
      actions   = ["dynamodb:GetItem", "dynamodb:UpdateItem", "dynamodb:Scan"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = length(var.target_role_arns) > 0 ? [var.target_role_arns] : []

    content {
      sid       = "TargetRoles"
      actions   = ["sts:AssumeRole"]
      resources = statement.value
    }
  }

  dynamic "statement" {
    for_each = var.catch_up_interval[*]

    content {
      sid       = "ListPipelines"
      actions   = ["codepipeline:ListPipelines"]
      resources = ["arn:${local.partition}:codepipeline:${local.region}:${local.account}:*"]
    }
  }

  # What `doctor` asks for.
  dynamic "statement" {
    for_each = var.notify_event_bus_arn[*]

    content {
      sid       = "EventBus"
      actions   = ["events:DescribeEventBus"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = aws_kms_key.this[*].arn

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

# All that changes something of a deployment.
resource "aws_iam_role_policy" "acting" {
  count = local.acts ? 1 : 0

  name   = "acting"
  role   = aws_iam_role.daemon.id
  policy = data.aws_iam_policy_document.acting.json
}

data "aws_iam_policy_document" "acting" {
  statement {
    sid       = "Record"
    actions   = ["ssm:PutParameter"]
    resources = local.staging_arn
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

    # IAM has no condition on what is a staging distribution, but on a tag, if there is one.
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

# What `doctor` reads beyond what the daemon does: what becomes of an event before and after the daemon, and what
# this role allows.
resource "aws_iam_role_policy" "doctor" {
  name   = "doctor"
  role   = aws_iam_role.daemon.id
  policy = data.aws_iam_policy_document.doctor.json
}

data "aws_iam_policy_document" "doctor" {
  statement {
    sid       = "RulesByTarget"
    actions   = ["events:ListRuleNamesByTarget"]
    resources = ["*"]
  }

  statement {
    sid       = "Rules"
    actions   = ["events:DescribeRule", "events:ListTargetsByRule"]
    resources = aws_cloudwatch_event_rule.rejected[*].arn
  }

  statement {
    sid       = "DeadLetters"
    actions   = ["sqs:GetQueueAttributes"]
    resources = [aws_sqs_queue.dead_letters.arn, aws_sqs_queue.undelivered_events.arn]
  }

  statement {
    sid       = "OwnPermissions"
    actions   = ["iam:SimulatePrincipalPolicy"]
    resources = [aws_iam_role.daemon.arn]
  }

  # The parameters that a pattern can come to, for `orphans` too.
  statement {
    sid       = "FindParameters"
    actions   = ["ssm:DescribeParameters"]
    resources = ["*"]
  }
}

# Whoever is on call: every verb but `run`, by what `stagesweep iam-policy --operator` writes. What changes something
# of a deployment is in it where the daemon acts, too.
resource "aws_iam_role" "operator" {
  #checkov:skip=CKV_AWS_61:who in the account may assume it is for the account's own policies to say, as the operator's does
  name                 = "${var.name}-operator-${local.region}"
  description          = "Verbs of stagesweep, for whoever is on call"
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
  assume_role_policy   = data.aws_iam_policy_document.operator_trust.json
}

data "aws_iam_policy_document" "operator_trust" {
  source_policy_documents = local.on_ecs ? [data.aws_iam_policy_document.tasks.json] : []

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
}

resource "aws_iam_role_policy" "operator" {
  name   = "operating"
  role   = aws_iam_role.operator.id
  policy = data.aws_iam_policy_document.operator.json
}

data "aws_iam_policy_document" "operator" {
  source_policy_documents = concat(
    [data.aws_iam_policy_document.cleanup.json, data.aws_iam_policy_document.doctor.json],
    local.acts ? [data.aws_iam_policy_document.acting.json] : [],
  )

  statement {
    sid       = "SendBack"
    actions   = ["sqs:GetQueueAttributes", "sqs:SendMessage"]
    resources = [aws_sqs_queue.rejections.arn]
  }

  statement {
    sid       = "TakeDeadLetters"
    actions   = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"]
    resources = [aws_sqs_queue.dead_letters.arn]
  }
}

# For the people themselves, to be attached by you.
resource "aws_iam_policy" "operator" {
  name        = "${var.name}-operator-${local.region}"
  description = "Operating the stagesweep of ${var.name}"
  policy      = data.aws_iam_policy_document.people.json
  tags        = var.tags
}

data "aws_iam_policy_document" "people" {
  #checkov:skip=CKV_AWS_356:a task definition cannot be described by its ARN; IAM takes no resource there
  statement {
    sid       = "BeTheOperator"
    actions   = ["sts:AssumeRole"]
    resources = [aws_iam_role.operator.arn]
  }

  statement {
    sid       = "ReadTheLog"
    actions   = ["logs:FilterLogEvents", "logs:GetLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  dynamic "statement" {
    for_each = local.on_ecs ? {
      RunTheVerb              = { actions = ["ecs:RunTask"], resources = ["arn:${local.partition}:ecs:${local.region}:${local.account}:task-definition/${var.name}:*"] }
      SeeTheServiceAndTheTask = { actions = ["ecs:DescribeServices", "ecs:DescribeTasks"], resources = concat(aws_ecs_service.daemon[*].id, ["arn:${local.partition}:ecs:${local.region}:${local.account}:task/*"]) }
      SeeTheDefinition        = { actions = ["ecs:DescribeTaskDefinition"], resources = ["*"] }
    } : {}

    content {
      sid       = statement.key
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }

  dynamic "statement" {
    for_each = aws_iam_role.execution[*].arn

    content {
      sid       = "WithTheRoles"
      actions   = ["iam:PassRole"]
      resources = [aws_iam_role.daemon.arn, aws_iam_role.operator.arn, statement.value]

      condition {
        test     = "StringEquals"
        variable = "iam:PassedToService"
        values   = ["ecs-tasks.amazonaws.com"]
      }
    }
  }
}

# On EC2 the CloudWatch agent writes logs and metrics under the instance's role.
resource "aws_iam_role_policy" "agent_logs" {
  count = local.on_ecs ? 0 : 1

  name = "agent-logs"
  role = aws_iam_role.daemon.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "AgentLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.this.arn}:*"
    }]
  })
}
