//! DynamoDB's condition and update expressions, as far as the embedded tables need them.
//!
//! Conditions: comparisons, `attribute_exists`, `attribute_not_exists`, `AND`, `OR`, `NOT` and
//! parentheses. Updates: `SET` with `if_not_exists` and one `+` or `-`, and `REMOVE`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::wire::exchange::Failure;

/// An item: attributes in DynamoDB's typed JSON.
pub(crate) type Item = Map<String, Value>;

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(400, "ValidationException", message)
}

/// What the placeholders of a request stand for, and which of them its expressions used.
pub(crate) struct Names<'a> {
    names: Option<&'a Map<String, Value>>,
    values: Option<&'a Map<String, Value>>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Names<'a> {
    pub(crate) fn of(body: &'a Value) -> Self {
        let map = |name: &str| body.get(name).and_then(Value::as_object);
        Self {
            names: map("ExpressionAttributeNames"),
            values: map("ExpressionAttributeValues"),
            used: RefCell::default(),
        }
    }

    fn name(&self, word: &str) -> Result<String, Failure> {
        if !word.starts_with('#') {
            if is_reserved(word) {
                let message = format!(
                    "Invalid expression: Attribute name is a reserved keyword; reserved keyword: \
                     {word}"
                );
                return Err(invalid(message));
            }
            return Ok(word.to_owned());
        }
        self.used.borrow_mut().insert(word.to_owned());
        let name = self.names.and_then(|names| names.get(word)?.as_str());
        name.map(str::to_owned)
            .ok_or_else(|| undefined("name", word))
    }

    fn value(&self, word: &str) -> Result<Value, Failure> {
        self.used.borrow_mut().insert(word.to_owned());
        let value = self.values.and_then(|values| values.get(word));
        value.cloned().ok_or_else(|| undefined("value", word))
    }

    /// DynamoDB refuses placeholders that no expression uses.
    pub(crate) fn all_used(&self) -> Result<(), Failure> {
        let used = self.used.borrow();
        let given = [self.names, self.values].into_iter().flatten();
        let unused: Vec<_> = given
            .flat_map(Map::keys)
            .filter(|word| !used.contains(*word))
            .map(String::as_str)
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        let message = format!(
            "Value provided in ExpressionAttributeValues unused in expressions: keys: {{{}}}",
            unused.join(", ")
        );
        Err(invalid(message))
    }
}

fn undefined(what: &str, word: &str) -> Failure {
    let message = format!(
        "Invalid expression: An expression attribute {what} used in expression is not defined; \
         attribute {what}: {word}"
    );
    invalid(message)
}

/// Whether a condition holds for an item; an item that there is not has no attributes.
pub(crate) fn condition(expression: &str, names: &Names<'_>, item: &Item) -> Result<bool, Failure> {
    let mut parser = Parser::new(expression, names, item)?;
    let holds = parser.any()?;
    parser.end()?;
    Ok(holds)
}

/// Carries out an update on an item. Every right-hand side sees the item as it was.
pub(crate) fn update(expression: &str, names: &Names<'_>, item: &mut Item) -> Result<(), Failure> {
    let old = item.clone();
    let mut parser = Parser::new(expression, names, &old)?;
    while !parser.is_at_end() {
        if parser.takes_word("SET") {
            loop {
                let name = parser.attribute()?;
                parser.expect("=")?;
                let value = parser.sum()?;
                item.insert(name, value);
                if !parser.takes(",") {
                    break;
                }
            }
        } else if parser.takes_word("REMOVE") {
            loop {
                item.remove(&parser.attribute()?);
                if !parser.takes(",") {
                    break;
                }
            }
        } else {
            return Err(parser.unexpected());
        }
    }
    Ok(())
}

struct Parser<'a> {
    tokens: Vec<String>,
    next: usize,
    names: &'a Names<'a>,
    item: &'a Item,
}

impl<'a> Parser<'a> {
    fn new(expression: &str, names: &'a Names<'a>, item: &'a Item) -> Result<Self, Failure> {
        Ok(Self {
            tokens: tokens(expression)?,
            next: 0,
            names,
            item,
        })
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.next).map_or("", String::as_str)
    }

    fn is_at_end(&self) -> bool {
        self.next == self.tokens.len()
    }

    fn end(&self) -> Result<(), Failure> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn unexpected(&self) -> Failure {
        let message = format!(
            "Invalid expression: Syntax error; token: \"{}\"",
            self.peek()
        );
        invalid(message)
    }

    fn takes(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        self.next += usize::from(found);
        found
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.peek().eq_ignore_ascii_case(word);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), Failure> {
        if self.takes(token) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn any(&mut self) -> Result<bool, Failure> {
        let mut holds = self.all()?;
        while self.takes_word("OR") {
            // Both sides are read, whatever the first one says.
            let other = self.all()?;
            holds |= other;
        }
        Ok(holds)
    }

    fn all(&mut self) -> Result<bool, Failure> {
        let mut holds = self.term()?;
        while self.takes_word("AND") {
            let other = self.term()?;
            holds &= other;
        }
        Ok(holds)
    }

    fn term(&mut self) -> Result<bool, Failure> {
        if self.takes_word("NOT") {
            return Ok(!self.term()?);
        }
        if self.takes("(") {
            let holds = self.any()?;
            self.expect(")")?;
            return Ok(holds);
        }
        for (function, wanted) in [("attribute_exists", true), ("attribute_not_exists", false)] {
            if self.takes(function) {
                self.expect("(")?;
                let name = self.attribute()?;
                self.expect(")")?;
                return Ok(self.item.contains_key(&name) == wanted);
            }
        }
        let left = self.operand()?;
        let comparator = self.peek().to_owned();
        self.next += 1;
        let right = self.operand()?;
        compare(left.as_ref(), &comparator, right.as_ref())
    }

    fn sum(&mut self) -> Result<Value, Failure> {
        let left = self.addend()?;
        let sign = match self.peek() {
            "+" => 1,
            "-" => -1,
            _ => return Ok(left),
        };
        self.next += 1;
        let right = self.addend()?;
        match (number(&left), number(&right)) {
            (Some(left), Some(right)) => Ok(json!({ "N": (left + sign * right).to_string() })),
            _ => Err(invalid(
                "An operand in the update expression has an incorrect data type",
            )),
        }
    }

    fn addend(&mut self) -> Result<Value, Failure> {
        let value = if self.takes("if_not_exists") {
            self.expect("(")?;
            let name = self.attribute()?;
            self.expect(",")?;
            let otherwise = self.operand()?;
            self.expect(")")?;
            self.item.get(&name).cloned().or(otherwise)
        } else {
            self.operand()?
        };
        value.ok_or_else(|| {
            invalid(
                "The provided expression refers to an attribute that does not exist in the item",
            )
        })
    }

    /// A value, or an attribute's value; `None` for one that the item does not have.
    fn operand(&mut self) -> Result<Option<Value>, Failure> {
        if self.peek().starts_with(':') {
            let value = self.names.value(self.peek())?;
            self.next += 1;
            return Ok(Some(value));
        }
        let name = self.attribute()?;
        Ok(self.item.get(&name).cloned())
    }

    fn attribute(&mut self) -> Result<String, Failure> {
        let is_name = self
            .peek()
            .starts_with(|first: char| first.is_ascii_alphabetic() || first == '#');
        if !is_name {
            return Err(self.unexpected());
        }
        let name = self.names.name(self.peek())?;
        self.next += 1;
        Ok(name)
    }
}

fn tokens(expression: &str) -> Result<Vec<String>, Failure> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while !rest.is_empty() {
        let word = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"_:#".contains(c))
            .unwrap_or(rest.len());
        let length = match word {
            0 if ["<=", ">=", "<>"].iter().any(|it| rest.starts_with(it)) => 2,
            0 if rest.starts_with(['=', '<', '>', '(', ')', ',', '+', '-']) => 1,
            0 => {
                let message = format!("Invalid expression: Syntax error; near: \"{rest}\"");
                return Err(invalid(message));
            }
            length => length,
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn number(value: &Value) -> Option<i128> {
    value.get("N")?.as_str()?.parse().ok()
}

fn compare(left: Option<&Value>, comparator: &str, right: Option<&Value>) -> Result<bool, Failure> {
    use std::cmp::Ordering::{Equal, Greater, Less};

    let text = |value: &Value| value.get("S")?.as_str().map(str::to_owned);
    let order = left.zip(right).and_then(|(left, right)| {
        match (number(left), number(right), text(left), text(right)) {
            (Some(left), Some(right), ..) => Some(left.cmp(&right)),
            (_, _, Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => (left == right).then_some(Equal),
        }
    });
    Ok(match comparator {
        "=" => order == Some(Equal),
        // An attribute that is not there equals nothing.
        "<>" => order != Some(Equal),
        "<" => order == Some(Less),
        "<=" => matches!(order, Some(Less | Equal)),
        ">" => order == Some(Greater),
        ">=" => matches!(order, Some(Greater | Equal)),
        other => {
            let message = format!("Invalid expression: Syntax error; token: \"{other}\"");
            return Err(invalid(message));
        }
    })
}

/// Attributes that expressions may not name without a placeholder, of those that a ledger might be
/// tempted to use. The service reserves 573 words.
fn is_reserved(word: &str) -> bool {
    let reserved: BTreeSet<&str> = [
        "comment",
        "count",
        "counter",
        "data",
        "date",
        "end",
        "key",
        "name",
        "owner",
        "percent",
        "range",
        "role",
        "start",
        "state",
        "status",
        "time",
        "timestamp",
        "ttl",
        "type",
        "until",
        "update",
        "user",
        "value",
        "values",
    ]
    .into();
    reserved.contains(word.to_ascii_lowercase().as_str())
}
