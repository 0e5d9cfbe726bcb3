# The daemon in one account, the distributions in another. The example works as two profiles; most have two states.
provider "aws" {
  region  = "eu-west-1"
  profile = "tools"
}

provider "aws" {
  alias   = "shop"
  region  = "eu-west-1"
  profile = "shop"
}

variable "external_id" {
  description = "Who may lead the daemon into the other account knows it."
  type        = string
  sensitive   = true
}

variable "image" {
  description = "The container image, best by digest."
  type        = string
}

variable "network" {
  description = "Where the tasks run."
  type        = object({ vpc_id = string, subnet_ids = list(string) })
}

module "daemon" {
  source = "../.."

  ecs = {
    image      = var.image
    vpc_id     = var.network.vpc_id
    subnet_ids = var.network.subnet_ids
  }
  mode = "act"
  targets = [{
    pipeline             = "arn:aws:codepipeline:{region}:{account}:{service}-frontend-pipeline"
    stage                = "Approve"
    action               = "Approve"
    production_parameter = "/{service}/cloudfront/cfcd-production"
    staging_parameter    = "/{service}/cloudfront/cfcd-staging"
    role_arn             = "arn:aws:iam::{account}:role/stagesweep"
    external_id          = var.external_id
  }]
  target_accounts  = ["210987654321"]
  target_role_arns = ["arn:aws:iam::210987654321:role/stagesweep"]
}

module "shop" {
  source = "../../target-account"
  providers = {
    aws = aws.shop
  }

  daemon_role_arn   = module.daemon.role_arn
  operator_role_arn = module.daemon.operator_role_arn
  external_id       = var.external_id
  mode              = "act"
}
