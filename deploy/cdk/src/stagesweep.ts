import * as path from 'node:path';
import { Aws, CfnParameter, CfnRule, Fn, Stack, Validations } from 'aws-cdk-lib';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch';
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
  /** The processor that the image is for. @default ARM64 */
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
  /** Whether a dashboard is made; beyond the account's first three it costs 3 USD a month. @default false */
  readonly dashboard?: boolean;
  /** The policy that bounds every role made here. @default none */
  readonly permissionsBoundary?: iam.IManagedPolicy;
  /** Who is notified of alarms. @default nobody */
  readonly alarmTopic?: sns.ITopic;
  /** Where your people read docs/RUNBOOK.md; alarms lead there. @default docs/RUNBOOK.md */
  readonly runbookUrl?: string;
  /** How old a message may become, in seconds. @default 7200 */
  readonly oldestMessageSeconds?: number;
}

/** The templates beside this package: one truth for those who use CDK and those who do not. */
const template = (name: string) => path.join(__dirname, '..', '..', `cloudformation-${name}.yaml`);

/** What CDK's own validation says of every template whose choices an application has made. */
const EXPECTED = [
  ['W1028', 'A branch for a choice that the application did not make is never taken.'],
  ['W1030', 'An empty default stands for: not chosen.'],
  ['E1154', 'An empty default stands for: not chosen.'],
];

/** The same of what it does not take for this construct's, but for the stack's. */
const EXPECTED_OF_STACK = [
  ['W1001', 'The table stands in the branch that is taken where there is one.'],
  ['W8003', 'A condition on what the application has chosen is constant.'],
  ['W9053', 'Two such conditions may be the same constant.'],
];

/** The conditions that ask whether a parameter is given. One may be given by a resource, which no condition may name. */
const GIVEN = {
  HasDeployStage: 'DeployStage',
  HasMorePipelines: 'MorePipelines',
  HasMoreProductionParameters: 'MoreProductionParameterArns',
  HasMoreStagingParameters: 'MoreStagingParameterArns',
  HasMorePipelineArns: 'MorePipelineArns',
  Notifies: 'NotifyEventBusArn',
  HasLogBucket: 'LogBucketArn',
  HasWebAcl: 'WebAclArn',
  HasTargetRoles: 'TargetRoleArns',
  HasTargetAccounts: 'TargetAccounts',
  HasTopic: 'AlarmTopicArn',
  HasBoundary: 'PermissionsBoundary',
};

/** And whether none is. */
const GIVEN_ON_ECS = { MakesCluster: 'Cluster' };

/**
 * stagesweep: what takes down the staging distribution of a rejected deployment.
 *
 * It includes deploy/cloudformation-ecs.yaml or -ec2.yaml, with all their parameters filled in. Use it once in a stack.
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
  /** The role of whoever is on call. */
  public readonly operatorRole: iam.IRole;
  /** The ledger, on ECS and for a fleet. */
  public readonly ledger?: dynamodb.ITable;
  /** The template, for what has no property here. */
  public readonly template: CfnInclude;
  private readonly namespace: string;

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
      Fleet: props.fleet ? 'yes' : undefined,
      Instances: place?.instances,
      Image: place?.image,
      Architecture: place?.architecture === ecs.CpuArchitecture.X86_64 ? 'X86_64' : undefined,
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
      PermissionsBoundary: props.permissionsBoundary?.managedPolicyArn,
      CustomerKey: props.customerKey ? 'yes' : undefined,
      LogRetentionDays: props.logRetentionDays,
      OrphansSchedule: props.orphansSchedule,
      AlarmTopicArn: props.alarmTopic?.topicArn,
      RunbookUrl: props.runbookUrl,
      OldestMessageSeconds: props.oldestMessageSeconds,
    };
    this.template = include(this, 'Template', place ? 'ecs' : 'ec2', given);
    for (const [condition, parameter] of Object.entries({ ...GIVEN, ...(place ? GIVEN_ON_ECS : {}) })) {
      const holds = (given[parameter] !== undefined) === (condition !== 'MakesCluster');
      this.template.getCondition(condition).expression = Fn.conditionEquals(holds ? 'yes' : 'no', 'yes');
    }
    this.namespace = `Stagesweep/${Stack.of(this).stackName}`;
    if (props.dashboard) {
      const watch = include(this, 'Watch', 'dashboard', { Stack: Aws.STACK_NAME });
      watch.getResource('ErrorLines').node.addDependency(this.template.getResource('Logs'));
    }
    for (const [where, expected] of [[this, EXPECTED], [Stack.of(this), EXPECTED_OF_STACK]] as const) {
      for (const [id, reason] of expected) {
        Validations.of(where).acknowledge({ id: `CloudFormation-Validate::${id}`, reason });
      }
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
    const operator = this.template.getResource('OperatorRole') as iam.CfnRole;
    this.operatorRole = iam.Role.fromRoleArn(this, 'OperatorRole', operator.attrArn);
    if (place || props.fleet) {
      const table = this.template.getResource('Ledger') as dynamodb.CfnTable;
      this.ledger = dynamodb.Table.fromTableArn(this, 'Ledger', table.attrArn);
    }
  }

  /** Lets somebody assume the operator's role, with which every verb but `run` works on a workstation. */
  public grantOperate(grantee: iam.IGrantable): iam.Grant {
    return iam.Grant.addToPrincipal({ grantee, actions: ['sts:AssumeRole'], resourceArns: [this.operatorRole.roleArn] });
  }

  /** Lets somebody send events to the queue, such as a rule of the application's own. */
  public grantSendEvents(grantee: iam.IGrantable): iam.Grant {
    return this.queue.grantSendMessages(grantee);
  }

  /** A metric of docs/METRICS.md, such as `CleanupsFailed`. @default the sum over five minutes */
  public metric(metricName: string, props?: cloudwatch.MetricOptions): cloudwatch.Metric {
    return new cloudwatch.Metric({ namespace: this.namespace, metricName, statistic: 'Sum', ...props });
  }

  /** Rejected deployments that were taken down. */
  public metricSucceeded(props?: cloudwatch.MetricOptions): cloudwatch.Metric {
    return this.metric('CleanupsSucceeded', props);
  }

  /** Jobs that failed for now. */
  public metricFailed(props?: cloudwatch.MetricOptions): cloudwatch.Metric {
    return this.metric('CleanupsFailed', props);
  }

  /** Jobs that were refused. */
  public metricRefused(props?: cloudwatch.MetricOptions): cloudwatch.Metric {
    return this.metric('CleanupsRefused', props);
  }

  /** For how long nobody has polled the queue, in milliseconds. */
  public metricPollAge(props?: cloudwatch.MetricOptions): cloudwatch.Metric {
    return this.metric('PollAge', { statistic: 'Minimum', ...props });
  }

  private parameterArn(name: string): string {
    return Stack.of(this).formatArn({ service: 'ssm', resource: 'parameter', resourceName: name.replace(/^\//, '') });
  }
}

/** A template with every parameter filled in, by what is given or by its default: none is left in the stack. */
function include(scope: Construct, id: string, name: string, given: Record<string, unknown>): CfnInclude {
  const templateFile = template(name);
  // The same in a stack that is thrown away, to learn its parameters.
  const declared = new CfnInclude(new Stack(), 'Declared', { templateFile });
  const parameters: Record<string, unknown> = {};
  for (const it of Stack.of(declared).node.findAll().filter((it) => it instanceof CfnParameter)) {
    const byDefault = it.type.startsWith('List<') || it.type === 'CommaDelimitedList' ? [it.default ?? ''] : it.default;
    parameters[it.node.id] = given[it.node.id] ?? byDefault;
  }
  const made = new CfnInclude(scope, id, { templateFile, parameters });
  // What groups the parameters in the console, of which there are none left.
  delete (made as unknown as { template: { Metadata?: unknown } }).template.Metadata;
  // The compiler asks for what the rules ask for; and a rule may not name resources, such as the VPC.
  for (const it of made.node.findAll()) {
    if (it instanceof CfnRule) it.node.scope?.node.tryRemoveChild(it.node.id);
  }
  return made;
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
