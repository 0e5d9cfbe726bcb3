//! A service that deploys blue/green, as its pipeline leaves it at the approval.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::EmbeddedAws;
use super::cloudfront::{Context, POLICY_ID};
use super::cloudfront_xml::{Document, NAMESPACE};
use super::exchange::Failure;

/// One deployment of a service, waiting at the approval.
#[derive(Clone, Debug)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// `{name}-frontend-pipeline`.
    pub pipeline: String,
    /// The primary distribution.
    pub production_id: String,
    /// The staging distribution of this deployment.
    pub staging_id: String,
    /// Its domain name.
    pub staging_domain: String,
    /// The policy of this deployment.
    pub policy_id: String,
    /// The parameter that names the primary distribution.
    pub production_parameter: String,
    /// The parameter that names the staging distribution.
    pub staging_parameter: String,
    /// The pipeline execution that deployed this.
    pub execution_id: String,
    /// When its approval action started.
    pub start_time: Timestamp,
    /// The account that all of it is in.
    pub account: String,
    /// The region of the pipeline and of the parameters.
    pub region: String,
}

/// How long before now a new service's primary distribution was made.
const PRODUCTION_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long before now each part of a new service's deployment took place.
const COPIED_AGO: Duration = Duration::from_secs(20 * 60);
const ATTACHED_AGO: Duration = Duration::from_secs(19 * 60);
const RECORDED_AGO: Duration = Duration::from_secs(15 * 60);
const OPENED_AGO: Duration = Duration::from_secs(14 * 60);

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
        let now = self.clock().now();
        let born = ago(now, PRODUCTION_AGE);
        let production_parameter = format!("/{name}/cloudfront/cfcd-production");
        let staging_parameter = format!("/{name}/cloudfront/cfcd-staging");
        let production_id = self.create_distribution(name)?;
        let execution_id = {
            let mut state = self.state();
            let here = state.here(&self.place);
            here.ssm.put(&production_parameter, &production_id, born);
            here.ssm.put(&staging_parameter, "dummy", born);
            here.ids.uuid()
        };
        let mut service = Service {
            name: name.to_owned(),
            pipeline: format!("{name}-frontend-pipeline"),
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
        };
        (service.staging_id, service.staging_domain) =
            self.copy_at(&service, ago(now, COPIED_AGO))?;
        service.policy_id = self.policy_at(&service.staging_domain, ago(now, COPIED_AGO))?;
        self.attach_at(&service, ago(now, ATTACHED_AGO))?;
        let mut state = self.state();
        let here = state.here(&self.place);
        here.ssm.put(
            &service.staging_parameter,
            &service.staging_id,
            ago(now, RECORDED_AGO),
        );
        for id in [&service.production_id, &service.staging_id] {
            here.cloudfront.settle(id, ago(now, RECORDED_AGO));
        }
        drop(state);
        self.deployment_begins(&service, ago(now, COPIED_AGO));
        self.approval_opens(&service, service.start_time);
        self.changed();
        Ok(service)
    }

    /// Makes a primary distribution like a service's, without any deployment, and answers its id:
    /// accounts have others.
    ///
    /// # Errors
    /// What CloudFront refuses with: a distribution of that name that exists already.
    pub fn create_distribution(&self, name: &str) -> Result<String, Failure> {
        let born = ago(self.clock().now(), PRODUCTION_AGE);
        let mut state = self.state();
        let here = state.here(&self.place);
        let document = parsed(&production_config(name, &here.settings.account))?;
        let mut context = Context {
            now: born,
            settings: &here.settings,
            ids: here.ids,
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
        let now = self.clock().now();
        let (staging_id, staging_domain) = self.copy_at(service, now)?;
        let execution_id = self.state().ids.uuid();
        let start_time = now.checked_add(Duration::from_secs(1)).unwrap_or(now);
        let newer = Service {
            staging_id,
            staging_domain,
            execution_id,
            start_time,
            ..service.clone()
        };
        self.deployment_begins(&newer, now);
        self.changed();
        Ok(newer)
    }

    /// Second part: a policy for the deployment's staging distribution; answers its id.
    ///
    /// # Errors
    /// What CreateContinuousDeploymentPolicy refuses with.
    pub fn deploy_policy(&self, service: &Service) -> Result<String, Failure> {
        let id = self.policy_at(&service.staging_domain, self.clock().now())?;
        self.changed();
        Ok(id)
    }

    /// Third part: the policy attached to production, in the place of any other.
    ///
    /// # Errors
    /// What UpdateDistribution refuses with.
    pub fn deploy_attach(&self, service: &Service) -> Result<(), Failure> {
        self.attach_at(service, self.clock().now())?;
        self.changed();
        Ok(())
    }

    /// Last part: the staging distribution's id written to the parameter, and the approval opened;
    /// answers the version.
    pub fn deploy_record(&self, service: &Service) -> u64 {
        let soon = self.clock().now().checked_add(Duration::from_secs(1));
        let opened = soon.unwrap_or(service.start_time).max(service.start_time);
        self.approval_opens(service, opened);
        self.put_parameter(&service.staging_parameter, &service.staging_id)
    }

    fn copy_at(&self, service: &Service, at: Timestamp) -> Result<(String, String), Failure> {
        let mut state = self.state();
        let here = state.here(&self.place);
        let etag = here
            .cloudfront
            .distribution(&service.production_id)?
            .current
            .etag
            .clone();
        let reference = here.ids.uuid();
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
        };
        let copy = here.cloudfront.copy(
            &mut context,
            &service.production_id,
            Some(&etag),
            &reference,
            true,
        )?;
        Ok((copy.id.clone(), copy.domain_name.clone()))
    }

    fn policy_at(&self, domain: &str, at: Timestamp) -> Result<String, Failure> {
        let mut state = self.state();
        let here = state.here(&self.place);
        let document = parsed(&policy_config(domain))?;
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
        };
        Ok(here
            .cloudfront
            .create_policy(&mut context, document)?
            .id
            .clone())
    }

    fn attach_at(&self, service: &Service, at: Timestamp) -> Result<(), Failure> {
        let mut state = self.state();
        let here = state.here(&self.place);
        let current = &here
            .cloudfront
            .distribution(&service.production_id)?
            .current;
        let etag = current.etag.clone();
        let document = parsed(&current.document.with_text(POLICY_ID, &service.policy_id))?;
        let mut context = Context {
            now: at,
            settings: &here.settings,
            ids: here.ids,
        };
        here.cloudfront
            .update(&mut context, &service.production_id, Some(&etag), document)?;
        Ok(())
    }
}

fn parsed(text: &str) -> Result<Document, Failure> {
    Document::parse(text.as_bytes()).map_err(|error| Failure::new(400, "MalformedXML", error))
}

fn policy_config(domain: &str) -> String {
    format!(
        "<ContinuousDeploymentPolicyConfig xmlns=\"{NAMESPACE}\">\
         <StagingDistributionDnsNames><Quantity>1</Quantity>\
         <Items><DnsName>{domain}</DnsName></Items></StagingDistributionDnsNames>\
         <Enabled>true</Enabled>\
         <TrafficConfig><SingleWeightConfig><Weight>0.05</Weight></SingleWeightConfig>\
         <Type>SingleWeight</Type></TrafficConfig>\
         </ContinuousDeploymentPolicyConfig>"
    )
}

/// A configuration of the size and shape that real ones have. `FutureFeatureConfig` is known to
/// no SDK: a client that loses it has edited production lossily.
fn production_config(name: &str, account: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<DistributionConfig xmlns="{NAMESPACE}"><CallerReference>{name}-production</CallerReference><Aliases><Quantity>2</Quantity><Items><CNAME>www.{name}.example.com</CNAME><CNAME>{name}.example.com</CNAME></Items></Aliases><DefaultRootObject>index.html</DefaultRootObject><Origins><Quantity>2</Quantity><Items><Origin><Id>assets</Id><DomainName>{name}-assets.s3.ap-northeast-1.amazonaws.com</DomainName><OriginPath>/releases/current</OriginPath><CustomHeaders><Quantity>0</Quantity></CustomHeaders><S3OriginConfig><OriginAccessIdentity></OriginAccessIdentity></S3OriginConfig><ConnectionAttempts>3</ConnectionAttempts><ConnectionTimeout>10</ConnectionTimeout><OriginShield><Enabled>false</Enabled></OriginShield><OriginAccessControlId>E2QWRUHAPOMQZL</OriginAccessControlId></Origin><Origin><Id>api</Id><DomainName>api.{name}.example.com</DomainName><OriginPath></OriginPath><CustomHeaders><Quantity>1</Quantity><Items><OriginCustomHeader><HeaderName>x-origin-key</HeaderName><HeaderValue>a&lt;b &amp; c&gt;d</HeaderValue></OriginCustomHeader></Items></CustomHeaders><CustomOriginConfig><HTTPPort>80</HTTPPort><HTTPSPort>443</HTTPSPort><OriginProtocolPolicy>https-only</OriginProtocolPolicy><OriginSslProtocols><Quantity>1</Quantity><Items><SslProtocol>TLSv1.2</SslProtocol></Items></OriginSslProtocols><OriginReadTimeout>30</OriginReadTimeout><OriginKeepaliveTimeout>5</OriginKeepaliveTimeout></CustomOriginConfig><ConnectionAttempts>3</ConnectionAttempts><ConnectionTimeout>10</ConnectionTimeout><OriginShield><Enabled>false</Enabled></OriginShield><OriginAccessControlId></OriginAccessControlId></Origin></Items></Origins><OriginGroups><Quantity>0</Quantity></OriginGroups><DefaultCacheBehavior><TargetOriginId>assets</TargetOriginId><TrustedSigners><Enabled>false</Enabled><Quantity>0</Quantity></TrustedSigners><TrustedKeyGroups><Enabled>false</Enabled><Quantity>0</Quantity></TrustedKeyGroups><ViewerProtocolPolicy>redirect-to-https</ViewerProtocolPolicy><AllowedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items><CachedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items></CachedMethods></AllowedMethods><SmoothStreaming>false</SmoothStreaming><Compress>true</Compress><LambdaFunctionAssociations><Quantity>0</Quantity></LambdaFunctionAssociations><FunctionAssociations><Quantity>1</Quantity><Items><FunctionAssociation><FunctionARN>arn:aws:cloudfront::{account}:function/{name}-rewrite</FunctionARN><EventType>viewer-request</EventType></FunctionAssociation></Items></FunctionAssociations><FieldLevelEncryptionId></FieldLevelEncryptionId><CachePolicyId>658327ea-f89d-4fab-a63d-7e88639e58f6</CachePolicyId><ResponseHeadersPolicyId>67f7725c-6f97-4210-82d7-5512b31e9d03</ResponseHeadersPolicyId></DefaultCacheBehavior><CacheBehaviors><Quantity>1</Quantity><Items><CacheBehavior><PathPattern>/api/*</PathPattern><TargetOriginId>api</TargetOriginId><TrustedSigners><Enabled>false</Enabled><Quantity>0</Quantity></TrustedSigners><TrustedKeyGroups><Enabled>false</Enabled><Quantity>0</Quantity></TrustedKeyGroups><ViewerProtocolPolicy>https-only</ViewerProtocolPolicy><AllowedMethods><Quantity>7</Quantity><Items><Method>HEAD</Method><Method>DELETE</Method><Method>POST</Method><Method>GET</Method><Method>OPTIONS</Method><Method>PUT</Method><Method>PATCH</Method></Items><CachedMethods><Quantity>2</Quantity><Items><Method>HEAD</Method><Method>GET</Method></Items></CachedMethods></AllowedMethods><SmoothStreaming>false</SmoothStreaming><Compress>true</Compress><LambdaFunctionAssociations><Quantity>0</Quantity></LambdaFunctionAssociations><FunctionAssociations><Quantity>0</Quantity></FunctionAssociations><FieldLevelEncryptionId></FieldLevelEncryptionId><CachePolicyId>4135ea2d-6df8-44a3-9df3-4b5a84be39ad</CachePolicyId><OriginRequestPolicyId>b689b0a8-53d0-40ab-baf2-68738e2966ac</OriginRequestPolicyId></CacheBehavior></Items></CacheBehaviors><CustomErrorResponses><Quantity>1</Quantity><Items><CustomErrorResponse><ErrorCode>403</ErrorCode><ResponsePagePath>/index.html</ResponsePagePath><ResponseCode>200</ResponseCode><ErrorCachingMinTTL>10</ErrorCachingMinTTL></CustomErrorResponse></Items></CustomErrorResponses><Comment>{name} &amp; friends: production</Comment><Logging><Enabled>true</Enabled><IncludeCookies>false</IncludeCookies><Bucket>{name}-logs.s3.amazonaws.com</Bucket><Prefix>cdn/</Prefix></Logging><PriceClass>PriceClass_200</PriceClass><Enabled>true</Enabled><ViewerCertificate><CloudFrontDefaultCertificate>false</CloudFrontDefaultCertificate><ACMCertificateArn>arn:aws:acm:us-east-1:{account}:certificate/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</ACMCertificateArn><SSLSupportMethod>sni-only</SSLSupportMethod><MinimumProtocolVersion>TLSv1.2_2021</MinimumProtocolVersion><Certificate>arn:aws:acm:us-east-1:{account}:certificate/0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9</Certificate><CertificateSource>acm</CertificateSource></ViewerCertificate><Restrictions><GeoRestriction><RestrictionType>none</RestrictionType><Quantity>0</Quantity></GeoRestriction></Restrictions><WebACLId>arn:aws:wafv2:us-east-1:{account}:global/webacl/{name}/7c1d2e3f-4a5b-4c6d-8e7f-9a0b1c2d3e4f</WebACLId><HttpVersion>http2</HttpVersion><IsIPV6Enabled>true</IsIPV6Enabled><ContinuousDeploymentPolicyId></ContinuousDeploymentPolicyId><Staging>false</Staging><FutureFeatureConfig mode="strict"><Enabled>true</Enabled><Items><FutureItem>one</FutureItem><FutureItem>two</FutureItem></Items></FutureFeatureConfig></DistributionConfig>"#
    )
}
