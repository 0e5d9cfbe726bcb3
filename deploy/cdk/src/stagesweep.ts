import * as path from 'node:path';
import { Stack, Validations } from 'aws-cdk-lib';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';
import * as codepipeline from 'aws-cdk-lib/aws-codepipeline';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as ecs from 'aws-cdk-lib/aws-ecs';
import * as events from 'aws-cdk-lib/aws-events';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as s3 from 'aws-cdk-lib/aws-s3';
import * as sns from 'aws-cdk-lib/aws-sns';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';

/** What is taken down for which approval, where pipelines follow a naming convention. */
export interface Convention {
  /**
   * The pipelines' names; `{service}` stands for the part that the parameters use too.
   * @default "{service}-frontend-pipeline"
   */
  readonly pipeline?: string;
  /** The stage that holds the manual approval. @default "Approve" */
  readonly stage?: string;
  /** The manual approval action. @default "Approve" */
  readonly action?: string;
  /** The parameter that names the production distribution. @default "/{service}/cloudfront/cfcd-production" */
  readonly productionParameter?: string;
  /** The parameter that names the staging distribution. @default "/{service}/cloudfront/cfcd-staging" */
  readonly stagingParameter?: string;
  /** The one stage whose actions make and change staging distributions. @default every stage up to the approval's */
  readonly deployStage?: string;
}

/** One pipeline of this application that follows no convention. */
export interface Target {
  /** The pipeline. */
  readonly pipeline: codepipeline.IPipeline;
  /** The stage that holds the manual approval. */
  readonly stage: string;
  /** The manual approval action. */
  readonly action: string;
  /** The name of the parameter that names the production distribution. */
  readonly productionParameter: string;
  /** The name of the parameter that names the staging distribution. */
  readonly stagingParameter: string;
  /** The one stage whose actions make and change staging distributions. @default every stage up to the approval's */
  readonly deployStage?: string;
}

/** Where the daemon runs as a Fargate service. */
export interface OnEcs {
  /** The container image, best by digest. */
  readonly image: string;
  /** The VPC of the tasks. */
  readonly vpc: ec2.IVpc;
  /** Subnets from which the AWS endpoints can be reached. @default private subnets with egress */
  readonly subnets?: ec2.SubnetSelection;
  /** Whether tasks get a public address, in public subnets without a NAT gateway. @default false */
  readonly assignPublicIp?: boolean;
  /** A cluster that exists. @default a cluster is made */
  readonly cluster?: ecs.ICluster;
  /** The processor that the image is for. @default X86_64 */
  readonly architecture?: ecs.CpuArchitecture;
  /** How many tasks run. @default 1 */
  readonly instances?: number;
}

/** All of it has a default but the place where the daemon runs. */
export interface StagesweepProps {
  /** Run on ECS. @default a role and an instance profile for EC2 */
  readonly ecs?: OnEcs;
  /** On EC2: several instances share the queue, with the ledger in a DynamoDB table. @default false */
  readonly fleet?: boolean;
  /** The naming convention of the pipelines. @default that of `Convention` */
  readonly convention?: Convention;
  /** Pipelines that follow none. @default none */
  readonly targets?: Target[];
  /** Whether rejected deployments are taken down, or only observed, with a role that may not change anything. @default observe */
  readonly mode?: 'observe' | 'act';
  /** Delete only distributions with the tag stagesweep = staging. @default false */
  readonly deleteOnlyTagged?: boolean;
  /** Ask CodePipeline what a rejected execution did, and who else is at work; false is for who cannot. @default true */
  readonly verifyPipelines?: boolean;
  /** How often CodePipeline is searched for lost rejections, such as `15m`. @default never */
  readonly catchUpInterval?: string;
  /** The event bus that is notified of what became of each rejection. @default none */
  readonly notifyEventBus?: events.IEventBus;
  /** The bucket of the distributions' legacy access logs. @default none */
  readonly logBucket?: s3.IBucket;
  /** The ARN of the distributions' web ACL. @default none */
  readonly webAclArn?: string;
  /** Roles of cloudformation-target-account.yaml in other accounts. @default none */
  readonly targetRoleArns?: string[];
  /** Other accounts whose rejections are accepted. @default none */
  readonly targetAccounts?: string[];
  /** Encrypt queues, logs and ledger with a KMS key of this stack. @default false */
  readonly customerKey?: boolean;
  /** How long logs are kept. @default 90 */
  readonly logRetentionDays?: number;
  /** When a task on ECS looks for orphans (on EC2 a timer does); an empty text: never. @default rate(1 day) */
  readonly orphansSchedule?: string;
  /** Who is notified of alarms. @default nobody */
  readonly alarmTopic?: sns.ITopic;
  /** Where your people read docs/RUNBOOK.md; alarms lead there. @default docs/RUNBOOK.md */
  readonly runbookUrl?: string;
  /** How old a message may become, in seconds. @default 7200 */
  readonly oldestMessageSeconds?: number;
}

/** The template beside this package: one truth for those who use CDK and those who do not. */
const TEMPLATE = path.join(__dirname, '..', '..', 'cloudformation.yaml');

/** What CDK's own validation says of every template whose choices an application has made. */
const EXPECTED = [
  ['W1028', 'A branch for a choice that the application did not make is never taken.'],
  ['W1030', 'An empty default stands for: not chosen.'],
  ['E1154', 'An empty default stands for: not chosen.'],
];

/**
 * stagesweep: what takes down the staging distribution of a rejected deployment.
 *
 * It includes deploy/cloudformation.yaml, with its parameters filled in. Use it once in a stack.
 */
export class Stagesweep extends Construct {
  /** The queue that rejections arrive on. */
  public readonly queue: sqs.IQueue;
  /** The queue of what could not be handled. */
  public readonly deadLetters: sqs.IQueue;
  /** The queue of events that a rule could not deliver. */
  public readonly undeliveredEvents: sqs.IQueue;
  /** The daemon's role. */
  public readonly role: iam.IRole;
  /** The ledger, on ECS and for a fleet. */
  public readonly ledger?: dynamodb.ITable;
  /** The template, for what has no property here. */
  public readonly template: CfnInclude;

  constructor(scope: Construct, id: string, props: StagesweepProps) {
    super(scope, id);
    const convention = props.convention ?? {};
    const targets = props.targets ?? [];
    const place = props.ecs;
    const subnets = place?.vpc.selectSubnets(place.subnets);
    const given: Record<string, unknown> = {
      Pipeline: convention.pipeline,
      Stage: convention.stage,
      Action: convention.action,
      ProductionParameter: convention.productionParameter,
      StagingParameter: convention.stagingParameter,
      DeployStage: convention.deployStage,
      MoreTargets: targets.length > 0 ? targets.map(toml).join('\n') : undefined,
      MorePipelines: list(targets.map((target) => target.pipeline.pipelineName)),
      MoreProductionParameterArns: list(targets.map((target) => this.parameterArn(target.productionParameter))),
      MoreStagingParameterArns: list(targets.map((target) => this.parameterArn(target.stagingParameter))),
      MorePipelineArns: list(targets.map((target) => target.pipeline.pipelineArn)),
      Compute: place ? 'ECS' : 'EC2',
      Fleet: props.fleet ? 'yes' : undefined,
      Instances: place?.instances,
      Image: place?.image,
      Architecture: place?.architecture === ecs.CpuArchitecture.ARM64 ? 'ARM64' : undefined,
      VpcId: place?.vpc.vpcId,
      SubnetIds: list(subnets?.subnetIds ?? []),
      AssignPublicIp: place?.assignPublicIp ? 'ENABLED' : undefined,
      Cluster: place?.cluster?.clusterArn,
      Mode: props.mode,
      DeleteOnlyTagged: props.deleteOnlyTagged ? 'yes' : undefined,
      VerifyPipelines: props.verifyPipelines === false ? 'no' : undefined,
      CatchUpInterval: props.catchUpInterval,
      NotifyEventBusArn: props.notifyEventBus?.eventBusArn,
      LogBucketArn: props.logBucket?.bucketArn,
      WebAclArn: props.webAclArn,
      TargetRoleArns: list(props.targetRoleArns ?? []),
      TargetAccounts: list(props.targetAccounts ?? []),
      CustomerKey: props.customerKey ? 'yes' : undefined,
      LogRetentionDays: props.logRetentionDays,
      OrphansSchedule: props.orphansSchedule,
      AlarmTopicArn: props.alarmTopic?.topicArn,
      RunbookUrl: props.runbookUrl,
      OldestMessageSeconds: props.oldestMessageSeconds,
    };
    const parameters = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    // What is not given stays a parameter of the application's stack, with the template's default.
    this.template = new CfnInclude(this, 'Template', { templateFile: TEMPLATE, parameters });

    // The compiler asks for what this rule asks for; and a rule may not name resources, such as the VPC.
    const rule = this.template.getRule('EcsNeedsAnImageAndAPlace');
    rule.node.scope?.node.tryRemoveChild(rule.node.id);
    for (const [id, reason] of EXPECTED) {
      Validations.of(this).acknowledge({ id: `CloudFormation-Validate::${id}`, reason });
    }

    const queue = (name: string) => {
      const { attrArn, ref } = this.template.getResource(name) as sqs.CfnQueue;
      return sqs.Queue.fromQueueAttributes(this, name, { queueArn: attrArn, queueUrl: ref });
    };
    this.queue = queue('Queue');
    this.deadLetters = queue('DeadLetters');
    this.undeliveredEvents = queue('UndeliveredEvents');
    const role = this.template.getResource('Role') as iam.CfnRole;
    this.role = iam.Role.fromRoleArn(this, 'Role', role.attrArn);
    if (place || props.fleet) {
      const table = this.template.getResource('Ledger') as dynamodb.CfnTable;
      this.ledger = dynamodb.Table.fromTableArn(this, 'Ledger', table.attrArn);
    }
  }

  private parameterArn(name: string): string {
    return Stack.of(this).formatArn({ service: 'ssm', resource: 'parameter', resourceName: name.replace(/^\//, '') });
  }
}

/** A list for a parameter of the template, unless it is empty. */
function list(values: string[]): string[] | undefined {
  return values.length > 0 ? values : undefined;
}

/** A target as the daemon's configuration has it. */
function toml(target: Target): string {
  const text = (value: string) => `"${value.replace(/[\\"]/g, '\\$&')}"`;
  return [
    '[[targets]]',
    `pipeline = "${target.pipeline.pipelineName}"`,
    `stage = ${text(target.stage)}`,
    `action = ${text(target.action)}`,
    `production_parameter = ${text(target.productionParameter)}`,
    `staging_parameter = ${text(target.stagingParameter)}`,
    ...(target.deployStage ? [`deploy_stage = ${text(target.deployStage)}`] : []),
    '',
  ].join('\n');
}
