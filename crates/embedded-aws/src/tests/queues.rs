//! Queues, and parameters.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::world;
use crate::testing::json_call;
use crate::{Action, Depth, EmbeddedAws, Rule};

#[tokio::test(start_paused = true)]
async fn visibility_ends_at_twelve_hours_and_redrive_at_the_limit() {
    let (world, _) = world(|_| ());
    let queues = world.create_queue_with_dlq("q", 2, Duration::from_secs(30));
    world.send("q", "hello").unwrap();
    let receive = |wait: u64| {
        let body =
            json!({ "QueueUrl": queues.url, "WaitTimeSeconds": wait, "AttributeNames": ["All"] });
        json_call(&world, "AmazonSQS.ReceiveMessage", body)
    };
    let change = |handle: &Value, seconds: u64| {
        let body = json!({
            "QueueUrl": queues.url, "ReceiptHandle": handle, "VisibilityTimeout": seconds,
        });
        json_call(&world, "AmazonSQS.ChangeMessageVisibility", body)
    };
    let first = receive(0).await.1["Messages"][0].clone();
    assert_eq!(first["MD5OfBody"], "5d41402abc4b2a76b9719d911017c592");
    tokio::time::advance(Duration::from_secs(10)).await;
    let (status, error) = change(&first["ReceiptHandle"], 43_195).await;
    assert_eq!(
        (status, &error["__type"]),
        (400, &json!("com.amazonaws.sqs#InvalidParameterValue"))
    );
    assert_eq!(change(&first["ReceiptHandle"], 43_190).await.0, 200);
    assert_eq!(change(&first["ReceiptHandle"], 12).await.0, 200);

    // The long poll wakes when the visibility timeout ends, not when the poll does.
    let began = Instant::now();
    let second = receive(20).await.1["Messages"][0].clone();
    assert_eq!(began.elapsed().as_secs(), 12);
    assert_eq!(second["Attributes"]["ApproximateReceiveCount"], "2");
    let (status, _) = change(&first["ReceiptHandle"], 1).await;
    assert_eq!(status, 400, "an older receive's handle");
    let delete = json!({ "QueueUrl": queues.url, "ReceiptHandle": first["ReceiptHandle"] });
    assert_eq!(
        json_call(&world, "AmazonSQS.DeleteMessage", delete).await.0,
        200
    );
    assert_eq!(
        world.depth("q").unwrap().in_flight,
        1,
        "an old handle deletes nothing"
    );

    assert_eq!(change(&second["ReceiptHandle"], 0).await.0, 200);
    let (_, error) = change(&second["ReceiptHandle"], 0).await;
    assert_eq!(error["__type"], "com.amazonaws.sqs#MessageNotInflight");
    assert_eq!(receive(0).await.1, json!({}));
    assert_eq!(world.messages("q-dlq")[0].body, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_on_arrival_and_takes_nothing_when_given_up() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    let poll = |world: EmbeddedAws| async move {
        let body = json!({ "QueueUrl": "q", "WaitTimeSeconds": 20 });
        json_call(&world, "AmazonSQS.ReceiveMessage", body).await.1
    };
    let given_up = tokio::spawn(poll(world.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    world.send("q", "a").unwrap();
    assert_eq!(world.depth("q").unwrap().visible, 1);

    let began = Instant::now();
    poll(world.clone()).await;
    let waiting = tokio::spawn(poll(world.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.send("q", "b").unwrap();
    assert_eq!(waiting.await.unwrap()["Messages"][0]["Body"], "b");
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(poll(world.clone()).await, json!({}));
    assert_eq!(began.elapsed().as_secs(), 22);
}

#[tokio::test(start_paused = true)]
async fn messages_may_come_twice_and_come_back() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    world.send("q", "a").unwrap();
    world.add_rule(Rule::on("ReceiveMessage").nth(1).then(Action::Duplicate));
    world.add_rule(Rule::on("DeleteMessage").nth(1).then(Action::Undelete));
    let mut handles = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let ask = json!({ "QueueUrl": "q", "MaxNumberOfMessages": 10 });
        let (_, got) = json_call(&world, "AmazonSQS.ReceiveMessage", ask).await;
        assert_eq!(got["Messages"].as_array().unwrap().len(), 1);
        ids.push(got["Messages"][0]["MessageId"].clone());
        handles.push(got["Messages"][0]["ReceiptHandle"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(handles[0], handles[1]);
    for handle in handles {
        let ask = json!({ "QueueUrl": "q", "ReceiptHandle": handle });
        assert_eq!(
            json_call(&world, "AmazonSQS.DeleteMessage", ask).await.0,
            200
        );
    }
    let back = Depth {
        visible: 1,
        ..Depth::default()
    };
    assert_eq!(
        world.depth("q"),
        Some(back),
        "the first delete was answered and not done"
    );
}

#[tokio::test(start_paused = true)]
async fn batches_fail_by_entry_or_as_a_whole() {
    let (world, _) = world(|_| ());
    world.create_queue_with_dlq("q", 5, Duration::from_secs(30));
    world.send("q", "a").unwrap();
    let (_, got) = json_call(
        &world,
        "AmazonSQS.ReceiveMessage",
        json!({ "QueueUrl": "q" }),
    )
    .await;
    let good = &got["Messages"][0]["ReceiptHandle"];
    let entries = json!([
        { "Id": "1", "ReceiptHandle": good, "VisibilityTimeout": 60 },
        { "Id": "2", "ReceiptHandle": "nonsense", "VisibilityTimeout": 60 },
    ]);
    let batch = |entries: Value| {
        let body = json!({ "QueueUrl": "q", "Entries": entries });
        json_call(&world, "AmazonSQS.ChangeMessageVisibilityBatch", body)
    };
    let (status, result) = batch(entries).await;
    assert_eq!(
        (status, &result["Successful"]),
        (200, &json!([{ "Id": "1" }]))
    );
    assert_eq!(result["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
    assert_eq!(result["Failed"][0]["SenderFault"], true);
    let many: Vec<Value> = (0..11).map(|it| json!({ "Id": it.to_string() })).collect();
    let code = "com.amazonaws.sqs#TooManyEntriesInBatchRequest";
    assert_eq!(batch(many.into()).await.1["__type"], code);
    assert_eq!(
        batch(json!([])).await.1["__type"],
        "com.amazonaws.sqs#EmptyBatchRequest"
    );
}

#[tokio::test(start_paused = true)]
async fn parameter_history_is_paged_oldest_first_and_trimmed() {
    let (world, _) = world(|_| ());
    let body = json!({ "Name": "/p", "Value": "v", "Type": "String" });
    assert_eq!(
        json_call(&world, "AmazonSSM.PutParameter", body.clone())
            .await
            .0,
        200
    );
    let (status, error) = json_call(&world, "AmazonSSM.PutParameter", body).await;
    assert_eq!(
        (status, &error["__type"]),
        (400, &json!("ParameterAlreadyExists"))
    );
    for _ in 0..109 {
        world.put_parameter("/p", "v");
    }
    let page = |token: Value| {
        let body = json!({ "Name": "/p", "MaxResults": 40, "NextToken": token });
        json_call(&world, "AmazonSSM.GetParameterHistory", body)
    };
    let (mut token, mut seen) = (Value::Null, Vec::new());
    loop {
        let (_, body) = page(token).await;
        let versions = body["Parameters"].as_array().unwrap();
        seen.extend(versions.iter().map(|it| it["Version"].as_u64().unwrap()));
        token = body["NextToken"].clone();
        if token.is_null() {
            break;
        }
    }
    assert_eq!(seen, (11..=110).collect::<Vec<_>>());
    let (_, got) = json_call(&world, "AmazonSSM.GetParameter", json!({ "Name": "/p" })).await;
    assert_eq!(got["Parameter"]["LastModifiedDate"], 1_787_551_200.0);
}
