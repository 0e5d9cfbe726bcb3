output "queue_url" {
  description = "The queue that rejections arrive on; queue.url of the configuration."
  value       = aws_sqs_queue.rejections.id
}

output "queue_arn" {
  description = "Its ARN."
  value       = aws_sqs_queue.rejections.arn
}

output "dead_letters_url" {
  description = "The queue of what could not be handled. Redrive from it once the cause is fixed."
  value       = aws_sqs_queue.dead_letters.id
}

output "dead_letters_arn" {
  description = "Its ARN."
  value       = aws_sqs_queue.dead_letters.arn
}

output "undelivered_events_url" {
  description = "The queue of events that a rule could not deliver."
  value       = aws_sqs_queue.undelivered_events.id
}

output "role_arn" {
  description = "The daemon's role. Roles in target accounts trust it."
  value       = aws_iam_role.daemon.arn
}

output "instance_profile_name" {
  description = "The profile for the instance on which the daemon runs; null on ECS."
  value       = one(aws_iam_instance_profile.daemon[*].name)
}

output "ledger_table" {
  description = "The table; ledger.table of the configuration. Null where the ledger is a file."
  value       = one(aws_dynamodb_table.ledger[*].name)
}

output "log_group" {
  description = "Where the logs are."
  value       = aws_cloudwatch_log_group.this.name
}

output "dashboard_url" {
  description = "The dashboard; null without one, and outside of the partition aws."
  value       = var.dashboard && local.console != null ? "${local.console}#dashboards:name=${var.name}" : null
}

output "logs_url" {
  description = "The log, with the saved queries under Queries; null outside of the partition aws."
  value       = local.console != null ? "${local.console}#logsV2:log-groups/log-group/$252Fstagesweep$252F${var.name}" : null
}

output "doctor_command" {
  description = "What looks for mistakes before the first rejection does."
  value       = local.on_ecs ? "./deploy/run-verb ${aws_ecs_service.daemon[0].id} doctor" : "sudo stagesweep doctor"
}

output "operator_role_arn" {
  description = "The role of whoever is on call."
  value       = aws_iam_role.operator.arn
}

output "operator_policy_arn" {
  description = "What to attach to whoever is on call."
  value       = aws_iam_policy.operator.arn
}

output "configuration" {
  description = "What /etc/stagesweep/config.toml needs on an instance of EC2; and the verbs on a workstation."
  value       = <<-EOT
    [queue]
    url = ${jsonencode(aws_sqs_queue.rejections.id)}

    [cleanup]
    mode = ${jsonencode(var.mode)}

    [ledger]
    backend = ${jsonencode(local.has_table ? "dynamodb" : "embedded")}
    table = ${jsonencode(join("", aws_dynamodb_table.ledger[*].name))}

    [events]
    allowed_accounts = ${jsonencode(var.target_accounts)}

    [verify]
    codepipeline = ${var.verify_pipelines}

    [catch_up]
    interval = ${jsonencode(local.catch_up_interval)}

    [notify]
    event_bus = ${jsonencode(var.notify_event_bus_arn == null ? "" : var.notify_event_bus_arn)}

    [telemetry]
    metrics_namespace = ${jsonencode(local.namespace)}
    metrics_sink = "tcp://127.0.0.1:25888"
    metrics_log_group = ${jsonencode(aws_cloudwatch_log_group.this.name)}

    ${local.targets_toml}
  EOT
}
