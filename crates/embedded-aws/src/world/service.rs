//! A service that deploys blue/green, as its pipeline leaves it at the approval.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::services::by::By;
use crate::services::cloudfront::Context;
use crate::services::cloudfront::xml::{NAMESPACE, parsed};
use crate::services::codepipeline::definition::Definition;
use crate::services::codepipeline::service::Service;
use crate::wire::exchange::Failure;
use crate::wire::settings::Place;
use crate::wire::time::later;
use crate::world::aws::EmbeddedAws;
use crate::world::pipeline::builds::Key;

/// How long before now a new service's primary distribution was made.
const PRODUCTION_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long before now each part of a new service's deployment took place.
const FETCHED_AGO: Duration = Duration::from_secs(24 * 60);
const BUILT_AGO: Duration = Duration::from_secs(23 * 60);
const BEGAN_AGO: Duration = Duration::from_secs(20 * 60 + 20);
const COPIED_AGO: Duration = Duration::from_secs(20 * 60);
const ATTACHED_AGO: Duration = Duration::from_secs(19 * 60);
const RECORDED_AGO: Duration = Duration::from_secs(15 * 60);
const CHANGED_AGO: Duration = Duration::from_secs(15 * 60 - 5);
const ENDED_AGO: Duration = Duration::from_secs(14 * 60 + 20);
const OPENED_AGO: Duration = Duration::from_secs(14 * 60);

/// What a service differs in from others.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its pipeline's name, if not `{name}-frontend-pipeline`.
    pub pipeline: Option<String>,
    /// Its pipeline's stages and mode.
    pub definition: Definition,
    /// The parameter that names the primary distribution, if not `/{name}/cloudfront/cfcd-production`.
    pub production_parameter: Option<String>,
    /// The parameter that names the staging one, if not `/{name}/cloudfront/cfcd-staging`.
    pub staging_parameter: Option<String>,
}

fn ago(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age).unwrap_or(now)
}

impl EmbeddedAws {
    /// Makes a service that has deployed a while ago and now waits at its approval: production
    /// with aliases and a weight policy, the staging copy, both parameters; all `Deployed`.
    ///
    /// # Errors
    /// What CloudFront refuses with: the account's quota of twenty staging distributions for
    /// instance, or a service of that name that exists already.
    pub fn create_service(&self, name: &str) -> Result<Service, Failure> {
        self.create_service_as(name, &Shape::default())
    }

    /// The same with a pipeline and parameters of one's own.
    ///
    /// # Errors
    /// As [`EmbeddedAws::create_service`].
    pub fn create_service_as(&self, name: &str, shape: &Shape) -> Result<Service, Failure> {
        let now = self.now();
        let service = self.create_idle_service(name, shape)?;
        let times = [FETCHED_AGO, BUILT_AGO, BEGAN_AGO].map(|age| ago(now, age));
        self.state().deploying(&service, &self.place, times);
        let mut service = service;
        let mut state = self.state();
        let by = state.by_deployment(&service);
        let place = &self.place;
        state.copy(&mut service, place, None, &by, ago(now, COPIED_AGO))?;
        state.make_policy(&mut service, place, &by, ago(now, COPIED_AGO))?;
        state.attach(&service, place, None, &by, ago(now, ATTACHED_AGO))?;
        state.record(&service, place, &by, ago(now, RECORDED_AGO));
        state.change_staging(&service, place, &by, ago(now, CHANGED_AGO))?;
        let here = state.here(place);
        for id in [&service.production_id, &service.staging_id] {
            here.cloudfront.settle(id, ago(now, CHANGED_AGO));
        }
        state.remember(&service);
        state.deployment_ends(&service, ago(now, ENDED_AGO));
        let key = Key::of(&service);
        state.open(&key, &service.execution_id, 1, service.start_time);
        drop(state);
        self.changed();
        Ok(service)
    }

    /// Makes a service whose pipeline has never run: production without a policy, and `dummy` in the staging
    /// parameter. The answer stands for an execution that there is not; [`EmbeddedAws::play`] and
    /// [`EmbeddedAws::start_execution`] start one.
    ///
    /// # Errors
    /// What CloudFront refuses with: a service of that name that exists already.
    pub fn create_idle_service(&self, name: &str, shape: &Shape) -> Result<Service, Failure> {
        let now = self.now();
        let born = ago(now, PRODUCTION_AGE);
        let text = |given: &Option<String>, usual: String| given.clone().unwrap_or(usual);
        let (production, staging) = (&shape.production_parameter, &shape.staging_parameter);
        let production_parameter = text(production, format!("/{name}/cloudfront/cfcd-production"));
        let staging_parameter = text(staging, format!("/{name}/cloudfront/cfcd-staging"));
        let production_id = self.create_distribution(name)?;
        let founder = By::operator(&self.place.account);
        let execution_id = {
            let mut state = self.state();
            let here = state.here(&self.place);
            let ssm = here.ssm;
            ssm.put(&production_parameter, &production_id, born, &founder);
            ssm.put(&staging_parameter, "dummy", born, &founder);
            here.ids.uuid()
        };
        let pipeline = text(&shape.pipeline, format!("{name}-frontend-pipeline"));
        self.define_pipeline(&pipeline, shape.definition.clone());
        Ok(Service {
            name: name.to_owned(),
            pipeline,
            production_id,
            staging_id: String::new(),
            staging_domain: String::new(),
            policy_id: String::new(),
            production_parameter,
            staging_parameter,
            execution_id,
            start_time: ago(now, OPENED_AGO),
            account: self.place.account.clone(),
            region: self.place.region.clone(),
        })
    }

    /// Makes a primary distribution like a service's, without any deployment, and answers its id:
    /// accounts have others.
    ///
    /// # Errors
    /// What CloudFront refuses with: a distribution of that name that exists already.
    pub fn create_distribution(&self, name: &str) -> Result<String, Failure> {
        let born = ago(self.now(), PRODUCTION_AGE);
        let mut state = self.state();
        let here = state.here(&self.place);
        let document = parsed(&production_config(name, &here.settings.account))?;
        let by = By::operator(&here.settings.account);
        let mut context = Context {
            now: born,
            settings: &here.settings,
            ids: here.ids,
            by: &by,
        };
        let id = here
            .cloudfront
            .create(&mut context, document, BTreeMap::new())?
            .id
            .clone();
        here.cloudfront.settle(&id, born);
        Ok(id)
    }

    /// A newer deployment of the same service, all of it now: a staging copy, a policy in the
    /// place of the older one, and the parameter overwritten. What the older deployment made
    /// stays behind.
    ///
    /// The approval of the new deployment opens a second from now.
    ///
    /// # Errors
    /// What CloudFront refuses with.
    pub fn deploy_again(&self, service: &Service) -> Result<Service, Failure> {
        let mut newer = self.deploy_copy(service)?;
        newer.policy_id = self.deploy_policy(&newer)?;
        self.deploy_attach(&newer)?;
        self.deploy_record(&newer);
        Ok(newer)
    }

    /// First part of [`EmbeddedAws::deploy_again`]: the staging copy of a new execution. The
    /// policy in the answer is still the older one.
    ///
    /// # Errors
    /// What CopyDistribution refuses with.
    pub fn deploy_copy(&self, service: &Service) -> Result<Service, Failure> {
        let now = self.now();
        let mut state = self.state();
        let mut newer = Service {
            execution_id: state.ids.uuid(),
            start_time: later(now, Duration::from_secs(1)),
            ..service.clone()
        };
        state.know(service, &self.place);
        state.deploying(&newer, &self.place, [now; 3]);
        let by = state.by_deployment(&newer);
        let copied = state.copy(&mut newer, &self.place, None, &by, now);
        state.remember(&newer);
        drop(state);
        if copied.is_err() {
            self.fail(&newer);
        }
        self.changed();
        copied.map(|()| newer)
    }

    /// Second part: a policy for the deployment's staging distribution; answers its id.
    ///
    /// # Errors
    /// What CreateContinuousDeploymentPolicy refuses with.
    pub fn deploy_policy(&self, service: &Service) -> Result<String, Failure> {
        let now = self.now();
        let mut service = service.clone();
        let mut state = self.state();
        let by = state.by_deployment(&service);
        state.make_policy(&mut service, &self.place, &by, now)?;
        state.remember(&service);
        drop(state);
        self.changed();
        Ok(service.policy_id)
    }

    /// Third part: the policy attached to production, in the place of any other.
    ///
    /// # Errors
    /// What UpdateDistribution refuses with.
    pub fn deploy_attach(&self, service: &Service) -> Result<(), Failure> {
        self.attach_with(service, None)
    }

    /// The same with an ETag of production that was read earlier.
    ///
    /// # Errors
    /// What UpdateDistribution refuses with: `PreconditionFailed` if production has changed since.
    pub fn deploy_attach_with(&self, service: &Service, etag: &str) -> Result<(), Failure> {
        self.attach_with(service, Some(etag.to_owned()))
    }

    fn attach_with(&self, service: &Service, etag: Option<String>) -> Result<(), Failure> {
        let now = self.now();
        let mut state = self.state();
        let by = state.by_deployment(service);
        state.attach(service, &self.place, etag, &by, now)?;
        state.remember(service);
        drop(state);
        self.changed();
        Ok(())
    }

    /// Last part: the staging distribution's id written to the parameter, the staging distribution changed
    /// to what was built, the deployment ended, and the approval opened; answers the version.
    pub fn deploy_record(&self, service: &Service) -> u64 {
        let now = self.now();
        let opened = later(now, Duration::from_secs(1)).max(service.start_time);
        let place: &Place = &self.place;
        let mut state = self.state();
        let by = state.by_deployment(service);
        let version = state.record(service, place, &by, now);
        // Somebody may have deleted it by now: then the script fails behind the parameter.
        let _ = state.change_staging(service, place, &by, now);
        state.remember(service);
        state.deployment_ends(service, now);
        let key = Key::of(service);
        if state
            .execution(&key, &service.execution_id)
            .is_some_and(|it| it.loose)
        {
            state.open(&key, &service.execution_id, 1, opened);
        }
        drop(state);
        self.changed();
        version
    }
}

/// A configuration of the size and shape that real ones have. `FutureFeatureConfig` is known to
/// no SDK: a client that loses it has edited production lossily.
fn production_config(name: &str, account: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<DistributionConfig xmlns="{NAMESPACE}"><CallerReference>{name}-production</CallerReference><Aliases><Quantity>2</Quantity><Items><CNAME>www.{name}.example.com</CNAME><CNAME>{name}.example.com</CNAME></Items></Aliases><DefaultRootObject>index.html</DefaultRootObject><Origins><Quantity>2</Quantity><Items><Origin><Id>assets</Id><DomainName>{name}-assets.s3.ap-northeast-1.amazonaws.com</DomainName><OriginPath>/releases/current</OriginPath><CustomHeaders><Quantity>0</Quantity></CustomHeaders><S3OriginConfig><OriginAccessIdentity></OriginAccessIdentity></S3OriginConfig><ConnectionAttempts>3</ConnectionAttempts><ConnectionTimeout>10</ConnectionTimeout><OriginShield><Enabled>false</Enabled></OriginShield><OriginAccessControlId>E2QWRUHAPOMQZL</OriginAccessControlId></Origin><Origin><Id>api</Id><DomainName>api.{name}.example.com</DomainName><OriginPath></OriginPath><CustomHeaders><Quantity>1</Quantity><Items><OriginCustomHeader><HeaderName>x-origin-key</HeaderName><HeaderValue>a&lt;b &amp; c&gt;d</HeaderValue></OriginCustomHeader></Items></CustomHeaders><CustomOriginConfig><HTTPPort>80</HTTPPort><HTTPSPort>443</HTTPSPort><OriginProtocolPolicy>https-only</OriginProtocolPolicy><OriginSslProtocols><Quantity>1</Quantity><Items><SslProtocol>TLSv1.2</SslProtocol></Items></OriginSslProtocols><OriginReadTimeout>30</OriginReadTimeout><OriginKeepaliveTimeout>5</OriginKeepaliveTimeout></CustomOriginConfig><ConnectionAttempts>3</ConnectionAttempts><ConnectionTimeout>10</ConnectionTimeout><OriginShield><Enabled>false</Enabled></OriginShield><OriginAccessControlId></OriginAccessControlId></Origin></Items></Origins><OriginGroups><Quantity>0</Quantity></OriginGroups><DefaultCacheBehavior><TargetOriginId>assets</TargetOriginId><TrustedSigners><Enabled>false</Enabled><Quantity>0</Quantity></TrustedSigners><TrustedKeyGroups><Enabled>false</Enabled><Quantity>0</Quantity></TrustedKeyGroups><ViewerProtocolPolicy>redirect-to-https</ViewerProtocolPolicy><AllowedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items><CachedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items></CachedMethods></AllowedMethods><SmoothStreaming>false</SmoothStreaming><Compress>true</Compress><LambdaFunctionAssociations><Quantity>0</Quantity></LambdaFunctionAssociations><FunctionAssociations><Quantity>1</Quantity><Items><FunctionAssociation><FunctionARN>arn:aws:cloudfront::{account}:function/{name}-rewrite</FunctionARN><EventType>viewer-request</EventType></FunctionAssociation></Items></FunctionAssociations><FieldLevelEncryptionId></FieldLevelEncryptionId><CachePolicyId>658327ea-f89d-4fab-a63d-7e88639e58f6</CachePolicyId><ResponseHeadersPolicyId>67f7725c-6f97-4210-82d7-5512b31e9d03</ResponseHeadersPolicyId></DefaultCacheBehavior><CacheBehaviors><Quantity>1</Quantity><Items><CacheBehavior><PathPattern>/api/*</PathPattern><TargetOriginId>api</TargetOriginId><TrustedSigners><Enabled>false</Enabled><Quantity>0</Quantity></TrustedSigners><TrustedKeyGroups><Enabled>false</Enabled><Quantity>0</Quantity></TrustedKeyGroups><ViewerProtocolPolicy>https-only</ViewerProtocolPolicy><AllowedMethods><Quantity>7</Quantity><Items><Method>HEAD</Method><Method>DELETE</Method><Method>POST</Method><Method>GET</Method><Method>OPTIONS</Method><Method>PUT</Method><Method>PATCH</Method></Items><CachedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items></CachedMethods></AllowedMethods><SmoothStreaming>false</SmoothStreaming><Compress>true</Compress><LambdaFunctionAssociations><Quantity>0</Quantity></LambdaFunctionAssociations><FunctionAssociations><Quantity>0</Quantity></FunctionAssociations><FieldLevelEncryptionId></FieldLevelEncryptionId><CachePolicyId>4135ea2d-6df8-44a3-9df3-4b5a84be39ad</CachePolicyId><OriginRequestPolicyId>b689b0a8-53d0-40ab-baf2-68738e2966ac</OriginRequestPolicyId></CacheBehavior></Items></CacheBehaviors><CustomErrorResponses><Quantity>1</Quantity><Items><CustomErrorResponse><ErrorCode>403</ErrorCode><ResponsePagePath>/index.html</ResponsePagePath><ResponseCode>200</ResponseCode><ErrorCachingMinTTL>10</ErrorCachingMinTTL></CustomErrorResponse></Items></CustomErrorResponses><Comment>{name} &amp; friends: production</Comment><Logging><Enabled>true</Enabled><IncludeCookies>false</IncludeCookies><Bucket>{name}-logs.s3.amazonaws.com</Bucket><Prefix>cdn/</Prefix></Logging><PriceClass>PriceClass_200</PriceClass><Enabled>true</Enabled><ViewerCertificate><CloudFrontDefaultCertificate>false</CloudFrontDefaultCertificate><ACMCertificateArn>arn:aws:acm:us-east-1:{account}:certificate/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</ACMCertificateArn><SSLSupportMethod>sni-only</SSLSupportMethod><MinimumProtocolVersion>TLSv1.2_2021</MinimumProtocolVersion><Certificate>arn:aws:acm:us-east-1:{account}:certificate/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</Certificate><CertificateSource>acm</CertificateSource></ViewerCertificate><Restrictions><GeoRestriction><RestrictionType>none</RestrictionType><Quantity>0</Quantity></GeoRestriction></Restrictions><WebACLId>arn:aws:wafv2:us-east-1:{account}:global/webacl/{name}/7c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f</WebACLId><HttpVersion>http2</HttpVersion><IsIPV6Enabled>true</IsIPV6Enabled><ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId><Staging>false</Staging><FutureFeatureConfig mode="strict"><Enabled>true</Enabled><Items><FutureItem>one</FutureItem><FutureItem>two</FutureItem></Items></FutureFeatureConfig></DistributionConfig>"#
    )
}
