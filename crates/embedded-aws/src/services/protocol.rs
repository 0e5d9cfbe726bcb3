//! How each service writes a refusal, and every response.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::{cloudfront, iam, sqs, sts};
use crate::wire::exchange::{AwsService, Failure, Reply};

impl Failure {
    /// Puts the refusal on the wire in the service's protocol.
    pub(crate) fn into_reply(self, service: AwsService, request_id: &str) -> Reply {
        let Self {
            status,
            code,
            message,
        } = self;
        let mut reply = match service {
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => {
                let namespace = match service {
                    AwsService::Iam => iam::NAMESPACE,
                    AwsService::Sts => sts::NAMESPACE,
                    _ => cloudfront::xml::NAMESPACE,
                };
                let kind = if status >= 500 { "Receiver" } else { "Sender" };
                let body = format!(
                    "<?xml version=\"1.0\"?>\n<ErrorResponse xmlns=\"{namespace}\"><Error>\
                     <Type>{kind}</Type><Code>{}</Code><Message>{}</Message></Error>\
                     <RequestId>{request_id}</RequestId></ErrorResponse>",
                    quick_xml::escape::escape(&code),
                    quick_xml::escape::escape(&message),
                );
                Reply::new(status, body.into_bytes())
            }
            AwsService::Sqs => {
                let kind = if status >= 500 { "Receiver" } else { "Sender" };
                let body = serde_json::json!({
                    "__type": format!("com.amazonaws.sqs#{code}"),
                    "message": message,
                });
                Reply::new(status, body.to_string().into_bytes()).header(
                    "x-amzn-query-error",
                    format!("{};{kind}", sqs::request::query_code(&code)),
                )
            }
            AwsService::Ssm
            | AwsService::CodePipeline
            | AwsService::DynamoDb
            | AwsService::EventBridge
            | AwsService::Unknown => {
                // Several Parameter Store errors come without any text.
                let body = if message.is_empty() {
                    serde_json::json!({ "__type": code })
                } else {
                    serde_json::json!({ "__type": code, "message": message })
                };
                Reply::new(status, body.to_string().into_bytes())
            }
        };
        reply.code = Some(code);
        reply
    }
}

impl Reply {
    /// The HTTP response.
    pub(crate) fn into_response(
        self,
        service: AwsService,
        request_id: &str,
        now: Timestamp,
    ) -> http::Response<Vec<u8>> {
        let content_type = match service {
            AwsService::CloudFront | AwsService::Iam | AwsService::Sts => "text/xml",
            AwsService::Sqs | AwsService::DynamoDb => "application/x-amz-json-1.0",
            AwsService::Ssm
            | AwsService::CodePipeline
            | AwsService::EventBridge
            | AwsService::Unknown => "application/x-amz-json-1.1",
        };
        let mut builder = http::Response::builder()
            .status(self.status)
            .header("x-amzn-requestid", request_id)
            .header(http::header::CONTENT_TYPE, content_type);
        if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
            builder = builder.header(http::header::DATE, date);
        }
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder.body(self.body).unwrap_or_else(|_| {
            // Only a resource name with control characters in a header can come here.
            let mut response = http::Response::new(Vec::new());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}
