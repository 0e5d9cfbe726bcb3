//! DynamoDB over AWS JSON 1.0: tables with a partition key, conditional updates.
//!
//! After the DynamoDB API reference, as far as a ledger needs it: GetItem, UpdateItem and Scan. Every write is one step, and every read is consistent.

pub(crate) mod expression;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::expression::{Item, Names, condition, invalid, update};
use crate::wire::exchange::{Call, Change, Failure, Reply};

#[derive(Debug)]
struct Table {
    /// The partition key's name; it is a String.
    key: String,
    items: BTreeMap<String, Item>,
}

/// The tables of the account.
#[derive(Debug, Default)]
pub(crate) struct DynamoDb {
    tables: BTreeMap<String, Table>,
}

fn text<'a>(body: &'a Value, name: &str) -> Option<&'a str> {
    body.get(name)?.as_str()
}

impl DynamoDb {
    /// Makes a table, or leaves the one of that name as it is.
    pub(crate) fn create(&mut self, name: &str, key: &str) {
        self.tables.entry(name.to_owned()).or_insert_with(|| Table {
            key: key.to_owned(),
            items: BTreeMap::new(),
        });
    }

    pub(crate) fn items(&self, table: &str) -> Vec<Item> {
        let table = self.tables.get(table);
        let items = table.into_iter().flat_map(|table| table.items.values());
        items.cloned().collect()
    }

    pub(crate) fn call(&mut self, call: &Call, body: &Value) -> Result<Reply, Failure> {
        let name = text(body, "TableName").unwrap_or_default();
        let table = self.tables.get_mut(name).ok_or_else(|| {
            let message = "Requested resource not found";
            Failure::new(400, "ResourceNotFoundException", message)
        })?;
        match call.operation.as_str() {
            "GetItem" => {
                let item = table.items.get(&table.key_of(body)?);
                Ok(Reply::json(&match item {
                    Some(item) => json!({ "Item": item }),
                    None => json!({}),
                }))
            }
            "Scan" => {
                let items: Vec<_> = table.items.values().collect();
                let count = items.len();
                Ok(Reply::json(
                    &json!({ "Items": items, "Count": count, "ScannedCount": count }),
                ))
            }
            "UpdateItem" => table.update(body),
            other => Err(Failure::new(
                400,
                "UnknownOperationException",
                format!("{other} is not an operation of the embedded DynamoDB."),
            )),
        }
    }
}

impl Table {
    fn key_of(&self, body: &Value) -> Result<String, Failure> {
        let given = body.get("Key").and_then(Value::as_object);
        let text = given
            .filter(|given| given.len() == 1)
            .and_then(|given| given.get(&self.key)?.get("S")?.as_str());
        text.filter(|text| !text.is_empty())
            .map(str::to_owned)
            .ok_or_else(|| invalid("The provided key element does not match the schema"))
    }

    fn update(&mut self, body: &Value) -> Result<Reply, Failure> {
        let key = self.key_of(body)?;
        let names = Names::of(body);
        let old = self.items.get(&key);
        let empty = Item::new();
        let holds = match text(body, "ConditionExpression") {
            Some(expression) => condition(expression, &names, old.unwrap_or(&empty))?,
            None => true,
        };
        let mut new = old.cloned().unwrap_or_default();
        if let Some(expression) = text(body, "UpdateExpression") {
            update(expression, &names, &mut new)?;
        }
        names.all_used()?;
        if !holds {
            return Ok(unmet(body, old));
        }
        new.insert(self.key.clone(), json!({ "S": key }));
        let reply = match text(body, "ReturnValues") {
            Some("ALL_NEW") => json!({ "Attributes": new }),
            Some("ALL_OLD") if old.is_some() => json!({ "Attributes": old }),
            _ => json!({}),
        };
        let change = Change::from_to(
            format!("{key} written"),
            Value::from(old.cloned().unwrap_or_default()).to_string(),
            Value::from(new.clone()).to_string(),
        );
        self.items.insert(key, new);
        Ok(Reply::json(&reply).changed(change))
    }
}

/// The refusal of a write whose condition does not hold, with the item if the caller asked for it.
fn unmet(body: &Value, old: Option<&Item>) -> Reply {
    const CODE: &str = "ConditionalCheckFailedException";
    let mut answer = json!({
        "__type": format!("com.amazonaws.dynamodb.v20120810#{CODE}"),
        "message": "The conditional request failed",
    });
    if text(body, "ReturnValuesOnConditionCheckFailure") == Some("ALL_OLD")
        && let Some(old) = old
    {
        answer["Item"] = Value::from(old.clone());
    }
    let mut reply = Reply::new(400, answer.to_string().into_bytes());
    reply.code = Some(CODE.to_owned());
    reply
}
