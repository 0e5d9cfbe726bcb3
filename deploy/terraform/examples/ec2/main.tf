# The daemon on an instance of yours: what the module makes, and the profile that the instance takes.
provider "aws" {
  region = "eu-west-1"
}

variable "image_id" {
  description = "An image of Debian 12 or newer, or of Amazon Linux 2023."
  type        = string
}

module "stagesweep" {
  source = "../.."

  compute = "EC2"
  # One pipeline is acted upon, the others are observed. Its pattern matches no other one's name.
  mode = "act"
  targets = [
    {
      pipeline             = "shop-frontend-pipeline"
      stage                = "Approve"
      action               = "Approve"
      production_parameter = "/shop/cloudfront/cfcd-production"
      staging_parameter    = "/shop/cloudfront/cfcd-staging"
    },
    {
      pipeline             = "site-{name}"
      stage                = "Release"
      action               = "Review"
      production_parameter = "/site/{name}/production"
      staging_parameter    = "/site/{name}/staging"
      mode                 = "observe"
    },
  ]
}

resource "aws_instance" "this" {
  #checkov:skip=CKV_AWS_126:what has to be watched of the daemon is in its own metrics
  ami                  = var.image_id
  instance_type        = "t4g.nano"
  iam_instance_profile = module.stagesweep.instance_profile_name
  ebs_optimized        = true
  monitoring           = false

  metadata_options {
    http_tokens = "required"
  }

  root_block_device {
    encrypted = true
  }
}

output "configuration" {
  description = "Write this to /etc/stagesweep/config.toml."
  value       = module.stagesweep.configuration
}
