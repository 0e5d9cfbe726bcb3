// An application as users write it, synthesized into the directory that is given.
const { App, DefaultStackSynthesizer, Stack } = require('aws-cdk-lib');
const codepipeline = require('aws-cdk-lib/aws-codepipeline');
const ec2 = require('aws-cdk-lib/aws-ec2');
const cloudwatch = require('aws-cdk-lib/aws-cloudwatch');
const events = require('aws-cdk-lib/aws-events');
const iam = require('aws-cdk-lib/aws-iam');
const s3 = require('aws-cdk-lib/aws-s3');
const sns = require('aws-cdk-lib/aws-sns');
const { Stagesweep } = require('./dist/stagesweep.js');

const app = new App({ outdir: process.argv[2], analyticsReporting: false });
// The emulator is no account that was bootstrapped for CDK.
const synthesizer = () => new DefaultStackSynthesizer({ generateBootstrapVersionRule: false });

const least = new Stack(app, 'Least', { synthesizer: synthesizer() });
new Stagesweep(least, 'Stagesweep', {});

const most = new Stack(app, 'Most', { synthesizer: synthesizer() });
const pipeline = codepipeline.Pipeline.fromPipelineArn(
  most, 'Pipeline', 'arn:aws:codepipeline:ap-northeast-1:123456789012:landing-pages');
const vpc = new ec2.Vpc(most, 'Vpc', { maxAzs: 2 });
const stagesweep = new Stagesweep(most, 'Stagesweep', {
  ecs: { image: 'stagesweep', vpc, instances: 0 },
  targets: [{
    pipeline,
    stage: 'Release',
    action: 'Review',
    productionParameter: '/landing-pages/production',
    stagingParameter: '/landing-pages/staging',
  }],
  notifyEventBus: new events.EventBus(most, 'Bus', { eventBusName: 'releases' }),
  logBucket: new s3.Bucket(most, 'Logs of access'),
  alarmTopic: new sns.Topic(most, 'Topic'),
  customerKey: true,
  dashboard: true,
  permissionsBoundary: iam.ManagedPolicy.fromManagedPolicyName(most, 'Boundary', 'boundary'),
  mode: 'act',
});
if (!stagesweep.ledger) throw new Error('a service has a ledger');
stagesweep.ledger.grantReadData(stagesweep.role);
const person = new iam.Role(most, 'Person', { assumedBy: new iam.AccountRootPrincipal() });
stagesweep.grantOperate(person);
stagesweep.grantSendEvents(person);
for (const metric of ['metricSucceeded', 'metricFailed', 'metricRefused', 'metricPollAge']) {
  new cloudwatch.Alarm(most, metric, { metric: stagesweep[metric](), threshold: 1, evaluationPeriods: 1 });
}

app.synth();
