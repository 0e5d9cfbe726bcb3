resource "aws_sqs_queue" "rejections" {
  name = var.name
  # Extended while a job runs; after a crash, messages come back no later than this.
  visibility_timeout_seconds = 120
  receive_wait_time_seconds  = 20
  message_retention_seconds  = 1209600
  kms_master_key_id          = local.key_arn
  sqs_managed_sse_enabled    = var.customer_key ? null : true
  tags                       = var.tags

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 10
  })
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600
  kms_master_key_id         = local.key_arn
  sqs_managed_sse_enabled   = var.customer_key ? null : true
  tags                      = var.tags
}

resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.rejections.arn]
  })
}

resource "aws_sqs_queue" "undelivered_events" {
  name                      = "${var.name}-undelivered-events"
  message_retention_seconds = 1209600
  kms_master_key_id         = local.key_arn
  sqs_managed_sse_enabled   = var.customer_key ? null : true
  tags                      = var.tags
}

resource "aws_sqs_queue_policy" "rejections" {
  queue_url = aws_sqs_queue.rejections.id
  policy    = data.aws_iam_policy_document.from_rules["rejections"].json
}

resource "aws_sqs_queue_policy" "undelivered_events" {
  queue_url = aws_sqs_queue.undelivered_events.id
  policy    = data.aws_iam_policy_document.from_rules["undelivered_events"].json
}

resource "aws_sqs_queue_policy" "dead_letters" {
  queue_url = aws_sqs_queue.dead_letters.id
  policy    = data.aws_iam_policy_document.only_over_tls.json
}

# Only the rules may send, and nobody speaks to the queue in clear text.
data "aws_iam_policy_document" "from_rules" {
  for_each = {
    rejections         = aws_sqs_queue.rejections.arn
    undelivered_events = aws_sqs_queue.undelivered_events.arn
  }

  statement {
    sid       = "OnlyTheRules"
    actions   = ["sqs:SendMessage"]
    resources = [each.value]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [for rule in aws_cloudwatch_event_rule.rejected : rule.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }

  statement {
    sid       = "OnlyOverTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [each.value]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

data "aws_iam_policy_document" "only_over_tls" {
  statement {
    sid       = "OnlyOverTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.dead_letters.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

# One rule for each target. The whole event goes to the queue: no input transformer.
resource "aws_cloudwatch_event_rule" "rejected" {
  count = length(var.targets)

  name        = "${var.name}-${count.index}"
  description = "Rejected manual approvals, for stagesweep"
  tags        = var.tags

  event_pattern = jsonencode({
    source      = ["aws.codepipeline"]
    detail-type = ["CodePipeline Action Execution State Change"]
    detail = {
      # A target may name a pipeline by its ARN; the name is what follows the last colon.
      pipeline = [{ wildcard = replace(reverse(split(":", var.targets[count.index].pipeline))[0], local.capture, "*") }]
      stage    = [var.targets[count.index].stage]
      action   = [var.targets[count.index].action]
      state    = ["FAILED"]
      type = {
        category = ["Approval"]
        provider = ["Manual"]
      }
    }
  })
}

resource "aws_cloudwatch_event_target" "queue" {
  count = length(var.targets)

  rule      = aws_cloudwatch_event_rule.rejected[count.index].name
  target_id = "queue"
  arn       = aws_sqs_queue.rejections.arn

  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.undelivered_events.arn
  }
}

# One statement each: the bus may have others, of somebody else.
resource "aws_cloudwatch_event_permission" "target_accounts" {
  for_each = toset(var.target_accounts)

  statement_id = "${var.name}-${each.value}"
  principal    = each.value
  action       = "events:PutEvents"
}
