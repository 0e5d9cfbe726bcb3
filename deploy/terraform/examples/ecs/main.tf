# The daemon on ECS in public subnets without a NAT gateway, which is the cheapest way: about 13 USD a month.
provider "aws" {
  region = "eu-west-1"
}

variable "image" {
  description = "The container image, best by digest."
  type        = string
}

data "aws_vpc" "this" {
  default = true
}

data "aws_subnets" "this" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.this.id]
  }
}

resource "aws_sns_topic" "on_call" {
  name              = "on-call"
  kms_master_key_id = "alias/aws/sns"
}

module "stagesweep" {
  source = "../.."

  ecs = {
    image            = var.image
    vpc_id           = data.aws_vpc.this.id
    subnet_ids       = data.aws_subnets.this.ids
    assign_public_ip = true
  }
  alarm_topic_arn = aws_sns_topic.on_call.arn
  tags            = { team = "web" }
}

output "doctor" {
  description = "Run this next."
  value       = module.stagesweep.doctor_command
}
