resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_338:how long logs are kept is the user's choice; there is nothing in them that must outlive a season
  name              = "/stagesweep/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key_arn
  tags              = var.tags
}

# `orphans --json` writes one line of these for each orphan, whoever runs it; each line is a log event.
resource "aws_cloudwatch_log_metric_filter" "orphans_found" {
  name           = "${var.name}-orphans-found"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = "\"\\\"orphan\\\": true\""

  metric_transformation {
    namespace = local.namespace
    name      = "Orphans"
    value     = "1"
    unit      = "Count"
  }
}

# The daemon found production switched off while a job ran. Only the message itself counts: a reviewer's comment
# with the same words does not.
resource "aws_cloudwatch_log_metric_filter" "production_switched_off" {
  name           = "${var.name}-production-switched-off"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = "{ $.message = \"production was switched off while this job ran*\" }"

  metric_transformation {
    namespace = local.namespace
    name      = "ProductionSwitchedOff"
    value     = "1"
    unit      = "Count"
  }
}

locals {
  # docs/RUNBOOK.md says what to do about each.
  alarms = {
    oldest-message = {
      description = "A rejection waits for longer than a cleanup takes. Viewers: by a weighted policy only; it can wait. First: stagesweep history --outcome working."
      namespace   = "AWS/SQS"
      metric      = "ApproximateAgeOfOldestMessage"
      dimensions  = { QueueName = aws_sqs_queue.rejections.name }
      statistic   = "Maximum"
      period      = 300
      evaluations = 2
      threshold   = var.oldest_message_seconds
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    dead-letters = {
      description = "A message could not be handled; a rejected deployment is still there. Viewers: by a weighted policy only; it can wait. First: stagesweep dead-letters."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
      statistic   = "Maximum"
      period      = 300
      evaluations = 1
      threshold   = 0
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    undelivered-events = {
      description = "A rule could not put an event on the queue. Viewers: by a weighted policy only; it can wait. First: receive a message of ${aws_sqs_queue.undelivered_events.id}; its attributes say why."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.undelivered_events.name }
      statistic   = "Maximum"
      period      = 300
      evaluations = 1
      threshold   = 0
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    cleanups-failed = {
      description = "Three jobs failed for now within an hour. Viewers: by a weighted policy only; it can wait. First: stagesweep history --since 1d, for the reason that they share."
      namespace   = local.namespace
      metric      = "CleanupsFailed"
      dimensions  = null
      statistic   = "Sum"
      period      = 3600
      evaluations = 1
      # A job counts once. One that fails alone is tried again, or becomes a dead letter, which has an alarm.
      threshold  = 3
      comparison = "GreaterThanOrEqualToThreshold"
      missing    = "notBreaching"
    }
    cleanups-refused = {
      description = "A job was refused, and nothing more is touched. Viewers: by a weighted policy only; it can wait. First: stagesweep history --since 1d; the ERROR line says why."
      namespace   = local.namespace
      metric      = "CleanupsRefused"
      dimensions  = null
      statistic   = "Sum"
      period      = 300
      evaluations = 1
      threshold   = 0
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    production-disabled = {
      description = "A production distribution was switched off during a job. VIEWERS GET ERRORS NOW. First: the ERROR line in ${aws_cloudwatch_log_group.this.name} has production.id; enable that distribution."
      namespace   = local.namespace
      metric      = "ProductionSwitchedOff"
      dimensions  = null
      statistic   = "Sum"
      period      = 60
      evaluations = 1
      threshold   = 0
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    orphans = {
      description = "Staging distributions are left that nobody will take down; an account has 20. It can wait. First: stagesweep orphans."
      namespace   = local.namespace
      metric      = "Orphans"
      dimensions  = null
      statistic   = "Sum"
      period      = 86400
      evaluations = 1
      threshold   = 0
      comparison  = "GreaterThanThreshold"
      missing     = "notBreaching"
    }
    no-poll = {
      description = "No instance polls the queue, or none runs; rejections wait, for 14 days. Viewers: by a weighted policy only; it can wait. First: does it run, and what is its last ERROR in ${aws_cloudwatch_log_group.this.name}?"
      namespace   = local.namespace
      metric      = "PollAge"
      dimensions  = null
      # The instance that polled last: one that is stuck while others work is its health check's business.
      statistic   = "Minimum"
      period      = 60
      evaluations = 5
      threshold   = 120000
      comparison  = "GreaterThanThreshold"
      missing     = "breaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description} ${var.runbook_url}#${each.key}"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = each.value.evaluations
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]
  ok_actions          = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]
  tags                = var.tags
}

resource "aws_cloudwatch_query_definition" "this" {
  for_each = {
    "the story of an execution" = <<-EOT
      fields @timestamp, level, message, reason, detail, error
      | filter execution.id = "EXECUTION-ID"
      | sort @timestamp
    EOT
    "what went wrong" = <<-EOT
      fields @timestamp, level, pipeline, execution.id, message, reason, detail, error
      | filter level in ["WARN", "ERROR"]
      | sort @timestamp desc
    EOT
    "failed and refused by reason" = <<-EOT
      filter level = "ERROR" and ispresent(reason)
      | stats count(*) as times, latest(detail) as lately by reason, pipeline
      | sort times desc
    EOT
  }

  name            = "${var.name}/${each.key}"
  log_group_names = [aws_cloudwatch_log_group.this.name]
  query_string    = each.value
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.dashboard ? 1 : 0

  dashboard_name = var.name

  dashboard_body = templatefile("${path.module}/dashboard.json.tftpl", {
    region             = local.region
    namespace          = local.namespace
    queue              = aws_sqs_queue.rejections.name
    dead_letters       = aws_sqs_queue.dead_letters.name
    undelivered_events = aws_sqs_queue.undelivered_events.name
    logs               = aws_cloudwatch_log_group.this.name
  })
}

# Errors that no metric of the daemon counts, such as a configuration that cannot be reloaded.
resource "aws_cloudwatch_log_metric_filter" "error_lines" {
  count = var.dashboard ? 1 : 0

  name           = "${var.name}-error-lines"
  log_group_name = aws_cloudwatch_log_group.this.name
  pattern        = "{ $.level = \"ERROR\" }"

  metric_transformation {
    namespace = local.namespace
    name      = "ErrorLines"
    value     = "1"
    unit      = "Count"
  }
}
