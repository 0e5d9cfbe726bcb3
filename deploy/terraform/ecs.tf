locals {
  cluster_arn = one(concat(aws_ecs_cluster.this[*].arn, compact([try(var.ecs.cluster_arn, null)])))
}

resource "aws_ecs_cluster" "this" {
  #checkov:skip=CKV_AWS_65:Container Insights costs more than the task; the daemon has its own metrics and alarms
  count = local.on_ecs && try(var.ecs.cluster_arn, null) == null ? 1 : 0

  name = var.name
  tags = var.tags

  setting {
    name  = "containerInsights"
    value = "disabled"
  }
}

resource "aws_security_group" "daemon" {
  count = local.on_ecs ? 1 : 0

  name        = var.name
  description = "stagesweep calls AWS and is called by nobody"
  vpc_id      = var.ecs.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_egress_rule" "https" {
  count = local.on_ecs ? 1 : 0

  security_group_id = aws_security_group.daemon[0].id
  description       = "The endpoints of AWS"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
  tags              = var.tags
}

# What ECS itself does to start a task: fetch the image, hand its output to the log group.
resource "aws_iam_role" "execution" {
  count = local.on_ecs ? 1 : 0

  name                 = "${var.name}-execution-${local.region}"
  assume_role_policy   = data.aws_iam_policy_document.tasks.json
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
}

resource "aws_iam_role_policy" "execution" {
  count = local.on_ecs ? 1 : 0

  name   = "start-tasks"
  role   = aws_iam_role.execution[0].id
  policy = data.aws_iam_policy_document.execution.json
}

data "aws_iam_policy_document" "execution" {
  statement {
    sid       = "LogIn"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "FetchTheImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = ["arn:${local.partition}:ecr:${local.region}:*:repository/*"]
  }

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }
}

resource "aws_ecs_task_definition" "daemon" {
  count = local.on_ecs ? 1 : 0

  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = "256"
  memory                   = "512"
  task_role_arn            = aws_iam_role.daemon.arn
  execution_role_arn       = aws_iam_role.execution[0].arn
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.ecs.architecture
  }

  container_definitions = jsonencode([{
    name                   = "stagesweep"
    image                  = var.ecs.image
    essential              = true
    command                = ["run"]
    dockerLabels           = { operator-role = aws_iam_role.operator.arn } # for deploy/run-verb
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    # ECS does not look at the image's own health check.
    healthCheck = {
      command     = ["CMD", "/usr/bin/stagesweep", "health"]
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = 60
    }
    # Above shutdown.grace_period, below.
    stopTimeout = 60
    environment = [
      { name = "AWS_REGION", value = local.region },
      { name = "STAGESWEEP__QUEUE__URL", value = aws_sqs_queue.rejections.id },
      { name = "STAGESWEEP__CLEANUP__MODE", value = var.mode },
      { name = "STAGESWEEP__LEDGER__BACKEND", value = "dynamodb" },
      { name = "STAGESWEEP__LEDGER__TABLE", value = aws_dynamodb_table.ledger[0].name },
      { name = "STAGESWEEP__SHUTDOWN__GRACE_PERIOD", value = "45s" },
      { name = "STAGESWEEP__EVENTS__ALLOWED_ACCOUNTS", value = join(",", var.target_accounts) },
      { name = "STAGESWEEP__VERIFY__CODEPIPELINE", value = tostring(var.verify_pipelines) },
      { name = "STAGESWEEP__CATCH_UP__INTERVAL", value = local.catch_up_interval },
      { name = "STAGESWEEP__NOTIFY__EVENT_BUS", value = var.notify_event_bus_arn == null ? "" : var.notify_event_bus_arn },
      { name = "STAGESWEEP__TELEMETRY__METRICS_NAMESPACE", value = local.namespace },
      { name = "STAGESWEEP_CONFIG_TOML", value = local.targets_toml },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-region        = local.region
        awslogs-group         = aws_cloudwatch_log_group.this.name
        awslogs-stream-prefix = "stagesweep"
        # A log that cannot be delivered must not stop the daemon.
        mode            = "non-blocking"
        max-buffer-size = "4m"
      }
    }
  }])
}

resource "aws_ecs_service" "daemon" {
  #checkov:skip=CKV_AWS_333:tasks in subnets without a NAT gateway need a public address; it is off unless chosen
  count = local.on_ecs ? 1 : 0

  name                               = var.name
  cluster                            = local.cluster_arn
  task_definition                    = aws_ecs_task_definition.daemon[0].arn
  launch_type                        = "FARGATE"
  desired_count                      = var.ecs.instances
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  propagate_tags                     = "SERVICE"
  tags                               = var.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.ecs.subnet_ids
    security_groups  = [aws_security_group.daemon[0].id]
    assign_public_ip = var.ecs.assign_public_ip
  }
}

resource "aws_cloudwatch_event_rule" "orphans" {
  count = local.orphans ? 1 : 0

  name                = "${var.name}-orphans"
  description         = "Looks for staging distributions that nobody will take down"
  schedule_expression = var.orphans_schedule
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "orphans" {
  count = local.orphans ? 1 : 0

  rule      = aws_cloudwatch_event_rule.orphans[0].name
  target_id = "task"
  arn       = local.cluster_arn
  role_arn  = aws_iam_role.orphans[0].arn
  input     = jsonencode({ containerOverrides = [{ name = "stagesweep", command = ["orphans", "--json"] }] })

  ecs_target {
    task_definition_arn = aws_ecs_task_definition.daemon[0].arn
    launch_type         = "FARGATE"

    network_configuration {
      subnets          = var.ecs.subnet_ids
      security_groups  = [aws_security_group.daemon[0].id]
      assign_public_ip = var.ecs.assign_public_ip
    }
  }
}

resource "aws_iam_role" "orphans" {
  count = local.orphans ? 1 : 0

  name                 = "${var.name}-orphans-${local.region}"
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

resource "aws_iam_role_policy" "run_orphans" {
  count = local.orphans ? 1 : 0

  name = "run-the-task"
  role = aws_iam_role.orphans[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "RunTheTask"
        Effect   = "Allow"
        Action   = "ecs:RunTask"
        Resource = aws_ecs_task_definition.daemon[0].arn
      },
      {
        Sid       = "WithItsRoles"
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = [aws_iam_role.daemon.arn, aws_iam_role.execution[0].arn]
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
    ]
  })
}
