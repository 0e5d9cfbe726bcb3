//! The event of a rejection whose own event is not at hand.

use serde_json::json;

use super::Rejection;

impl Rejection {
    /// Its event, as a program reads it: what CodePipeline tells of it, in the form of an event.
    #[must_use]
    pub fn to_event(&self) -> String {
        let Rejection {
            pipeline,
            execution_id,
            stage,
            action,
            as_of,
            rejected_at,
            ..
        } = self;
        let mut detail = json!({
            "pipeline": pipeline.name,
            "execution-id": execution_id,
            "start-time": format!("{as_of:.3}"),
            "stage": stage,
            "action": action,
            "state": "FAILED",
            "region": pipeline.region,
            "type": { "owner": "AWS", "provider": "Manual", "category": "Approval", "version": "1" },
            "version": 2.0,
        });
        if let Some(id) = &self.action_execution_id {
            detail["action-execution-id"] = json!(id);
        }
        if let Some(comment) = &self.comment {
            detail["execution-result"] = json!({ "external-execution-summary": comment });
        }
        json!({
            "version": "0",
            "id": self.action_execution_id,
            "detail-type": "CodePipeline Action Execution State Change",
            "source": "aws.codepipeline",
            "account": pipeline.account,
            "time": format!("{rejected_at:.3}"),
            "region": pipeline.region,
            "resources": [pipeline.to_string()],
            "detail": detail,
        })
        .to_string()
    }
}
